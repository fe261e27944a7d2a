"""How long the streams of a layout are: from the library's own table of streams where it has one,
otherwise by grouping the events.

The grouping uses no column but the stream's, so that the index on (stream, version) alone answers
it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql

from esops.events import EventFilter, StreamInfo, StreamKey, category_of
from esops.moments import within
from esops.stores.lengths import (
    LengthCount,
    LengthCounts,
    LengthSample,
    MonthCount,
    SampledPage,
)
from esops.stores.parts import EVERYTHING, WITH_ARCHIVED
from esops.stores.postgres.counted import are_few, column_values, parts_of, stream_info, without
from esops.stores.postgres.layouts.base import FALSE, TRUE, Layout
from esops.stores.postgres.layouts.expressions import category_in, storable

if TYPE_CHECKING:
    from esops.stores.postgres.bulk import BulkReader

_SLACK = timedelta(hours=1)
"""How far the order of numbers and the order of times may differ."""
_PAGE = 10_000
_WORTH_A_SAMPLE = 10
"""A table is sampled only if it has this many times as many pages as the sample."""
_WINDOW = 100
"""Events whose times are looked at together, so that a single wrong one misleads nobody."""

_LISTED = """
(SELECT * FROM (
    SELECT stream, tenant, category, CASE WHEN length > 0 THEN length ELSE
        (SELECT count(*) FROM {events} WHERE {same_stream} AND {same_tenant} AND {asked})
        END AS length
    FROM (SELECT {listed} AS stream, {of_tenant} AS tenant, {category} AS category,
        {length}::bigint AS length FROM {table} WHERE {where}) AS k
) AS listed WHERE length > 0)
"""
"""A length that cannot be, as after a change by hand, is counted."""

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

    def streams(
        self, filter: EventFilter, limit: int | None, closed_by: Sequence[str], measured: bool
    ) -> Iterator[StreamInfo]:
        """Each stream by name, grouped in the server from its events.

        They are read by COPY, for which the server uses several processes; through a cursor it
        would use one. A few are read whole, over the connection that is there.
        """
        where = self._layout.where(filter)
        end = sql.SQL("ORDER BY 1, 2 {}").format(_limit(limit))
        statement = self._with_category(self._grouped(where, closed_by, measured, None, end))
        with self._control() as connection:
            few = are_few(connection, self._layout, filter, limit)
            found = connection.execute(statement).fetchall() if few else []
        if few:
            yield from map(stream_info, found)
            return
        with closing(self._bulk()) as reader:
            for batch in reader.read(iter([statement.as_string(None)])):
                yield from map(stream_info, zip(*map(column_values, batch.columns), strict=True))

    def _grouped(
        self,
        where: sql.Composable,
        closed_by: Sequence[str],
        measured: bool,
        since: datetime | None,
        end: sql.Composable,
    ) -> sql.Composed:
        m = self._layout.mapped
        closed: sql.Composable = sql.SQL("NULL::boolean")
        size: sql.Composable = sql.SQL("NULL::bigint")
        recent: sql.Composable = sql.SQL("NULL::bigint")
        if closed_by:
            closed = sql.SQL(
                "coalesce(max({version}) FILTER (WHERE {type} = ANY({types})) = "
                "max({version}), FALSE)"
            ).format(version=m.version, type=m.type, types=sql.Literal(list(closed_by)))
        if measured:
            size = sql.SQL(
                "sum(pg_column_size({}) + coalesce(pg_column_size({}), 0))::bigint"
            ).format(m.data, m.metadata)
        if since is not None:
            recent = sql.SQL("count(*) FILTER (WHERE {0} >= {1} AND isfinite({0}))").format(
                m.recorded_at, sql.Literal(since)
            )
        return sql.SQL(
            "SELECT {stream}, {tenant}, count(*), min({version}), max({version}), min({at}), "
            "max({at}), bool_and({archived}), "
            "{closed}, {size}, {recent}{category} FROM {events} WHERE {where} GROUP BY 1, 2 {end}"
        ).format(
            stream=m.stream,
            tenant=m.tenant,
            version=m.version,
            at=m.recorded_at,
            archived=self._layout.archived,
            closed=closed,
            size=size,
            recent=recent,
            category=self._of_rows(", {}"),
            events=self._layout.events,
            where=where,
            end=end,
        )

    def _of_rows(self, form: LiteralString) -> sql.Composable:
        """The category of a stream from its events' rows, in a form; nothing where they have none.

        The first by name of a stream that has events of several.
        """
        own = self._layout.category
        return sql.SQL("") if own is None else sql.SQL(form).format(sql.SQL("min({})").format(own))

    def _with_category(self, grouped: sql.Composed) -> sql.Composed:
        """With the category as another column, where the library's list of streams alone knows it:
        a UUID tells none.
        """
        own = self._layout.stream_table
        if own is None or self._layout.stream_kind != "uuid":
            return grouped
        same = sql.SQL("{} = g.stream::uuid AND {} = g.tenant").format(own.stream, own.tenant)
        return sql.SQL(
            "SELECT g.*, (SELECT {category} FROM {table} WHERE {same} LIMIT 1) FROM ({grouped}) AS "
            "g (stream, tenant)"
        ).format(category=own.category, table=own.table, same=same, grouped=grouped)

    def archived_streams(self, again: Collection[StreamKey]) -> Iterator[StreamKey]:
        """See EventStore. `again`: the names that were used again."""
        layout = self._layout
        if layout.archived is FALSE:
            return
        statement = sql.SQL("SELECT DISTINCT {}, {} FROM {} WHERE {} AND {}").format(
            layout.mapped.stream,
            layout.mapped.tenant,
            layout.events,
            layout.where(WITH_ARCHIVED),
            layout.archived,
        )
        with closing(self._bulk()) as reader:
            for batch in reader.read(iter([statement.as_string(None)])):
                for row in zip(*map(column_values, batch.columns), strict=True):
                    key = StreamKey(*row)
                    if key not in again:
                        yield key

    def categories_of(self, streams: Collection[StreamKey]) -> dict[StreamKey, str | None]:
        """See EventStore."""
        layout, own, names = self._layout, self._layout.stream_table, [s.stream for s in streams]
        if layout.category is not None:
            statement = sql.SQL("SELECT {}, {}, min({}) FROM {} WHERE {} GROUP BY 1, 2").format(
                layout.mapped.stream,
                layout.mapped.tenant,
                layout.category,
                layout.events,
                layout.any_stream(names),
            )
        elif own is not None and layout.stream_kind == "uuid":
            statement = sql.SQL(
                "SELECT {stream}::text, {tenant}, {category} FROM {table} WHERE {stream} = "
                "ANY({names}::uuid[])"
            ).format(
                stream=own.stream,
                tenant=own.tenant,
                category=own.category,
                table=own.table,
                names=sql.Literal(names),
            )
        else:
            return {each: category_of(each.stream) for each in streams}
        with self._control() as connection:
            rows = connection.execute(statement).fetchall()
        found = {StreamKey(name, tenant): category for name, tenant, category in rows}
        return {each: found.get(each) for each in streams}

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
        ).format(self._by_stream(filter, counted))
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

    def _by_stream(self, filter: EventFilter, counted: bool) -> sql.Composed:
        """All streams as a subquery: stream (as an index has it), tenant, category, length."""
        layout, own = self._layout, self._layout.stream_table
        if filter.category is not None and not storable([filter.category]):
            own = None  # the condition on events knows what such a name means
        if own is not None and not counted and not filter.types and filter.stream is None:
            conditions = [own.scope]
            if not filter.archived:
                conditions.append(own.alive)
            if filter.category is not None:
                conditions.append(own.in_category(filter.category))
            return sql.SQL(_LISTED).format(
                **parts_of(layout, archived=filter.archived),
                asked=layout.where(replace(filter, category=None)),
                listed=own.stream,
                of_tenant=own.tenant,
                category=own.category,
                length=own.events,
                table=own.counted_in or own.table,
                where=sql.SQL(" AND ").join(conditions),
            )
        column = layout.stream_column or layout.mapped.stream
        return sql.SQL(
            "(SELECT stream, tenant, {category} AS category, length FROM (SELECT {column} AS "
            "stream, {tenant} AS tenant, "
            "count(*) AS length{of_rows} FROM {events} WHERE {where} GROUP BY 1, 2) g)"
        ).format(
            category=self._of_group(sql.Identifier("stream")),
            of_rows=self._of_rows(", {} AS of_rows"),
            column=column,
            tenant=layout.mapped.tenant,
            events=layout.events,
            where=layout.where(filter),
        )

    def _of_group(self, stream: sql.Composable) -> sql.Composable:
        """The category of a group of events: their own, under the name `of_rows`, or what the
        stream's name tells.
        """
        if self._layout.category is not None:
            return sql.Identifier("of_rows")
        uuids = self._layout.stream_kind == "uuid"
        return sql.SQL("NULL::text") if uuids else category_in(stream)

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
        ).format(self._by_stream(filter, counted), sql.Literal(over), _limit(limit))
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
        details = {
            info.key: info
            for info in self._listed(self._grouped(where, closed_by, True, since, sql.SQL("")))
        }  # no order: they are looked up
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
        statement = sql.SQL(
            "SELECT {category}, to_char(month, 'YYYY-MM'), sum(n)::bigint FROM (SELECT {column} AS "
            "stream, {tenant} AS tenant, "
            "date_trunc('month', {at} AT TIME ZONE 'UTC') AS month, {of_rows} AS of_rows, "
            "count(*) AS n FROM {events} "
            "WHERE {where} AND {at} BETWEEN '0001-01-01' AND '9999-12-31' GROUP BY 1, 2, 3, 4) g "
            "{join} GROUP BY 1, 2"
        ).format(
            category=self._of_group(sql.SQL("g.stream")) if listed is None else listed.category,
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
            size = connection.execute(
                "SELECT sum(pg_relation_size(relid)) / current_setting('block_size')::bigint FROM "
                "pg_partition_tree(%(table)s::regclass) "
                "UNION ALL SELECT pg_relation_size(%(table)s::regclass) / "
                "current_setting('block_size')::bigint",
                {"table": layout.events.as_string(None)},
            ).fetchall()
            there_are = max(int(each[0] or 0) for each in size)
            if there_are <= pages * _WORTH_A_SAMPLE:
                return None
            share = pages / there_are
            column = layout.stream_column or m.stream
            statement = sql.SQL(
                "SELECT {category}, tenant, events, (SELECT count(*) FROM {table} WHERE {where} "
                "AND {same_stream} "
                "AND {tenant} = p.tenant) FROM (SELECT DISTINCT ON (part, page) stream, tenant, "
                "of_rows, count(*) OVER (PARTITION BY part, page) AS events FROM (SELECT "
                "tableoid AS part, (ctid::text::point)[0] AS page, {of_rows} AS of_rows, "
                "{column} AS stream, {tenant} AS tenant FROM {table} TABLESAMPLE SYSTEM "
                "({percent}) WHERE {where}) s "
                "ORDER BY part, page, random()) p"
            ).format(
                category=self._of_group(sql.SQL("stream")),
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
        statement = self._grouped(
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
            at_or_after = sql.SQL(
                "SELECT min({n}), max({t}) FILTER (WHERE isfinite({t})) FROM (SELECT {0} AS {n}, "
                "{1} AS {t} FROM {2} WHERE {0} >= %s ORDER BY {0} LIMIT {3}) w"
            ).format(
                number,
                layout.mapped.recorded_at,
                layout.events,
                sql.Literal(_WINDOW),
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
