"""What scavenges have left of streams, as $all shows it.

A truncated or deleted stream keeps all of its events in $all until a scavenge, and then those that
clients can read, and always its last event, even where they can read none. So a stream that has all
of its events in $all is given out whole, whatever its metadata say; and of one that has lost some,
what clients can read.

All of it comes from $all, the metadata of streams included: nobody needs a right on a stream.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

import orjson
from esdbclient.protos.Grpc import streams_pb2

from esops.events import EventFilter, Position, RecordedEvent, StreamKey, category_of
from esops.moments import between
from esops.stores.archiving import LateBeginning
from esops.stores.base import Batch
from esops.stores.eventstoredb import bulk
from esops.stores.parts import WITH_ARCHIVED

_METADATA, _TOMBSTONE = "$metadata", "$streamDeleted"
_SCAVENGES = ("$scavengeStarted", "$scavengeChunksCompleted", "$scavengeCompleted")
_NEWS = EventFilter(types=(_METADATA, _TOMBSTONE, *_SCAVENGES))
_DELETED = 2**63 - 1
"""The `$tb` of a stream that was deleted, and not written to since."""
_EVERY = 10.0
"""Seconds between two looks for a scavenge while a job reads."""
_NAMED = 200
"""Streams that a read names; more are looked for among all events."""


class _Raw(Protocol):
    def __call__(
        self,
        after: Position | None,
        until: Position,
        filter: EventFilter,
        server: streams_pb2.ReadReq.Options.FilterOptions | None = None,
    ) -> Iterator[Batch]: ...


class StreamLimits(NamedTuple):
    """What a stream's metadata say of its events."""

    before: int = 0
    """Its `$tb`."""
    age: timedelta | None = None
    counted: bool = False
    """Whether it has `$maxCount`."""

    @classmethod
    def of(cls, event: RecordedEvent) -> StreamLimits:
        """Those in an event of a metadata stream."""
        try:
            document: Any = event.json()
        except orjson.JSONDecodeError:
            return cls()
        if not isinstance(document, dict):
            return cls()
        before, age, most = (_number(document.get(key)) for key in ("$tb", "$maxAge", "$maxCount"))
        # What is older than any date limits nothing.
        limit = timedelta(seconds=age) if age is not None and age < 10**10 else None
        return cls(before or 0, limit, most is not None)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class Remains(NamedTuple):
    """A stream that has lost events."""

    floor: int
    """The version from which on its events count; one after the last where clients read none."""
    last: int
    """The version of its last event in $all."""
    type: str
    """Of the event at the floor, or of the last one."""
    limited: bool
    """Whether a limit of the stream's own explains it."""

    @property
    def empty(self) -> bool:
        """Whether clients can read no event of it."""
        return self.floor > self.last


@dataclass(slots=True)
class _SeenOfStream:
    """What of a stream has come so far."""

    limits: StreamLimits
    last: int = -1
    after_gap: int = 0
    first: int | None = None
    """The first version that clients may read, since the last gap."""
    type: str = ""
    last_type: str = ""
    last_at: Any = None

    def add(self, event: RecordedEvent) -> None:
        version = event.version
        if version > self.last + 1:
            self.after_gap, self.first = version, None
        if self.first is None and version >= self.limits.before:
            self.first, self.type = version, event.type
        self.last, self.last_type = version, event.type
        if self.limits.age is not None:
            self.last_at = event.recorded_at

    def remains(self, now: datetime, *, tombstoned: bool) -> Remains | None:
        """None where it has all of its events."""
        if not self.after_gap:
            return None
        floor = max(self.after_gap, self.limits.before)
        age = None if self.limits.age is None else between(self.last_at, now)
        expired = age is not None and self.limits.age is not None and age > self.limits.age
        if tombstoned or expired or floor > self.last:
            floor = self.last + 1
        limited = self.limits.counted or self.limits.age is not None
        kind = self.last_type if floor > self.last or self.first is None else self.type
        return Remains(floor, self.last, kind, limited)


class Scavenged:
    """The streams that have lost events: looked for when they are first asked for, and again after
    each scavenge.
    """

    def __init__(
        self,
        raw: _Raw,
        head: Callable[[], Position | None],
        target: Callable[[], str],
        never: Callable[[], bool],
    ) -> None:
        """`raw` reads $all as it is; `target` names the node, since each is scavenged by itself;
        `never` says whether the log was never scavenged, as far as its user may know.
        """
        self._raw, self._head, self._target, self._never = raw, head, target, never
        self._lock = threading.Lock()
        self._limits: dict[str, StreamLimits] = {}
        self._tombstoned: set[str] = set()
        self._whole = False
        """Whether a look found that nothing was scavenged by then."""
        self._up_to: Position | None = None
        self._node = ""
        self._looked = -_EVERY
        self._found: dict[str, Remains] = {}
        self._emptied: dict[str, Remains] = {}
        """Those of which nothing is left for clients, by a scavenge since the first look."""

    @property
    def known(self) -> bool:
        """Whether it has looked."""
        return self._up_to is not None

    def floors(self, *, fresh: bool) -> Mapping[str, int]:
        """The version from which on each such stream's events count. A read from the beginning asks
        for it `fresh`; the pages of a job, which come one after the other, do not.
        """
        with self._lock:
            if fresh or time.monotonic() - self._looked >= _EVERY:
                self._look()
            return {name: each.floor for name, each in self._found.items()}

    def deleted(self) -> Iterator[StreamKey]:
        """The streams of which clients can read nothing, since they were deleted or tombstoned;
        also those of which a scavenge has removed nothing yet.
        """
        head, found = self._head(), set[str]()
        if head is None:
            return
        for batch in self._raw(None, head, EventFilter(types=(_METADATA, _TOMBSTONE))):
            for event in batch.events:
                if event.type == _TOMBSTONE:
                    found.add(event.stream)
                elif event.stream.startswith("$$"):
                    name = event.stream[2:]
                    gone = StreamLimits.of(event).before == _DELETED
                    (found.add if gone else found.discard)(name)
        yield from map(StreamKey, sorted(found))

    def late(self, filter: EventFilter) -> Iterator[LateBeginning]:
        """Those among the streams that a filter without its types wants. Of streams without any
        event for clients, only those that had some when this was first asked.
        """
        with self._lock:
            self._look()
            found = {name: each for name, each in self._found.items() if not each.empty}
            found |= self._emptied
        wanted = bulk.wanted_streams(filter)
        for name in sorted(found):
            if wanted(name):
                yield _late(name, found[name])

    def _look(self) -> None:
        """Look again, where a scavenge may have removed something since."""
        # The server would look through all of $all for the metadata of streams.
        if self._up_to is None and self._never():
            self._whole, self._looked = True, time.monotonic()
            return
        head, node = self._head(), self._target()
        first, scavenged = self._up_to is None, node != self._node
        knew = self._whole or not first
        if head is not None and head != self._up_to:
            for batch in self._raw(self._up_to, head, _NEWS):
                for event in batch.events:
                    scavenged |= self._note(event)
            if first or scavenged:
                found = self._remains(head)
                if knew:
                    self._emptied |= {
                        name: each
                        for name, each in found.items()
                        if each.empty and name not in self._found
                    }
                self._found = found
            self._up_to = head
        self._node, self._looked = node, time.monotonic()

    def _note(self, event: RecordedEvent) -> bool:
        """Keep what an event says; returns whether it tells of a scavenge."""
        name = event.stream
        if event.type in _SCAVENGES:
            return True
        if event.type == _METADATA and name.startswith("$$") and name[2:3] != "$":
            self._limits[name[2:]] = StreamLimits.of(event)
        elif event.type == _TOMBSTONE and not name.startswith("$"):
            self._tombstoned.add(name)
        return False

    def _remains(self, head: Position) -> dict[str, Remains]:
        # Others begin where they began: nothing but metadata and tombstones lets events go.
        seen = {name: _SeenOfStream(limits) for name, limits in self._limits.items()}
        seen |= {name: _SeenOfStream(StreamLimits()) for name in self._tombstoned - seen.keys()}
        if not seen:
            return {}
        # Links and events of the system have versions, too.
        server = bulk.of_streams(seen if len(seen) <= _NAMED else None)
        for batch in self._raw(None, head, WITH_ARCHIVED, server):
            for event in batch.events:
                known = seen.get(event.stream)
                # A tombstone has the highest version there is.
                if known is not None and event.type != _TOMBSTONE:
                    known.add(event)
        now = datetime.now(UTC)
        return {
            name: remains
            for name, each in seen.items()
            if (remains := each.remains(now, tombstoned=name in self._tombstoned)) is not None
        }


def _late(name: str, remains: Remains) -> LateBeginning:
    # Of a stream that a scavenge has emptied, the last event is the first that is left.
    below = remains.last if remains.empty else remains.floor
    key = StreamKey(name)
    return LateBeginning(key, below, remains.type, remains.limited, category_of(name))


def without(batches: Iterator[Batch], floors: Mapping[str, int]) -> Iterator[Batch]:
    """The batches, without what lies below the floors of streams."""
    for events, position in batches:
        yield Batch([e for e in events if e.version >= floors.get(e.stream, 0)], position)
