"""The categories of the streams of events that are read one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from esops.events import RecordedEvent, StreamKey

if TYPE_CHECKING:
    from esops.stores.base import EventStore

_MOST = 200_000
"""Streams whose categories are held in memory at once."""


class StreamCategories:
    """Asks a store once for those of each batch, since a stream's name need not tell."""

    def __init__(self, store: EventStore) -> None:
        """Nothing is known yet."""
        self._store = store
        self._known: dict[StreamKey, str | None] = {}

    def learn(self, events: Sequence[RecordedEvent]) -> None:
        """Find out those of some events, before `of` is asked for them."""
        unknown = {StreamKey(event.stream, event.tenant) for event in events} - self._known.keys()
        if not unknown:
            return
        if len(self._known) + len(unknown) > _MOST:
            self._known.clear()
            unknown = {StreamKey(event.stream, event.tenant) for event in events}
        self._known.update(self._store.many_streams.categories_of(unknown))

    def of(self, event: RecordedEvent) -> str | None:
        """The category of an event's stream."""
        return self._known[StreamKey(event.stream, event.tenant)]
