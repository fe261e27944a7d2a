"""Questions about many streams at once: a part of every store.

`ManyStreams` asks about one stream after the other; a store brings its own where it has a list of
its streams, or an index that answers for all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from esops.events import EventFilter, Position, RecordedEvent, StreamInfo, StreamKey, category_of
from esops.stores.archiving import StreamPart
from esops.stores.parts import EVERYTHING
from esops.stores.whole_streams import WholeStreams, read_whole

if TYPE_CHECKING:
    from esops.stores.base import EventStore


class ManyStreams:
    """By the list of streams, and by reading each."""

    def __init__(self, store: EventStore) -> None:
        """Those of a store."""
        self._store = store

    def keys(self, filter: EventFilter = EVERYTHING) -> Iterator[StreamKey]:
        """The streams that have, or have had, events that a filter may want: each once, in no order
        that means anything. Those without such an event may be among them. No statement stays open
        for long.
        """
        for info in self._store.streams(replace(filter, types=())):
            yield info.key

    def allowed(
        self,
        filter: EventFilter,
        denied: list[str],  # noqa: ARG002 - for stores with rights for each stream
        *,
        counted: bool = False,  # noqa: ARG002 - for stores with a list that may lack some
        closed_by: Sequence[str] = (),
        measured: bool = False,
        with_settings: bool = False,  # noqa: ARG002
    ) -> Iterator[StreamInfo]:
        """`EventStore.streams`, without those that this user may not read, whose names go into
        `denied`.

        With `counted`, from the events themselves, whatever list of streams the store keeps; with
        `with_settings`, without those whose settings this user may not read.
        """
        return self._store.streams(filter, closed_by=closed_by, measured=measured)

    def whole(
        self,
        streams: Sequence[StreamKey],
        until: Position,
        filter: EventFilter = EVERYTHING,
        begins_with: Collection[str] = (),
    ) -> WholeStreams:
        """All events of some streams up to a settled position that a filter wants, in order; and
        which of the streams lack events, of any type. A stream may begin with an event of a type in
        `begins_with`. They should be few enough for memory.
        """
        return read_whole(self._store, streams, until, filter, begins_with)

    def categories_of(self, streams: Collection[StreamKey]) -> Mapping[StreamKey, str | None]:
        """The category of each of some streams: the first by name, where one has several."""
        return {each: category_of(each.stream) for each in streams}

    def count_parts(self, parts: Sequence[StreamPart], *, archived: bool = False) -> list[int]:
        """How many events the store has of each of some parts of streams; those of streams that it
        has marked as archived only with `archived`.
        """
        return [
            part.overlap(self._store.stream_info(part.key.stream), archived=archived)
            for part in parts
        ]

    def has_events(self, events: Sequence[RecordedEvent], *, archived: bool = False) -> list[bool]:
        """Which of some events the store has, by stream, version and id, at whatever positions;
        those of streams that it has marked as archived only with `archived`.
        """
        del archived
        return [
            any(
                (found.version, found.id) == (event.version, event.id)
                for found in self._store.read_stream(event.stream, event.version - 1, limit=1)
            )
            for event in events
        ]
