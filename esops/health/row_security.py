"""Does row security hide rows from esops' role? The server then refuses what esops asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import psycopg
from psycopg import sql

from esops.health.findings import Finding
from esops.postgres.statements import statements

_SQL = statements(__package__, "postgres")


def examine(
    subject: str, connection: psycopg.Connection, tables: Iterable[str]
) -> Iterator[Finding]:
    """Check tables, each written as in SQL; those that are not there are left out."""
    for table, owner in connection.execute(_SQL["hidden_rows"], (list(tables),)).fetchall():
        role, owners = sql.Identifier(connection.info.user), sql.Identifier(owner)
        fix = sql.SQL("ALTER ROLE {} BYPASSRLS;  -- or, unless FORCE is set: GRANT {} TO {};")
        yield Finding(
            "ESOPS-D043",
            subject,
            f"row security on {table} hides rows from role {connection.info.user}, so esops "
            "refuses to read it",
            fix.format(role, owners, role).as_string(connection),
        )
