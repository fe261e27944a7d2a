"""Streams that begin with another event than their first one: asked of the server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from esops.archive_format.snapshots import SNAPSHOT
from esops.events import EventFilter, Position, StreamKey
from esops.stores.archiving import LateBeginning
from esops.stores.postgres.counted import parts_of
from esops.stores.postgres.layouts.base import FALSE, TRUE, Layout
from esops.stores.postgres.layouts.expressions import category_in, storable
from esops.stores.shortened import LateGroup, Shortened, relevant

if TYPE_CHECKING:
    from esops.stores.postgres.bulk import BulkReader

_EMPTIED = """
SELECT k.name, k.tenant, k.written + {first}, NULL::text, NULL::text
FROM (SELECT {name}::text AS name, {tenant} AS tenant, {written} AS written FROM {table}
    WHERE {written} > 0 AND {listed}) AS k
WHERE NOT EXISTS (SELECT FROM {events} WHERE {stream} = k.name::{kind} AND {same_tenant})
"""
_LATE = """
SELECT {stream} AS stream, {name} AS name, {tenant} AS tenant, {life} AS life,
    min({version}) AS lowest
FROM {events} WHERE {scope} GROUP BY 1, 2, 3, 4 HAVING min({version}) > {first}
"""
"""The index on streams and versions alone gives the lowest versions."""
_COMPACTED = """
UNION ALL SELECT {stream}, {name}, {tenant}, {life}, {version}
FROM {events} WHERE {scope} AND {version} BETWEEN {first} AND {first} AND ({snapshot}) IS TRUE
"""
"""A library may also have put its snapshot in the place of the first event alone. The server puts
an equation with a constant behind all other conditions, and so would look at every event's type.
"""
_ANY_LATE = """
SELECT count(*) FROM (
    SELECT {stream} AS stream, {tenant} AS tenant, {life} AS life FROM {events}
    WHERE {all} AND {beyond}
) AS k
WHERE NOT EXISTS (SELECT FROM {events} WHERE {all} AND {version} <= {first}
    AND ({snapshot}) IS NOT TRUE AND {same_stream} AND {same_tenant} AND {same_life})
"""
"""How many events there are of streams without a first event of their own: most often none, and
several processes of the server find that out in a quarter of the time that it takes to group all
events. All are counted, since for the first of them alone the server might plan to look up the
stream of each event. And all are asked about, first events too: without statistics, the server
takes those of later versions for few, and looks up the stream of each.
"""
_BEGINNING = """
SELECT {type} AS type, {of_row} AS category FROM (
    SELECT * FROM {events}
    WHERE {same_stream} AND {same_tenant} AND {same_life} AND {version} >= k.lowest AND {own}
    ORDER BY {version} LIMIT 1
) AS first WHERE {wanted}
"""
"""Before the first event there may be rows that are none, such as skipped ones."""
_LATE_BEGINNINGS = """
SELECT k.name, k.tenant, k.lowest, e.type::text, {category}
FROM ({late}) AS k CROSS JOIN LATERAL ({beginning}) AS e {listed}
"""
_SHORTENED = """
SELECT type, category, count(*), sum(lowest - {first})::bigint, min(name), bool_or(wanted)
FROM (
    SELECT k.lowest, k.name, e.type::text AS type, {category} AS category,
        EXISTS (SELECT FROM {events} WHERE {same_stream} AND {same_tenant} AND {same_life}
            AND {type} = ANY({types}::text[])) AS wanted
    FROM ({late}) AS k CROSS JOIN LATERAL ({beginning}) AS e {listed}
) AS shortened
GROUP BY 1, 2
"""
_LISTED = """
LEFT JOIN (SELECT {name}::text AS name, {tenant} AS tenant, max({category}) AS category
    FROM {table} WHERE {scope} GROUP BY 1, 2) AS s ON s.name = k.name AND s.tenant = k.tenant
"""
_OTHERS = """
SELECT NOT EXISTS (SELECT FROM {events} WHERE {asked})
    AND EXISTS (SELECT FROM {events} WHERE {all} AND {version} = {first} AND NOT {snapshot})
"""


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
    statement = sql.SQL(_SHORTENED).format(
        **_of_late(layout, filter, after), types=sql.Literal(storable(filter.types))
    )
    groups = [LateGroup(*row) for row in connection.execute(statement).fetchall()]

    def are_others(category: str) -> bool:
        """By the events of whole streams of the same category."""
        of_them = EventFilter(category=category, archived=True)
        asked = sql.SQL(_OTHERS).format(
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
    statement = sql.SQL(_ANY_LATE).format(
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
    statement = sql.SQL(_LATE_BEGINNINGS).format(**_of_late(layout, filter, position))
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
    statements = [sql.SQL(_LATE_BEGINNINGS).format(**_of_late(layout, filter))]
    if own is not None:
        emptied = sql.SQL(_EMPTIED).format(
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
    late = _LATE + _COMPACTED if layout.compacts else _LATE
    parts = {"late": late, "beginning": _BEGINNING}
    return {**names, **{name: sql.SQL(text).format(**names) for name, text in parts.items()}}


def _category(layout: Layout) -> tuple[sql.Composable, sql.Composable]:
    """The category of the stream `k`, and what joins the library's list of streams to find it."""
    own, in_name = layout.stream_table, category_in(sql.SQL("k.name"))
    if layout.category is not None:
        return sql.SQL("e.category"), sql.SQL("")
    if own is None:
        return in_name, sql.SQL("")
    listed = sql.SQL(_LISTED).format(
        name=own.stream,
        tenant=own.tenant,
        category=own.category,
        table=own.table,
        scope=own.scope,
    )
    return sql.SQL("coalesce(s.category, {})").format(in_name), listed
