"""The streams of a node that were truncated, deleted or scavenged, as parts of its store.

By what $all has of them, which is what a rebuild reads: what was truncated or deleted is there
until a scavenge.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from esops.events import EventFilter, StreamKey
from esops.stores.archived import ArchivedStreams
from esops.stores.archiving import LateBeginning
from esops.stores.eventstoredb import scavengeable
from esops.stores.eventstoredb.scavenged import Scavenged
from esops.stores.losses import StreamLosses
from esops.stores.parts import WITH_ARCHIVED

if TYPE_CHECKING:
    from esops.stores.eventstoredb.store import EventStoreDBStore


class NodeLosses(StreamLosses):
    """StreamLosses of a node: what scavenges have left."""

    def __init__(self, store: EventStoreDBStore, scavenged: Scavenged) -> None:
        """`scavenged` is what the store knows of its scavenges."""
        super().__init__(store)
        self._scavenged = scavenged

    def late_beginnings(self, filter: EventFilter = WITH_ARCHIVED) -> Iterator[LateBeginning]:
        """Those that a scavenge has made late."""
        return self._scavenged.late(filter)


class NodeArchived(ArchivedStreams):
    """ArchivedStreams of a node."""

    def __init__(self, store: EventStoreDBStore, scavenged: Scavenged) -> None:
        """`scavenged` is what the store knows of its scavenges."""
        super().__init__(store)
        self._scavenged = scavenged

    def streams(self) -> Iterator[StreamKey]:
        """Those that were deleted or tombstoned: their events are in $all until a scavenge."""
        return self._scavenged.deleted()

    def first_readable(self) -> dict[StreamKey, int | None]:
        """By the metadata of streams in $all; not regarding `$maxCount` and `$maxAge`."""
        return scavengeable.first_readable(self._store)
