"""An event store in this process: settled reads, appends, checkpoints and archiving over a list.

It is for tests of what stands on a store, and an example of a store that can do nearly everything.
Stores opened with the same settings share a log, so that a test can write beside a reader:

    [stores.shop]
    backend = "memory"
    log = "any name"
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import ClassVar

from esops.errors import Refused
from esops.events import (
    Checkpoint,
    EventFilter,
    NewEvent,
    Position,
    RecordedEvent,
    StreamInfo,
    category_of,
)
from esops.moments import microseconds_of
from esops.settings import Duration, StoreSettings
from esops.stores.archiving import Archiving
from esops.stores.base import (
    EVERYTHING,
    Batch,
    Capabilities,
    EventStore,
    Head,
    Holder,
    StoreInfo,
    WrongExpectedVersion,
    at_most,
    passes,
    settled,
)
from esops.stores.counts import EventCounts
from esops.stores.names import StoreNames, What
from esops.testing.memory_archiving import MemoryArchiving, position_of

_BATCH_EVENTS, _BATCH_BYTES = 1_000, 2_000_000
_WRITER = Holder("a writer", "its transaction is open", None)


@dataclass
class MemoryLog:
    """All that stores of one name hold. Tests may look into it, and change it."""

    events: list[RecordedEvent] = field(default_factory=list)
    """In the order of their positions, (1,), (2,), and so on."""
    drawn: int = 0
    """The last number that was given to an event."""
    versions: dict[str, int] = field(default_factory=dict)
    """The version that each stream has ever come to."""
    archived: set[str] = field(default_factory=set)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    """What the application's own processors have noted."""
    held_at: int | None = None
    """The number of the last settled event while something holds the head back; see `hold`."""
    holder: Holder = _WRITER
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    lock: threading.RLock = field(default_factory=threading.RLock)
    known: ClassVar[dict[str, MemoryLog]] = {}

    @classmethod
    def named(cls, name: str) -> MemoryLog:
        """The log of that name; made at the first call."""
        return cls.known.setdefault(name, cls())

    def passes(self, event: RecordedEvent, filter: EventFilter) -> bool:
        """Whether a filter wants an event."""
        return passes(event, filter) and (filter.archived or event.stream not in self.archived)

    def hold(self) -> None:
        """What is appended from now on does not settle, as behind an open transaction."""
        self.held_at = self.drawn

    def release(self) -> None:
        """Let everything settle that `hold` keeps unsettled."""
        self.held_at = None


class MemorySettings(StoreSettings):
    """`[stores.NAME]` with `backend = "memory"`."""

    backend: str = "memory"
    settle_timeout: Duration = timedelta(seconds=1)
    log: str = ""
    """The name of the log; stores of the same name in this process share it."""


class MemoryStore(EventStore):
    """A store over a `MemoryLog`."""

    Settings = MemorySettings
    capabilities = Capabilities(
        append=True,
        count_between=True,
        checkpoints=True,
        settling=timedelta(seconds=1),
    )

    def __init__(self, name: str = "memory", settings: MemorySettings | None = None) -> None:
        """Without settings, the log is its own."""
        self.name = name
        self.log = MemoryLog() if settings is None else MemoryLog.named(settings.log)
        if settings is not None:
            self.capabilities = replace(self.capabilities, settling=settings.settle_timeout)

    def ping(self) -> StoreInfo:
        """Always succeeds: nothing has to be reached."""
        return StoreInfo("memory", "memory", "1", self.log.clock())

    def head(
        self,
        patience: timedelta = timedelta(seconds=1),
        after: Position | None = None,  # noqa: ARG002 - nothing is saved by it
        stop: Callable[[], bool] = lambda: False,
    ) -> Head:
        """The last event's position, or that of the last before `MemoryLog.hold`."""
        deadline = time.monotonic() + patience.total_seconds()
        while True:
            with self.log.lock:
                held, drawn = self.log.held_at, self.log.drawn
            short = held is not None and held < drawn
            if not short or stop() or time.monotonic() >= deadline:
                break
            time.sleep(0.005)
        settled_at = drawn if held is None else held
        position = Position((settled_at,)) if settled_at else None
        return Head(position, (self.log.holder,) if short else ())

    def read_all(
        self,
        after: Position | None = None,
        until: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """Copies of the log, a batch at a time."""
        short = None
        # One stream is ordered by its versions, so that nothing has to settle.
        if until is None and filter.stream is not None:
            until = Position((self.log.drawn,))
        elif until is None:
            until, short = settled(self, after)
        if until is not None:
            yield from at_most(limit, self._batches(after, until, filter))
        # First all that could be read; then what is missing is said.
        if short is not None and limit is None:
            raise short

    def read_backwards(
        self,
        until: Position | None,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """Copies of the log, from its end."""
        with self.log.lock:
            events = list(self.log.events)
        found = (
            event
            for event in reversed(events)
            if (until is None or event.position <= until)
            and (after is None or event.position > after)
            and self.log.passes(event, filter)
        )
        while page := list(islice(found, min(_BATCH_EVENTS, limit or _BATCH_EVENTS))):
            yield Batch(page, page[-1].position)
            if limit is not None and (limit := limit - len(page)) <= 0:
                return

    def _batches(
        self, after: Position | None, until: Position, filter: EventFilter
    ) -> Iterator[Batch]:
        reached = after or Position((0,))
        while reached < until:
            page, size = [], 0
            with self.log.lock:
                start = bisect_right(self.log.events, reached, key=position_of)
                for event in islice(self.log.events, start, start + _BATCH_EVENTS):
                    # Checked before the event is added: a page has at least one, however large.
                    if event.position > until or size > _BATCH_BYTES:
                        break
                    size += len(event.data)
                    page.append(event)
            if not page:  # the rest was removed: positions have gaps
                break
            reached = page[-1].position
            if wanted := [event for event in page if self.log.passes(event, filter)]:
                yield Batch(wanted, reached)

    def read_stream(
        self,
        stream: str,
        after_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> Iterator[RecordedEvent]:
        """The events of a stream by version."""
        with self.log.lock:
            events = [event for event in self.log.events if event.stream == stream]
        events.sort(key=lambda event: event.version, reverse=backwards)
        if after_version is not None:
            events = [
                event
                for event in events
                if (event.version < after_version if backwards else event.version > after_version)
            ]
        return iter(events[:limit])

    def streams(
        self,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
        *,
        closed_by: Sequence[str] = (),
        measured: bool = False,
    ) -> Iterator[StreamInfo]:
        """Grouped from the events."""
        by_stream: dict[str, list[RecordedEvent]] = {}
        with self.log.lock:
            for event in self.log.events:
                if self.log.passes(event, filter):
                    by_stream.setdefault(event.stream, []).append(event)
        for name in sorted(by_stream)[:limit]:
            events = sorted(by_stream[name], key=lambda event: event.version)
            times = [event.moment for event in events if event.moment is not None]
            yield StreamInfo(
                name,
                category_of(name),
                len(events),
                events[0].version,
                events[-1].version,
                min(times, default=None),
                max(times, default=None),
                name in self.log.archived,
                closed=events[-1].type in closed_by if closed_by else None,
                bytes=sum(len(event.data) + len(event.metadata) for event in events)
                if measured
                else None,
            )

    def append(
        self, stream: str, events: Sequence[NewEvent], expected_version: int | None = None
    ) -> Position:
        """Append under the log's lock."""
        log = self.log
        with log.lock:
            if stream in log.archived:
                raise Refused(f"stream {stream!r} is archived and takes no more events")
            version = log.versions.get(stream, 0)
            if expected_version not in {None, version}:
                raise WrongExpectedVersion(
                    f"stream {stream!r} is at version {version}, not {expected_version}"
                )
            # One time for all: they are one append.
            now = log.clock()
            for event in events:
                micros = microseconds_of(event.recorded_at or now)
                version, log.drawn = version + 1, log.drawn + 1
                position = Position((log.drawn,))
                about = (position, event.type, event.data, event.metadata, micros, "")
                log.events.append(RecordedEvent._make((event.id, stream, version, *about)))
            log.versions[stream] = version
            return Position((log.drawn,))

    def checkpoints(self) -> list[Checkpoint]:
        """What the log has."""
        return list(self.log.checkpoints)

    @cached_property
    def counts(self) -> EventCounts:
        """Found by bisection."""
        return MemoryCounts(self, self.log)

    @cached_property
    def names(self) -> StoreNames:
        """Found in the list."""
        return MemoryNames(self, self.log)

    @property
    def archiving(self) -> Archiving:
        """Marked as archived, or deleted; restored at the old positions."""
        return MemoryArchiving(self.name, self)


class MemoryCounts(EventCounts):
    """EventCounts of a `MemoryLog`."""

    def __init__(self, store: EventStore, log: MemoryLog) -> None:
        """Of the store over that log."""
        super().__init__(store)
        self._log = log

    def between(self, after: Position | None, until: Position | None) -> int:
        """The number of events between two positions."""
        if until is None:
            return 0
        with self._log.lock:
            low = bisect_right(self._log.events, after or Position((0,)), key=position_of)
            return max(0, bisect_right(self._log.events, until, key=position_of) - low)


class MemoryNames(StoreNames):
    """StoreNames of a `MemoryLog`."""

    def __init__(self, store: EventStore, log: MemoryLog) -> None:
        """Of the store over that log."""
        super().__init__(store)
        self._log = log

    def any_passes(self, filter: EventFilter) -> bool | None:
        """Looked for in the list."""
        with self._log.lock:
            return any(self._log.passes(event, filter) for event in self._log.events)

    def of(self, what: What) -> list[str]:
        """All that are in the list."""
        with self._log.lock:
            found = {
                {"event type": each.type, "stream": each.stream}.get(what, each.category)
                for each in self._log.events
            }
        return sorted(name for name in found if name)
