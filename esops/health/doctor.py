"""Is everything in place that the commands rely on?

One function for each thing that is looked at; each yields findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import psycopg
from psycopg import sql

from esops.config import Config
from esops.errors import EsopsError, UsageError
from esops.health import lint, room
from esops.health.findings import Finding
from esops.init import NO_EVENT_STORE, WHY_NOT
from esops.postgres import catalog
from esops.postgres.connection import connect, translated
from esops.projections.definition import load_definition
from esops.readmodel import locks, migrations, registry
from esops.readmodel.dead_letters import dead_letters
from esops.readmodel.names import ReadModelName, default_schema, parse_name
from esops.rebuild import journal
from esops.settings import ArchiveSettings
from esops.stores import open_store
from esops.stores.base import LOOKING, EventStore, StoreInfo

if TYPE_CHECKING:
    from esops.stores.eventstoredb import EventStoreDBStore
    from esops.stores.postgres.store import PostgresStore

OLDEST_POSTGRES = 14
OLDEST_NODE = (20, 10)
SKEW = timedelta(seconds=5)
_CONCERNS = {"reused ids": "ESOPS-D025", "orphan progress": "ESOPS-D026"}
"""How long the head may be waited for: a writer that takes longer is worth a word, and a hole is
judged within it.
"""


def examine(config: Config, store: str | None = None) -> list[Finding]:
    """Look at all stores and projections of the configuration, or at those of one store.

    Raises UsageError for an unknown one.
    """
    names = [config.store(store)[0]] if store is not None else list(config.stores)
    found = list(lint.examine(config)) if store is None else []
    for name in names:
        found += _of_store(config, name)
    for name, settings in config.projections.items():
        if store is None or settings.store == store or len(config.stores) == 1:
            found += _of_projection(config, name)
    if store is None:
        for name, archive in config.archives.items():
            found += _of_archive(name, archive)
    return found


# -- stores


def _of_store(config: Config, name: str) -> Iterator[Finding]:
    subject, settings = f"store {name}", config.stores[name]
    address = settings.dsn or settings.uri or ""
    if NO_EVENT_STORE.match(address):
        yield Finding(
            "ESOPS-D004", subject, WHY_NOT, "Name the store that the application decides on."
        )
        return
    try:
        with open_store(name, settings) as store:
            info = store.ping()
            yield from _clock(subject, info)
            yield from (Finding("ESOPS-D013", subject, warning) for warning in info.warnings)
            if info.backend == "eventstoredb":
                yield from _of_node(subject, info, cast("EventStoreDBStore", store))
            elif info.backend == "postgres":
                yield from _of_postgres(subject, info, cast("PostgresStore", store))
            yield from _head(subject, store)
    except EsopsError as error:
        yield Finding("ESOPS-D001", subject, error.message, error.hint)


def _clock(subject: str, info: StoreInfo) -> Iterator[Finding]:
    apart = abs(info.clock - datetime.now(UTC))
    if apart > SKEW:
        message = (
            f"its clock and this machine's are {apart.total_seconds():.0f} s apart: "
            "ages and "
            "lags are wrong by as much"
        )
        yield Finding("ESOPS-D016", subject, message, "Let both follow NTP.")


def _head(subject: str, store: EventStore) -> Iterator[Finding]:
    store.head(LOOKING)
    for holder in store.held_back_by():
        since = f" since {holder.since:%Y-%m-%d %H:%M:%S} UTC" if holder.since else ""
        message = f"its settled head is held back by {holder.who}{since}: {holder.what}"
        yield Finding(
            "ESOPS-D012",
            subject,
            message,
            "Let that session end its transaction, or end the session.",
        )


def _of_postgres(subject: str, info: StoreInfo, store: PostgresStore) -> Iterator[Finding]:
    if int(info.version.partition(".")[0]) < OLDEST_POSTGRES:
        yield Finding(
            "ESOPS-D015",
            subject,
            f"PostgreSQL {info.version} is older than {OLDEST_POSTGRES}",
            "Upgrade the server.",
        )
    layout = store.layout
    with store.control() as connection:
        for concern in layout.concerns(connection):
            yield Finding(_CONCERNS[concern.kind], subject, concern.message, concern.fix)
        yield from _rights(subject, connection, layout.reads, layout.sequences)
        for name in layout.sequences:
            schema, short = _parts(name)
            found = catalog.sequence_of(connection, schema, short)
            if found is not None and found[1] > 1:
                message = (
                    f"sequence {short} gives {found[1]} numbers to a session ahead: holes "
                    "are watched, and the head lags for it"
                )
                yield Finding(
                    "ESOPS-D011",
                    subject,
                    message,
                    f"ALTER SEQUENCE {name.as_string(connection)} CACHE 1;",
                )
        if len(layout.order) > 1 and not _has_index(
            connection, layout.events, [_parts(each)[-1] for each in layout.order_columns]
        ):
            columns = ", ".join(each.as_string(connection) for each in layout.order_columns)
            message = (
                "no index is in the order of its positions: each page of a rebuild sorts "
                "what is left"
            )
            for table in _leaves(connection, layout.events):
                yield Finding(
                    "ESOPS-D014",
                    subject,
                    message,
                    f"CREATE INDEX CONCURRENTLY ON {table} ({columns});",
                )


def _rights(
    subject: str,
    connection: psycopg.Connection,
    tables: tuple[sql.Identifier, ...],
    sequences: tuple[sql.Identifier, ...],
) -> Iterator[Finding]:
    role = connection.info.user
    for what, function, names in (
        ("", "has_table_privilege", tables),
        ("SEQUENCE ", "has_sequence_privilege", sequences),
    ):
        for name in names:
            text = name.as_string(connection)
            row = connection.execute(
                f"SELECT {function}(%s, 'SELECT')".encode(), (text,)
            ).fetchone()
            if row is not None and not row[0]:
                fix = (
                    sql.SQL("GRANT SELECT ON {}{} TO {};")
                    .format(sql.SQL(what), name, sql.Identifier(role))
                    .as_string(connection)
                )
                yield Finding("ESOPS-D010", subject, f"role {role} may not read {text}", fix)


def _has_index(connection: psycopg.Connection, events: sql.Identifier, columns: list[str]) -> bool:
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_partition_tree(%s::regclass) t JOIN pg_index i ON "
        "i.indrelid = t.relid "
        "WHERE (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(i.indkey) WITH "
        "ORDINALITY AS k(attnum, n) "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.n <= %s) "
        "= %s)",
        (events.as_string(connection), len(columns), columns),
    ).fetchone()
    return bool(row and row[0])


def _leaves(connection: psycopg.Connection, events: sql.Identifier) -> list[str]:
    rows = connection.execute(
        "SELECT relid::regclass::text FROM pg_partition_tree(%s::regclass) WHERE isleaf ORDER BY 1",
        (events.as_string(connection),),
    ).fetchall()
    return [row[0] for row in rows]


def _parts(name: sql.Composable) -> tuple[str, str]:
    """Schema and name of an identifier; the name alone where it has no schema."""
    parts = name._obj if isinstance(name, sql.Identifier) else ("",)  # noqa: SLF001 - psycopg gives no other way to ask
    return (parts[0] if len(parts) > 1 else "", parts[-1])


def _of_node(subject: str, info: StoreInfo, store: EventStoreDBStore) -> Iterator[Finding]:
    version = (
        tuple(int(part) for part in info.version.split(".")[:2])
        if info.version[:1].isdigit()
        else None
    )
    if version is not None and version < OLDEST_NODE:
        yield Finding(
            "ESOPS-D015",
            subject,
            f"EventStoreDB {info.version} is older than 20.10",
            "Upgrade the cluster.",
        )
    known = {one.name: one for one in store.projections.all()}
    for name, use in (
        ("$streams", "the list of all streams"),
        ("$by_correlation_id", "finding what belongs to a correlation id"),
    ):
        if name in known and not known[name].running:
            message = f"the system projection {name} does not run: {use} takes a scan of $all"
            yield Finding(
                "ESOPS-D017", subject, message, f"Enable {name}, if such questions are asked often."
            )
    for one in known.values():
        if one.faulted:
            yield Finding(
                "ESOPS-D018",
                subject,
                f"projection {one.name} is faulted: {one.reason}",
                "Mend its query, and enable it.",
            )
    for group in store.subscriptions.all():
        if group.parked:
            since = store.subscriptions.oldest_parked(group.stream, group.name)
            message = (
                f"{group.parked:,} messages of group {group.name} on {group.stream} are "
                f"parked, since {since:%Y-%m-%d %H:%M}"
            )
            yield Finding(
                "ESOPS-D019",
                subject,
                message,
                "See why its consumers refuse them, and replay them.",
            )


# -- projections


def _of_projection(config: Config, name: str) -> Iterator[Finding]:
    subject, settings = f"projection {name}", config.projections[name]
    try:
        config.store(settings.store)
        if settings.kind == "server":
            return
        load_definition(settings, config.directory, f"projections.{name}")
        read_model = config.readmodel_of(name)
    except UsageError as error:
        yield Finding("ESOPS-D003", subject, error.message, error.hint)
        return
    if settings.ddl is not None and not (config.directory / settings.ddl).is_file():
        yield Finding(
            "ESOPS-D003",
            subject,
            f"there is no file {settings.ddl}",
            "Name the file with green's DDL, or leave `ddl` out.",
        )
    try:
        with connect(read_model.dsn, "doctor") as connection, translated():
            schema = default_schema(connection, read_model.db_schema)
            names = [parse_name(each, schema) for each in settings.tables]
            for each in dict.fromkeys(model.schema for model in names):
                yield from _may_write(subject, connection, each)
            for model in names:
                yield from room.examine(
                    subject,
                    connection,
                    sql.Identifier(model.schema, model.name).as_string(connection),
                )
            number = migrations.schema_number(connection)
            if number != migrations.newest():
                yield from _own_tables(subject, number)
            if 0 < number <= migrations.newest():
                yield from _versions(config, name, connection, names)
    except EsopsError as error:
        yield Finding("ESOPS-D002", subject, error.message, error.hint)


def _own_tables(subject: str, number: int) -> Iterator[Finding]:
    """What to know of esops' own tables where they are not in the form that this esops writes."""
    newest = migrations.newest()
    if number > newest:
        yield Finding(
            "ESOPS-D035",
            subject,
            f"a newer esops made its tables here: they are at schema {number}, and this one knows "
            f"schema {newest}",
            "Upgrade esops on this machine.",
        )
    elif number:
        yield Finding(
            "ESOPS-D036",
            subject,
            f"esops' own tables are at schema {number}, and this esops writes schema {newest}",
            "Nothing has to be done: the next rebuild or run brings them forward.",
        )


def _may_write(subject: str, connection: psycopg.Connection, schema: str) -> Iterator[Finding]:
    role, database = connection.info.user, connection.info.dbname
    schema_right = sql.SQL("SCHEMA {}").format(sql.Identifier(schema))
    rights: list[tuple[str, tuple[str, str], str, sql.Composable]] = [
        (
            "has_schema_privilege(%s, %s)",
            (schema, "CREATE"),
            f"create tables in schema {schema}",
            schema_right,
        )
    ]
    if migrations.schema_number(connection) == 0:
        database_right = sql.SQL("DATABASE {}").format(sql.Identifier(database))
        rights.append(
            (
                "has_database_privilege(%s, %s)",
                (database, "CREATE"),
                "create esops' own schema",
                database_right,
            )
        )
    for question, arguments, what, where in rights:
        row = connection.execute(f"SELECT {question}".encode(), arguments).fetchone()
        if row is not None and not row[0]:
            fix = (
                sql.SQL("GRANT CREATE ON {} TO {};")
                .format(where, sql.Identifier(role))
                .as_string(connection)
            )
            yield Finding("ESOPS-D024", subject, f"role {role} may not {what}", fix)


def _versions(
    config: Config,
    name: str,
    connection: psycopg.Connection,
    names: Sequence[ReadModelName],
) -> Iterator[Finding]:
    subject = f"projection {name}"
    known = registry.versions(connection, name)
    known_tables = {
        physical
        for each in known
        if each.state != "retired"
        for _, physical in each.tables.values()
    }
    for model in names:
        rows = connection.execute(
            "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND c.relname ~ ('^' || %s || "
            "'__v[0-9]+$') ORDER BY 1",
            (model.schema, model.name),
        ).fetchall()
        for (left,) in rows:
            if left not in known_tables:
                fix = (
                    sql.SQL("DROP TABLE {};")
                    .format(sql.Identifier(model.schema, left))
                    .as_string(connection)
                )
                yield Finding(
                    "ESOPS-D021",
                    subject,
                    f"table {model.schema}.{left} is of no version that esops knows",
                    fix,
                )
    entry = journal.latest(connection, name)
    if (
        entry is not None
        and entry.finished_at is None
        and locks.holder(connection, locks.rebuild_lock(name)) is None
    ):
        message = f"rebuild {entry.rebuild} stopped in state {entry.state}" + (
            f": {entry.reason}" if entry.reason else ""
        )
        in_place = bool(entry.options.get("in_place"))
        fix = (
            f"esops rebuild {name} --resume"
            if in_place
            else f"esops rebuild {name} --blue-green --resume   (or --abort)"
        )
        yield Finding("ESOPS-D020", subject, message, fix)
    active = next((each for each in known if each.state == "active"), None)
    followed = config.projections[name].live == "app" or config.projections[name].kind == "external"
    if (
        active is not None
        and not followed
        and locks.holder(connection, locks.version_lock(name, active.version)) is None
    ):
        yield Finding(
            "ESOPS-D022",
            subject,
            f"v{active.version} serves, and nobody keeps it fresh",
            "esops run",
        )
    letters = dead_letters(config, name)
    if letters:
        fix = f"esops projection dead-letters {name}"
        yield Finding(
            "ESOPS-D023",
            subject,
            f"{len(letters):,} events could not be projected and were passed",
            fix,
        )


# -- archives


def _of_archive(name: str, settings: ArchiveSettings) -> Iterator[Finding]:
    from esops.archive.catalog_view import last_of_each_policy
    from esops.archive_format.lease import Lease
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Catalog

    subject = f"archive {name}"
    try:
        repository = Repository(settings)
        for told in last_of_each_policy(Catalog(repository)):
            policy = str(told.get("policy"))
            short = policy.rpartition("/")[2]
            if told["state"] == "damaged":
                yield Finding(
                    "ESOPS-D032", subject, told["detail"], "Restore the file from a copy."
                )
            elif told["state"] == "failed":
                fix = f"esops archive show {told['run']}, and then: esops archive run {short}"
                yield Finding(
                    "ESOPS-D033",
                    subject,
                    f"run {told['run']} failed its verification; nothing was removed",
                    fix,
                )
            elif told["state"] != "done" and Lease(repository, policy).holder() is None:
                message = f"run {told['run']} stopped in state {told['state']}"
                yield Finding("ESOPS-D034", subject, message, f"esops archive run {short}")
    except EsopsError as error:
        yield Finding("ESOPS-D032", subject, error.message, error.hint)
