"""Streams that begin with another event than their first one: asked of the server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from esops.archive_format.snapshots import SNAPSHOT
from esops.events import EventFilter, Position, StreamKey
from esops.postgres.statements import statements
from esops.stores.archiving import LateBeginning
from esops.stores.postgres.counted import parts_of
from esops.stores.postgres.layouts.base import FALSE, TRUE, Layout
from esops.stores.postgres.layouts.expressions import category_in, storable
from esops.stores.shortened import LateGroup, Shortened, relevant

if TYPE_CHECKING:
    from esops.stores.postgres.bulk import BulkReader

_SQL = statements(__package__, "beginnings")


def shortened(
    connection: psycopg.Connection,
    layout: Layout,
    filter: EventFilter,
    after: Position | None = None,
) -> list[Shortened]:
    """The streams that a filter may want and whose first events are gone; `after`: only those whose
    first event now lies after this position.
    """
    if not _any_late(connection, layout, filter, after):
        return []
    statement = sql.SQL(_SQL["shortened"]).format(
        **_of_late(layout, filter, after), types=sql.Literal(storable(filter.types))
    )
    groups = [LateGroup(*row) for row in connection.execute(statement).fetchall()]

    def are_others(category: str) -> bool:
        """By the events of whole streams of the same category."""
        of_them = EventFilter(category=category, archived=True)
        asked = sql.SQL(_SQL["others"]).format(
            **_of_late(layout, of_them),
            asked=layout.where(replace(of_them, types=filter.types)),
            all=layout.where(of_them),
        )
        row = connection.execute(asked).fetchone()
        return row is not None and bool(row[0])

    return relevant(groups, filter, are_others)


def _any_late(
    connection: psycopg.Connection, layout: Layout, filter: EventFilter, after: Position | None
) -> bool:
    """Whether any stream begins late; never False where one does."""
    statement = sql.SQL(_SQL["any_late"]).format(
        **_of_late(layout, filter),
        all=layout.scope,
        # The first event of those that are asked for is itself one of these.
        beyond=TRUE if after is None else layout.beyond(after),
    )
    row = connection.execute(statement).fetchone()
    return row is None or int(row[0]) > 0


def begun_beyond(
    connection: psycopg.Connection, layout: Layout, position: Position, filter: EventFilter
) -> list[LateBeginning]:
    """The streams without their first events whose first one now lies after a position, among those
    that a filter without its types wants.
    """
    statement = sql.SQL(_SQL["late_beginnings"]).format(**_of_late(layout, filter, position))
    rows = connection.execute(statement).fetchall()
    return [
        LateBeginning(StreamKey(name, tenant), int(below), kind, category=category)
        for name, tenant, below, kind, category in rows
    ]


def late_beginnings(
    layout: Layout, bulk: BulkReader, filter: EventFilter
) -> Iterator[LateBeginning]:
    """The streams without their first events, among those that a filter without its types wants;
    and those that the library lists with a length and that have no event.
    """
    own = layout.stream_table
    statements = [sql.SQL(_SQL["late_beginnings"]).format(**_of_late(layout, filter))]
    if own is not None:
        emptied = sql.SQL(_SQL["emptied"]).format(
            **parts_of(layout, archived=True),
            name=own.stream,
            tenant=own.tenant,
            table=own.table,
            written=own.length,
            listed=own.scope,
            first=sql.Literal(layout.first_version),
        )
        statements.append(emptied)
    for batch in bulk.read(each.as_string(None) for each in statements):
        columns = [column.to_pylist() for column in batch.columns]
        for name, tenant, below, kind, category in zip(*columns, strict=True):
            yield LateBeginning(StreamKey(name, tenant), int(below), kind, category=category)


def is_snapshot(layout: Layout) -> sql.Composable:
    """The condition for an event that the layout's library put in the place of older ones."""
    if not layout.compacts:
        return FALSE
    # A character is found much sooner than an expression, and few types of events have it.
    return sql.SQL("(strpos({type}, '<') > 0 AND {type} ~* {expression})").format(
        type=layout.mapped.type, expression=sql.Literal(SNAPSHOT)
    )


def _of_late(
    layout: Layout, filter: EventFilter, after: Position | None = None
) -> dict[str, sql.Composable]:
    """The streams that begin late, and their first events, which a filter without its types wants
    and which lie after a position; with their categories.
    """
    m = layout.mapped
    scope, wanted = layout.scope, layout.where(replace(filter, types=()))
    if after is not None:
        beyond = layout.beyond(after)
        wanted = sql.SQL("{} AND {}").format(wanted, beyond)
        # Only those with an event there are looked at: to group all events would take its time.
        scope = sql.SQL("{} AND {stream} IN (SELECT {stream} FROM {} WHERE {} AND {})").format(
            scope,
            layout.events,
            layout.own,
            beyond,
            stream=layout.stream_column or m.stream,
        )
    names = {
        **parts_of(layout, archived=True),
        "name": m.stream,
        "tenant": m.tenant,
        "type": m.type,
        "of_row": layout.category or sql.SQL("NULL::text"),
        "own": layout.own,
        "wanted": wanted,
        "first": sql.Literal(layout.first_version),
        "scope": scope,
        "life": layout.archived if layout.reuses_names else FALSE,
        "same_life": (
            sql.SQL("({}) = k.life").format(layout.archived) if layout.reuses_names else TRUE
        ),
        "snapshot": is_snapshot(layout),
    }
    names["category"], names["listed"] = _category(layout)
    late = _SQL["late"]
    if layout.compacts:
        late += "\n" + _SQL["compacted"]
    parts = {"late": late, "beginning": _SQL["beginning"]}
    return {**names, **{name: sql.SQL(text).format(**names) for name, text in parts.items()}}


def _category(layout: Layout) -> tuple[sql.Composable, sql.Composable]:
    """The category of the stream `k`, and what joins the library's list of streams to find it."""
    own, in_name = layout.stream_table, category_in(sql.SQL("k.name"))
    if layout.category is not None:
        return sql.SQL("e.category"), sql.SQL("")
    if own is None:
        return in_name, sql.SQL("")
    listed = sql.SQL(_SQL["listed"]).format(
        name=own.stream,
        tenant=own.tenant,
        category=own.category,
        table=own.table,
        scope=own.scope,
    )
    return sql.SQL("coalesce(s.category, {})").format(in_name), listed
