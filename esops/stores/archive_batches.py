"""Events as the batches that an archive keeps, for stores whose `export` reads event by event.

Imported where something is exported: it brings all of Arrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from esops.archive_format import schema as archived
from esops.events import Position, RecordedEvent
from esops.moments import from_archive as from_archived
from esops.moments import to_archive as to_archived


def to_archive(
    events: Sequence[RecordedEvent],
    extra: Mapping[str, Sequence[str | None]] | None = None,
    hidden: Sequence[bool] | None = None,
) -> pa.RecordBatch:
    """A batch in the archive's schema.

    `extra` gives the store's extra columns by name, a value an event; `hidden` marks the events
    that the store itself does not give out.
    """
    extra = extra or {}
    count = len(events)
    ids, texts = archived.split_ids(pa.array([event.id for event in events], pa.string()))
    times = [_archived(event.recorded_microseconds) for event in events]
    second = [event.position[1] if len(event.position) > 1 else None for event in events]
    columns = [
        pa.array([event.stream for event in events], pa.string()),
        pa.array([event.tenant for event in events], pa.string()),
        pa.array([event.version for event in events], pa.int64()),
        pa.array([event.position[0] for event in events], pa.int64()),
        pa.array(second, pa.int64()),
        pa.array([event.type for event in events], pa.string()),
        ids,
        texts,
        pa.array(times, pa.int64()).cast(pa.timestamp("us", "UTC")),
        pa.array([event.data for event in events], pa.binary()),
        pa.array([event.metadata for event in events], pa.binary()),
        pa.array(hidden or [False] * count),
        *(pa.array(extra[name], pa.string()) for name in sorted(extra)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=archived.schema_with(list(extra)))


def from_archive(batch: pa.RecordBatch, position_parts: int) -> list[RecordedEvent]:
    """The events of a batch, hidden ones too, as the store that they came from would give them."""
    columns = {
        name: batch.column(name).to_pylist() for name in batch.schema.names if name != "recorded_at"
    }
    times = batch.column("recorded_at").cast(pa.int64()).to_pylist()
    ids = archived.join_ids(batch)
    return [
        RecordedEvent._make(
            (
                ids[row],
                columns["stream"][row],
                columns["version"][row],
                Position((columns["position_1"][row], columns["position_2"][row])[:position_parts]),
                columns["type"][row],
                columns["data"][row] or b"",
                columns["metadata"][row] or b"",
                None if times[row] is None else from_archived(times[row]),
                columns["tenant"][row],
            )
        )
        for row in range(batch.num_rows)
    ]


def _archived(microseconds: int | None) -> int | None:
    return None if microseconds is None else to_archived(microseconds)
