"""Whether a load that has filled its memory should spill.

Where streams live briefly, one after the other, the keys that are forgotten never come back: their
rows are written once, and a spill would only write and read all events once more. Where keys come
back, each of them costs a read of its row, and a second write of it.
"""

from __future__ import annotations

from itertools import islice

import psycopg

from esops.events import RecordedEvent
from esops.projections.kinds.fold import Fold
from esops.projections.projector import Projector, VersionTables
from esops.readmodel.registry import Version
from esops.readmodel.rows import BadEvent
from esops.running.spill.keys import LEAST, partitions_for

_WORTH = 0.1
"""The part of the events, from which on a spill is faster, whose rows would be read again."""
_ONCE = 2
"""Keys that have had fewer events than this, on average, are taken for keys that come back."""
_REST = 4
"""A spill begins only where at least as many events are left as this part of those in memory."""


class RowsInMemory:
    """What a fold has kept in memory since it was opened."""

    def __init__(self, projector: Projector | None, tables: VersionTables, events: int) -> None:
        """`events`: how many this process had applied when the fold was opened."""
        self._cache, self._whole = tables.cache, tables.empty
        self._opened = self._since = events
        self._fetched = 0
        self._fold = projector if isinstance(projector, Fold) else None
        self.partitions = LEAST
        """How many partitions a spill should have."""

    def committed(self, events: int, version: Version) -> int:
        """How many events of the load are committed, where this process has committed `events`."""
        return version.events + events - self._opened

    def forgets_too_much(
        self,
        latest: list[RecordedEvent],
        events: int,
        left: int,
        connection: psycopg.Connection,
    ) -> bool:
        """Whether a full fold should spill, since keys that it is about to forget come back.

        `latest` are the events that it applied last, `events` how many this process has applied,
        `left` how many are still to come.
        """
        fold, here = self._fold, events - self._since
        if fold is None or here <= 0 or left * _REST < here:
            return False
        fetched = fold.fetched - self._fetched
        if self._whole:
            found = here < _ONCE * len(fold.kept) or _comes_back(fold, latest, connection)
        else:
            found = fetched > _WORTH * here
        self.partitions = partitions_for(self._cache * (here + left) // here, self._cache)
        self._whole, self._since, self._fetched = False, events, fold.fetched
        return found


def _comes_back(fold: Fold, latest: list[RecordedEvent], connection: psycopg.Connection) -> bool:
    """Whether the last events were of keys from long ago, and not always of the same ones."""
    try:
        keys, _ = fold.keys(latest, connection)
    except BadEvent:  # one of them is skipped
        return False
    half = len(keys) // 2
    # A dict keeps the order in which keys came.
    old = set(islice(fold.kept, len(fold.kept) // 2))
    again = old.intersection(keys[half:]).difference(keys[:half])
    return len(again) > _WORTH * (len(keys) - half)
