"""An event store in Postgres, whatever its layout: what is settled, bulk reads in pages, short
reads, appends.

Each page of a bulk read is a statement and a snapshot of its own, of about two seconds at most, so
that a read of a hundred
million events, or a slow projection, leaves no old snapshot behind that would hold back vacuum or
the application's own daemon.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import sql

from esops.errors import ConnectionLost, Refused, UsageError
from esops.events import (
    Checkpoint,
    EventFilter,
    NewEvent,
    Position,
    RecordedEvent,
    StreamInfo,
    StreamKey,
    StreamRef,
    asked_for,
)
from esops.postgres.connection import connect, database_of, translated
from esops.settings import StoreSettings
from esops.stores.base import (
    EVERYTHING,
    Batch,
    Capabilities,
    Found,
    Holder,
    Ids,
    Lengths,
    LengthSample,
    MonthCount,
    RemovalStrategy,
    Removed,
    SqlRange,
    StoreInfo,
    Unmarked,
    Unsettled,
    VersionRange,
    settled,
)
from esops.stores.postgres import bulk
from esops.stores.postgres.counting import Counting
from esops.stores.postgres.layouts import find_layout
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.search import Search

if TYPE_CHECKING:
    import pyarrow as pa

    from esops.stores.postgres.archiving import StreamArchiver

PAGE = 200_000
"""Numbers a page of a bulk read at most: the best of those measured (docs/explanation/speed.md)."""
_FIRST_PAGE = 16_000
"""The first one is smaller: it is fetched ahead whole, also where the reader turns out to be slow.
"""
_SMALLEST_PAGE = 1_000
_PAGE_SECONDS = 2.0
_STREAM_PAGE = 5_000
"""Events of one stream that a statement reads at most."""
_LISTED_BYTES = 256 << 10
"""Of a batch of streams: what is made of them in Python is many times as large."""
_EXACT_COUNT = 100_000
"""Beyond this many numbers a lag is not counted row by row."""


def open_postgres(name: str, settings: StoreSettings) -> PostgresStore:
    """Connect and find the layout. Raises Unavailable or UsageError."""
    return PostgresStore(name, settings)


class PageSize:
    """How much to read in one statement, so that its snapshot lives about two seconds however slow
    the reader is.
    """

    def __init__(self) -> None:
        """Begin small."""
        self.size = _FIRST_PAGE
        self._since: float | None = None

    def begin(self) -> int:
        """Judge the page before by the time since it began, and say how large the next one is to
        be.
        """
        now = time.monotonic()
        if self._since is not None:
            took = now - self._since
            if took > _PAGE_SECONDS:
                self.size = max(_SMALLEST_PAGE, int(self.size * _PAGE_SECONDS / took))
            elif took < _PAGE_SECONDS / 2:
                self.size = min(PAGE, self.size * 2)
        self._since = now
        return self.size


class PostgresStore(Unmarked):
    """EventStore over Postgres; see esops.stores.base for what each method promises."""

    capabilities = Capabilities(append=True, count_between=True, checkpoints=True, shards=True)

    def __init__(self, name: str, settings: StoreSettings) -> None:
        """Connect and find the layout in the catalogue."""
        assert settings.dsn is not None
        self.name = name
        self._dsn = settings.dsn
        self._connection: psycopg.Connection | None = None
        with translated():
            self._refuse_replica()
            self.layout: Layout = find_layout(self._control(), name, settings)
        self._bulk = bulk.BulkReader(settings.dsn)
        self._rule = self.layout.rule()
        self._counting = Counting(
            self.layout,
            self._own_connection,
            self.control,
            partial(bulk.BulkReader, settings.dsn, _LISTED_BYTES),
        )
        archiving = self.layout.archiving
        self.capabilities = replace(
            self.capabilities,
            tenants=self.layout.tenants,
            append=self.layout.appends,
            first_version=self.layout.first_version,
            settling=settings.settle_timeout + settings.hole_threshold,
            removals=tuple(sorted(archiving.ways)) if archiving else (),
            restores="anywhere" if archiving is not None else "",
        )

    @cached_property
    def _shelving(self) -> StreamArchiver:
        # Imported for archiving alone: it brings all of Arrow's compute functions, which reading
        # does without.
        from esops.stores.postgres.archiving import StreamArchiver

        return StreamArchiver(self.layout, self._dsn)

    @contextmanager
    def _own_connection(self) -> Iterator[psycopg.Connection]:
        with translated(), connect(self._dsn, f"streams {self.name}") as connection:
            yield connection

    def _control(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._dsn, f"store {self.name}")
        return self._connection

    @contextmanager
    def control(self) -> Iterator[psycopg.Connection]:
        """The connection for short questions, with errors made ours."""
        with translated():
            yield self._control()

    def _refuse_replica(self) -> None:
        row = self._control().execute("SELECT pg_is_in_recovery()").fetchone()
        if row is not None and row[0]:
            raise Refused(
                f"stores.{self.name}: this server is a replica, and what is settled can be known "
                "on the primary alone",
                hint="Name the primary in the DSN (target_session_attrs=read-write finds it among "
                "several hosts).",
            )

    def _ask(self, statement: sql.SQL | sql.Composed) -> list[tuple[Any, ...]]:
        with translated():
            return self._control().execute(statement).fetchall()

    def ping(self) -> StoreInfo:
        """Version, clock and variant."""
        row = self._ask(sql.SQL("SELECT current_setting('server_version'), clock_timestamp()"))[0]
        with translated():
            warnings = self.layout.warnings(self._control())
        detail = {
            "schema": self.layout.schema,
            "written by": f"{self.layout.name} {self.layout.version}",
            **self.layout.detail,
        }
        return StoreInfo(
            "postgres", self.layout.name, row[0], row[1].astimezone(UTC), detail, warnings
        )

    def head(
        self,
        patience: timedelta = timedelta(seconds=1),
        after: Position | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Position | None:
        """The newest settled position by the layout's rule."""
        if after is not None:
            self._rule.known_settled(after)
        try:
            with translated():
                return self._rule.advance(self._control(), patience, stop)
        except ConnectionLost:
            # What was being waited for belongs to a server that is gone; look afresh on the next.
            self._rule = self.layout.rule()
            raise

    def held_back_by(self) -> list[Holder]:
        """Sessions and holes that the last head waited for in vain."""
        with translated():
            return self._rule.held_back_by(self._control())

    def read_all(
        self,
        after: Position | None = None,
        until: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """In pages of numbers, or by key where a position has more than one part."""
        self._check(after, until)
        if filter.stream is not None and until is None:
            beyond = [self.layout.beyond(after)] if after is not None else []
            for events in self._by_version([self.layout.where(filter), *beyond], limit=limit):
                yield Batch(events, events[-1].position)
            return
        short: Unsettled | None = None
        if until is None:
            until, short = settled(self, after)
        given = 0
        if until is not None and (after is None or after < until):
            if limit is not None:
                pages = self._read_limited(after, until, filter, limit)
            elif len(self.layout.order) == 1:
                pages = self._read_statements(self._number_pages(after, until, filter))
            else:
                pages = self._read_by_key(after, until, filter)
            for events in pages:
                given += len(events)
                yield Batch(events, events[-1].position)
        if short is not None and given != limit:
            raise short

    def _check(self, *positions: Position | None) -> None:
        parts = len(self.layout.order)
        for position in positions:
            if position is not None and len(position) != parts:
                raise ValueError(
                    f"{position} is not a position of this store: those have {parts} "
                    f"part{'s' * (parts > 1)}"
                )

    def _read_statements(self, statements: Iterator[str]) -> Iterator[list[RecordedEvent]]:
        for batch in self._bulk.read(statements):
            if batch.num_rows:
                yield bulk.to_events(batch, len(self.layout.order), self.layout.decode)

    def _number_pages(
        self, after: Position | None, until: Position, filter: EventFilter
    ) -> Iterator[str]:
        low, high = (after[0] if after else 0), until[0]
        where = self.layout.where(filter)
        if high - low > PAGE:
            # A sequence may have been set far ahead: begin where the numbers do.
            low = max(low, self._next_number(low) - 1)
        page = PageSize()
        while low < high:
            top = min(low + page.begin(), high)
            yield self._select(
                where,
                self.layout.beyond(Position((low,))),
                self.layout.up_to(Position((top,))),
                self.layout.ascending,
            )
            low = top if top == high else max(top, self._next_number(top) - 1)

    def _next_number(self, after: int) -> int:
        """The first number after one, over all rows, so that a gap of a billion numbers costs one
        look.
        """
        (column,) = self.layout.order_columns
        # Asked from the fetching thread; a psycopg connection takes one statement at a time, by a
        # lock of its own.
        row = (
            self._control()
            .execute(
                sql.SQL("SELECT min({}) FROM {} WHERE {}").format(
                    column, self.layout.events, self.layout.beyond(Position((after,)))
                )
            )
            .fetchone()
        )
        return after + 1 if row is None or row[0] is None else int(row[0])

    def _read_limited(
        self, after: Position | None, until: Position, filter: EventFilter, limit: int
    ) -> Iterator[list[RecordedEvent]]:
        """The first so many, by statements that end with them."""
        if len(self.layout.order) > 1:
            yield from self._read_by_key(after, until, filter, limit)
            return
        where, low, high = self.layout.where(filter), (after[0] if after else 0), until[0]
        while low < high and limit > 0:
            with translated():
                low = max(low, self._next_number(low) - 1)
            top = min(low + PAGE, high)
            ordered = sql.SQL("{} LIMIT {}").format(self.layout.ascending, sql.Literal(limit))
            bounds = (self.layout.beyond(Position((low,))), self.layout.up_to(Position((top,))))
            for events in self._read_statements(iter([self._select(where, *bounds, ordered)])):
                limit -= len(events)
                yield events
            low = top

    def _read_by_key(
        self, after: Position | None, until: Position, filter: EventFilter, limit: int | None = None
    ) -> Iterator[list[RecordedEvent]]:
        where = self.layout.where(filter)
        page = PageSize()
        while limit is None or limit > 0:
            size = page.begin() if limit is None else min(page.begin(), limit)
            ordered = sql.SQL("{} LIMIT {}").format(self.layout.ascending, sql.Literal(size))
            beyond = self.layout.beyond(after) if after is not None else sql.SQL("TRUE")
            seen = 0
            for events in self._read_statements(
                iter([self._select(where, beyond, self.layout.up_to(until), ordered)])
            ):
                seen += len(events)
                after = events[-1].position
                yield events
            if seen < size:
                return
            limit = None if limit is None else limit - seen

    def _select(self, *parts: sql.Composable) -> str:
        """A statement for events: conditions, and last what to order by."""
        m = self.layout.mapped
        about = (m.id, m.stream, m.version, m.type, m.metadata, m.recorded_at, m.tenant)
        columns = (*about, *self.layout.order, *self.layout.payload_columns)
        return (
            sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {}")
            .format(
                sql.SQL(", ").join(columns),
                self.layout.events,
                sql.SQL(" AND ").join(parts[:-1]),
                parts[-1],
            )
            .as_string(None)
        )

    def follow(
        self,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        stop: Callable[[], bool] = lambda: False,
        poll: timedelta = timedelta(milliseconds=100),
    ) -> Iterator[Batch]:
        """Read on as the head moves; an empty batch after each round says how far everything has
        been seen.
        """
        self._check(after)
        while not stop():
            head = self.head(timedelta(milliseconds=20), after)
            if head is not None and (after is None or head > after):
                for batch in self.read_all(after, head, filter):
                    yield batch
                    if stop():
                        return
                after = head
                yield Batch([], after)
            else:
                yield Batch([], after)
                time.sleep(poll.total_seconds())

    def read_stream(
        self,
        stream: str,
        after_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> Iterator[RecordedEvent]:
        """By version, in pages, so that long streams stay flat in memory."""
        conditions = [self.layout.where(EventFilter(stream=stream, archived=True))]
        if after_version is not None:
            operator = sql.SQL("<" if backwards else ">")
            conditions.append(
                sql.SQL("{} {} {}").format(
                    self.layout.mapped.version, operator, sql.Literal(after_version)
                )
            )
        for events in self._by_version(conditions, backwards=backwards, limit=limit):
            yield from events

    def _by_version(
        self,
        conditions: Sequence[sql.Composable],
        *,
        backwards: bool = False,
        limit: int | None = None,
    ) -> Iterator[list[RecordedEvent]]:
        """Events of a stream: all that were committed, since a unique index keeps its versions in
        order.

        Versions may come twice, where a name stands for a stream in each of several tenants, or was
        used again after an archiving; so the
        next page begins after a version and a position.
        """
        version = self.layout.mapped.version
        direction, operator = (" DESC", "<") if backwards else ("", ">")
        columns = [version, *self.layout.order_columns]
        order = sql.SQL(", ").join(sql.SQL("{}" + direction).format(column) for column in columns)
        beyond: list[sql.Composable] = []
        while limit is None or limit > 0:
            page = _STREAM_PAGE if limit is None else min(_STREAM_PAGE, limit)
            ordered = sql.SQL("{} LIMIT {}").format(order, sql.Literal(page))
            seen, last = 0, None
            for events in self._read_statements(
                iter([self._select(*conditions, *beyond, ordered)])
            ):
                seen, last = seen + len(events), events[-1]
                yield events
            if last is None or seen < page:
                return
            limit = None if limit is None else limit - seen
            reached = sql.Literal(last.version)
            beyond = [
                sql.SQL("{} {}= {}").format(
                    version, sql.SQL(operator), reached
                ),  # which the index on versions answers
                sql.SQL("({}) {} ({}, {})").format(
                    sql.SQL(", ").join(columns),
                    sql.SQL(operator),
                    reached,
                    sql.SQL(self.layout.literal(last.position)),
                ),
            ]

    def find(
        self,
        *,
        event_id: Ids | None = None,
        correlation_id: Ids | None = None,
        causation_id: Ids | None = None,
        keys: Sequence[str] = (),
    ) -> Found:
        """By an index where there is one, else by a scan of the table."""
        which, values = asked_for(
            event_id=event_id, correlation_id=correlation_id, causation_id=causation_id
        )
        with translated():
            search = Search(self._control(), self.layout, which, values, keys)
            scans = search.scans()
        statement = self._select(self.layout.own, search.condition, self.layout.ascending)
        events = (event for page in self._read_statements(iter([statement])) for event in page)
        if scans is None:
            return Found(events, f"an index on {search.what}")
        return Found(
            events,
            f"a scan of {self.layout.events.as_string(None)} for {search.what}",
            scans,
            search.index(),
        )

    def stream_info(self, stream: str) -> StreamInfo | None:
        """Counted from the stream's rows, so that it is true for compacted and trimmed
        streams too.
        """
        return next(self.streams(EventFilter(stream=stream, archived=True)), None)

    def streams(
        self,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
        *,
        closed_by: Sequence[str] = (),
        measured: bool = False,
    ) -> Iterator[StreamInfo]:
        """Grouped in the server, given out through a cursor."""
        return self._counting.streams(filter, limit, closed_by, measured)

    def counts_events(self, *, counted: bool = False) -> bool:
        """Not where the library has a table of streams."""
        return counted or self.layout.stream_table is None

    def lengths(self, filter: EventFilter = EVERYTHING, *, counted: bool = False) -> Lengths:
        """From the library's table of streams where it has one, else by one grouping that the index
        answers.
        """
        return self._counting.lengths(filter, counted)

    def longest(
        self,
        limit: int,
        filter: EventFilter = EVERYTHING,
        *,
        over: int = 0,
        closed_by: Sequence[str] = (),
        since: datetime | None = None,
        counted: bool = False,
    ) -> list[StreamInfo]:
        """Found like `lengths`; their events are then read through the index."""
        return self._counting.longest(limit, filter, over, closed_by, since, counted)

    def grown(
        self, since: datetime, over: int, filter: EventFilter = EVERYTHING
    ) -> Iterator[tuple[StreamInfo, int]]:
        """From the events since then alone."""
        return self._counting.grown(since, over, filter)

    def monthly(self, filter: EventFilter = EVERYTHING) -> list[MonthCount]:
        """Grouped in the server."""
        return self._counting.monthly(filter)

    def sample_lengths(self, pages: int, filter: EventFilter = EVERYTHING) -> LengthSample | None:
        """By TABLESAMPLE, where the library has no list of its streams and the table is large."""
        return self._counting.sample(pages, filter)

    def append(
        self, stream: str, events: Sequence[NewEvent], expected_version: int | None = None
    ) -> Position:
        """As the layout's library does it, in one transaction."""
        with translated():
            connection = self._control()
            with connection.transaction():
                return self.layout.append(connection, stream, events, expected_version)

    def count_between(self, after: Position | None, until: Position | None) -> int:
        """Exact up to a hundred thousand numbers; beyond, the numbers between (an upper bound)
        where a position is one number.
        """
        if until is None or (after is not None and after >= until):
            return 0
        if len(until) == 1:
            numbers = until[0] - (after[0] if after else 0)
            if numbers > _EXACT_COUNT:
                return numbers
        beyond = self.layout.beyond(after) if after is not None else sql.SQL("TRUE")
        rows = self._ask(
            sql.SQL("SELECT count(*) FROM {} WHERE {} AND {} AND {}").format(
                self.layout.events, self.layout.where(EVERYTHING), beyond, self.layout.up_to(until)
            )
        )
        return int(rows[0][0])

    def database(self) -> str | None:
        """The cluster's own number and the database's name."""
        with translated():
            return database_of(self._control())

    def hand_over(self, connection: psycopg.Connection, name: str, position: Position) -> None:
        """By the library's own means."""
        if self.layout.hand_over is None:
            raise UsageError(
                f"layout {self.layout.name} keeps no checkpoints that could be handed over",
                hint='live = "esops"',
            )
        self.layout.hand_over(connection, name, position)

    def sql_range(self, after: Position | None, until: Position, events: int) -> SqlRange:
        """By the columns that order the events; counted in the server."""
        layout, reached = self.layout, until
        beyond = layout.beyond(after) if after is not None else sql.SQL("TRUE")
        own = sql.SQL("{} AND {} AND {}").format(
            layout.where(EVERYTHING), beyond, layout.up_to(until)
        )
        if self.count_between(after, until) > events:
            nth = self._ask(
                sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {} OFFSET {} LIMIT 1").format(
                    sql.SQL(", ").join(layout.order),
                    layout.events,
                    own,
                    layout.ascending,
                    sql.Literal(events - 1),
                )
            )
            if nth:
                reached = Position(map(int, nth[0]))
        (row,) = self._ask(
            sql.SQL("SELECT count(*) FROM {} WHERE {} AND {}").format(
                layout.events, own, layout.up_to(reached)
            )
        )
        return SqlRange(layout.literal(after), layout.literal(reached), reached, int(row[0]))

    def checkpoints(self) -> list[Checkpoint]:
        """From the library's own table."""
        with translated():
            return self.layout.checkpoints(self._control())

    def extra_columns(self) -> list[str]:
        """The columns of the events' table that are not part of every event."""
        with translated():
            return self._shelving.columns(self._control())

    def export(
        self, streams: Iterable[StreamRef], columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """In groups of streams, each a statement and a snapshot of its own."""
        return self._shelving.export(self._control(), streams, columns)

    def stream_rows(self, streams: Sequence[StreamKey]) -> Mapping[tuple[str, str], str]:
        """From the layout's table of streams."""
        with translated():
            return self._shelving.rows(self._control(), streams)

    def removal_strategy(self, how: str) -> RemovalStrategy:
        """As the layout says."""
        return self._shelving.way(self._control(), how)

    def remove(
        self,
        how: str,
        parts: Sequence[VersionRange],
        lock_timeout: timedelta,
        statement_timeout: timedelta,
    ) -> list[Removed]:
        """In one transaction, or in smaller ones where something is in the way."""
        return self._shelving.remove(how, parts, lock_timeout, statement_timeout)

    def restore_streams(
        self,
        streams: Sequence[StreamKey],
        rows: Sequence[str | None],
        batches: Iterable[pa.RecordBatch],
    ) -> int:
        """In one transaction."""
        return self._shelving.restore_streams(streams, rows, batches)

    def close(self) -> None:
        """Close all connections."""
        self._bulk.close()
        if "_shelving" in vars(self):
            self._shelving.close()
        if self._connection is not None:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
