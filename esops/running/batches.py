"""How batches of events pass through the loop that applies them: in pieces, and without the garbage
collector.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

from esops.events import Position, RecordedEvent, last_position
from esops.stores.base import Batch


@contextlib.contextmanager
def collecting_at_commits() -> Iterator[None]:
    """Keep the cyclic garbage collector out of the loop.

    Events and rows make no cycles, and looking for cycles took a quarter of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def pieces(
    batch: Batch, size: Callable[[], int] | int | None
) -> Iterator[tuple[list[RecordedEvent], Position]]:
    """A batch in pieces of at most `size` events, each with the position up to which everything has
    been seen with it.

    A function is asked for the size before each piece.
    """
    events, seen = batch
    assert seen is not None
    start = 0
    while True:
        step = (size() if callable(size) else size) or len(events) or 1
        part = events[start : start + step] if start or len(events) > step else events
        start += step
        yield part, last_position(part) if start < len(events) else seen
        if start >= len(events):
            return
