"""Whether the registry says what readers read: one version serves, and its tables are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg
from psycopg import sql

from esops.config import Config
from esops.health.findings import Finding
from esops.postgres import catalog
from esops.readmodel import migrations
from esops.readmodel.names import ReadModelName
from esops.readmodel.registry import Version
from esops.readmodel.tables import missing_tables
from esops.rebuild.overview import remedy_without_tables


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
            remedy_without_tables(projection, active, there),
        )
        return
    if config.projections[projection].switch == "hook":
        return  # its readers are moved by a program, and read what they read
    for each in names:
        if each.name in active.tables and not catalog.exists(
            connection, str(each.identifier.as_string(None))
        ):
            table = sql.Identifier(*active.tables[each.name])
            fix = sql.SQL("CREATE VIEW {} AS SELECT * FROM {};").format(each.identifier, table)
            yield Finding(
                "ESOPS-D058",
                subject,
                f"v{active.version} serves, and {each}, which readers read, does not exist",
                fix.as_string(connection),
            )
