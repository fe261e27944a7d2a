"""Finding events by a look at every one, for stores that have no index for it."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING

import orjson

from esops.events import (
    CAUSATION_KEYS,
    CORRELATION_KEYS,
    EventFilter,
    RecordedEvent,
    asked_for,
    trace_id_of,
)
from esops.stores.parts import Ids, SearchResult

if TYPE_CHECKING:
    from esops.stores.base import EventStore

_ARCHIVED_TOO = EventFilter(archived=True)


class ScannedSearch:
    """Search by a scan of all events of a store."""

    def __init__(self, store: EventStore) -> None:
        """`store` is read from its beginning for each search."""
        self._store = store

    def find(
        self,
        *,
        event_id: Ids | None = None,
        correlation_id: Ids | None = None,
        causation_id: Ids | None = None,
        keys: Sequence[str] = (),
    ) -> SearchResult:
        """See Search."""
        which, values = asked_for(
            event_id=event_id, correlation_id=correlation_id, causation_id=causation_id
        )
        events = self._store.count_between(None, self._store.head().position)
        how = f"a scan of all events, about {events:,}"
        return SearchResult(scan(self._store, which, values, keys), how, events)


def scan(
    store: EventStore, which: str, values: Sequence[str], keys: Sequence[str] = ()
) -> Iterator[RecordedEvent]:
    """The events of a store that have one of the ids; `which` is `event_id`, `correlation_id` or
    `causation_id`.
    """
    keys = keys or (CORRELATION_KEYS if which == "correlation_id" else CAUSATION_KEYS)
    # Ids are UUIDs, which may be written in capitals; other ids are what the application says.
    wanted = {value.lower() for value in values} if which == "event_id" else set(values)
    for batch in store.read_all(filter=_ARCHIVED_TOO):
        for event in batch.events:
            if _has_one(event, which, wanted, keys):
                yield event


def _has_one(event: RecordedEvent, which: str, ids: Container[str], keys: Sequence[str]) -> bool:
    if which == "event_id":
        return event.id.lower() in ids
    try:
        meta = event.meta()
    except orjson.JSONDecodeError:
        return False
    if any(str(meta[key]) in ids for key in keys if key in meta):
        return True
    return which == "correlation_id" and trace_id_of(meta) in ids
