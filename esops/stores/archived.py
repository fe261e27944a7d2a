"""Which streams a store shows as archived, deleted or truncated: a part of every store.

How streams get there and back is another one (`store.archiving`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from esops.events import StreamKey
from esops.stores.parts import WITH_ARCHIVED

if TYPE_CHECKING:
    from esops.stores.base import EventStore


class ArchivedStreams:
    """By the mark that streams have in the store's list."""

    def __init__(self, store: EventStore) -> None:
        """Those of a store."""
        self._store = store

    def streams(self) -> Iterator[StreamKey]:
        """The streams that the store has marked as archived or deleted, or that are in its archive
        only; not those of which the name was used again.
        """
        again = set(self.used_again())
        for info in self._store.streams(WITH_ARCHIVED):
            if info.archived and info.key not in again:
                yield info.key

    def used_again(self, stream: str | None = None) -> list[StreamKey]:  # noqa: ARG002
        """The names that stand for an archived stream and, since they were used again, for another
        one whose versions begin again: all of them, or those of one name.
        """
        return []

    def first_readable(self) -> dict[StreamKey, int | None]:
        """The first version that clients can read of each stream that was truncated or deleted,
        though all of its events are read with those of the store; None where they can read none.
        """
        return {}
