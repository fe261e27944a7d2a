"""How long streams are, for stores that can only list them one by one."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from esops.events import EventFilter, StreamInfo
from esops.moments import EPOCH, between, moment
from esops.stores.lengths import (
    LengthCount,
    LengthCounts,
    LengthSample,
    MonthCount,
)
from esops.stores.parts import EVERYTHING
from esops.stores.stream_categories import StreamCategories

if TYPE_CHECKING:
    from esops.stores.base import EventStore

_DAY = 86_400_000_000


class CountedLengths:
    """StreamLengths of a store from its `streams` and events.

    Memory holds the longest, and a number for each length.
    """

    def __init__(
        self,
        store: EventStore,
        how: Callable[..., str] = lambda counted: "each stream is looked at",  # noqa: ARG005
    ) -> None:
        """`how` says where the store has its list of streams from, with `counted`, too."""
        self._store, self._how = store, how

    def reads_everything(self, *, counted: bool = False) -> bool:  # noqa: ARG002 - always counted
        """Each stream is looked at."""
        return True

    def counts(self, filter: EventFilter = EVERYTHING, *, counted: bool = False) -> LengthCounts:
        """Counted stream by stream."""
        counts: Counter[tuple[str | None, str, int]] = Counter()
        denied: list[str] = []
        for info in self._some(filter, denied, counted=counted):
            counts[info.category, info.tenant, info.length] += 1
        found = (LengthCount(*key, streams) for key, streams in counts.items())
        return LengthCounts(found, self._how(counted=counted), denied)

    def longest(
        self,
        limit: int,
        filter: EventFilter = EVERYTHING,
        *,
        over: int = 0,
        closed_by: Sequence[str] = (),
        since: datetime | None = None,
        counted: bool = False,
    ) -> list[StreamInfo]:
        """The longest, by a heap of as many."""
        found = (
            info
            for info in self._some(filter, [], counted=counted, closed_by=closed_by, measured=True)
            if info.length > over
        )
        # A heap of as many as are wanted: a sort would hold every stream.
        longest = heapq.nsmallest(limit, found, key=lambda info: (-info.length, info.name))
        if since is None:
            return longest
        return [replace(info, recent=self._since(info, since)) for info in longest]

    def grown(
        self, since: datetime, over: int, filter: EventFilter = EVERYTHING
    ) -> Iterator[tuple[StreamInfo, int]]:
        """Of each stream that was written to since then and is long enough, the newest events are
        read.
        """
        for info in self._some(filter, []):
            # Only what was written to since then can have grown, and only if it is long enough.
            if info.length > over and _perhaps_since(info, since):
                recent = self._since(info, since)
                if recent > over:
                    yield info, recent

    def monthly(self, filter: EventFilter = EVERYTHING) -> list[MonthCount]:
        """From a read of all events."""
        days: Counter[tuple[str | None, int]] = Counter()
        known = StreamCategories(self._store)
        for batch in self._store.read_all(filter=filter):
            known.learn(batch.events)
            for event in batch.events:
                # A datetime for each event would take as long as all the rest.
                micros = event.recorded_microseconds
                if micros is not None and not self._of_server(event.stream):
                    days[known.of(event), micros // _DAY] += 1
        months: Counter[tuple[str | None, str]] = Counter()
        for (category, day), events in days.items():
            at = moment(day * _DAY)
            if isinstance(at, datetime):  # no plot goes beyond the years 1 to 9999
                months[category, at.isoformat()[:7]] += events
        return [MonthCount(*key, events) for key, events in months.items()]

    def sample(self, pages: int, filter: EventFilter = EVERYTHING) -> LengthSample | None:  # noqa: ARG002 - none is made
        """There is none: each stream is looked at."""
        return None

    def _some(self, filter: EventFilter, denied: list[str], **more: Any) -> Iterator[StreamInfo]:
        """Streams of which something can be read, without the store's own."""
        return (
            info
            for info in self._store.many_streams.allowed(filter, denied, **more)
            if info.length and not self._of_server(info.name)
        )

    def _of_server(self, stream: str) -> bool:
        return self._store.capabilities.server_streams and stream.startswith("$")

    def _since(self, info: StreamInfo, since: datetime) -> int:
        recent = 0
        for event in self._store.read_stream(info.name, backwards=True):
            at = event.moment
            # An event of an unknown time tells nothing of those before it.
            if between(EPOCH, at) is None:
                continue
            if at is None or at < since:
                break
            recent += 1
        return recent


def _perhaps_since(info: StreamInfo, since: datetime) -> bool:
    """Whether a stream may have got an event since then."""
    if info.last_at is None:
        return False
    return info.last_at >= since or between(info.first_at, info.last_at) is None
