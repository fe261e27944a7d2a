"""The events of a store and of its archive as one, while an archive run moves them from the one to
the other.

A page of the store comes first. Then the archive is asked for its runs, and for the events up to
the end of that page: what had left the store before the page was read is in a run that is sealed
by then. So each page is complete when it is given out, however long the whole read takes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from esops.events import Position, RecordedEvent

Place = TypeVar("Place")
_AT_ONCE = 1_000


@dataclass(frozen=True)
class Cold(Generic[Place]):
    """The archive's part of a read."""

    after: Callable[[Place | None], Iterator[RecordedEvent]]
    """Its events that lie behind a place, or at it; None for all that are wanted."""
    renew: Callable[[], bool]
    """Takes in new runs, and says whether there are any."""


def pages_of(
    events: Iterator[RecordedEvent], place: Callable[[RecordedEvent], Place]
) -> Iterator[tuple[Sequence[RecordedEvent], Place]]:
    """Single events as pages, each with the place of its last event."""
    while page := list(islice(events, _AT_ONCE)):
        yield page, place(page[-1])


def in_step(
    pages: Iterable[tuple[Sequence[RecordedEvent], Place | None]],
    cold: Cold[Place],
    place: Callable[[RecordedEvent], Place],
    *,
    backwards: bool = False,
) -> Iterator[RecordedEvent]:
    """The events of a store's pages and those of its archive by their place; what both have comes
    twice, the store's first, and what was just given may come again.

    A page goes with the place up to which the store has been read.
    """
    reached: Place | None = None
    ahead = _Ahead(cold.after(None), place, backwards)
    for page, end in pages:
        if cold.renew():
            ahead = _Ahead(cold.after(reached), place, backwards)
        if end is None:
            continue
        yield from heapq.merge(page, ahead.up_to(end), key=place, reverse=backwards)  # type: ignore[arg-type]
        reached = end
    # What lay behind the last page may have left before it was asked for.
    if cold.renew():
        ahead = _Ahead(cold.after(reached), place, backwards)
    yield from ahead.rest()


class _Ahead(Generic[Place]):
    """Events that are taken up to one place after the other."""

    def __init__(
        self,
        events: Iterator[RecordedEvent],
        place: Callable[[RecordedEvent], Place],
        backwards: bool,
    ) -> None:
        self._events, self._place, self._backwards = events, place, backwards
        self._next: RecordedEvent | None = None

    def up_to(self, end: Place) -> Iterator[RecordedEvent]:
        while (event := self._next or next(self._events, None)) is not None:
            self._next = event
            here = self._place(event)
            if here < end if self._backwards else here > end:  # type: ignore[operator]
                return
            self._next = None
            yield event

    def rest(self) -> Iterator[RecordedEvent]:
        if self._next is not None:
            yield self._next
        yield from self._events


def place(event: RecordedEvent) -> Position:
    """What events of a log are ordered by."""
    return event.position


def version_of(event: RecordedEvent) -> int:
    """What events of a stream are ordered by."""
    return event.version
