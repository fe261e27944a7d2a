"""Whether the registry says what readers read: one version serves, and its tables are there and
its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg
from psycopg import sql

from esops.config import Config, by_address
from esops.health.findings import Finding
from esops.postgres import catalog
from esops.postgres.connection import connect, translated
from esops.readmodel import migrations, owners, read_as, served
from esops.readmodel.names import ReadModelName
from esops.readmodel.registry import LIVE_STATES, Version
from esops.readmodel.tables import missing_tables
from esops.running import gone


def examine(
    subject: str,
    connection: psycopg.Connection,
    config: Config,
    projection: str,
    names: Sequence[ReadModelName],
    versions: Sequence[Version],
) -> Iterator[Finding]:
    """Check which version serves, and that its tables and the names of readers exist."""
    for name, numbers, switched_to in migrations.two_active(connection):
        if name == projection:
            yield Finding(
                "ESOPS-D057",
                subject,
                f"{' and '.join(f'v{each}' for each in numbers)} are noted as serving at the same "
                "time",
                migrations.remedy_of_two(name, numbers, switched_to),
            )
            return
    yield from _shared(subject, connection, versions)
    active = next((each for each in versions if each.state == "active"), None)
    if active is None:
        return
    missing = missing_tables(connection, active)
    if missing:
        there = [each for each in versions if not missing_tables(connection, each)]
        yield Finding(
            "ESOPS-D058",
            subject,
            f"v{active.version} serves, and its tables do not exist: {', '.join(missing)}",
            gone.remedy(config, active, there),
        )
        return
    if config.projections[projection].switch == "hook":
        return  # its readers are moved by a program, and read what they read
    yield from _of_names(subject, connection, names, active)
    for other in served.look(config, connection, projection):
        yield Finding("ESOPS-D060", subject, str(other), other.fix)


def _of_names(
    subject: str,
    connection: psycopg.Connection,
    names: Sequence[ReadModelName],
    active: Version,
) -> Iterator[Finding]:
    """The names of readers that are in another schema by now, or that do not exist."""
    other_schema = read_as.in_other_schema(connection, names, active)
    if other_schema:
        yield Finding(
            "ESOPS-D058",
            subject,
            f"{read_as.in_words(other_schema, active)}, which a rebuild refuses",
            read_as.remedy(names, other_schema, active.projection),
        )
    for each in read_as.as_read(names, active):
        if each.name in active.tables and not catalog.exists(
            connection, str(each.identifier.as_string(None))
        ):
            physical = active.tables[each.name]
            table = catalog.find_table(connection, *physical)
            # Made by another role, it could not be switched later.
            owner = table.owner if table is not None else connection.info.user
            fix = sql.SQL(
                "CREATE VIEW {0} AS SELECT * FROM {1}; ALTER VIEW {0} OWNER TO {2};"
            ).format(each.identifier, sql.Identifier(*physical), sql.Identifier(owner))
            yield Finding(
                "ESOPS-D058",
                subject,
                f"v{active.version} serves, and {each}, which readers read, does not exist",
                fix.as_string(connection),
            )


def something_else(config: Config, projections: Sequence[str]) -> list[served.SomethingElse]:
    """The names of projections that do not stand for the version that serves.

    Raises Unavailable where a read model cannot be asked.
    """
    found: list[served.SomethingElse] = []
    ours = [name for name in projections if config.projection(name).kind != "server"]
    for dsn, names in by_address(config, ours).items():
        with translated(), connect(dsn, "run") as connection:
            for name in names:
                found += served.look(config, connection, name)
    return found


def _shared(
    subject: str, connection: psycopg.Connection, versions: Sequence[Version]
) -> Iterator[Finding]:
    """Versions of two projections with one table, which an older esops could make."""
    for each in versions:
        if each.state not in {*LIVE_STATES, "building"}:
            continue
        relations = owners.relations_of(each.tables)
        for other in owners.others(connection, each.projection, relations):
            wrong = owners.forget_statement(other.projection, other.version)
            yield Finding(
                "ESOPS-D070",
                subject,
                f"{'.'.join(other.relation)} is of v{each.version} ({each.state}), and of {other} "
                "as well",
                f"Stop `esops run`. If {other.projection} is wrong: {wrong} Then rebuild "
                f"{each.projection}, for both may have written into its tables.",
            )
