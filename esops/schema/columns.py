"""What the events of a batch have, as a list for each: asking every event by itself would take as
long as looking at its payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from esops.events import RecordedEvent, StreamKey
from esops.moments import EARLIEST, from_driver

_columns_of, _stream_of = attrgetter("columns"), attrgetter("stream")


class LookedAt(NamedTuple):
    """Of some events, in their order."""

    streams: Sequence[Any]
    """What names the stream of each: its name, or name and tenant where there are tenants."""
    metadata: Sequence[bytes]
    times: Sequence[int | None]
    """When they were recorded, in microseconds since 1970."""


def looked_at(events: Sequence[RecordedEvent], *, tenants: bool) -> LookedAt:
    """The columns of a batch. `tenants`: whether a stream's name alone does not name it."""
    first, last = events[0], events[-1]
    shared = set(map(_columns_of, events))
    streams: Sequence[Any] = list(map(_stream_of, events))
    if len(shared) > 1 or first.columns is None or last.row - first.row + 1 != len(events):
        if tenants:
            streams = [StreamKey(event.stream, event.tenant) for event in events]
        metadata = [event.metadata for event in events]
        return LookedAt(streams, metadata, [event.recorded_microseconds for event in events])
    columns, rows = first.columns, slice(first.row, last.row + 1)
    if tenants:
        streams = list(map(StreamKey, streams, columns.tenants[rows]))
    return LookedAt(streams, columns.metadata[rows], _microseconds(columns.times[rows], events))


def _microseconds(times: Sequence[Any], events: Sequence[RecordedEvent]) -> Sequence[int | None]:
    if set(map(type, times)) == {int}:
        return times if min(times) >= EARLIEST else list(map(from_driver, times))
    return [event.recorded_microseconds for event in events]


def stream_key(name: Any) -> StreamKey:
    """The stream that a name of `LookedAt.streams` stands for."""
    return name if isinstance(name, StreamKey) else StreamKey(name)
