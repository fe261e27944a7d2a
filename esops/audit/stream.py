"""`esops audit stream`: one stream, read from its beginning to its end."""

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

from esops.events import RecordedEvent
from esops.stores.base import EventStore

_BURST = timedelta(seconds=1)
COMPETING = timedelta(milliseconds=100)
"""Two commands that write so shortly after each other have both loaded the stream before, as a
rule: one may have had to try again.
"""
_LARGEST = 5
_MOST_GAPS = 20
_SHORT = 50
"""A stream of so few events needs no advice."""
_TRACED = 100_000
"""Types in their order that are looked at for a cycle."""
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
    first_at: datetime | None = None
    last_at: datetime | None = None


@dataclass
class StreamAudit:
    """What is in one stream."""

    stream: str
    category: str | None
    length: int = 0
    first_version: int = 0
    last_version: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    bytes: int = 0
    closed: bool | None = None
    seconds_to_load: float = 0.0
    types: dict[str, TypeInStream] = field(default_factory=dict)
    months: dict[str, int] = field(default_factory=dict)
    largest: list[tuple[int, int, str]] = field(default_factory=list)
    """Bytes, version and type of the largest payloads."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Versions after which some are missing, and the next that is there."""
    busiest: tuple[int, datetime | None] = (0, None)
    """The most events within a second, and when."""
    same_instant: int = 0
    """Events that were recorded at the very time of the one before: appended together, or by
    writers that raced.
    """
    competing: int = 0
    """How often an event of another correlation id than the one before it came within `COMPETING`
    of it.
    """
    backwards: int = 0
    """Events that were recorded before the one before them."""
    suggestion: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "stream": self.stream,
            "category": self.category,
            "length": self.length,
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
            "suggestion": self.suggestion,
        }


def audit_stream(store: EventStore, name: str, closed_by: Iterable[str] = ()) -> StreamAudit | None:
    """Read a stream; None where there is no event of it. Memory does not grow with its length."""
    found = StreamAudit(name, None)
    periods: dict[str, Counter[str]] = {period: Counter() for period, _ in _PERIODS}
    window: deque[datetime] = deque()
    order: list[str] = []
    previous: RecordedEvent | None = None
    previous_at: datetime | None = None
    deque(store.read_stream(name, limit=1), 0)  # so that the time is not that of connecting
    began = time.perf_counter()
    for event in store.read_stream(name):
        at = event.recorded_at if event.recorded_at.year > 1970 else None
        size = len(event.data) + len(event.metadata)
        _count(found, event, at, size)
        if (
            previous is not None
            and event.version > previous.version + 1
            and len(found.gaps) < _MOST_GAPS
        ):
            found.gaps.append((previous.version, event.version))
        if at is not None:
            if previous_at is not None:
                found.same_instant += at == previous_at
                found.backwards += at < previous_at
                found.competing += at - previous_at < COMPETING and _others(previous, event)
            for period, form in _PERIODS:
                periods[period][at.strftime(form)] += 1
            while window and at - window[0] >= _BURST:
                window.popleft()
            window.append(at)
            if len(window) > found.busiest[0]:
                found.busiest = (len(window), window[0])
        if len(order) < _TRACED:
            order.append(event.type)
        previous, previous_at = event, at
    if previous is None:
        return None
    found.seconds_to_load = time.perf_counter() - began
    found.category, found.last_version = previous.category, previous.version
    closing = set(closed_by)
    found.closed = previous.type in closing if closing else None
    found.months = dict(sorted(periods["month"].items()))
    found.suggestion = _suggestion(found, order, periods, closing)
    return found


def _others(previous: RecordedEvent | None, event: RecordedEvent) -> bool:
    """Whether two events are of different commands, as far as their metadata tells."""
    if previous is None or previous.metadata == event.metadata:
        return False
    try:
        ids = (previous.correlation_id, event.correlation_id)
    except orjson.JSONDecodeError:
        return False
    return None not in ids and ids[0] != ids[1]


def _count(found: StreamAudit, event: RecordedEvent, at: datetime | None, size: int) -> None:
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
    """Where the books could be closed.

    An observation, never a command: only the domain knows what a life cycle is.
    """
    if found.length <= _SHORT:
        return "It is short: there is nothing to do."
    cycle = _cycle(order)
    if cycle is not None:
        kind, times, mean = cycle
        return (
            f"Its events come in {times:,} cycles that begin with {kind}, of {mean:.0f} events "
            "each: a stream for each cycle "
            f"would stay that short."
        )
    for period, _ in reversed(_PERIODS):
        counts = periods[period]
        if len(counts) >= 3 and max(counts.values()) <= max(_SHORT, found.length // 3):
            mean = found.length / len(counts)
            return (
                f"It has lived through {len(counts):,} {period}s with {mean:.0f} events each, at "
                f"most {max(counts.values()):,}: "
                f"a stream for each {period} (closing the books) would stay that short, if a "
                f"{period} means something to the business."
            )
    if closing and not found.closed:
        return (
            "It is long and not closed, and no cycle or period is to be seen in it: ask what "
            "ends its life."
        )
    return (
        "No cycle or period is to be seen in it: ask what ends its life, or keep a snapshot to "
        "load it from."
    )


def _cycle(order: list[str]) -> tuple[str, int, float] | None:
    """A type that comes again and again at even distances, with several others between: (type,
    times, mean distance).
    """
    best: tuple[str, int, float] | None = None
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
        if mean >= 3 and spread <= mean / 2 and (best is None or kind == first):
            best = (kind, len(found), mean)
    return best
