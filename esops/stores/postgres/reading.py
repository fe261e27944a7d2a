"""Events of a layout in pages.

Each page of a bulk read is a statement and a snapshot of its own, of about two seconds at most, so
that a read of a hundred million events, or a slow projection, leaves no old snapshot behind that
would hold back vacuum or the application's own daemon.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import psycopg
from psycopg import sql

from esops.events import EventFilter, Position, RecordedEvent
from esops.postgres.connection import translated
from esops.stores.arrow_events import ColumnsInUse, to_events
from esops.stores.postgres import bulk
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.layouts.expressions import named
from esops.stores.postgres.light import FEW, Few, sized

PAGE = 200_000
"""The most numbers in a page of a bulk read, the best of those measured
(docs/explanation/speed.md).
"""
_FIRST_PAGE = 16_000
"""Smaller than later pages: it is fetched ahead whole, even if the reader turns out to be slow."""
_SMALLEST_PAGE = 1_000
_PAGE_SECONDS = 2.0
_STREAM_PAGE = 5_000
"""The most events of one stream that a statement reads."""


class PageSize:
    """How much to read in one statement, so that its snapshot lives for about two seconds, however
    slow the reader is.
    """

    def __init__(self) -> None:
        """The first page is a small one."""
        self.size = _FIRST_PAGE
        self._since: float | None = None

    def begin(self) -> int:
        """The size of the next page, judged by how long the last one took."""
        now = time.monotonic()
        if self._since is not None:
            took = now - self._since
            if took > _PAGE_SECONDS:
                self.size = max(_SMALLEST_PAGE, int(self.size * _PAGE_SECONDS / took))
            elif took < _PAGE_SECONDS / 2:
                self.size = min(PAGE, self.size * 2)
        self._since = now
        return self.size


class PagedReader:
    """Reads events by position or by version. Used by one reader at a time, as `BulkReader` is."""

    def __init__(self, layout: Layout, dsn: str, control: Callable[[], psycopg.Connection]) -> None:
        """`control` gives the connection for short questions; nothing else is opened yet."""
        self._layout, self._control = layout, control
        self._bulk = bulk.BulkReader(dsn)

    def close(self) -> None:
        """Close the connection for bulk reads."""
        self._bulk.close()

    def between(
        self, after: Position | None, until: Position, filter: EventFilter, limit: int | None
    ) -> Iterator[list[RecordedEvent]]:
        """Events after one position up to another, in order, at most `limit` of them."""
        if limit is not None:
            return self._limited(after, until, filter, limit)
        if len(self._layout.order) == 1:
            return self.statements(self._number_pages(after, until, filter))
        return self._by_key(after, until, filter)

    def statements(self, statements: Iterator[str | Few]) -> Iterator[list[RecordedEvent]]:
        """The events that statements made by `select` give, a list a batch."""
        parts, decode, in_use = len(self._layout.order), self._layout.decode, ColumnsInUse()
        for batch in self._bulk.read(statements):
            if batch.num_rows:
                yield to_events(batch, parts, decode, in_use)

    def _number_pages(
        self, after: Position | None, until: Position, filter: EventFilter
    ) -> Iterator[str | Few]:
        # By ranges of numbers: the index gives each range in order, so that nothing is sorted, and
        # the next page starts where this one ends, whatever the reader did with it.
        low, high = (after[0] if after else 0), until[0]
        where = self._layout.where(filter)
        if high - low > PAGE:
            # A sequence may have been set far ahead: start where the numbers do.
            low = self._before_next(low, high)
        page = PageSize()
        while low < high:
            top = min(low + page.begin(), high)
            yield sized(
                top - low,
                self.select(
                    where,
                    self._layout.beyond(Position((low,))),
                    self._layout.up_to(Position((top,))),
                    self._layout.ascending,
                ),
            )
            # A gap of a billion numbers is skipped at once instead of page by page.
            low = top if top == high else self._before_next(top, high)

    def _before_next(self, after: int, high: int) -> int:
        """The number before the first one after `after` that a row has; `high` where there is none
        up to there.
        """
        (column,) = self._layout.order_columns
        # This runs in the thread that fetches. That is safe: psycopg serialises the statements of a
        # connection by a lock of its own.
        row = (
            self._control()
            .execute(
                sql.SQL("SELECT min({}) FROM {} WHERE {}").format(
                    column, self._layout.events, self._layout.beyond(Position((after,)))
                )
            )
            .fetchone()
        )
        return high if row is None or row[0] is None else min(high, int(row[0]) - 1)

    def _limited(
        self, after: Position | None, until: Position, filter: EventFilter, limit: int
    ) -> Iterator[list[RecordedEvent]]:
        """The first `limit` events, and those that share the last one's position, by statements
        that end with them.
        """
        if len(self._layout.order) > 1:
            yield from self._by_key(after, until, filter, limit)
            return
        where, low, high = self._layout.where(filter), (after[0] if after else 0), until[0]
        while low < high and limit > 0:
            with translated():
                low = self._before_next(low, high)
            top = min(low + PAGE, high)
            bounds = (self._layout.beyond(Position((low,))), self._layout.up_to(Position((top,))))
            statement = sized(limit, self.select(*self._first((where, *bounds), limit)))
            for events in self.statements(iter([statement])):
                limit -= len(events)
                yield events
            low = top

    def _first(
        self, conditions: tuple[sql.Composable, ...], limit: int
    ) -> tuple[sql.Composable, ...]:
        """The conditions and the order of the first `limit` events, with all that share the last
        one's number.
        """
        layout = self._layout
        if not layout.shares_numbers:
            ordered = sql.SQL("{} LIMIT {}").format(layout.ascending, sql.Literal(limit))
            return (*conditions, ordered)
        (number,) = layout.order_columns
        last = sql.SQL(
            "{0} <= (SELECT max(number) FROM (SELECT {0} AS number FROM {1} WHERE {2} ORDER BY 1 "
            "LIMIT {3}) AS firsts)"
        ).format(number, layout.events, sql.SQL(" AND ").join(conditions), sql.Literal(limit))
        return (*conditions, last, layout.ascending)

    def _by_key(
        self, after: Position | None, until: Position, filter: EventFilter, limit: int | None = None
    ) -> Iterator[list[RecordedEvent]]:
        # Positions of several parts have no ranges that could be counted off: each page starts
        # after the last event of the one before.
        where = self._layout.where(filter)
        page, size = PageSize(), FEW
        while limit is None or limit > 0:
            size = size if limit is None else min(size, limit)
            ordered = sql.SQL("{} LIMIT {}").format(self._layout.ascending, sql.Literal(size))
            beyond = self._layout.beyond(after) if after is not None else sql.SQL("TRUE")
            seen = 0
            statement = self.select(where, beyond, self._layout.up_to(until), ordered)
            for events in self.statements(iter([sized(size, statement)])):
                seen += len(events)
                after = events[-1].position
                yield events
            if seen < size:
                return
            limit = None if limit is None else limit - seen
            size = page.begin()

    def by_version(
        self,
        conditions: Sequence[sql.Composable],
        *,
        backwards: bool = False,
        limit: int | None = None,
    ) -> Iterator[list[RecordedEvent]]:
        """The events of a stream, all that were committed: a unique index keeps its versions in
        order, so that nothing has to settle.

        A version may come twice, where several tenants have a stream of this name, or the name was
        used again after archiving. So a page starts after a version and a position.
        """
        version = self._layout.mapped.version
        direction, operator = (" DESC", "<") if backwards else ("", ">")
        columns = [version, *self._layout.order_columns]
        order = sql.SQL(", ").join(sql.SQL("{}" + direction).format(column) for column in columns)
        beyond: list[sql.Composable] = []
        page = FEW
        while limit is None or limit > 0:
            page = page if limit is None else min(page, limit)
            ordered = sql.SQL("{} LIMIT {}").format(order, sql.Literal(page))
            seen, last = 0, None
            statement = sized(page, self.select(*conditions, *beyond, ordered))
            for events in self.statements(iter([statement])):
                seen, last = seen + len(events), events[-1]
                yield events
            if last is None or seen < page:
                return
            limit = None if limit is None else limit - seen
            page = _STREAM_PAGE
            reached = sql.Literal(last.version)
            beyond = [
                # Implied by the next condition, but the index on versions answers only this one.
                sql.SQL("{} {}= {}").format(version, sql.SQL(operator), reached),
                sql.SQL("({}) {} ({}, {})").format(
                    sql.SQL(", ").join(columns),
                    sql.SQL(operator),
                    reached,
                    sql.SQL(self._layout.literal(last.position)),
                ),
            ]

    def select(self, *parts: sql.Composable) -> str:
        """A SELECT of events as `to_events` reads it: conditions, and last what to order by."""
        m = self._layout.mapped
        about = (m.id, m.stream, m.version, m.type, m.metadata, m.recorded_at, m.tenant)
        columns = (*about, *self._layout.order, *self._layout.payload_columns)
        return (
            sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {}")
            .format(
                named(columns),
                self._layout.events,
                sql.SQL(" AND ").join(parts[:-1]),
                parts[-1],
            )
            .as_string(None)
        )
