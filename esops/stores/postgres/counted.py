"""The rows that counting streams gives, as values of Python; and parts of streams, counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.events import EventFilter, RecordedEvent, StreamInfo, category_of
from esops.postgres.statements import statements
from esops.stores.archiving import StreamPart
from esops.stores.postgres.layouts.base import NO_TENANT, TRUE, Layout

_FEW = 2_000
"""Streams whose rows are held in memory at once."""
_SMALL_BYTES = 1 << 20
"""Room for some thousand events: their streams are not worth a connection of their own."""
_SQL = statements(__package__, "counted")


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
    row = connection.execute(_SQL["size"], {"table": layout.events.as_string(None)}).fetchone()
    # A view has no size of its own, and may be of any length.
    return row is not None and 0 < int(row[0]) <= _SMALL_BYTES


def count_parts(
    connection: psycopg.Connection, layout: Layout, parts: Sequence[StreamPart], *, archived: bool
) -> list[int]:
    """How many rows there are of each part of a stream, also those that are given out to nobody."""
    statement = sql.SQL(_SQL["parts"]).format(
        **parts_of(layout, archived=archived),
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
    statement = sql.SQL(_SQL["events"]).format(
        **parts_of(layout, archived=archived),
        streams=sql.Literal([event.stream for event in events]),
        in_tenants=sql.Literal([event.tenant for event in events]),
        versions=sql.Literal([event.version for event in events]),
        ids=sql.Literal([event.id for event in events]),
        id=layout.mapped.id,
    )
    return [row[0] for row in connection.execute(statement).fetchall()]


def parts_of(layout: Layout, *, archived: bool) -> dict[str, sql.Composable]:
    """What statements that count rows of streams are made of."""
    m = layout.mapped
    return {
        "events": layout.events,
        "stream": layout.stream_column or m.stream,
        "kind": sql.SQL(layout.stream_kind),
        "same_name": layout.same_stream(sql.SQL("k.stream")),
        "same_stream": layout.same_as(sql.SQL("k.stream")),
        "same_tenant": sql.SQL("{} = k.tenant").format(m.tenant) if m.tenant != NO_TENANT else TRUE,
        "version": m.version,
        "alive": TRUE if archived else layout.alive,
        "scope": layout.scope,
    }


def without(what: str) -> Refused:
    """To be raised where events lack a part that their streams are grouped by."""
    return Refused(
        f"some events have no {what}, so esops cannot tell which streams there are",
        hint="Give them a value: esops doctor names the column.",
    )


def stream_info(row: tuple[Any, ...]) -> StreamInfo:
    """A stream from its columns, in the order that the queries select them; the last one is its
    category, where its name does not tell. Raises Refused where it has no name or no version.
    """
    name, tenant, length, first, last, first_at, last_at, archived, closed, size, recent, *own = row
    ends = (first, last, first_at, last_at)
    if name is None or first is None:
        raise without("stream" if name is None else "version")
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
