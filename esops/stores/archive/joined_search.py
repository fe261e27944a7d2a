"""Finding events by ids in a store and its archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, dropwhile

from esops.events import Position, RecordedEvent
from esops.stores.archive.cold import ColdPart
from esops.stores.archive.in_step import Cold, in_step, pages_of, place
from esops.stores.parts import Search, SearchResult
from esops.stores.positions import each_once
from esops.stores.searching import IdSearch, SoughtIds, search_for


class JoinedSearch(IdSearch):
    """Search of a store and its archive."""

    def __init__(self, hot: Search, cold: ColdPart) -> None:
        """`hot` is the search of the hot store."""
        self._hot, self._cold = hot, cold

    def once(self) -> Search:
        """The hot store's log is read once; an archive's files answer in SQL."""
        once = getattr(self._hot, "once", None)
        return self if once is None else JoinedSearch(once(), self._cold)

    def not_events(self, ids: Sequence[str]) -> set[str]:
        """What the hot store keeps beside its events; an archive has events only."""
        asked = getattr(self._hot, "not_events", None)
        return set() if asked is None else set(asked(ids))

    def find_ids(self, sought: SoughtIds) -> SearchResult:
        """Search each store in its own way; the results are merged by position."""
        hot = search_for(self._hot, sought)
        self._cold.renew()
        cold = search_for(self._cold.store.search, sought)

        def archived(reached: Position | None) -> Iterator[RecordedEvent]:
            if reached is None:
                return cold.events
            events = search_for(self._cold.store.search, sought).events
            return dropwhile(lambda event: event.position <= reached, events)

        merged = in_step(pages_of(hot.events, place), Cold(archived, self._cold.renew), place)
        scans = (
            None
            if hot.scans is None and cold.scans is None
            else (hot.scans or 0) + (cold.scans or 0)
        )
        return SearchResult(
            chain.from_iterable(each_once(merged)), f"{hot.how}; {cold.how}", scans, hot.remedy
        )
