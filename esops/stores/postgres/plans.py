"""Whether the server would answer a question about events by an index, without asking it."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg import sql


def scans_all(
    connection: psycopg.Connection, events: sql.Composable, condition: sql.Composable
) -> bool:
    """Whether the server reads a whole table of events, or every entry of an index, to find those
    for which a condition holds.
    """
    statement = sql.SQL("EXPLAIN (FORMAT JSON) SELECT 1 FROM {} WHERE {}").format(events, condition)
    with connection.transaction():
        # The server scans a small table even if it has an index; the question is whether it has.
        connection.execute("SET LOCAL enable_seqscan = off")
        row = connection.execute(statement).fetchone()
    assert row is not None
    return _reads_all(connection, row[0][0]["Plan"])


def _reads_all(connection: psycopg.Connection, plan: dict[str, Any]) -> bool:
    if plan["Node Type"] in ("Seq Scan", "Parallel Seq Scan"):
        # A one-time filter is false before any row is read, as for a text that is no uuid.
        return not plan.get("One-Time Filter")
    name = plan.get("Index Name")
    if name is not None and not _finds(connection, name, plan.get("Index Cond", "")):
        return True
    return any(_reads_all(connection, inner) for inner in plan.get("Plans", []))


def _finds(connection: psycopg.Connection, index: str, condition: str) -> bool:
    """Whether a condition names what an index is sorted by first: without that, each of its entries
    is looked at.
    """
    rows = connection.execute(
        "SELECT pg_get_indexdef(i.indexrelid, 1, true) FROM pg_index i "
        "JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = %s",
        (index,),
    ).fetchall()
    plain = _plain(condition)
    return any(re.search(rf"(?<!\w){re.escape(_plain(row[0]))}(?!\w)", plain) for row in rows)


def _plain(expression: str) -> str:
    """An expression as the server prints it, without what depends on where it stands."""
    unquoted = re.sub(r'["() ]', "", expression)
    return re.sub(r"\b\w+\.(?=[^\W\d])", "", unquoted)  # the table's name
