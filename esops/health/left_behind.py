"""Tables that look like those of a version and that nobody knows any more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg
from psycopg import sql

from esops.health.findings import Finding
from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.readmodel import registry
from esops.readmodel.dependants import dependants, references
from esops.readmodel.names import ReadModelName

_SQL = statements(__package__, "postgres")


def examine(
    subject: str, connection: psycopg.Connection, names: Sequence[ReadModelName]
) -> Iterator[Finding]:
    """Find tables that can be dropped: no version of any projection has them, whatever esops.toml
    calls it, and nothing in the database refers to them.
    """
    known = {
        physical
        for each in registry.versions(connection)
        if each.state != "retired"
        for physical in each.tables.values()
    }
    for model in names:
        rows = connection.execute(_SQL["tables_of_versions"], (model.schema, model.name))
        for (name,) in rows.fetchall():
            if (model.schema, name) in known:
                continue
            table = catalog.find_table(connection, model.schema, name)
            if table is None:
                continue
            users = dependants(connection, references(connection, table.oid), [table.oid])
            if users:
                yield Finding(
                    "ESOPS-D021",
                    subject,
                    f"table {model.schema}.{name} belongs to no version that esops knows, and is "
                    f"used by {', '.join(each.name for each in users)}",
                    "Find out who made it before you drop anything.",
                )
                continue
            fix = sql.SQL("DROP TABLE {};").format(sql.Identifier(model.schema, name))
            yield Finding(
                "ESOPS-D021",
                subject,
                f"table {model.schema}.{name} belongs to no version that esops knows",
                fix.as_string(connection),
            )
