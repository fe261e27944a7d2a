"""Which of a plan's streams end with events that a reader has not read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from heapq import heappush, heappushpop
from math import inf
from typing import TYPE_CHECKING

from esops.events import Checkpoint, RecordedEvent
from esops.stores.base import EventStore

if TYPE_CHECKING:
    from esops.archive.planning import PlannedStream

_NEWEST_KEPT = 100


class NewestStreams:
    """The streams of a plan with the newest events: what a reader has not read is among them."""

    def __init__(self) -> None:
        """Empty."""
        self._streams: list[tuple[float, int, PlannedStream]] = []
        self._added = 0

    def add(self, stream: PlannedStream) -> None:
        """Keep a stream, in the place of an older one where there are many."""
        at = stream.last_at
        self._added += 1
        entry = (at.timestamp() if isinstance(at, datetime) else inf, self._added, stream)
        if len(self._streams) < _NEWEST_KEPT:
            heappush(self._streams, entry)
        else:
            heappushpop(self._streams, entry)

    def unread_of(self, store: EventStore) -> Callable[[Checkpoint], int]:
        """How many of the streams end with an event that a reader has not read."""
        ends: list[RecordedEvent | None] = []

        def unread(reader: Checkpoint) -> int:
            if not ends:
                ends.extend(next(_backwards(store, each), None) for _, _, each in self._streams)
            return sum(
                _has_unread(store, each, end, reader)
                for (_, _, each), end in zip(self._streams, ends, strict=True)
            )

        return unread


def _backwards(store: EventStore, stream: PlannedStream) -> Iterator[RecordedEvent]:
    """What a run would take of a stream, the newest event first."""
    for event in store.read_stream(stream.name, stream.last_version + 1, backwards=True):
        if event.tenant == stream.tenant and event.version <= stream.last_version:
            yield event


def _has_unread(
    store: EventStore, stream: PlannedStream, end: RecordedEvent | None, reader: Checkpoint
) -> bool:
    if end is None or not _is_unread(end, reader):
        return False
    # Of a reader of some types alone, the last event of such a type counts.
    for event in _backwards(store, stream) if reader.types else ():
        if event.type in reader.types or not _is_unread(event, reader):
            return _is_unread(event, reader)
    return not reader.types


def _is_unread(event: RecordedEvent, reader: Checkpoint) -> bool:
    if reader.tenant and event.tenant != reader.tenant:
        return False
    if reader.category and event.stream.partition("-")[0] != reader.category:
        return False
    if reader.stream and event.stream != reader.stream:
        return False
    position = reader.position
    # One of another form is from before the store's `ordering` was changed.
    return position is None or len(position) != len(event.position) or event.position > position
