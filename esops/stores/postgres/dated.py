"""Where in the log the events of some time are.

Times do not follow positions: a writer's clock, a long transaction or an import dates an event
earlier or later than its neighbours. So only an index on the time tells where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from esops.events import EventFilter, Position, RecordedEvent, StreamKey
from esops.moments import Moment
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.plans import scans_all
from esops.stores.times import EventTimes

if TYPE_CHECKING:
    from esops.stores.postgres.store import PostgresStore

_MOST = 100_000
"""Events that are looked up in the index: where there are more, to read the log costs no more."""


class PostgresTimes(EventTimes):
    """EventTimes of a Postgres store: by an index on the time, where the server would take one; and
    by the library's list of streams, where that has times of its own.
    """

    def __init__(self, store: PostgresStore) -> None:
        """Over the store's connection for short questions."""
        super().__init__(store)
        self._layout, self._control = store.layout, store.control

    def positions_between(
        self, since: datetime, before: datetime | None
    ) -> tuple[Position | None, Position] | None:
        """By an index on the time."""
        with self._control() as connection:
            return _between_times(connection, self._layout, since, before)

    def last_appends(self, keys: Sequence[StreamKey]) -> dict[StreamKey, Moment]:
        """From the library's list of streams."""
        times = self._layout.times
        if times is None or not keys:
            return {}
        with self._control() as connection:
            return times.last_appends(connection, keys)

    def dated_early_by(self) -> timedelta:
        """By that list."""
        times = self._layout.times
        if times is None:
            return timedelta(0)
        with self._control() as connection:
            return times.dated_early_by(connection)

    def appended_at(self, event: RecordedEvent) -> Moment | None:
        """By that list."""
        times = self._layout.times
        if times is None:
            return event.moment
        with self._control() as connection:
            return times.appended_at(connection, event)


def _between_times(
    connection: psycopg.Connection, layout: Layout, since: datetime, before: datetime | None
) -> tuple[Position | None, Position] | None:
    """See EventTimes.positions_between."""
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
