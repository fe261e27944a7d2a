"""How batches of events pass through the loop that applies them: in pieces, and without the garbage
collector.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from esops.events import Position, RecordedEvent
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


def pieces(batch: Batch, size: int | None) -> Iterator[tuple[list[RecordedEvent], Position]]:
    """A batch in pieces of at most `size` events, each with the position up to which everything has
    been seen with it.
    """
    events, seen = batch
    assert seen is not None
    step = size or len(events) or 1
    for start in range(0, max(1, len(events)), step):
        part = events[start : start + step] if len(events) > step else events
        yield part, part[-1].position if start + step < len(events) else seen
