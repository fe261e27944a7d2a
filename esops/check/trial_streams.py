"""Whole streams for a trial, drawn from the log: those of the events at random places of it.

A place is found by the index on the positions, and the events of a stream by the index on streams,
so the time does not grow with the log. A stream with many events is drawn sooner than a short one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from esops.errors import Stopped
from esops.events import EventFilter, Position, RecordedEvent, StreamKey
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore
from esops.term import duration

_AT_A_PLACE = 20
"""Events that are looked at from a place on."""
_PLACES = 2_000
"""Places at which is looked at most: the projection may read few of the events."""
_FIRST, _MOST = 32, 2_000
"""Streams that are read at once: first, and at most."""
_SLOW = 5.0
"""Seconds from which on reading some streams is worth a word."""


@dataclass
class _Drawn:
    events: list[RecordedEvent] = field(default_factory=list)
    streams: int = 0
    bytes: int = 0


class StreamDraw:
    """Draws streams of a store until they have enough events."""

    def __init__(
        self,
        store: EventStore,
        settings: ProjectionSettings,
        until: Position,
        chance: Random,
        stop: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        """`until`: the settled head."""
        self._store, self._settings, self._until = store, settings, until
        self._chance, self._stop, self._say = chance, stop, say
        self._seen = set[StreamKey]()
        self._long = set[StreamKey]()

    def draw(
        self, wanted: int, most_bytes: int, skipped: Callable[[Position], bool]
    ) -> tuple[list[RecordedEvent], int]:
        """About as many events as are wanted, of whole streams, and of how many. Fewer where the
        projection reads few of the events; a stream that has more than these alone, or of which
        events are gone, is left out.
        """
        found, first = _Drawn(), self._first()
        at_once, places = _FIRST, 0
        while first is not None and len(found.events) < wanted and places < _PLACES:
            keys = list[StreamKey]()
            while len(keys) < at_once and places < _PLACES:
                if self._stop():
                    raise Stopped("stopped; nothing was changed")
                places += 1
                keys += self._at(self._place(first), wanted)
            self._read([each for each in keys if each not in self._long], found, wanted, skipped)
            if found.bytes > most_bytes:
                break
            average = max(1.0, len(found.events) / max(1, found.streams))
            at_once = min(_MOST, max(1, round((wanted - len(found.events)) / average)))
        return found.events, found.streams

    def _first(self) -> Position | None:
        everything = EventFilter(archived=True)
        batches = self._store.read_all(None, self._until, everything, 1)
        return next((event.position for each in batches for event in each.events), None)

    def _place(self, first: Position) -> Position:
        lowest = (max(0, first[0] - 1), *([0] * (len(first) - 1)))
        return Position(
            self._chance.randint(low, max(low, high))
            for low, high in zip(lowest, self._until, strict=True)
        )

    def _at(self, place: Position, longest: int) -> list[StreamKey]:
        """The streams, not seen yet, of the events at a place that the projection reads."""
        wanted = self._settings.filter
        lowest = self._store.capabilities.first_version
        found = dict[StreamKey, None]()
        everything = EventFilter(archived=wanted.archived)
        for batch in self._store.read_all(place, self._until, everything, _AT_A_PLACE):
            for event in batch.events:
                key = StreamKey(event.stream, event.tenant)
                if event.version - lowest >= longest:
                    self._long.add(key)
                if key not in self._seen and (not wanted.types or event.type in wanted.types):
                    found[key] = None
        if wanted.category is not None and found:
            known = self._store.many_streams.categories_of(found.keys())
            found = {each: None for each in found if known.get(each) == wanted.category}
        self._seen.update(found)
        return list(found)

    def _read(
        self,
        keys: Sequence[StreamKey],
        found: _Drawn,
        wanted: int,
        skipped: Callable[[Position], bool],
    ) -> None:
        if not keys:
            return
        begun = time.monotonic()
        whole = self._store.many_streams.whole(
            keys, self._until, self._settings.filter, self._settings.begins_with
        )
        took = time.monotonic() - begun
        if took > _SLOW:
            self._say(
                f"reading {len(keys):,} streams took {duration(took)}: the store has no index by "
                "stream, or its server is busy"
            )
        of_stream: dict[StreamKey, list[RecordedEvent]] = {}
        for event in whole.events:
            of_stream.setdefault(StreamKey(event.stream, event.tenant), []).append(event)
        # In the order in which they were drawn, and no more than are wanted.
        for key in keys:
            if len(found.events) >= wanted:
                break
            events = of_stream.get(key, ())
            own = [each.detached() for each in events if not skipped(each.position)]
            if own and key not in whole.lacking and len(own) <= wanted:
                found.events += own
                found.streams += 1
                found.bytes += sum(len(each.data) + len(each.metadata) for each in own)
