"""How far a reader of a store is behind, in events and in seconds, measured in what it reads.

A reader of one category, stream, tenant or a few types is behind by events of these alone. A place
in a stream is compared with the end of that stream. What is not known is None, and never zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from esops.events import Checkpoint, EventFilter, Position, RecordedEvent
from esops.health.heads import beyond_all
from esops.moments import between
from esops.stores.base import EVERYTHING, EventStore, Head

COUNTED = 100_000
"""Events that are counted one by one; more are estimated."""
_LOOKED_AT = 100
"""Unread events of whose times the oldest counts: one alone may have any time, as of an import."""


class Lag(NamedTuple):
    """How many events a reader has not read, and the age of the oldest of these in seconds."""

    events: int | None
    seconds: float | None


UNKNOWN = Lag(None, None)


def lag_of(store: EventStore, reader: Checkpoint, head: Head, clock: datetime | None = None) -> Lag:
    """The lag of one of the application's processors; none of a row that is no processor's.

    `clock`: the time of the store's server, where that is known already.
    Raises EsopsError where the store cannot be asked, ValueError for a position of another form.
    """
    if reader.kind != "processor":
        return UNKNOWN
    if reader.in_stream is not None:
        return _in_stream(store, *reader.in_stream, clock)
    if reader.position is None and reader.evidence:
        return UNKNOWN
    filter = EventFilter(types=reader.types, category=reader.category, stream=reader.stream)
    return Lag(
        _events(store, reader, head.position, filter),
        seconds_behind(store, reader.position, head, filter, reader.tenant, clock),
    )


def seconds_behind(
    store: EventStore,
    position: Position | None,
    head: Head,
    filter: EventFilter = EVERYTHING,
    tenant: str = "",
    clock: datetime | None = None,
) -> float | None:
    """The age in seconds of the oldest of the next events after a position, by the clock of the
    store's server (`clock`, where that is known already): 0 where there is none, None where no time
    is known, or bounded. An event that is held back counts as well.
    """
    until = beyond_all(store) if head.held_back_by else head.position
    if until is None or (position is not None and position >= until):
        return 0.0
    # Batches without events come first where a filter of the store skips many.
    for batch in store.read_all(position, until, filter):
        own = [each for each in batch.events if not tenant or each.tenant == tenant]
        if own:
            return _age(store, islice(own, _LOOKED_AT), clock)
    return 0.0


def _events(
    store: EventStore, reader: Checkpoint, until: Position | None, filter: EventFilter
) -> int:
    after = reader.position
    if until is None or (after is not None and after >= until):
        return 0
    if filter.everything and not reader.tenant:
        return store.counts.between(after, until)
    counted = store.counts.passing(filter, until, COUNTED, after, reader.tenant)
    # An upper bound: a reader of a part that is as far behind as this is behind.
    return counted if counted < COUNTED else store.counts.between(after, until)


def _in_stream(store: EventStore, stream: str, read: int, clock: datetime | None) -> Lag:
    """Of a reader of a stream, with the version of the last event that it has read there."""
    info = store.stream_info(stream)
    if info is None or info.last_version <= read:
        return Lag(0, 0.0)
    unread = list(store.read_stream(stream, read, limit=_LOOKED_AT))
    missing = info.last_version - max(read, info.first_version - 1)
    return Lag(missing, _age(store, unread, clock) if unread else 0.0)


def _age(
    store: EventStore, events: Iterable[RecordedEvent], clock: datetime | None
) -> float | None:
    # Not by this machine's clock: the times are those of the server.
    now = clock or store.ping().clock
    ages = [between(store.times.appended_at(each), now) for each in events]
    known = [each.total_seconds() for each in ages if each is not None]
    return round(max(0.0, *known), 3) if known else None
