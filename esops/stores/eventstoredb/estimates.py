"""How many events a part of the log has, where they are too many to be counted: from how close they
lie in some places, as a range.

Bytes alone say little: events of one time are large, those of another small; the system's own lie
between; and after a scavenge positions leap to the next chunk of 256 MiB.
"""

from __future__ import annotations

import contextlib
from statistics import fmean
from typing import NamedTuple

from esops.errors import Refused, Unavailable
from esops.events import Position
from esops.stores.eventstoredb import bulk
from esops.stores.eventstoredb.connect import Link
from esops.stores.eventstoredb.listing import places
from esops.stores.parts import EVERYTHING

_ENDS, _PLACES, _EACH = 500, 12, 50
"""Events that are looked at from either end of the log, and places between with events of each."""
_UNKNOWN = 0.01
"""Events for each byte of a log in which too few were found."""


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
