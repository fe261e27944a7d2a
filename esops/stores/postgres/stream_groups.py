"""Events grouped by their streams: the statements that list streams and tell how long they are.

Where only lengths are asked for, no column but the stream's is used, so that the index on (stream,
version) alone answers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import LiteralString

from psycopg import sql

from esops.events import EventFilter
from esops.postgres.statements import statements
from esops.stores.postgres.counted import parts_of
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.layouts.expressions import category_in, storable

SQL = statements(__package__, "counting")


class StreamGroups:
    """The statements for the streams of one layout."""

    def __init__(self, layout: Layout) -> None:
        """`layout` says which tables and columns there are."""
        self._layout = layout

    def of_events(
        self,
        where: sql.Composable,
        closed_by: Sequence[str],
        measured: bool,
        since: datetime | None,
        end: sql.Composable,
    ) -> sql.Composed:
        """What the events of each stream say of it, a row a stream (counted.stream_info).

        `closed_by` are the types that end a stream, `measured` asks for bytes, `since` for the
        number of events from then on, and `end` is what follows GROUP BY.
        """
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
        return sql.SQL(SQL["grouped"]).format(
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

    def with_category(self, grouped: sql.Composed) -> sql.Composed:
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

    def by_stream(self, filter: EventFilter, counted: bool) -> sql.Composed:
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
            return sql.SQL(SQL["listed"]).format(
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
        return sql.SQL(SQL["by_stream"]).format(
            category=self.category_of_group(sql.Identifier("stream")),
            of_rows=self._of_rows(", {} AS of_rows"),
            column=column,
            tenant=layout.mapped.tenant,
            events=layout.events,
            where=layout.where(filter),
        )

    def category_of_group(self, stream: sql.Composable) -> sql.Composable:
        """The category of a group of events: their own, under the name `of_rows`, or what the
        stream's name tells.
        """
        if self._layout.category is not None:
            return sql.Identifier("of_rows")
        uuids = self._layout.stream_kind == "uuid"
        return sql.SQL("NULL::text") if uuids else category_in(stream)
