"""Several projections from one read of the events: each is rebuilt by a thread of its own, and what
is read once goes to all of them.

Only the first, bulky part of the work is shared. Those who are to read wait for each other; one
thread reads from the lowest checkpoint to the highest target; and each projection takes what is
after its own checkpoint and of its own event types. After that each follows by itself. A read that
fails is started again for all of them. Whoever stops, fails, or waits without an open read leaves,
and delays nobody.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import structlog

from esops.errors import Stopped
from esops.events import EventFilter, Position
from esops.stores.base import Batch, EventStore

log = structlog.get_logger("esops.shared_read")
_PATIENCE_SECONDS = 60.0
"""How long those who are to read wait for those who are not there yet."""
_AHEAD = 3
"""The most batches that wait for each projection: the slowest sets the pace."""
_LOOK_EVERY_SECONDS = 0.2


@dataclass
class _ReadRequest:
    """What one projection is to read, and the queue in which it gets it."""

    after: Position | None
    until: Position
    filter: EventFilter
    parts: queue.Queue[Batch | BaseException | None]
    gone: bool = False

    @property
    def shareable(self) -> EventFilter:
        """The part of the filter that must be equal for two to share a read: only the store can
        apply it. Types can be sorted out here.
        """
        return replace(self.filter, types=())

    def part_of(self, batch: Batch) -> Batch:
        """Its part of a batch; with no events where all of it is before the checkpoint."""
        if self.after is not None and batch.position is not None and batch.position <= self.after:
            return Batch([], self.after)
        events, seen = batch
        # Most batches are wholly after the checkpoint; only then is each event looked at.
        if self.after is not None and events and events[0].position <= self.after:
            events = [event for event in events if event.position > self.after]
        if events and events[-1].position > self.until:
            events = [event for event in events if event.position <= self.until]
        if self.filter.types:
            wanted = frozenset(self.filter.types)
            events = [event for event in events if event.type in wanted]
        return Batch(events, self.until if seen is None or seen > self.until else seen)


class SharedRead:
    """A read of one store that several projections share.

    Each of them calls the methods in a thread of its own.
    """

    def __init__(
        self, open_store: Callable[[], EventStore], members: list[str], stop: Callable[[], bool]
    ) -> None:
        """`open_store` opens another store object, since each is used by one thread only."""
        self._open, self._stop = open_store, stop
        self._expected = set(members)
        self._waiting: dict[str, _ReadRequest] = {}
        self._changed = threading.Condition()
        self._since = time.monotonic()
        self.shared = 0
        """How many events were read for more than one projection."""

    def reader(
        self, name: str
    ) -> Callable[[Position | None, Position, EventFilter], Iterator[Batch] | None]:
        """A runner's reader for one projection; gives None where the runner is to read itself."""

        def read(
            after: Position | None, until: Position, filter: EventFilter
        ) -> Iterator[Batch] | None:
            request = self._join(name, _ReadRequest(after, until, filter, queue.Queue(_AHEAD)))
            return None if request is None else self._take(name, request)

        return read

    def leave(self, name: str) -> None:
        """Nobody has to wait for this projection any more."""
        with self._changed:
            self._expected.discard(name)
            if request := self._waiting.pop(name, None):
                request.gone = True
            self._begin_if_all_there()

    def _join(self, name: str, request: _ReadRequest) -> _ReadRequest | None:
        with self._changed:
            if name not in self._expected:
                return None
            self._expected.discard(name)
            self._waiting[name] = request
            if len(self._waiting) == 1:
                self._since = time.monotonic()
            self._begin_if_all_there()
            while self._waiting.get(name) is request:
                if self._stop():
                    raise Stopped("stopped while waiting for the shared read to begin")
                # Who has not come within a minute is busy otherwise; the others start.
                if time.monotonic() - self._since > _PATIENCE_SECONDS:
                    self._expected.clear()
                    self._begin_if_all_there()
                self._changed.wait(_LOOK_EVERY_SECONDS)
        return None if request.gone else request

    def _begin_if_all_there(self) -> None:
        """Start a read for each group that can share one; who shares with nobody reads itself."""
        if self._expected or not self._waiting:
            return
        # Filters that only the store can apply must be the same for all who share a read.
        groups: dict[EventFilter, dict[str, _ReadRequest]] = {}
        for name, request in self._waiting.items():
            groups.setdefault(request.shareable, {})[name] = request
        self._waiting = {}
        for group in groups.values():
            if len(group) == 1:
                next(iter(group.values())).gone = True
            else:
                threading.Thread(
                    target=self._read, args=(group,), name="shared read", daemon=True
                ).start()
        self._changed.notify_all()

    def _read(self, group: Mapping[str, _ReadRequest]) -> None:
        """Read once for all of a group, in a thread and with a store of its own."""
        everyone = list(group.values())
        lows = [request.after for request in everyone]
        after = None if None in lows else min(low for low in lows if low is not None)
        types = [request.filter.types for request in everyone]
        union = tuple(dict.fromkeys(each for some in types for each in some)) if all(types) else ()
        log.info("shared read", projections=sorted(group), after=str(after))
        failure: BaseException | None = None
        try:
            with self._open() as store:
                for batch in store.read_all(
                    after,
                    max(request.until for request in everyone),
                    replace(everyone[0].filter, types=union),
                ):
                    self.shared += len(batch.events)
                    for request in everyone:
                        _give(request, request.part_of(batch))
                    if all(request.gone for request in everyone):
                        return
        except BaseException as error:  # noqa: BLE001 - each projection raises it in its own thread
            failure = error
        if failure is not None:
            with self._changed:
                # Those who took part wait for each other again, for the next attempt.
                self._expected |= {name for name, request in group.items() if not request.gone}
        # None says that the read has ended; an error is raised by each reader itself.
        for request in everyone:
            _give(request, failure)

    def _take(self, name: str, request: _ReadRequest) -> Iterator[Batch]:
        try:
            while True:
                try:
                    part = request.parts.get(timeout=_LOOK_EVERY_SECONDS)
                except queue.Empty:
                    if self._stop():
                        raise Stopped(f"{name}: stopped while waiting for events") from None
                    continue
                if part is None:
                    return
                if isinstance(part, BaseException):
                    raise part
                yield part
                if part.position is not None and part.position >= request.until:
                    return
        finally:
            request.gone = True


def _give(request: _ReadRequest, part: Batch | BaseException | None) -> None:
    """Put a batch (or an error, or None for the end) into a projection's queue, unless it left."""
    while not request.gone:
        try:
            request.parts.put(part, timeout=_LOOK_EVERY_SECONDS)
        except queue.Full:
            continue
        else:
            return
