"""How long the streams of a layout are: from the library's own table of streams where it has one,
otherwise by grouping the events (stream_groups.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from esops.events import EventFilter, StreamInfo, StreamKey
from esops.moments import within
from esops.stores.lengths import (
    LengthCount,
    LengthCounts,
    LengthSample,
    MonthCount,
    SampledPage,
)
from esops.stores.parts import EVERYTHING
from esops.stores.postgres.column_values import column_values
from esops.stores.postgres.counted import are_few, stream_info, without
from esops.stores.postgres.layouts.base import TRUE, Layout
from esops.stores.postgres.layouts.expressions import storable
from esops.stores.postgres.stream_groups import SQL, StreamGroups

if TYPE_CHECKING:
    from esops.stores.postgres.bulk import BulkReader

_SLACK = timedelta(hours=1)
"""How far the order of numbers and the order of times may differ."""
_PAGE = 10_000
_WORTH_A_SAMPLE = 10
"""A table is sampled only if it has this many times as many pages as the sample."""
_WINDOW = 100
"""Events whose times are looked at together, so that a single wrong one misleads nobody."""

Connect = Callable[[], AbstractContextManager[psycopg.Connection]]


class Counting:
    """StreamLengths of a Postgres store, and the list of its streams."""

    def __init__(
        self, layout: Layout, connect: Connect, control: Connect, bulk: Callable[[], BulkReader]
    ) -> None:
        """`connect` and `bulk` open a connection or a reader of one's own; `control` gives the
        store's connection for short questions.
        """
        self._layout, self._connect, self._control, self._bulk = layout, connect, control, bulk
        self._groups = StreamGroups(layout)

    def streams(
        self, filter: EventFilter, limit: int | None, closed_by: Sequence[str], measured: bool
    ) -> Iterator[StreamInfo]:
        """Each stream by name, grouped in the server from its events.

        They are read by COPY, for which the server uses several processes; through a cursor it
        would use one. A few are read whole, over the connection that is there.
        """
        where = self._layout.where(filter)
        end = sql.SQL("ORDER BY 1, 2 {}").format(_limit(limit))
        grouped = self._groups.of_events(where, closed_by, measured, None, end)
        statement = self._groups.with_category(grouped)
        with self._control() as connection:
            few = are_few(connection, self._layout, filter, limit)
            found = connection.execute(statement).fetchall() if few else []
        if few:
            yield from map(stream_info, found)
            return
        with closing(self._bulk()) as reader:
            for batch in reader.read(iter([statement.as_string(None)])):
                yield from map(stream_info, zip(*map(column_values, batch.columns), strict=True))

    def _listed(self, statement: sql.Composed) -> Iterator[StreamInfo]:
        return map(stream_info, self._rows(statement))

    def _rows(self, statement: sql.Composed) -> Iterator[tuple[Any, ...]]:
        with self._connect() as connection:
            connection.autocommit = False
            with connection.cursor("esops_counting") as cursor:
                cursor.itersize = _PAGE
                yield from cursor.execute(statement)

    # -- lengths

    def reads_everything(self, *, counted: bool = False) -> bool:
        """Whether all events have to be read: not where the library keeps a table of its
        streams.
        """
        return counted or self._layout.stream_table is None

    def counts(self, filter: EventFilter = EVERYTHING, *, counted: bool = False) -> LengthCounts:
        """How many streams have which length: a row for each length, however many streams
        there are.
        """
        statement = sql.SQL(
            "SELECT category, tenant, length, count(*) FROM {} s GROUP BY 1, 2, 3"
        ).format(self._groups.by_stream(filter, counted))
        with self._control() as connection:
            # As many rows as there are different lengths: some thousands at most.
            found = connection.execute(statement).fetchall()
        counts = (LengthCount(*row) for row in found)
        return LengthCounts(counts, self.how(counted), commands=self._all_commands(filter))

    def _all_commands(self, filter: EventFilter) -> int | None:
        """How many commands there are beside the events that a filter wants."""
        found = self._commands(filter, TRUE)
        return None if found is None else sum(found.values())

    def commands_of(self, streams: Sequence[StreamKey]) -> dict[StreamKey, int] | None:
        """How many commands are in streams, of those that have some; None where there are none."""
        some = self._layout.any_stream([each.stream for each in streams])
        return self._commands(EventFilter(archived=True), some)

    def _commands(self, filter: EventFilter, some: sql.Composable) -> dict[StreamKey, int] | None:
        layout = self._layout
        if layout.commands is None:
            return None
        conditions = [layout.commands, layout.scope, some]
        if not filter.archived:
            conditions.append(layout.alive)
        if filter.category is not None:
            if not storable([filter.category]):
                return {}
            conditions.append(layout.in_category(filter.category))
        statement = sql.SQL("SELECT {}, {}, count(*) FROM {} WHERE {} GROUP BY 1, 2").format(
            layout.mapped.stream,
            layout.mapped.tenant,
            layout.events,
            sql.SQL(" AND ").join(conditions),
        )
        with self._control() as connection:
            found = connection.execute(statement).fetchall()
        return {StreamKey(name, tenant): int(number) for name, tenant, number in found}

    def how(self, counted: bool) -> str:
        """Where lengths come from."""
        own = self._layout.stream_table
        if own is None or counted:
            return f"counted from {self._layout.events.as_string(None)}"
        return own.note

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
        """The longest, and then what their events say of them, through the index."""
        statement = sql.SQL(
            "SELECT stream::text, tenant, category, length FROM {} s WHERE length > {} ORDER BY "
            "length DESC, stream {}"
        ).format(self._groups.by_stream(filter, counted), sql.Literal(over), _limit(limit))
        found = {
            StreamKey(name, tenant): (category, length)
            for name, tenant, category, length in self._rows(statement)
        }
        if not found:
            return []
        if any(key.stream is None for key in found):
            raise without("stream")
        where = sql.SQL("{} AND {}").format(
            self._layout.where(replace(filter, category=None)),
            self._layout.any_stream([key.stream for key in found]),
        )
        # In no order: they are looked up.
        grouped = self._groups.of_events(where, closed_by, True, since, sql.SQL(""))
        details = {info.key: info for info in self._listed(grouped)}
        streams, commands = [], self.commands_of(list(found))
        # The library's own list has the greatest length of a stream that was shortened since.
        for key, (category, length) in found.items():
            info = details.get(key) or StreamInfo(
                key.stream, category, length, 0, 0, None, None, tenant=key.tenant
            )
            streams.append(
                replace(
                    info,
                    category=category,
                    commands=None if commands is None else commands.get(key, 0),
                    length=info.length if counted else min(info.length, length),
                )
            )
        streams.sort(key=lambda info: -info.length)
        return [info for info in streams if info.length > over]

    def monthly(self, filter: EventFilter = EVERYTHING) -> list[MonthCount]:
        """Grouped in the server by stream and month, and then by category.

        Times without a month between the years 1 and 9999 are left out.
        """
        layout, own = self._layout, self._layout.stream_table
        if layout.decode is not None:
            return []  # the time is inside the payload
        # A stream without a name of its own has its category in the library's list of streams.
        listed = own if own is not None and layout.stream_kind == "uuid" else None
        statement = sql.SQL(SQL["monthly"]).format(
            category=self._groups.category_of_group(sql.SQL("g.stream"))
            if listed is None
            else listed.category,
            of_rows=layout.category or sql.SQL("NULL::text"),
            column=layout.stream_column or layout.mapped.stream,
            tenant=layout.mapped.tenant,
            at=layout.mapped.recorded_at,
            events=layout.events,
            where=layout.where(filter),
            join=sql.SQL("")
            if listed is None
            else sql.SQL("JOIN {} ON {} = g.stream AND {} = g.tenant").format(
                listed.table, listed.stream, listed.tenant
            ),
        )
        with self._control() as connection:
            return [
                MonthCount(*row)
                for row in connection.execute(statement).fetchall()
                if row[1] is not None
            ]

    def sample(self, pages: int, filter: EventFilter = EVERYTHING) -> LengthSample | None:
        """Of each page that the server picks at random, one event, and through the index the length
        of its stream.
        """
        layout, m = self._layout, self._layout.mapped
        own = layout.stream_table
        if own is not None and not filter.types and filter.stream is None:
            return None
        with self._control() as connection:
            names = {"table": layout.events.as_string(None)}
            size = connection.execute(SQL["pages"], names).fetchall()
            there_are = max(int(each[0] or 0) for each in size)
            if there_are <= pages * _WORTH_A_SAMPLE:
                return None
            share = pages / there_are
            column = layout.stream_column or m.stream
            statement = sql.SQL(SQL["sampled"]).format(
                category=self._groups.category_of_group(sql.SQL("stream")),
                of_rows=layout.category or sql.SQL("NULL::text"),
                table=layout.events,
                where=layout.where(filter),
                column=column,
                same_stream=layout.same_as(sql.SQL("p.stream")),
                tenant=m.tenant,
                percent=sql.Literal(100 * share),
            )
            found = [SampledPage(*row) for row in connection.execute(statement).fetchall()]
        return LengthSample(
            share,
            found,
            f"estimated from {len(found):,} of {there_are:,} pages of "
            f"{layout.events.as_string(None)}",
        )

    def grown(
        self, since: datetime, over: int, filter: EventFilter = EVERYTHING
    ) -> Iterator[tuple[StreamInfo, int]]:
        """From the events since then, found by their numbers where there is no index on
        the time.
        """
        at = self._layout.mapped.recorded_at
        conditions = [
            self._layout.where(filter),
            # Nobody knows when an event was recorded that has infinity as its time.
            sql.SQL("{0} >= {1} AND isfinite({0})").format(at, sql.Literal(since)),
            self._from(since),
        ]
        statement = self._groups.of_events(
            sql.SQL(" AND ").join(conditions),
            (),
            False,
            since,
            sql.SQL("HAVING count(*) > {}").format(sql.Literal(over)),
        )
        return ((info, info.recent or 0) for info in self._listed(statement))

    def _from(self, since: datetime) -> sql.Composable:
        """A condition on the number, which has an index, that no event since then fails: halved
        until it is found.
        """
        layout = self._layout
        if len(layout.order_columns) != 1:
            return TRUE
        (number,) = layout.order_columns
        with self._connect() as connection:
            ends = connection.execute(
                sql.SQL("SELECT min({0}), max({0}) FROM {1}").format(number, layout.events)
            ).fetchone()
            if ends is None or ends[0] is None:
                return TRUE
            low, high = ends
            at_or_after = sql.SQL(SQL["window"]).format(
                number=number,
                at=layout.mapped.recorded_at,
                events=layout.events,
                most=sql.Literal(_WINDOW),
                n=sql.Identifier("esops:0"),
                t=sql.Identifier("esops:1"),
            )
            while low < high:
                middle = (low + high) // 2
                row = connection.execute(at_or_after, (middle,)).fetchone()
                if row is None or row[1] is None or row[1] >= within(since, -_SLACK):
                    high = middle
                else:
                    low = row[0] + 1
        return sql.SQL("{} >= {}").format(number, sql.Literal(low))


def _limit(limit: int | None) -> sql.Composable:
    return sql.SQL("") if limit is None else sql.SQL("LIMIT {}").format(sql.Literal(limit))
