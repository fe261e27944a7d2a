"""Where the head of a stream ends that a policy archives and removes, while the stream continues.

The head ends before the newest event of a type that carries the state (`until`), before the last
few events (`keep_last`), and before the first event that is too young (`older_than`). Where several
are given all of them hold. What stays is never nothing, and where the library needs something to
load a stream without its head (a snapshot), the head ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice
from types import TracebackType
from typing import Literal, NamedTuple, Self

from esops.archive.ages import StreamAges
from esops.archive_format.disk_map import DiskMap
from esops.events import EventFilter, StreamInfo, StreamRef
from esops.settings import PolicySettings
from esops.stores.archiving import RemovalStrategy
from esops.stores.base import EventStore, require

LeftOut = Literal["ageless", "appended", "unloadable", "young"]
"""Why a stream is left out: nobody knows how old its events are; they are old enough, but the
store's list of streams says that it was appended to later; the library could not load it without
its head; it would be taken but for the policy's `never_younger_than`.
"""
_STREAMS_AT_ONCE = 500


class Part(NamedTuple):
    """What a run takes of a stream."""

    info: StreamInfo
    """The whole stream, as the store has it."""
    last: int | None = None
    """The version at which the head ends; None: all of the stream."""

    @property
    def last_version(self) -> int:
        """The version of the last event that is taken."""
        return self.info.last_version if self.last is None else self.last

    @property
    def events(self) -> int:
        """About how many events are taken: those of a head are counted by their versions."""
        if self.last is None:
            return self.info.length
        return min(self.info.length, self.last - self.info.first_version + 1)

    @property
    def ref(self) -> StreamRef:
        """As an export needs it."""
        return StreamRef(self.info.name, self.info.tenant, self.events, self.last)


class Heads:
    """The heads of streams by one policy, at one time. A context manager."""

    def __init__(
        self,
        store: EventStore,
        policy: PolicySettings,
        strategy: RemovalStrategy,
        ages: StreamAges,
        left_out: Callable[[LeftOut], None],
    ) -> None:
        """`left_out` is called for each stream that is left out."""
        self._store, self._policy, self._strategy, self._ages = store, policy, strategy, ages
        self._left_out = left_out
        self._newest = DiskMap()
        """The newest event of the types in `until` of each stream, or a later version."""
        if policy.until:
            wanted = EventFilter(category=policy.category, types=policy.until)
            for each in store.streams(wanted):
                self._newest.put(each.name, each.tenant, each.last_version)

    def of(self, streams: Iterator[StreamInfo]) -> Iterator[Part]:
        """The head of each stream that has one."""
        while group := list(islice(streams, _STREAMS_AT_ONCE)):
            limits = None
            if self._strategy.heads:
                archiving = require(self._store, self._store.archiving, "archiving")
                limits = archiving.head_limits(self._strategy.name, [info.key for info in group])
            for info in group:
                limit = info.last_version - 1 if limits is None else limits.get(info.key)
                end = self._end(info, limit)
                if end is not None:
                    yield Part(info, end)

    def _end(self, info: StreamInfo, limit: int | None) -> int | None:
        """The version of the last event of a stream's head; None where it has no head."""
        end = info.last_version - max(self._policy.keep_last, 1)
        newest = self._newest.get(info.name, info.tenant) if self._policy.until else None
        if end < info.first_version or (self._policy.until and newest is None):
            return None
        if limit is None:
            self._left_out("unloadable")
            return None
        end = min(end, limit)
        if self._policy.older_than:
            end = self._old_enough(info, end)
        if end < info.first_version:
            return None
        if floor := self._policy.floor(self._strategy.name):
            end = self._above_floor(info, end, floor)
        if newest is not None:
            # What stays begins with such an event: so with an older one, where the other keys say
            # that the newest one has to go along with what lies before it.
            end = self._before_until(info, min(newest, end + 1))
        return end if end >= info.first_version else None

    def _old_enough(self, info: StreamInfo, end: int) -> int:
        """The version before the first event that is too young, or whose age nobody knows."""
        for event in self._store.read_stream(info.name):
            if event.version > end:
                break
            if event.tenant == info.tenant:
                age = self._ages.of_event(event.moment)
                if age is None:
                    self._left_out("ageless")
                if age is None or age < self._policy.older_than:
                    return event.version - 1
        return end

    def _above_floor(self, info: StreamInfo, end: int, floor: timedelta) -> int:
        """The version of the newest event up to `end` that is not younger than a policy's floor."""
        for event in self._store.read_stream(info.name, end + 1, backwards=True):
            if event.tenant == info.tenant:
                age = self._ages.of_event(event.moment)
                if age is None:
                    self._left_out("ageless")
                    break
                if age >= floor:
                    return event.version
        else:
            self._left_out("young")
        return info.first_version - 1

    def _before_until(self, info: StreamInfo, newest: int) -> int:
        """The version before the newest event of a type in `until`, at most at a version."""
        for event in self._store.read_stream(info.name, newest + 1, backwards=True):
            if event.tenant == info.tenant and event.type in self._policy.until:
                return event.version - 1
        return info.first_version - 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._newest.close()
