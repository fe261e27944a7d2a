"""The events of a store and of its archive as one, from the newest back.

As in in_step.py, a page of the store comes first, and the archive is asked for what lies beside it
after that: what had left the store before the page was read is in a run that is sealed by then.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from esops.events import Position, RecordedEvent
from esops.stores.base import Batch
from esops.stores.positions import each_once

_AT_ONCE = 1_000
Down = Callable[[Position | None, Position | None], Iterator[RecordedEvent]]
"""Gives the archive's events up to one position (None: all) and after another, newest first."""


def downwards(
    hot: Iterable[Batch], archived: Down, until: Position | None, after: Position | None
) -> Iterator[RecordedEvent]:
    """The events up to one position and after another, each once; of one that both have, the
    store's.
    """
    return chain.from_iterable(each_once(_merged(hot, archived, until, after)))


def _merged(
    hot: Iterable[Batch], archived: Down, until: Position | None, after: Position | None
) -> Iterator[RecordedEvent]:
    reached, given = until, False
    for events, end in hot:
        if end is None:
            continue
        beside = archived(reached, end)
        yield from heapq.merge(events, _beyond(beside, reached, given), key=_place, reverse=True)
        reached, given = end, True
    yield from _beyond(archived(reached, after), reached, given)


def _beyond(
    events: Iterator[RecordedEvent], reached: Position | None, given: bool
) -> Iterator[RecordedEvent]:
    """Without what lies at the end of the page before, if there was one: it has been given."""
    if not given:
        return events
    return (event for event in events if reached is None or event.position < reached)


def _place(event: RecordedEvent) -> Position:
    return event.position


def batches_of(events: Iterator[RecordedEvent], limit: int | None) -> Iterator[Batch]:
    """Events as batches."""
    page: list[RecordedEvent] = []
    for event in events:
        page.append(event)
        if len(page) >= min(_AT_ONCE, limit or _AT_ONCE):
            yield Batch(page, page[-1].position)
            page = []
    if page:
        yield Batch(page, page[-1].position)
