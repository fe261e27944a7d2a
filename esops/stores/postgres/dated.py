"""Where in the log the events of some time are.

Times do not follow positions: a writer's clock, a long transaction or an import dates an event
earlier or later than its neighbours. So only an index on the time tells where they lie.
"""

from __future__ import annotations

from datetime import datetime

import psycopg
from psycopg import sql

from esops.events import EventFilter, Position
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.plans import scans_all

_MOST = 100_000
"""Events that are looked up in the index: where there are more, to read the log costs no more."""


def between_times(
    connection: psycopg.Connection, layout: Layout, since: datetime, before: datetime | None
) -> tuple[Position | None, Position] | None:
    """See EventStore."""
    times = layout.within_times(EventFilter(since=since, before=before))
    if not times:
        return None
    condition = sql.SQL(" AND ").join(times)
    if scans_all(connection, layout.events, condition):
        return None
    # Materialised: for the least of the positions alone, the server would walk through the index of
    # positions from its beginning.
    statement = sql.SQL(
        "WITH dated AS MATERIALIZED (SELECT {} FROM {} WHERE {} LIMIT {}), "
        "counted AS (SELECT count(*) AS number FROM dated) "
        "(SELECT number, dated.* FROM counted, dated ORDER BY {} LIMIT 1) UNION ALL "
        "(SELECT number, dated.* FROM counted, dated ORDER BY {} LIMIT 1)"
    ).format(
        sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(each, sql.Identifier(f"n{at}"))
            for at, each in enumerate(layout.order)
        ),
        layout.events,
        condition,
        sql.Literal(_MOST + 1),
        _order(len(layout.order), ""),
        _order(len(layout.order), " DESC"),
    )
    with connection.transaction():
        connection.execute("SET LOCAL enable_seqscan = off")
        rows = connection.execute(statement).fetchall()
    if rows and rows[0][0] > _MOST:
        return None
    if not rows:
        # Nothing is there: a range that is empty, at the beginning of the log.
        nowhere = Position([0] * len(layout.order))
        return nowhere, nowhere
    first, last = (Position(row[1:]) for row in rows)
    return _before(first), last


def _before(position: Position) -> Position:
    """A position after which this one is the first: the last part of a position counts events."""
    return Position((*position[:-1], position[-1] - 1))


def _order(parts: int, direction: str) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{}{}").format(sql.Identifier(f"n{at}"), sql.SQL(direction)) for at in range(parts)
    )
