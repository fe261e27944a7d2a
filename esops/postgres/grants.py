"""Rights on a relation, carried over to another one that takes its place."""

from __future__ import annotations

import psycopg

from esops.postgres.statements import statements

_SQL = statements(__package__, "grants")


def grant_statements(connection: psycopg.Connection, oid: int, target: str) -> list[str]:
    """The GRANTs that give the rights on a relation, whole and by column, on another one.

    `oid` is the relation that has the rights, `target` the quoted name of the other one.
    """
    rows = connection.execute(_SQL["grants"], {"target": target, "oid": oid}).fetchall()
    return [row[0] for row in rows]
