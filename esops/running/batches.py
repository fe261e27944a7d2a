"""How batches of events pass through the loop that applies them: in pieces, and without the garbage
collector.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from esops.events import Position, RecordedEvent, last_position, position_of, whole
from esops.stores.base import Batch

_COLLECT_AFTER, _COLLECT_SELDOM = 500_000, 8_000_000
"""How many events are applied between two runs of the cyclic garbage collector: where it finds many
objects, and where it finds none again and again.
"""
_MANY = 10_000


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Keep the cyclic garbage collector out of the loop, which calls it itself (Collector).

    Events and rows make no cycles, and looking for cycles took a quarter of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    _leave_out_modules()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@cache
def _leave_out_modules() -> None:
    """Once: what is there when work begins are modules, and looking through them takes 0.03 s."""
    gc.freeze()


class Collector:
    """Runs the cyclic garbage collector now and then: user code may make cycles, and without any
    collection they would pile up.
    """

    def __init__(self) -> None:
        """Nothing was applied yet."""
        self._events, self._after = 0, _COLLECT_AFTER

    def applied(self, events: int) -> None:
        """Count more events that were applied. Collects where that is due."""
        self._events += events
        if self._events < self._after:
            return
        self._events = 0
        # Looking through all rows that are in memory takes its time, and most code makes no cycles.
        found = gc.collect()
        self._after = _COLLECT_AFTER if found >= _MANY else min(self._after * 2, _COLLECT_SELDOM)


def pieces(
    batch: Batch, size: Callable[[], int] | int | None
) -> Iterator[tuple[list[RecordedEvent], Position]]:
    """A batch in pieces of at most `size` events, each with the position up to which everything has
    been seen with it: so one is larger where its last events share their position with more.

    A function is asked for the size before each piece.
    """
    events, seen = batch
    assert seen is not None
    start = 0
    while True:
        step = (size() if callable(size) else size) or len(events) or 1
        end = whole(events, start + step)
        part = events[start:end] if start or len(events) > end else events
        start = end
        yield part, last_position(part) if start < len(events) else seen
        if start >= len(events):
            return


def of_one_position(events: Sequence[RecordedEvent], number: int) -> bool:
    """Whether a piece has all `number` events since the last commit, and they share one position:
    then there is no smaller commit.
    """
    return len(events) == number and position_of(events[0]) == position_of(events[-1])
