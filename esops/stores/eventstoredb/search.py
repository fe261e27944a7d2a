"""Finding events on a node: by its own index of correlation ids, or by a scan of $all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esops.stores.parts import SearchResult
from esops.stores.scanned_once import KnownIds
from esops.stores.scanning import scanned
from esops.stores.searching import IdSearch, SoughtIds

if TYPE_CHECKING:
    from esops.stores.eventstoredb.store import EventStoreDBStore

_BY_CORRELATION = "$by_correlation_id"


class NodeSearch(IdSearch):
    """Search of an EventStoreDB store."""

    def __init__(self, store: EventStoreDBStore, known: KnownIds | None = None) -> None:
        """Search this store; `known` keeps the ids of its events."""
        self._store, self._known = store, known

    def once(self) -> NodeSearch:
        """One that reads $all once for all its searches."""
        return NodeSearch(self._store, KnownIds(self._store))

    def find_ids(self, sought: SoughtIds) -> SearchResult:
        """A correlation id from `$bc-…` where that projection runs; all else by a scan of $all."""
        store, by_correlation = self._store, sought.kind == "correlation_id"
        if by_correlation and not sought.keys and store.admin.projections.runs(_BY_CORRELATION):
            # The projection keeps a stream of links for each correlation id.
            events = (
                event for value in sought.values for event in store.read_stream(f"$bc-{value}")
            )
            streams = [f"$bc-{value}" for value in sought.asked]
            how = "the stream" + "s" * (len(streams) > 1) + " " + ", ".join(streams[:3])
            return SearchResult(events, how)
        better = f"enable the projection {_BY_CORRELATION}" if by_correlation else ""
        return scanned(store, sought, "$all", remedy=better, known=self._known)
