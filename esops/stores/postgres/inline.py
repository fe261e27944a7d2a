"""The tables that an application writes with each append, where a Postgres store has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.events import EventFilter, Position, RecordedEvent, StreamKey, is_uuid
from esops.postgres import catalog
from esops.postgres.connection import database_of
from esops.postgres.statements import statements
from esops.stores.archiving import LateBeginning
from esops.stores.inline_tables import Beyond, InlineTable, KeptTable, StreamLength
from esops.stores.postgres.beginnings import begun_beyond, is_snapshot
from esops.stores.postgres.layouts.base import FALSE, TRUE, Layout
from esops.stores.postgres.layouts.expressions import storable

_BATCH_BYTES = 1 << 20
_ROWS_LOOKED_AT = 50
_EVENTS_LOOKED_AT = 50_000
_SQL = statements(__package__, "inline")
_LAST = "SELECT {order} FROM {events} WHERE {where} ORDER BY {descending} LIMIT 1"


class PostgresInline:
    """InlineTables of a Postgres store."""

    def __init__(
        self,
        layout: Layout,
        control: Callable[[], AbstractContextManager[psycopg.Connection]],
        select: Callable[..., str],
    ) -> None:
        """`control` gives the store's connection, and `select` a SELECT of events by conditions
        and an order.
        """
        self._layout, self._control, self._select = layout, control, select

    def database(self) -> str:
        """The cluster's own number and the database's name."""
        with self._control() as connection:
            return database_of(connection)

    def tables(self) -> list[InlineTable]:
        """As the layout finds them."""
        with self._control() as connection:
            return self._layout.inline_tables(connection)

    def kept(self) -> list[KeptTable]:
        """As the layout finds them."""
        with self._control() as connection:
            return self._layout.kept_tables(connection)

    def written_with_events(self, table: InlineTable | KeptTable) -> bool:
        """By what the server notes of each row: the transaction that wrote it."""
        layout = self._layout
        if layout.appended_by is None:
            return False
        with self._control() as connection:
            there = catalog.find_table(connection, table.schema, table.name)
            key = next((name for name in ("id", "_id") if there and there.has(name)), None)
            if there is None or there.kind not in "rp" or key is None:
                return False
            rows = connection.execute(
                sql.SQL("SELECT {}::text, xmin::text::bigint FROM {} LIMIT {}").format(
                    sql.Identifier(key),
                    sql.Identifier(table.schema, table.name),
                    sql.Literal(_ROWS_LOOKED_AT),
                )
            ).fetchall()
            if layout.stream_kind == "uuid":
                rows = [row for row in rows if is_uuid(row[0])]
            events = connection.execute(
                sql.SQL(
                    "SELECT stream, by, count(*) FROM (SELECT {}::text AS stream, {} AS by FROM {} "
                    "WHERE {} LIMIT {}) AS some_events GROUP BY 1, 2"
                ).format(
                    layout.mapped.stream,
                    layout.appended_by,
                    layout.events,
                    layout.any_stream([name for name, _ in rows]),
                    sql.Literal(_EVENTS_LOOKED_AT),
                )
            ).fetchall()
        return _share_transactions(rows, events)

    def visible(
        self, connection: psycopg.Connection, after: Position | None, filter: EventFilter
    ) -> list[RecordedEvent]:
        """By the columns that order the events."""
        where = self._layout.where(filter)
        statement = self._select(where, self._beyond(after), self._layout.ascending)
        return _by_version(self._events(connection, statement))

    def changed(
        self, connection: psycopg.Connection, after: Position | None, filter: EventFilter
    ) -> list[StreamKey]:
        """By the columns that order the events."""
        layout = self._layout
        statement = sql.SQL("SELECT DISTINCT {}, {} FROM {} WHERE {} AND {} ORDER BY 1, 2").format(
            layout.mapped.stream,
            layout.mapped.tenant,
            layout.events,
            layout.where(filter),
            self._beyond(after),
        )
        return [StreamKey(*row) for row in connection.execute(statement).fetchall()]

    def beyond(
        self, connection: psycopg.Connection, after: Position | None, most: int
    ) -> Beyond | None:
        """By the columns that order the events; the server makes the ranges, since writers may be
        waiting.
        """
        layout = self._layout
        of_layout = {
            "order": sql.SQL(", ").join(layout.order),
            "number": layout.order[-1],
            "events": layout.events,
            "where": sql.SQL("{} AND {}").format(layout.scope, self._beyond(after)),
            "descending": sql.SQL(", ").join(
                sql.SQL("{} DESC").format(each) for each in layout.order_columns
            ),
            "most": sql.Literal(most + 1),
        }
        # The numbers first: what commits between the two statements is not taken for noted.
        ranges = connection.execute(sql.SQL(_SQL["ranges"]).format(**of_layout)).fetchall()
        if sum(last - first + 1 for first, last in ranges) > most:
            return None
        end = connection.execute(sql.SQL(_LAST).format(**of_layout)).fetchone()
        return Beyond(None if end is None else Position(end), ranges)

    def late_beginnings(
        self, connection: psycopg.Connection, after: Position, filter: EventFilter
    ) -> list[LateBeginning]:
        """By the index on streams and versions."""
        return begun_beyond(connection, self._layout, after, filter)

    def streams(self, connection: psycopg.Connection, names: Sequence[str]) -> list[StreamKey]:
        """By the index on streams."""
        layout = self._layout
        if layout.stream_kind == "uuid":
            names = [each for each in names if is_uuid(each)]
        statement = sql.SQL("SELECT DISTINCT {}, {} FROM {} WHERE {} AND {}").format(
            layout.mapped.stream,
            layout.mapped.tenant,
            layout.events,
            layout.any_stream(names),
            layout.scope,
        )
        return [StreamKey(*row) for row in connection.execute(statement).fetchall()]

    def whole(
        self,
        connection: psycopg.Connection,
        streams: Sequence[StreamKey],
        filter: EventFilter,
        until: Position | None = None,
        begins_with: Collection[str] = (),
    ) -> tuple[list[RecordedEvent], list[StreamKey]]:
        """By the index on streams; what is missing is asked before the events, which may be more.
        The library's own list of streams, where it has one, is asked first of all.
        """
        layout, wanted = self._layout, set(streams)
        any_of = layout.any_stream([each.stream for each in streams])
        lasts = self._lasts(connection, streams)
        version = layout.mapped.version
        up_to = TRUE if until is None else layout.up_to(until)
        begins = sql.SQL("{} = ANY({}::text[])").format(
            layout.mapped.type, sql.Literal(storable(list(begins_with)))
        )
        # What is archived and not read is as good as gone. A snapshot may be at the first version.
        # What is beyond the position is counted apart: none may be missing before it.
        statement = sql.SQL(
            "SELECT {}, {}, max({v}), "
            "((array_agg({v} = {first} OR {begins} ORDER BY {v}))[1]) IS NOT TRUE "
            "OR count(*) <> max({v}) - min({v}) + 1 "
            "OR bool_or({unread}) OR bool_or({v} = {first} AND {snapshot} AND NOT {begins}) "
            "FROM {} WHERE {} AND {} AND {up_to} GROUP BY 1, 2"
        ).format(
            layout.mapped.stream,
            layout.mapped.tenant,
            layout.events,
            any_of,
            layout.scope,
            v=version,
            first=sql.Literal(layout.first_version),
            snapshot=is_snapshot(layout),
            begins=begins,
            up_to=up_to,
            unread=FALSE if filter.archived else self._archived(filter),
        )
        rows = connection.execute(statement).fetchall()
        there = {StreamKey(stream, tenant): last for stream, tenant, last, _ in rows}
        short = {StreamKey(stream, tenant) for stream, tenant, _, lacks in rows if lacks}
        none = layout.first_version - 1
        beyond = {key: last for key, last in lasts.items() if last > there.get(key, none)}
        if until is not None and beyond:
            # They may have their last events beyond the position.
            ends = self._ends(connection, any_of)
            beyond = {key: last for key, last in beyond.items() if last > ends.get(key, none)}
        short |= beyond.keys()
        order = sql.SQL("{}, {}").format(version, layout.ascending)
        found = self._events(connection, self._select(layout.where(filter), any_of, up_to, order))
        events = [each for each in found if StreamKey(each.stream, each.tenant) in wanted]
        return events, sorted(short & wanted)

    def _ends(self, connection: psycopg.Connection, any_of: sql.Composable) -> dict[StreamKey, int]:
        """The versions of the last events of some streams."""
        layout = self._layout
        statement = sql.SQL("SELECT {}, {}, max({}) FROM {} WHERE {} AND {} GROUP BY 1, 2").format(
            layout.mapped.stream,
            layout.mapped.tenant,
            layout.mapped.version,
            layout.events,
            any_of,
            layout.scope,
        )
        return {StreamKey(*key): last for *key, last in connection.execute(statement).fetchall()}

    def _lasts(
        self, connection: psycopg.Connection, streams: Sequence[StreamKey]
    ) -> dict[StreamKey, int]:
        """The last versions of streams, as the library's own list has them."""
        table = self._layout.stream_table
        if table is None:
            return {}
        statement = sql.SQL(
            "SELECT {stream}::text, {tenant}, {length} FROM {table} WHERE {scope} AND "
            "{stream} = ANY({names}::{kind}[])"
        ).format(
            stream=table.stream,
            tenant=table.tenant,
            length=table.length,
            table=table.table,
            scope=table.scope,
            names=sql.Literal(storable([each.stream for each in streams])),
            kind=sql.SQL(self._layout.stream_kind),
        )
        rows = connection.execute(statement).fetchall()
        return {StreamKey(*key): last for *key, last in rows if last is not None}

    def later(
        self,
        connection: psycopg.Connection,
        versions: Mapping[StreamKey, int],
        filter: EventFilter,
    ) -> list[RecordedEvent]:
        """By the index on streams and versions."""
        layout = self._layout
        after = [
            sql.SQL("({} AND {} > {})").format(
                layout.stream_equals(key.stream), layout.mapped.version, sql.Literal(version)
            )
            for key, version in versions.items()
        ]
        any_of = sql.SQL("({})").format(sql.SQL(" OR ").join(after))
        order = sql.SQL("{}, {}").format(layout.mapped.version, layout.ascending)
        found = self._events(connection, self._select(layout.where(filter), any_of, order))
        return [
            each
            for each in found
            if each.version > versions.get(StreamKey(each.stream, each.tenant), each.version)
        ]

    def lengths(
        self, connection: psycopg.Connection, streams: Sequence[StreamKey], filter: EventFilter
    ) -> Mapping[StreamKey, StreamLength]:
        """By the index on streams."""
        layout, wanted = self._layout, set(streams)
        statement = sql.SQL(
            "SELECT {}, {}, count(*), count(*) FILTER (WHERE {}) FROM {} WHERE {} AND {} "
            "GROUP BY 1, 2"
        ).format(
            layout.mapped.stream,
            layout.mapped.tenant,
            layout.archived,
            layout.events,
            layout.any_stream([each.stream for each in streams]),
            layout.where(replace(filter, archived=True)),
        )
        rows = connection.execute(statement).fetchall()
        found = {StreamKey(*row[:2]): StreamLength(*row[2:]) for row in rows}
        return {key: length for key, length in found.items() if key in wanted}

    def _archived(self, filter: EventFilter) -> sql.Composable:
        """The condition for what the filter would want if it were not archived."""
        return sql.SQL("({} AND {})").format(
            self._layout.archived, self._layout.where(replace(filter, archived=True))
        )

    def _beyond(self, after: Position | None) -> sql.Composable:
        return TRUE if after is None else self._layout.beyond(after)

    def _events(self, connection: psycopg.Connection, statement: str) -> list[RecordedEvent]:
        # Imported where events are read: the table of a plan needs no Arrow.
        from esops.stores.arrow_events import to_events
        from esops.stores.postgres.light import OtherType, batches_of

        layout = self._layout
        try:
            return [
                event
                for batch in batches_of(connection, statement, _BATCH_BYTES)
                for event in to_events(batch, len(layout.order), layout.decode)
            ]
        except OtherType as other:
            raise Refused(
                f"events of layout {layout.name} have a column of type {other}, which cannot be "
                "read under a lock"
            ) from None


def _share_transactions(
    rows: Sequence[tuple[str, int]], events: Sequence[tuple[str, int, int]]
) -> bool:
    """Whether a row, by its stream, has the transaction of one of the stream's events.

    What a restore or another load wrote at once has one transaction for most of all, which says
    nothing.
    """
    of_rows = Counter(transaction for _, transaction in rows)
    of_events: Counter[int] = Counter()
    for _, transaction, number in events:
        of_events[transaction] += number
    pairs = {(stream, transaction) for stream, transaction, _ in events}
    return any(
        row in pairs
        and 2 * of_events[row[1]] <= of_events.total()
        and (2 * of_rows[row[1]] <= len(rows) or len(rows) == 1)
        for row in rows
    )


def _by_version(events: list[RecordedEvent]) -> list[RecordedEvent]:
    """The same events; those of a stream change places where they are not in their versions' order:
    an older transaction may have appended after a newer one.
    """
    streams: dict[tuple[str, str], list[RecordedEvent]] = {}
    for event in events:
        streams.setdefault((event.tenant, event.stream), []).append(event)
    ordered: dict[tuple[str, str], Iterator[RecordedEvent]] = {
        key: iter(sorted(of_stream, key=lambda each: each.version))
        for key, of_stream in streams.items()
    }
    return [next(ordered[event.tenant, event.stream]) for event in events]
