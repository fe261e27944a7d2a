"""Versions whose rows still have personal data that was erased from their events.

Noted before the events are masked: afterwards nobody could tell any more what to look for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import psycopg

from esops.readmodel import migrations

_STILL_THERE = ("building", "standby", "active")


class ErasedVersion(NamedTuple):
    """A version of a projection, and how many of its rows had such data."""

    projection: str
    version: int
    rows: int


def note(
    connection: psycopg.Connection, projection: str, version: int, rows: int, rules: Sequence[str]
) -> None:
    """Note a version before its events are masked."""
    connection.execute(
        "INSERT INTO esops.erased (projection, version, rows, rules) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (projection, version) DO UPDATE SET "
        "rows = greatest(esops.erased.rows, EXCLUDED.rows), rules = EXCLUDED.rules, "
        "at = clock_timestamp()",
        (projection, version, rows, list(rules)),
    )


def noted(connection: psycopg.Connection) -> list[ErasedVersion]:
    """The versions that still have such data: those that were not rebuilt or retired since."""
    if not migrations.has(connection, "erased"):
        return []
    rows = connection.execute(
        "SELECT e.projection, e.version, e.rows FROM esops.erased e "
        "JOIN esops.versions v USING (projection, version) WHERE v.state = ANY(%s) ORDER BY 1, 2",
        (list(_STILL_THERE),),
    )
    return [ErasedVersion(*row) for row in rows]


def forget(connection: psycopg.Connection, projection: str, version: int) -> None:
    """A version's rows are made again, or proved to have none of it."""
    if migrations.has(connection, "erased"):
        connection.execute(
            "DELETE FROM esops.erased WHERE projection = %s AND version = %s", (projection, version)
        )


def forget_samples(connection: psycopg.Connection) -> None:
    """Forget how rows differed in rebuilds since the erasure: old rows beside new ones show what
    was erased.
    """
    if migrations.has(connection, "erased"):
        connection.execute(
            "UPDATE esops.rebuilds r SET verification = r.verification || '{\"samples\": []}' "
            "FROM esops.erased e WHERE e.projection = r.projection AND r.updated_at >= e.at "
            "AND r.verification ? 'samples'"
        )
