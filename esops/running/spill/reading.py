"""Events from the file of a partition, in pieces of the size that a fold wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from esops.events import RecordedEvent

_MOST = 16_384
"""Events of a piece at most; they are in memory beside the rows."""


def in_pieces(
    frames: Iterable[list[RecordedEvent]], skip: int, most: Callable[[], int]
) -> Iterator[list[RecordedEvent]]:
    """The events after the first `skip`, in pieces of at most as many as `most` says before
    each.
    """
    waiting: list[RecordedEvent] = []
    for events in frames:
        if skip >= len(events):
            skip -= len(events)
            continue
        waiting += events[skip:] if skip else events
        skip = 0
        while len(waiting) >= (size := min(most(), _MOST)):
            yield waiting[:size]
            waiting = waiting[size:]
    while waiting:
        size = min(most(), _MOST)
        yield waiting[:size]
        waiting = waiting[size:]
