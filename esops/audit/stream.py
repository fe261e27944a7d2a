"""`esops audit stream`: one stream, read from its first event to its last."""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import orjson

from esops.archive_format.snapshots import is_snapshot
from esops.errors import UsageError
from esops.events import RecordedEvent, StreamKey
from esops.moments import Moment, between
from esops.stores.base import EventStore
from esops.stores.filters import no_stream

_BURST = timedelta(seconds=1)
COMPETING = timedelta(milliseconds=100)
"""Two commands that write this soon after each other have both loaded the stream before, as a rule,
and one of them may have had to retry.
"""
_LARGEST = 5
_TENANTS = 10
"""Tenants that an error names."""
_MOST_GAPS = 20
_SHORT = 50
"""Events: a stream this short needs no advice."""
_TRACED = 100_000
"""How many events are kept, by type, to look for a cycle."""
_PERIODS = (
    ("hour", "%Y-%m-%d %H"),
    ("day", "%Y-%m-%d"),
    ("week", "%G-W%V"),
    ("month", "%Y-%m"),
    ("year", "%Y"),
)


@dataclass
class TypeInStream:
    """One type of event in a stream."""

    events: int = 0
    bytes: int = 0
    first_version: int = 0
    last_version: int = 0
    first_at: Moment | None = None
    last_at: Moment | None = None


@dataclass
class StreamAudit:
    """What is in one stream."""

    stream: str
    category: str | None
    tenant: str = ""
    length: int = 0
    commands: int | None = None
    """How many commands lie beside the events; None where the store keeps none."""
    first_version: int = 0
    last_version: int = 0
    first_at: Moment | None = None
    last_at: Moment | None = None
    bytes: int = 0
    closed: bool | None = None
    seconds_to_load: float = 0.0
    types: dict[str, TypeInStream] = field(default_factory=dict)
    months: dict[str, int] = field(default_factory=dict)
    largest: list[tuple[int, int, str]] = field(default_factory=list)
    """Bytes, version and type of the largest payloads."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """For each gap: the version before it, and the next one that exists."""
    busiest: tuple[int, datetime | None] = (0, None)
    """The most events within a second, and when they began."""
    same_instant: int = 0
    """Events recorded at exactly the same time as their predecessor."""
    competing: int = 0
    """How often an event came within COMPETING of its predecessor with another correlation id."""
    backwards: int = 0
    """Events recorded earlier than their predecessor."""
    lost: int = 0
    """How many events are gone before the first one that is still there."""
    suggestion: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The audit under the documented field names."""
        return {
            "stream": self.stream,
            **({"tenant": self.tenant} if self.tenant else {}),
            "category": self.category,
            "length": self.length,
            "commands": self.commands,
            "first_version": self.first_version,
            "last_version": self.last_version,
            "first_at": self.first_at,
            "last_at": self.last_at,
            "bytes": self.bytes,
            "closed": self.closed,
            "seconds_to_load": round(self.seconds_to_load, 4),
            "types": [
                {"type": name, **vars(each)}
                for name, each in sorted(self.types.items(), key=lambda it: -it[1].events)
            ],
            "months": [{"month": month, "events": events} for month, events in self.months.items()],
            "largest": [
                {"bytes": size, "version": version, "type": kind}
                for size, version, kind in self.largest
            ],
            "gaps": [{"after": low, "next": high} for low, high in self.gaps],
            "busiest_second": {"events": self.busiest[0], "at": self.busiest[1]},
            "same_instant": self.same_instant,
            "competing_writers": self.competing,
            "clock_backwards": self.backwards,
            "lost_before": self.lost,
            "suggestion": self.suggestion,
        }


def audit_stream(store: EventStore, name: str, closed_by: Iterable[str] = ()) -> StreamAudit:
    """Read a stream. Memory does not grow with its length.

    `closed_by`: the event types that close a stream. Raises NoStream where it has no event, and
    UsageError where several tenants have a stream of that name.
    """
    found = StreamAudit(name, None)
    periods: dict[str, Counter[str]] = {period: Counter() for period, _ in _PERIODS}
    window: deque[datetime] = deque()
    order: list[str] = []
    previous: RecordedEvent | None = None
    previous_at: Moment | None = None
    deque(store.read_stream(name, limit=1), 0)  # connects, so that only reading is timed
    began = time.perf_counter()
    for event in store.read_stream(name):
        at = event.moment
        size = len(event.data) + len(event.metadata)
        _count(found, event, at, size)
        if previous is not None and event.tenant != previous.tenant:
            raise _several(store, name)
        if (
            previous is not None
            and event.version > previous.version + 1
            and len(found.gaps) < _MOST_GAPS
        ):
            found.gaps.append((previous.version, event.version))
        # Of an unbounded time nothing follows.
        if (since := between(previous_at, at)) is not None:
            found.same_instant += not since
            found.backwards += since < timedelta(0)
            found.competing += since < COMPETING and _from_different_commands(previous, event)
        if isinstance(at, datetime):
            for period, form in _PERIODS:
                periods[period][at.strftime(form)] += 1
            # The times of the last second, from which the oldest drop out.
            while window and at - window[0] >= _BURST:
                window.popleft()
            window.append(at)
            if len(window) > found.busiest[0]:
                found.busiest = (len(window), window[0])
        if len(order) < _TRACED:
            order.append(event.type)
        # A snapshot was recorded when it took the place of older events.
        previous, previous_at = event, None if is_snapshot(event.type) else at
    if previous is None:
        raise no_stream(store, name)
    found.seconds_to_load = time.perf_counter() - began
    found.lost = found.first_version - store.capabilities.first_version
    found.tenant, found.last_version = previous.tenant, previous.version
    key = StreamKey(name, previous.tenant)
    found.category = store.many_streams.categories_of([key])[key]
    info = store.stream_info(name)
    found.commands = None if info is None else info.commands
    closing = set(closed_by)
    found.closed = previous.type in closing if closing else None
    found.months = dict(sorted(periods["month"].items()))
    found.suggestion = _suggestion(found, order, periods, closing)
    return found


def _several(store: EventStore, name: str) -> UsageError:
    """The error, to be raised, where a name stands for a stream of each of several tenants: their
    versions and times say nothing together.
    """
    tenants = sorted({event.tenant for event in store.read_stream(name)})
    shown = ", ".join(tenants[:_TENANTS]) + ", …" * (len(tenants) > _TENANTS)
    return UsageError(
        f"{len(tenants)} tenants of store {store.name} have a stream {name!r}: {shown}",
        hint=f"Name one: --tenant {tenants[0]}",
    )


def _from_different_commands(previous: RecordedEvent | None, event: RecordedEvent) -> bool:
    """Whether two events come from different commands, as far as their metadata tells."""
    if previous is None or previous.metadata == event.metadata:
        return False
    # Without correlation ids nothing can be said, and a stream must not look contended for that.
    try:
        ids = (previous.correlation_id, event.correlation_id)
    except orjson.JSONDecodeError:
        return False
    return None not in ids and ids[0] != ids[1]


def _count(found: StreamAudit, event: RecordedEvent, at: Moment | None, size: int) -> None:
    if not found.length:
        found.first_version, found.first_at = event.version, at
    found.length += 1
    found.bytes += size
    found.last_at = at
    kind = found.types.get(event.type)
    if kind is None:
        kind = found.types[event.type] = TypeInStream(first_version=event.version, first_at=at)
    kind.events += 1
    kind.bytes += size
    kind.last_version, kind.last_at = event.version, at
    found.largest = heapq.nlargest(_LARGEST, [*found.largest, (size, event.version, event.type)])


def _suggestion(
    found: StreamAudit, order: list[str], periods: dict[str, Counter[str]], closing: set[str]
) -> str:
    """Where the stream could be split ("closing the books").

    An observation, never an instruction: only the domain knows what a life cycle is.
    """
    if found.length <= _SHORT:
        return "The stream is short. There is nothing to do."
    cycle = _cycle(order)
    if cycle is not None:
        kind, times, mean = cycle
        return (
            f"The events form {times:,} cycles of about {mean:.0f} events, and each cycle begins "
            f"with {kind}. One stream per cycle would stay that short."
        )
    # The longest period that is short enough wins: fewer streams are easier to work with.
    for period, _ in reversed(_PERIODS):
        counts = periods[period]
        if len(counts) >= 3 and max(counts.values()) <= max(_SHORT, found.length // 3):
            mean = found.length / len(counts)
            one = f"{'an' if period == 'hour' else 'a'} {period}"
            return (
                f"The events are spread over {len(counts):,} {period}s, with {mean:.0f} events "
                f"{one} on average and at most {max(counts.values()):,}. If {one} means "
                f"something to the business, one stream per {period} (closing the books) would "
                "stay that short."
            )
    if closing and not found.closed:
        return (
            "The stream is long and not closed, and it shows no cycle or period. Ask the domain "
            "experts which event ends its life."
        )
    return (
        "The stream is long, and it shows no cycle or period. Ask the domain experts which event "
        "ends its life, or load it from a snapshot."
    )


def _cycle(order: list[str]) -> tuple[str, int, float] | None:
    """The event type that begins a cycle: (type, number of cycles, mean length of a cycle).

    It has to return at even distances, with several other events between.
    """
    best: tuple[str, int, float] | None = None
    # Distances are even where they spread by less than half their mean.
    first = order[0]
    places: dict[str, list[int]] = {}
    for at, kind in enumerate(order):
        places.setdefault(kind, []).append(at)
    for kind, found in places.items():
        if len(found) < 3:
            continue
        steps = [high - low for low, high in pairwise(found)]
        mean = sum(steps) / len(steps)
        spread = (sum((step - mean) ** 2 for step in steps) / len(steps)) ** 0.5
        # The type of the stream's first event wins over others: a cycle begins with it.
        if mean >= 3 and spread <= mean / 2 and (best is None or kind == first):
            best = (kind, len(found), mean)
    return best
