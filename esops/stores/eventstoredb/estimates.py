"""How many events a part of the log has: counted while they are few, else estimated from how close
they lie in some places, as a range.

Bytes alone say little: events of one time are large, those of another small; the system's own lie
between; and after a scavenge positions leap to the next chunk of 256 MiB.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from statistics import fmean
from typing import NamedTuple, Protocol

from esops.errors import Refused, Unavailable
from esops.events import EventFilter, Position
from esops.stores.base import EVERYTHING, Batch, EventStore, at_most
from esops.stores.counts import EventCounts
from esops.stores.eventstoredb import bulk
from esops.stores.eventstoredb.connect import Link
from esops.stores.eventstoredb.listing import places

_ENDS, _PLACES, _EACH = 500, 12, 50
"""Events that are looked at from either end of the log, and places between with events of each."""
_UNKNOWN = 0.01
"""Events for each byte of a log in which too few were found."""
_FEW = 10_000
"""Events that are counted one by one."""


class _Twice(Protocol):
    def __call__(self, ask: Callable[[Link], Closeness], what: str) -> Closeness: ...


class Closeness(NamedTuple):
    """How many events there are for each byte of the log: where they are fewest, on average over
    the places that were looked at, and where they are most.
    """

    low: float
    mean: float
    high: float


def closeness(link: Link, end: Position) -> Closeness:
    """Of a log up to a position, by short reads in some places of it."""
    found: list[float] = []
    filter = bulk.server_filter(EVERYTHING)

    def look(begin: Position | None, limit: int, *, backwards: bool = False) -> None:
        request = bulk.read_all_request(begin, backwards=backwards, limit=limit, filter=filter)
        # Most places are none where a record begins, which servers take in complete chunks alone.
        with contextlib.suppress(Refused, Unavailable):
            events = bulk.first(link, request, "read $all") or []
            if len(events) > 1:
                low = 0 if begin is None else begin[0]
                low, high = (
                    (events[-1].position[0], end[0]) if backwards else (low, events[-1].position[0])
                )
                found.append(len(events) / max(1, high - low))

    look(None, _ENDS)
    look(None, _ENDS, backwards=True)
    for part in range(1, _PLACES):
        place = end[0] * part // _PLACES
        look(Position((place, place)), _EACH)
    for each in places(link):
        look(each, _EACH)
    if not found:
        return Closeness(_UNKNOWN, _UNKNOWN, _UNKNOWN)
    return Closeness(min(found), fmean(found), max(found))


class NodeCounts(EventCounts):
    """EventCounts of a node."""

    def __init__(
        self,
        store: EventStore,
        between: Callable[[Position | None, Position, EventFilter], Iterator[Batch]],
        twice: _Twice,
    ) -> None:
        """`between` reads $all as it is; `twice` asks a node, and once more where a connection is
        gone.
        """
        super().__init__(store)
        self._read, self._twice = between, twice
        self._closeness: Closeness | None = None

    def between(self, after: Position | None, until: Position | None) -> int:
        """Counted while they are few; else estimated from how close events lie in some places."""
        return self._about(after, until)[1]

    def bounds(self, after: Position | None, until: Position | None) -> tuple[int, int]:
        """From the places where events lie closest and least close."""
        low, _, high = self._about(after, until)
        return low, high

    def _about(self, after: Position | None, until: Position | None) -> tuple[int, int, int]:
        """How many events there are at least, about, and at most."""
        if until is None or (after is not None and after >= until):
            return 0, 0, 0
        # Bytes tell nothing of a few: after a scavenge positions continue at the next 256 MiB.
        some = at_most(_FEW, self._read(after, until, EVERYTHING))
        counted = sum(len(batch.events) for batch in some)
        if counted < _FEW:
            return counted, counted, counted
        if self._closeness is None:
            end = self._store.head().position or until
            self._closeness = self._twice(lambda link: closeness(link, end), "read $all")
        between = until[0] - (after[0] if after else 0)
        low, mean, high = (max(counted, round(between * each)) for each in self._closeness)
        return low, mean, high
