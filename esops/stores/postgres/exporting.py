"""The statements that read streams for an archive, and their answers in the archive's schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from esops.archive_format import schema as archived
from esops.errors import Refused
from esops.events import StreamRef
from esops.moments import ARCHIVED_INFINITY, EARLIEST, from_driver, to_archive
from esops.stores.postgres.layouts.base import NO_TENANT, NOTHING, Layout
from esops.stores.postgres.layouts.expressions import named, storable

_AT_ONCE_EVENTS = 200_000
_AT_ONCE_STREAMS = 20_000
_LAST = 2**63 - 1


def _columns(layout: Layout, extra: Sequence[sql.Composable]) -> list[sql.Composable]:
    m = layout.mapped
    hidden = sql.SQL("NOT ({})").format(layout.own)
    return [
        m.stream,
        m.version,
        *layout.order,
        m.type,
        layout.id_column or m.id,
        m.recorded_at,
        hidden,
        *layout.payload_columns,
        *(column for column in (m.tenant, m.metadata) if column not in (NO_TENANT, NOTHING)),
        *extra,
    ]


def export_statement(
    layout: Layout, streams: Sequence[StreamRef], extra: Sequence[sql.Composable]
) -> str:
    """The events of some streams, by stream and version, with extra columns as text."""
    m, columns = layout.mapped, _columns(layout, extra)
    if any(each.last is not None for each in streams):
        return _heads_statement(layout, columns, streams).as_string(None)
    by_tenant: dict[str, list[str]] = {}
    for each in streams:
        by_tenant.setdefault(each.tenant, []).append(each.stream)
    wanted = [
        sql.SQL("({} AND {})").format(
            layout.any_stream(names),
            sql.SQL("{} = {}").format(m.tenant, sql.Literal(tenant)) if tenant else sql.SQL("TRUE"),
        )
        for tenant, names in by_tenant.items()
    ]
    order = [
        layout.stream_column or m.stream,
        *([m.tenant] if layout.tenants else []),
        m.version,
    ]
    return (
        sql.SQL("SELECT {} FROM {} WHERE {} AND {} AND ({}) ORDER BY {}")
        .format(
            named(columns),
            layout.events,
            layout.alive,
            layout.scope,
            sql.SQL(" OR ").join(wanted),
            sql.SQL(", ").join(order),
        )
        .as_string(None)
    )


def as_archived(layout: Layout, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch as the server gave it, in the archive's schema. Raises Refused where it lacks a
    value.
    """
    count, given = batch.num_rows, iter(batch.columns)
    stream, version = next(given), next(given)
    positions = [next(given).cast(pa.int64()) for _ in layout.order]
    kind, identifier, recorded_at, hidden = islice(given, 4)
    data = pc.coalesce(*(_plain(next(given)) for _ in layout.payload_columns))
    tenant = next(given) if layout.mapped.tenant != NO_TENANT else pa.repeat("", count)
    metadata = next(given) if layout.mapped.metadata != NOTHING else pa.nulls(count, pa.binary())
    if layout.id_column is not None:
        packed, text = identifier.storage, pa.nulls(count, pa.string())
    else:
        packed, text = archived.split_ids(identifier)
    columns = [
        stream,
        tenant,
        version.cast(pa.int64()),
        positions[0],
        positions[1] if len(positions) > 1 else pa.nulls(count, pa.int64()),
        kind,
        packed,
        text,
        _in_utc(recorded_at),
        data,
        _plain(metadata),
        hidden,
        *given,
    ]
    for column, field in zip(columns, schema, strict=True):
        if not field.nullable and column.null_count:
            raise Refused(
                f"some events have no {field.name}, and an archive has events with all their parts",
                hint="Give them a value: esops doctor names the column.",
            )
    return pa.RecordBatch.from_arrays(
        [
            column.cast(field.type) if column.type != field.type else column
            for column, field in zip(columns, schema, strict=True)
        ],
        schema=schema,
    )


def _heads_statement(
    layout: Layout, columns: Sequence[sql.Composable], streams: Sequence[StreamRef]
) -> sql.Composed:
    """The events of streams, of each up to a version, in the order in which they are asked for."""
    m = layout.mapped
    wanted = [each for each in streams if storable([each.stream])]
    return sql.SQL(
        "SELECT e.* FROM unnest({names}::text[], {tenants}::text[], {ends}::bigint[]) WITH "
        "ORDINALITY AS k(k_stream, k_tenant, k_end, k_at) CROSS JOIN LATERAL (SELECT {columns} "
        "FROM {events} WHERE {alive} AND {scope} AND {same_stream} AND "
        "{tenant} = k.k_tenant AND {version} <= k.k_end "
        # Stream by stream: the planner would join the whole table for some thousands of them.
        'OFFSET 0) AS e ORDER BY k.k_at, e."esops:1"'
    ).format(
        names=sql.Literal([each.stream for each in wanted]),
        tenants=sql.Literal([each.tenant for each in wanted]),
        ends=sql.Literal([_LAST if each.last is None else each.last for each in wanted]),
        columns=named(columns),
        events=layout.events,
        alive=layout.alive,
        scope=layout.scope,
        same_stream=layout.same_stream(sql.SQL("k.k_stream")),
        tenant=m.tenant,
        version=m.version,
    )


def _in_utc(times: pa.Array) -> pa.Array:
    """Times as the archive has them. Raises Refused for one that it cannot tell from infinity."""
    values = times.cast(pa.timestamp("us")).cast(pa.int64())
    ends = pc.min_max(values).as_py()
    if ends["min"] is not None and (
        ends["min"] < EARLIEST or ends["max"] == ARCHIVED_INFINITY
    ):  # only then one by one: infinity and what else the driver moved
        try:
            values = pa.array(
                [None if at is None else to_archive(from_driver(at)) for at in values.to_pylist()],
                pa.int64(),
            )
        except OverflowError as error:
            raise Refused(str(error)) from None
    return values.cast(pa.timestamp("us", "UTC"))


def _plain(column: pa.Array) -> pa.Array:
    plain = column.storage if isinstance(column, pa.ExtensionArray) else column
    return plain.cast(pa.binary())


def groups_of(streams: Iterable[StreamRef]) -> Iterator[list[StreamRef]]:
    """Streams in groups that a statement can name and that are read in about a second."""
    group: list[StreamRef] = []
    events = 0
    for wanted in streams:
        group.append(wanted)
        events += wanted.events
        if events >= _AT_ONCE_EVENTS or len(group) >= _AT_ONCE_STREAMS:
            yield group
            group, events = [], 0
    if group:
        yield group
