"""Finding events on a node: by its own index of correlation ids, or by a scan of $all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from esops.events import asked_for
from esops.stores.parts import Ids, SearchResult
from esops.stores.scanning import scan

if TYPE_CHECKING:
    from esops.stores.eventstoredb.store import EventStoreDBStore

_BY_CORRELATION = "$by_correlation_id"


class NodeSearch:
    """Search of an EventStoreDB store."""

    def __init__(self, store: EventStoreDBStore) -> None:
        """Search this store."""
        self._store = store

    def find(
        self,
        *,
        event_id: Ids | None = None,
        correlation_id: Ids | None = None,
        causation_id: Ids | None = None,
        keys: Sequence[str] = (),
    ) -> SearchResult:
        """A correlation id from `$bc-…` where that projection runs; all else by a scan of $all."""
        which, values = asked_for(
            event_id=event_id, correlation_id=correlation_id, causation_id=causation_id
        )
        store, by_correlation = self._store, which == "correlation_id"
        if by_correlation and not keys and store.admin.projections.runs(_BY_CORRELATION):
            # The projection keeps a stream of links for each correlation id.
            streams = [f"$bc-{value}" for value in values]
            events = (event for stream in streams for event in store.read_stream(stream))
            how = "the stream" + "s" * (len(streams) > 1) + " " + ", ".join(streams[:3])
            return SearchResult(events, how)
        better = f"enable the projection {_BY_CORRELATION}" if by_correlation else ""
        count = store.count_between(None, store.head().position)
        how = f"a scan of $all, about {count:,} events"
        return SearchResult(scan(store, which, values, keys), how, count, better)
