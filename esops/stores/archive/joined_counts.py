"""How many events a store and its archive have together: what a run has kept, or what was restored,
is in both and counts once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from esops.events import EventFilter, Position
from esops.stores.archive.archived_away import lacking
from esops.stores.archive.store import ArchiveStore
from esops.stores.counts import EventCounts

if TYPE_CHECKING:
    from esops.stores.archive.joined import JoinedStore

_SAMPLE = 2_000
"""Streams."""


class JoinedCounts(EventCounts):
    """EventCounts of a store and its archive."""

    def __init__(self, store: JoinedStore) -> None:
        """`renewed` of the store gives the archive as it is now."""
        super().__init__(store)
        self._hot, self._renewed = store.hot, store.renewed
        self._share: tuple[ArchiveStore, float] | None = None

    def bounds(self, after: Position | None, until: Position | None) -> tuple[int, int]:
        """The hot store's, and what it lacks of the archive's."""
        low, high = self._hot.counts.bounds(after, until)
        likely, more = self._hot.counts.between(after, until), self.between(after, until)
        return max(0, low + more - likely), high + more - likely

    def between(self, after: Position | None, until: Position | None) -> int:
        """The hot store's, and what it lacks of the archive's: an estimate."""
        hot = self._hot.counts.between(after, until)
        archived = self._renewed()
        cold = archived.counts.between(after, until)
        if until is None or not cold:
            return hot
        both = hot + math.ceil(cold * self._share_removed(archived))
        if len(until) > 1:
            return both
        # The hot store may have counted numbers, and then it has counted removed events, too.
        return max(hot, min(both, until[0] - (after[0] if after is not None else 0)))

    def _share_removed(self, archived: ArchiveStore) -> float:
        """Which part of the archived events the hot store lacks, as far as a sample of them
        tells.
        """
        if self._share is None or self._share[0] is not archived:
            found = lacking(archived.runs, self._hot, at_most=_SAMPLE)
            self._share = archived, found.events / max(found.looked_at, 1)
        return self._share[1]

    def passing(
        self,
        filter: EventFilter,
        until: Position | None,
        at_most: int,
        after: Position | None = None,
        tenant: str = "",
    ) -> int:
        """The hot store's where that is enough: then no file of the archive is read."""
        hot = self._hot.counts.passing(filter, until, at_most, after, tenant)
        return hot if hot >= at_most else super().passing(filter, until, at_most, after, tenant)
