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
    trace_id_of,
)
from esops.stores.parts import SearchResult
from esops.stores.searching import IdSearch, SoughtIds

if TYPE_CHECKING:
    from esops.stores.base import EventStore

_ARCHIVED_TOO = EventFilter(archived=True)


class ScannedSearch(IdSearch):
    """Search by a scan of all events of a store."""

    def __init__(self, store: EventStore) -> None:
        """`store` is read from its beginning for each search."""
        self._store = store

    def find_ids(self, sought: SoughtIds) -> SearchResult:
        """By one read of the whole log."""
        events = self._store.count_between(None, self._store.head().position)
        how = f"a scan of all events, about {events:,}"
        return SearchResult(scan(self._store, sought), how, events)


def scan(store: EventStore, sought: SoughtIds) -> Iterator[RecordedEvent]:
    """The events of a store that have one of the ids, archived ones too."""
    by_convention = CORRELATION_KEYS if sought.kind == "correlation_id" else CAUSATION_KEYS
    keys = sought.keys or by_convention
    # Ids are UUIDs, which may be written in capitals; other ids are what the application says.
    lower = sought.kind == "event_id"
    wanted = {value.lower() for value in sought.values} if lower else set(sought.values)
    for batch in store.read_all(filter=_ARCHIVED_TOO):
        for event in batch.events:
            if _has_one(event, sought.kind, wanted, keys):
                yield event


def _has_one(event: RecordedEvent, kind: str, ids: Container[str], keys: Sequence[str]) -> bool:
    if kind == "event_id":
        return event.id.lower() in ids
    try:
        meta = event.meta()
    except orjson.JSONDecodeError:
        return False
    if any(str(meta[key]) in ids for key in keys if key in meta):
        return True
    return kind == "correlation_id" and trace_id_of(meta) in ids
