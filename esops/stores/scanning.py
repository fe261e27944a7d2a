"""Finding events by a look at every one, for stores that have no index for it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING

import orjson

from esops.causality import (
    CAUSATION_KEYS,
    CAUSATION_STREAM,
    CORRELATION_KEYS,
    trace_id,
    traces_of,
)
from esops.events import EventFilter, RecordedEvent
from esops.stores.parts import SearchResult
from esops.stores.searching import IdSearch, SoughtIds

if TYPE_CHECKING:
    from esops.stores.base import EventStore
    from esops.stores.scanned_once import KnownIds

_ARCHIVED_TOO = EventFilter(archived=True)


class ScannedSearch(IdSearch):
    """Search by a scan of all events of a store."""

    def __init__(self, store: EventStore, known: KnownIds | None = None) -> None:
        """`store` is read from its beginning for each search, unless `known` keeps its ids."""
        self._store, self._known = store, known

    def once(self) -> ScannedSearch:
        """One that reads the log once for all its searches."""
        from esops.stores.scanned_once import KnownIds

        return ScannedSearch(self._store, KnownIds(self._store))

    def find_ids(self, sought: SoughtIds) -> SearchResult:
        """By one read of the whole log."""
        return scanned(self._store, sought, "all events", known=self._known)


def scanned(
    store: EventStore,
    sought: SoughtIds,
    what: str,
    *,
    remedy: str = "",
    known: KnownIds | None = None,
) -> SearchResult:
    """The result of a scan of `what`; where `known` has read it already, it costs no scan."""
    if known is not None and known.read:
        return SearchResult(known.find(sought), f"a scan of {what}, for all searches")
    events = store.counts.between(None, store.head().position)
    found = scan(store, sought) if known is None else known.find(sought)
    return SearchResult(found, f"a scan of {what}, about {events:,} events", events, remedy)


def scan(store: EventStore, sought: SoughtIds) -> Iterator[RecordedEvent]:
    """The events of a store that have one of the ids, archived ones too."""
    wanted = has_one_of(sought)
    for batch in store.read_all(filter=_ARCHIVED_TOO):
        for event in batch.events:
            if wanted(event):
                yield event.detached()  # whoever searches keeps what is found


def has_one_of(sought: SoughtIds) -> Callable[[RecordedEvent], bool]:
    """A function of an event that says whether it has one of the ids."""
    if sought.kind == "trace_id":
        traces = {trace_id(value) for value in sought.asked}
        return lambda event: not traces.isdisjoint(_traces(event, sought.keys))
    by_correlation = sought.kind == "correlation_id"
    keys = sought.keys or (
        CORRELATION_KEYS if by_correlation else (*CAUSATION_KEYS, CAUSATION_STREAM)
    )
    # Ids are UUIDs, which may be written in capitals; other ids are what the application says.
    lower = sought.kind == "event_id"
    wanted = {value.lower() for value in sought.values} if lower else set(sought.values)
    return lambda event: _has_one(event, sought.kind, wanted, keys)


def _has_one(event: RecordedEvent, kind: str, ids: Container[str], keys: Sequence[str]) -> bool:
    if kind == "event_id":
        return event.id.lower() in ids
    try:
        meta = event.meta()
    except orjson.JSONDecodeError:
        return False
    return any(str(meta[key]) in ids for key in keys if key in meta)


def _traces(event: RecordedEvent, keys: Sequence[str]) -> set[str | None]:
    try:
        meta = event.meta()
    except orjson.JSONDecodeError:
        return set()
    correlations = {trace_id(str(meta[key])) for key in CORRELATION_KEYS if key in meta}
    return (correlations - {None}) | traces_of(meta, keys)
