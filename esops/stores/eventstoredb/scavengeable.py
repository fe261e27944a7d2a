"""What a scavenge of a node would remove: the events that were truncated, deleted or grew too old,
whoever did that, and are still in $all.

Facts: $all shows such events until a scavenge; the last event of a stream stays on disk, except
where the stream was tombstoned. The server's own streams are not counted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from esops.events import EventFilter, StreamKey
from esops.stores.eventstoredb.lookup import SOFT_DELETED
from esops.stores.eventstoredb.scavenged import StreamLimits
from esops.stores.parts import WITH_ARCHIVED, Scavengeable

if TYPE_CHECKING:
    from esops.stores.base import EventStore
    from esops.stores.eventstoredb.store import EventStoreDBStore

_LIMITED = EventFilter(types=("$metadata", "$streamDeleted"))


@dataclass
class _Dead:
    """What is known of a stream that has limits or was deleted."""

    first: int | None
    """The first version that can be read; None: none can."""
    kept: bool
    """Whether the last event stays on disk all the same."""
    events: int = 0
    bytes: int = 0
    last: int = 0
    """The bytes of its last event so far, where that is dead."""

    def add(self, version: int, size: int) -> None:
        if self.first is None or version < self.first:
            self.events += 1
            self.bytes += size
            self.last = size

    def goes(self) -> tuple[int, int]:
        """Events and bytes of it that a scavenge removes."""
        if self.first is None and self.kept and self.events:
            return self.events - 1, self.bytes - self.last
        return self.events, self.bytes


def first_readable(store: EventStore) -> dict[StreamKey, int | None]:
    """The first version that clients can read of each truncated or deleted stream; None: none."""
    found: dict[StreamKey, int | None] = {}
    for batch in store.read_all(filter=_LIMITED):
        for event in batch.events:
            key = StreamKey(event.stream.removeprefix("$$"))
            if event.type == "$streamDeleted":
                found[key] = None
            elif before := StreamLimits.of(event).before:
                found[key] = None if before == SOFT_DELETED else before
            else:
                found.pop(key, None)
    return found


def scavengeable(store: EventStoreDBStore, patience: timedelta) -> Scavengeable:
    """Read $all for what a scavenge would remove, for at most so long."""
    deadline, complete = time.monotonic() + patience.total_seconds(), True
    names: set[str] = set()
    for batch in store.read_all(filter=_LIMITED):
        names |= {each.stream.removeprefix("$$") for each in batch.events}
        if time.monotonic() > deadline:
            complete = False
            break
    found: dict[str, _Dead] = {}
    for name in sorted(each for each in names if not each.startswith("$")):
        if time.monotonic() > deadline:
            complete = False
            break
        info = store.stream_info(name)
        if info is not None:
            readable = bool(info.length) and not info.deleted
            found[name] = _Dead(
                info.first_version if readable else None, info.deleted != "tombstone"
            )
    for batch in store.read_all(filter=WITH_ARCHIVED) if found else ():
        for event in batch.events:
            dead = found.get(event.stream)
            if dead is not None:
                dead.add(event.version, len(event.data) + len(event.metadata))
        if time.monotonic() > deadline:
            complete = False
            break
    gone = [each.goes() for each in found.values()]
    return Scavengeable(
        streams=sum(events > 0 for events, _ in gone),
        events=sum(events for events, _ in gone),
        bytes=sum(size for _, size in gone),
        complete=complete,
    )
