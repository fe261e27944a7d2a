"""Questions about many streams of a layout, asked of the server in few statements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from esops.events import EventFilter, Position, RecordedEvent, StreamKey, category_of, is_uuid
from esops.stores.archiving import StreamPart
from esops.stores.many_streams import ManyStreams
from esops.stores.parts import EVERYTHING
from esops.stores.positions import check_parts
from esops.stores.postgres.counted import count_parts, has_events
from esops.stores.whole_streams import GONE, WholeStreams

if TYPE_CHECKING:
    from esops.stores.postgres.layouts.base import Layout
    from esops.stores.postgres.store import PostgresStore

_KEYS_AT_ONCE = 10_000
"""Streams whose names a statement gives."""


class PostgresStreams(ManyStreams):
    """ManyStreams of a Postgres store."""

    def __init__(self, store: PostgresStore) -> None:
        """Over the store's connection for short questions."""
        super().__init__(store)
        self._layout, self._control = store.layout, store.control
        self._inline = store.inline

    def keys(self, filter: EventFilter = EVERYTHING) -> Iterator[StreamKey]:
        """By pages of names, each of which is a statement of its own."""
        last: StreamKey | None = None
        while True:
            with self._control() as connection:
                page = _page(connection, self._layout, filter, last)
            yield from page
            if len(page) < _KEYS_AT_ONCE:
                return
            last = page[-1]

    def whole(
        self,
        streams: Sequence[StreamKey],
        until: Position,
        filter: EventFilter = EVERYTHING,
        begins_with: Collection[str] = (),
    ) -> WholeStreams:
        """By the index on streams, in two statements, whatever the number of streams."""
        check_parts(len(self._layout.order), until)
        if self._layout.stream_kind == "uuid":
            streams = [each for each in streams if is_uuid(each.stream)]
        if not streams:
            return WholeStreams([], {})
        with self._control() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            events, short = self._inline.whole(connection, streams, filter, until, begins_with)
        events.sort(key=lambda event: event.position)
        return WholeStreams(events, dict.fromkeys(short, GONE))

    def categories_of(self, streams: Collection[StreamKey]) -> Mapping[StreamKey, str | None]:
        """From a column of their events, the library's list of streams, or their names."""
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

    def count_parts(self, parts: Sequence[StreamPart], *, archived: bool = False) -> list[int]:
        """Counted in the server, by the index on streams and versions."""
        with self._control() as connection:
            return count_parts(connection, self._layout, parts, archived=archived)

    def has_events(self, events: Sequence[RecordedEvent], *, archived: bool = False) -> list[bool]:
        """Looked up in the server, by the index on streams and versions."""
        with self._control() as connection:
            return has_events(connection, self._layout, events, archived=archived)


def _page(
    connection: psycopg.Connection, layout: Layout, filter: EventFilter, after: StreamKey | None
) -> list[StreamKey]:
    """A page of the streams after one, by the index on the library's own list of streams, or on
    the streams of the events.
    """
    table = layout.stream_table
    if table is not None:
        source, stream, tenant = table.table, table.stream, table.tenant
        where = [table.scope]
        if filter.category is not None:
            where.append(table.in_category(filter.category))
    else:
        source, tenant = layout.events, layout.mapped.tenant
        stream = layout.stream_column or layout.mapped.stream
        where = [layout.where(replace(filter, types=(), archived=True))]
    if after is not None:
        beyond = sql.SQL("{s} >= {name}::{kind} AND ({s}, {t}) > ({name}::{kind}, {tenant})")
        where.append(
            beyond.format(
                s=stream,
                t=tenant,
                name=sql.Literal(after.stream),
                tenant=sql.Literal(after.tenant),
                kind=sql.SQL(layout.stream_kind),
            )
        )
    statement = sql.SQL(
        "SELECT name::text, tenant FROM (SELECT DISTINCT {} AS name, {} AS tenant FROM {} "
        "WHERE {} ORDER BY 1, 2 LIMIT {}) AS page ORDER BY page.name, page.tenant"
    ).format(stream, tenant, source, sql.SQL(" AND ").join(where), sql.Literal(_KEYS_AT_ONCE))
    return [StreamKey(*row) for row in connection.execute(statement).fetchall()]
