"""What doctor checks in the database that a projection writes to: rights, room, esops' own tables,
and what earlier commands left behind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import psycopg
from psycopg import sql

from esops.config import Config
from esops.errors import AnotherLog, EsopsError, OtherPositions, OtherTransactions, Refused
from esops.health import checked, left_behind, publications, room, row_security, serving, stalls
from esops.health.findings import Finding
from esops.postgres.statements import statements
from esops.readmodel import (
    conduct,
    erased,
    inline,
    locks,
    migrations,
    own_rows,
    registry,
    renamed,
)
from esops.readmodel.dead_letters import count_dead_letters
from esops.readmodel.names import names_of
from esops.readmodel.registry import LIVE_STATES, Version
from esops.rebuild import hand_over, journal, not_advancing, overview
from esops.rebuild.hand_over import Application
from esops.stores import open_store
from esops.wording import count

_SQL = statements(__package__, "postgres")


def examine(
    subject: str, config: Config, projection: str, connection: psycopg.Connection
) -> Iterator[Finding]:
    """Check the tables of a projection and what is kept about them."""
    # Names as the application reads them; versions have names of their own.
    names = names_of(config, projection, connection)
    number = migrations.schema_number(connection)
    quoted = [name.identifier.as_string(connection) for name in names]
    yield from row_security.examine(subject, connection, quoted)
    for each in dict.fromkeys(name.schema for name in names):
        yield from _may_create_in(subject, connection, each)
    if number == 0:
        yield from _may_create_schema(subject, connection)
    for name in names:
        table = sql.Identifier(name.schema, name.name).as_string(connection)
        yield from room.examine(subject, connection, table)
    if number != migrations.newest():
        yield from _own_tables(subject, number)
    yield from publications.of_read_model(subject, connection, names)
    if number == 0:
        yield from _written_by_others(subject, connection, config, projection, [])
    if not 0 < number <= migrations.newest():
        return  # there is nothing to read yet, or a newer esops wrote it
    versions = registry.versions(connection, projection)
    former = renamed.former_name(config, connection, projection)
    if former is not None:
        yield Finding(
            "ESOPS-D063",
            subject,
            f"the registry knows it as {former}, so nothing keeps it fresh",
            f"esops projection rename {former} {projection}",
        )
    yield from serving.examine(subject, connection, config, projection, names, versions)
    yield from left_behind.examine(subject, connection, names)
    yield from checked.examine(subject, connection, projection)
    yield from _unfinished_rebuild(subject, connection, projection)
    troubles = list(_of_another_log(connection, config, versions))
    yield from (_trouble(subject, trouble) for _, trouble in troubles)
    # One that `run` refuses has nothing to be followed by.
    refused = {version.version for version, _ in troubles}
    for version in versions:
        other = own_rows.look(connection, version)
        if other is not None and version.version not in refused:
            refused.add(version.version)
            yield Finding("ESOPS-D102", subject, other.message, other.hint)
    yield from _not_followed(subject, connection, config, projection, versions, refused)
    yield from _written_by_others(subject, connection, config, projection, versions)
    yield from _of_two_logics(subject, connection, projection)
    yield from _still_has_erased_data(subject, connection, projection)
    skipped = count_dead_letters(connection, projection)
    live = [each.version for each in versions if each.state in {*registry.LIVE_STATES, "building"}]
    dead = sum(skipped.get(number, 0) for number in live)
    if dead:
        yield Finding(
            "ESOPS-D023",
            subject,
            f"{count(dead, 'event')} could not be projected: dead letters",
            f"esops projection dead-letters {projection}",
        )


def _written_by_others(
    subject: str,
    connection: psycopg.Connection,
    config: Config,
    projection: str,
    versions: Sequence[Version],
) -> Iterator[Finding]:
    settings = config.projections[projection]
    if settings.kind == "external":
        return
    found: EsopsError | None = None
    try:
        with open_store(*config.store(settings.store)) as store:
            names = names_of(config, projection, connection)
            if settings.live == "esops":
                found = inline.others(connection, store, names, versions)
            elif settings.live == "inline":
                found = inline.of_processor(connection, store, names)
            else:
                try:
                    hand_over.check(Application(projection, settings, names), store, connection)
                except Refused as refused:
                    found = refused
    except EsopsError:
        return  # a store that cannot be opened is a finding of its own
    if found is not None:
        code = {"esops": "ESOPS-D086", "inline": "ESOPS-D098"}.get(settings.live, "ESOPS-D093")
        yield Finding(code, subject, found.message, found.hint or "")


def _of_two_logics(
    subject: str, connection: psycopg.Connection, projection: str
) -> Iterator[Finding]:
    active = registry.active(connection, projection)
    begun = active and journal.unhealed(connection, projection, active.version)
    if active and begun:
        yield Finding(
            "ESOPS-D097",
            subject,
            f"since {begun.since:%Y-%m-%d %H:%M} UTC, instances with the old code may have written "
            f"rows of v{active.version}, and nothing has looked at them",
            f"when the last of them has ended: esops projection finish {projection}",
        )


def _still_has_erased_data(
    subject: str, connection: psycopg.Connection, projection: str
) -> Iterator[Finding]:
    active = registry.active(connection, projection)
    for each in erased.noted(connection):
        if each.projection == projection:
            serves = active is not None and active.version == each.version
            yield Finding(
                "ESOPS-D085",
                subject,
                f"v{each.version} was made of events that personal data was erased from since: "
                f"{count(each.rows, 'row')} had it",
                f"esops rebuild {projection} --blue-green --compare counts"
                if serves
                else f"esops projection retire {projection} {each.version}",
            )


def _may_create_in(subject: str, connection: psycopg.Connection, schema: str) -> Iterator[Finding]:
    yield from _may_create(
        subject,
        connection,
        "has_schema_privilege",
        sql.SQL("SCHEMA {}").format(sql.Identifier(schema)),
        schema,
        f"create tables in schema {schema}",
    )


def _may_create_schema(subject: str, connection: psycopg.Connection) -> Iterator[Finding]:
    database = connection.info.dbname
    yield from _may_create(
        subject,
        connection,
        "has_database_privilege",
        sql.SQL("DATABASE {}").format(sql.Identifier(database)),
        database,
        "create esops' own schema",
    )


def _may_create(
    subject: str,
    connection: psycopg.Connection,
    function: str,
    where: sql.Composable,
    name: str,
    what: str,
) -> Iterator[Finding]:
    role = connection.info.user
    question = sql.SQL("SELECT {}(%s, 'CREATE')").format(sql.Identifier(function))
    row = connection.execute(question, (name,)).fetchone()
    if row is not None and not row[0]:
        fix = sql.SQL("GRANT CREATE ON {} TO {};").format(where, sql.Identifier(role))
        yield Finding(
            "ESOPS-D024", subject, f"role {role} may not {what}", fix.as_string(connection)
        )


def _own_tables(subject: str, number: int) -> Iterator[Finding]:
    """Esops' own tables are not in the form that this esops writes."""
    newest = migrations.newest()
    if number > newest:
        yield Finding(
            "ESOPS-D035",
            subject,
            f"a newer esops created its tables here: they are at schema {number}, and this one "
            f"knows schema {newest}",
            "Upgrade esops on this machine.",
        )
    elif number:
        yield Finding(
            "ESOPS-D036",
            subject,
            f"esops' own tables are at schema {number}, and this esops writes schema {newest}",
            "Do nothing if the role that runs esops owns them: its next rebuild or run migrates "
            "them. Else run `esops run --until-caught-up` once as their owner.",
        )


def _unfinished_rebuild(
    subject: str, connection: psycopg.Connection, projection: str
) -> Iterator[Finding]:
    entry = journal.latest(connection, projection)
    if entry is None or locks.holder(connection, locks.rebuild_lock(projection)) is not None:
        return  # a process is working on it
    if entry.finished_at is not None:
        if journal.owes_hook(connection, entry.rebuild):
            yield Finding(
                "ESOPS-D100",
                subject,
                f"rebuild {entry.rebuild} switched to v{entry.to_version}, and its hook "
                "after-switch has not ended well",
                f"esops rebuild {projection} --blue-green --resume",
            )
        return
    reason = f": {entry.reason}" if entry.reason else ""
    # Blue-green is said again on resuming, so that nobody empties tables by mistake.
    fix = f"esops rebuild {projection} --resume"
    if not entry.options.get("in_place"):
        fix = f"esops rebuild {projection} --blue-green --resume   (or --abort)"
    yield Finding(
        "ESOPS-D020",
        subject,
        f"rebuild {entry.rebuild} stopped in state {entry.state}{reason}",
        fix,
    )


def stalled(
    subject: str, config: Config, projection: str, said: Collection[int] = ()
) -> Iterator[Finding]:
    """Versions that a process follows, or that are paused, and that do not advance: the others have
    a finding of their own.
    """
    try:
        found = list(stalls.of_versions(config, [projection]))
    except EsopsError:
        return  # a store that cannot be opened is a finding of its own
    for version, stall in found:
        if version.version not in said and stall.reasons != [not_advancing.NOT_FOLLOWED]:
            yield Finding(
                "ESOPS-D088",
                subject,
                f"v{version.version} ({version.state}) {stall}",
                f"esops projection show {projection}",
            )


def _of_another_log(
    connection: psycopg.Connection, config: Config, versions: Sequence[Version]
) -> Iterator[tuple[Version, AnotherLog]]:
    """Each live version that is of another history than its store, with the reason."""
    for name in dict.fromkeys(each.store for each in versions if each.state in LIVE_STATES):
        try:
            with open_store(*config.store(name)) as store:
                yield from overview.troubles(connection, store, versions)
        except EsopsError:
            continue  # a store that cannot be opened is a finding of its own


def _trouble(subject: str, trouble: AnotherLog) -> Finding:
    code = "ESOPS-D040"
    if isinstance(trouble, OtherPositions):
        code = "ESOPS-D041"
    elif isinstance(trouble, OtherTransactions):
        code = "ESOPS-D042"
    return Finding(code, subject, trouble.message, trouble.hint)


def _not_followed(
    subject: str,
    connection: psycopg.Connection,
    config: Config,
    projection: str,
    versions: Sequence[Version],
    refused: Collection[int],
) -> Iterator[Finding]:
    settings = config.projections[projection]
    if settings.live != "esops" or settings.kind == "external":
        return  # the application keeps it fresh, and takes no lock of ours
    failing = set()
    for each in versions:
        if each.state not in LIVE_STATES or each.version in refused:
            continue
        other = conduct.other_code(connection, each)
        if other is not None:
            yield Finding(
                "ESOPS-D071",
                subject,
                f"v{each.version} ({each.state}) was {other}",
                f"esops rebuild {projection} --blue-green",
            )
        failure = conduct.failure(connection, each)
        if failure is not None:
            failing.add(each.version)
            fix = f"{failure.hint} " if failure.hint else ""
            yield Finding(
                "ESOPS-D072",
                subject,
                f"v{each.version} ({each.state}) is not kept fresh; it {failure}",
                f"{fix}A running `esops run` then tries again by itself; if it has ended, "
                "start it again.",
            )
    yield from stalled(subject, config, projection, {*refused, *failing})
    active = next((each for each in versions if each.state == "active"), None)
    if active is None or active.version in {*refused, *failing}:
        return
    if locks.holder(connection, locks.version_lock(projection, active.version)) is None:
        yield Finding(
            "ESOPS-D022",
            subject,
            f"v{active.version} serves, and no process keeps it fresh",
            "esops run",
        )
