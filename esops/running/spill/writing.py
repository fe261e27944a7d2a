"""The first half of a spill: reading all events once, and writing each to its partition's file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from esops.events import Position, RecordedEvent
from esops.readmodel.rows import BadEvent
from esops.readmodel.types import Key
from esops.running.spill.directory import NoRoom, SpillDirectory
from esops.running.spill.frames import DamagedSpill, frames
from esops.running.spill.keys import partitions_of
from esops.stores.base import Batch

_GROUP_EVENTS, _GROUP_BATCHES = 32_768, 16
"""This many events, or batches of a read, are written together: small pieces would cost a lot."""
_LEAST = 1_000
"""Events that are not worth being divided further where they do not fit."""


class PartitionWriter:
    """Sorts events into the files of a directory."""

    def __init__(
        self,
        files: SpillDirectory,
        after: Position | None,
        keys: Callable[[Sequence[RecordedEvent]], Sequence[Key]],
    ) -> None:
        """`after` is the position after which events are to be written; `keys` gives the key of
        each event, or raises BadEvent.
        """
        self._files, self._keys = files, keys
        self._partitions = len(files.manifest.counts)
        self._group: list[list[RecordedEvent]] = []
        self._events = 0
        self._reached = after
        self.position = after
        """Up to where all events are in the files."""
        self.last: Sequence[RecordedEvent] = ()
        """The last events that are in them, in their order."""
        self.kept_at = time.monotonic()
        """When it was last made certain what is written."""
        self.full: str | None = None
        """Why no more can be written; None while there is room."""

    def begin(self) -> None:
        """Forget what is not written: a read begins after `position`, where one before it ended
        early.
        """
        self._group, self._events, self._reached = [], 0, self.position

    def add(self, batch: Batch) -> None:
        """Write the events of a batch, or keep them for a while to write them with the next ones.

        Raises ConnectionLost where the read model has to be asked about a key and cannot be.
        """
        if batch.events:
            first = batch.events[0].position
            if self._reached is not None and first < self._reached:
                raise DamagedSpill(f"the event at {first} came after position {self._reached}")
            self._group.append(batch.events)
            self._events += len(batch.events)
        self._reached = batch.position
        if self._events >= _GROUP_EVENTS or len(self._group) >= _GROUP_BATCHES:
            self.flush()

    def flush(self) -> None:
        """Write what is kept. Where there is no room for all of it, `full` says why, and `position`
        is where the last of what was written is.
        """
        if self._group and self.full is None:
            self._write(self._group)
        if self.full is None:
            self.position = self._reached
        self._group, self._events = [], 0

    def _write(self, group: Sequence[Sequence[RecordedEvent]]) -> None:
        places: list[list[int]] = [[] for _ in range(self._partitions)]
        place = 0
        for events in group:
            for partition in self._partitions_of(events):
                places[partition].append(place)
                place += 1
        try:
            self._files.write(frames(group, places), list(map(len, places)))
        except NoRoom as none:
            # A part of it may fit.
            halves = _halves(group) if place > _LEAST else ()
            if halves:
                for half in halves:
                    if self.full is None:
                        self._write(half)
            else:
                self.full = str(none)
        except OSError as error:
            self.full = f"{self._files.path} cannot be written to: {error.strerror or error}"
        else:
            self.last = group[-1]
            self.position = self.last[-1].position

    def finish(self, target: Position) -> None:
        """Note that there are no more events up to a position."""
        self.position = target

    def _partitions_of(self, events: Sequence[RecordedEvent]) -> list[int]:
        try:
            return partitions_of(self._keys(events), self._partitions)
        except BadEvent:
            # An event of which no key can be made goes to the first partition: the fold finds it
            # there, and does what it always does with such an event.
            if len(events) == 1:
                return [0]
            half = len(events) // 2
            return [*self._partitions_of(events[:half]), *self._partitions_of(events[half:])]


def _halves(
    group: Sequence[Sequence[RecordedEvent]],
) -> Sequence[Sequence[Sequence[RecordedEvent]]]:
    """Two parts of some batches, between which the position changes; none where it does not."""
    if len(group) > 1:
        half = len(group) // 2
        return group[:half], group[half:]
    (events,) = group
    half = len(events) // 2
    # All events of one position are written, or none: reading continues after a position.
    while half and events[half].position == events[half - 1].position:
        half -= 1
    return ([events[:half]], [events[half:]]) if half else ()
