"""The rows that counting streams gives, as values of Python; and parts of streams, counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from esops.events import EventFilter, Position, RecordedEvent, StreamInfo, StreamKey, category_of
from esops.moments import EPOCH, Moment, from_driver, moment
from esops.stores.archiving import LateBeginning, StreamPart
from esops.stores.postgres.layouts.base import NO_TENANT, TRUE, Layout, storable
from esops.stores.shortened import Shortened

if TYPE_CHECKING:
    import pyarrow as pa

    from esops.stores.postgres.bulk import BulkReader


_FEW = 2_000
"""Streams whose rows are held in memory at once."""
_SMALL_BYTES = 1 << 20
"""Room for some thousand events: their streams are not worth a connection of their own."""
_SIZE = """
SELECT pg_relation_size(%(table)s::regclass) + coalesce(sum(pg_relation_size(relid)), 0)
FROM pg_partition_tree(%(table)s::regclass)
"""
_PARTS = """
SELECT (SELECT count(*) FROM {events} WHERE {stream} = k.stream::{kind} AND {same_tenant}
    AND {version} BETWEEN k.low AND k.high AND {alive} AND {scope})
FROM unnest({streams}::text[], {in_tenants}::text[], {low}::bigint[], {high}::bigint[])
    WITH ORDINALITY AS k (stream, tenant, low, high, number)
ORDER BY k.number
"""
_EMPTIED = """
SELECT k.name, k.tenant, k.written + {first}, NULL::text
FROM (SELECT {name}::text AS name, {tenant} AS tenant, {written} AS written FROM {table}
    WHERE {written} > 0 AND {listed}) AS k
WHERE NOT EXISTS (SELECT FROM {events} WHERE {stream} = k.name::{kind} AND {same_tenant})
"""
_LATE = """
SELECT {stream} AS stream, {name} AS name, {tenant} AS tenant, min({version}) AS lowest
FROM {events} WHERE {scope} GROUP BY 1, 2, 3 HAVING min({version}) > {first}
"""
"""The index on streams and versions alone gives the lowest versions."""
_BEGINNING = """
SELECT {type} AS type FROM {events}
WHERE {stream} = k.stream AND {same_tenant} AND {version} = k.lowest AND {wanted} LIMIT 1
"""
_LATE_BEGINNINGS = """
SELECT k.name, k.tenant, k.lowest, e.type::text
FROM ({late}) AS k CROSS JOIN LATERAL ({beginning}) AS e
"""
_SHORTENED = """
SELECT type, count(*), sum(lowest - {first})::bigint, min(name) FROM (
    SELECT k.*, e.type::text AS type,
        EXISTS (SELECT FROM {events} WHERE {stream} = k.stream AND {same_tenant}
            AND {type} = ANY({types}::text[])) AS wanted,
        NOT EXISTS (SELECT FROM {events} WHERE {stream} = k.stream AND {same_tenant}
            AND {version} > k.lowest) AS alone
    FROM ({late}) AS k CROSS JOIN LATERAL ({beginning}) AS e
) AS shortened
GROUP BY type HAVING cardinality({types}::text[]) = 0 OR bool_or(wanted) OR bool_and(alone)
ORDER BY 2 DESC, 1
"""
_EVENTS = """
SELECT EXISTS (SELECT FROM {events} WHERE {stream} = k.stream::{kind} AND {same_tenant}
    AND {version} = k.version AND {id} = k.id AND {alive} AND {scope})
FROM unnest({streams}::text[], {in_tenants}::text[], {versions}::bigint[], {ids}::text[])
    WITH ORDINALITY AS k (stream, tenant, version, id, number)
ORDER BY k.number
"""


def are_few(
    connection: psycopg.Connection, layout: Layout, filter: EventFilter, limit: int | None
) -> bool:
    """Whether a list of streams is short: by what is asked for, or since the table of events has
    room for few; answered without a look at its rows.
    """
    if limit is not None:
        return limit <= _FEW
    if filter.stream is not None and not layout.tenants:
        return True
    row = connection.execute(_SIZE, {"table": layout.events.as_string(None)}).fetchone()
    # A view has no size of its own, and may be of any length.
    return row is not None and 0 < int(row[0]) <= _SMALL_BYTES


def count_parts(
    connection: psycopg.Connection, layout: Layout, parts: Sequence[StreamPart], *, archived: bool
) -> list[int]:
    """How many rows there are of each part of a stream, also those that are given out to nobody."""
    statement = sql.SQL(_PARTS).format(
        **_of_layout(layout, archived=archived),
        streams=sql.Literal([part.key.stream for part in parts]),
        in_tenants=sql.Literal([part.key.tenant for part in parts]),
        low=sql.Literal([part.low for part in parts]),
        high=sql.Literal([part.high for part in parts]),
    )
    return [row[0] for row in connection.execute(statement).fetchall()]


def has_events(
    connection: psycopg.Connection,
    layout: Layout,
    events: Sequence[RecordedEvent],
    *,
    archived: bool,
) -> list[bool]:
    """Which events there are, by stream, version and id."""
    statement = sql.SQL(_EVENTS).format(
        **_of_layout(layout, archived=archived),
        streams=sql.Literal([event.stream for event in events]),
        in_tenants=sql.Literal([event.tenant for event in events]),
        versions=sql.Literal([event.version for event in events]),
        ids=sql.Literal([event.id for event in events]),
        id=layout.mapped.id,
    )
    return [row[0] for row in connection.execute(statement).fetchall()]


def shortened(
    connection: psycopg.Connection, layout: Layout, filter: EventFilter
) -> list[Shortened]:
    """The streams that a filter may want and whose first events are gone."""
    statement = sql.SQL(_SHORTENED).format(
        **_of_late(layout, layout.where(replace(filter, types=()))),
        types=sql.Literal(storable(filter.types)),
    )
    return [Shortened(*row) for row in connection.execute(statement).fetchall()]


def begun_beyond(
    connection: psycopg.Connection, layout: Layout, position: Position
) -> list[LateBeginning]:
    """The streams without their first events whose first one now lies after a position."""
    own, beyond = layout.own, layout.beyond(position)
    # Only those with an event there are looked at: to group all events would take its time.
    recent = sql.SQL("{} AND {stream} IN (SELECT {stream} FROM {} WHERE {} AND {})").format(
        layout.scope,
        layout.events,
        own,
        beyond,
        stream=layout.stream_column or layout.mapped.stream,
    )
    wanted = sql.SQL("{} AND {}").format(own, beyond)
    statement = sql.SQL(_LATE_BEGINNINGS).format(**_of_late(layout, wanted, recent))
    rows = connection.execute(statement).fetchall()
    return [
        LateBeginning(StreamKey(name, tenant), int(below), kind)
        for name, tenant, below, kind in rows
    ]


def late_beginnings(layout: Layout, bulk: BulkReader) -> Iterator[LateBeginning]:
    """The streams without their first events, and those that the library lists with a length and
    that have no event.
    """
    own = layout.stream_table
    of_layout = _of_layout(layout, archived=True)
    statements = [sql.SQL(_LATE_BEGINNINGS).format(**_of_late(layout, layout.own))]
    if own is not None:
        emptied = sql.SQL(_EMPTIED).format(
            **of_layout,
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
        for name, tenant, below, kind in zip(*columns, strict=True):
            yield LateBeginning(StreamKey(name, tenant), int(below), kind)


def _of_late(
    layout: Layout, wanted: sql.Composable, scope: sql.Composable | None = None
) -> dict[str, sql.Composable]:
    """The streams that begin late, and their first events, for which `wanted` holds; `scope` says
    among which events they are looked for (left out: all of the tenant).
    """
    m = layout.mapped
    names = {
        **_of_layout(layout, archived=True),
        "name": m.stream,
        "tenant": m.tenant,
        "type": m.type,
        "wanted": wanted,
        "first": sql.Literal(layout.first_version),
        "scope": scope or layout.scope,
    }
    parts = {"late": _LATE, "beginning": _BEGINNING}
    return {**names, **{name: sql.SQL(text).format(**names) for name, text in parts.items()}}


def _of_layout(layout: Layout, *, archived: bool) -> dict[str, sql.Composable]:
    m = layout.mapped
    return {
        "events": layout.events,
        "stream": layout.stream_column or m.stream,
        "kind": sql.SQL(layout.stream_kind),
        "same_tenant": sql.SQL("{} = k.tenant").format(m.tenant) if m.tenant != NO_TENANT else TRUE,
        "version": m.version,
        "alive": TRUE if archived else layout.alive,
        "scope": layout.scope,
    }


def stream_info(row: tuple[Any, ...]) -> StreamInfo:
    """A stream from its columns, in the order that the queries select them; the last one is its
    category, where its name does not tell.
    """
    name, tenant, length, first, last, first_at, last_at, archived, closed, size, recent, *own = row
    ends = (first, last, first_at, last_at)
    return StreamInfo(
        name,
        own[0] if own else category_of(name),
        length,
        *ends,
        bool(archived),
        tenant,
        closed=closed,
        bytes=size,
        recent=recent,
    )


def column_values(column: pa.Array) -> list[Any]:
    """A column's values; times made here, which takes Arrow five times as long."""
    if not str(column.type).startswith("timestamp"):
        values: list[Any] = column.to_pylist()
        return values
    return [None if at is None else _moment(at) for at in column.cast("int64").to_pylist()]


def _moment(at: int) -> Moment:
    try:
        return EPOCH + timedelta(0, 0, at)
    except OverflowError:
        return moment(from_driver(at))
