"""Events of a layout from the newest back, by the index that orders them.

As in reading.py, each page is a statement and a snapshot of its own. The first page is as small as
what is asked for, so that the newest twenty of a hundred million events are one look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
from psycopg import sql

from esops.events import EventFilter, Position, RecordedEvent
from esops.postgres.connection import translated
from esops.stores.postgres.layouts.base import TRUE, Layout
from esops.stores.postgres.light import FEW, sized
from esops.stores.postgres.reading import PagedReader, PageSize


class BackwardReader:
    """Reads events up to a settled position, the newest first."""

    def __init__(
        self, layout: Layout, control: Callable[[], psycopg.Connection], reader: PagedReader
    ) -> None:
        """`control` gives the connection for short questions."""
        self._layout, self._control, self._reader = layout, control, reader

    def between(
        self, after: Position | None, until: Position, filter: EventFilter, limit: int | None
    ) -> Iterator[list[RecordedEvent]]:
        """Events up to one position and after another, at most `limit` of them."""
        # Without an index each statement reads the table, so that there should be one only.
        if len(self._layout.order) > 1 or (limit is not None and not self._layout.order_indexed):
            return self._by_key(after, until, filter, limit)
        return self._by_numbers(after, until, filter, limit)

    def _by_numbers(
        self, after: Position | None, until: Position, filter: EventFilter, limit: int | None
    ) -> Iterator[list[RecordedEvent]]:
        # By ranges of numbers, as forwards: a filter that few events pass makes no long statement.
        where, low, high = self._layout.where(filter), (after[0] if after else 0), until[0]
        page, size = PageSize(), FEW
        while low < high and (limit is None or limit > 0):
            # A gap of a billion numbers is skipped at once.
            high = self._last_up_to(high, low)
            bottom = max(low, high - size)
            bounds = (
                self._layout.beyond(Position((bottom,))),
                self._layout.up_to(Position((high,))),
            )
            for events in self._page(where, bounds, size, limit):
                limit = None if limit is None else limit - len(events)
                yield events
            high, size = bottom, page.begin()

    def _last_up_to(self, high: int, low: int) -> int:
        """The highest number up to one that a row has; `low` where there is none above that."""
        (column,) = self._layout.order_columns
        with translated():
            row = (
                self._control()
                .execute(
                    sql.SQL("SELECT max({}) FROM {} WHERE {} AND {}").format(
                        column,
                        self._layout.events,
                        self._layout.beyond(Position((low,))),
                        self._layout.up_to(Position((high,))),
                    )
                )
                .fetchone()
            )
        return low if row is None or row[0] is None else int(row[0])

    def _by_key(
        self, after: Position | None, until: Position, filter: EventFilter, limit: int | None
    ) -> Iterator[list[RecordedEvent]]:
        where, page, size = self._layout.where(filter), PageSize(), FEW
        beyond = self._layout.beyond(after) if after is not None else TRUE
        up_to = self._layout.up_to(until)
        while limit is None or limit > 0:
            size = size if limit is None else min(size, limit)
            seen = 0
            for events in self._page(where, (beyond, up_to), size, size):
                seen += len(events)
                up_to = self._layout.below(events[-1].position)
                yield events
            if seen < size:
                return
            limit = None if limit is None else limit - seen
            size = page.begin()

    def _page(
        self,
        where: sql.Composable,
        bounds: tuple[sql.Composable, sql.Composable],
        rows: int,
        limit: int | None,
    ) -> Iterator[list[RecordedEvent]]:
        """About `rows` rows, at most `limit` of them: several may share a number."""
        ordered = self._layout.descending
        if limit is not None:
            ordered = sql.SQL("{} LIMIT {}").format(ordered, sql.Literal(limit))
        statement = self._reader.select(where, *bounds, ordered)
        return self._reader.statements(iter([sized(min(rows, limit or rows), statement)]))
