"""Several projections from one read of the events: each is rebuilt by a thread of its own, and what
is read once goes to all of them.

Only the first, bulky part of the work is shared: those who are to read wait for each other, one
reads from the lowest checkpoint to the
highest goal, and each takes of it what is after its own checkpoint and of its own types. After that
each follows alone. A read that
fails is begun again together; who stops, fails, or waits with nothing open leaves, and holds nobody
up.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import structlog

from esops.errors import EsopsError, Stopped
from esops.events import EventFilter, Position
from esops.rebuild.outcome import Outcome
from esops.stores.base import Batch, EventStore

log = structlog.get_logger("esops.together")
_PATIENCE = 60.0
"""Seconds that those who are to read wait for those who are not there yet."""
_AHEAD = 3
"""So many batches may be waiting for one of them: the slowest sets the pace."""
_LOOK_EVERY = 0.2


@dataclass
class _Asked:
    """What one wants to read, and where it gets it."""

    after: Position | None
    until: Position
    filter: EventFilter
    parts: queue.Queue[Batch | BaseException | None]
    gone: bool = False

    @property
    def alike(self) -> EventFilter:
        """What must be the same of two that share a read: what only the store can tell of
        an event.
        """
        return replace(self.filter, types=())

    def of(self, batch: Batch) -> Batch | None:
        """Its part of a batch; None where it has all that it wants already."""
        if self.after is not None and batch.position is not None and batch.position <= self.after:
            return Batch([], self.after)
        events, seen = batch
        if self.after is not None and events and events[0].position <= self.after:
            events = [event for event in events if event.position > self.after]
        if events and events[-1].position > self.until:
            events = [event for event in events if event.position <= self.until]
        if self.filter.types:
            wanted = frozenset(self.filter.types)
            events = [event for event in events if event.type in wanted]
        return Batch(events, self.until if seen is None or seen > self.until else seen)


class OneRead:
    """A read of one store that several share. Its methods are called by a thread of each."""

    def __init__(
        self, open_store: Callable[[], EventStore], members: list[str], stop: Callable[[], bool]
    ) -> None:
        """`open_store` opens a store of its own, since a store is one thread's."""
        self._open, self._stop = open_store, stop
        self._expected = set(members)
        self._waiting: dict[str, _Asked] = {}
        self._changed = threading.Condition()
        self._since = time.monotonic()
        self.shared = 0
        """How many events were given to more than one."""

    def reader(
        self, name: str
    ) -> Callable[[Position | None, Position, EventFilter], Iterator[Batch] | None]:
        """How one reads, as a runner does: None where it is to read by itself."""

        def read(
            after: Position | None, until: Position, filter: EventFilter
        ) -> Iterator[Batch] | None:
            asked = self._join(name, _Asked(after, until, filter, queue.Queue(_AHEAD)))
            return None if asked is None else self._take(name, asked)

        return read

    def leave(self, name: str) -> None:
        """It reads no more: nobody waits for it."""
        with self._changed:
            self._expected.discard(name)
            if asked := self._waiting.pop(name, None):
                asked.gone = True
            self._begin_if_all_there()

    def _join(self, name: str, asked: _Asked) -> _Asked | None:
        with self._changed:
            if name not in self._expected:
                return None
            self._expected.discard(name)
            self._waiting[name] = asked
            if len(self._waiting) == 1:
                self._since = time.monotonic()
            self._begin_if_all_there()
            while self._waiting.get(name) is asked:
                if self._stop():
                    raise Stopped("stopped before the read began")
                if time.monotonic() - self._since > _PATIENCE:
                    self._expected.clear()
                    self._begin_if_all_there()
                self._changed.wait(_LOOK_EVERY)
        return None if asked.gone else asked

    def _begin_if_all_there(self) -> None:
        """Begin a read for each group that can share one; whoever is alone reads by itself."""
        if self._expected or not self._waiting:
            return
        groups: dict[EventFilter, dict[str, _Asked]] = {}
        for name, asked in self._waiting.items():
            groups.setdefault(asked.alike, {})[name] = asked
        self._waiting = {}
        for group in groups.values():
            if len(group) == 1:
                next(iter(group.values())).gone = True
            else:
                threading.Thread(
                    target=self._read, args=(group,), name="one read", daemon=True
                ).start()
        self._changed.notify_all()

    def _read(self, group: Mapping[str, _Asked]) -> None:
        """The one read, in a thread and with a store of its own."""
        everyone = list(group.values())
        lows = [asked.after for asked in everyone]
        after = None if None in lows else min(low for low in lows if low is not None)
        types = [asked.filter.types for asked in everyone]
        union = tuple(dict.fromkeys(each for some in types for each in some)) if all(types) else ()
        log.info("one read", projections=sorted(group), after=str(after))
        failure: BaseException | None = None
        try:
            with self._open() as store:
                for batch in store.read_all(
                    after,
                    max(asked.until for asked in everyone),
                    replace(everyone[0].filter, types=union),
                ):
                    self.shared += len(batch.events)
                    for asked in everyone:
                        _give(asked, asked.of(batch))
                    if all(asked.gone for asked in everyone):
                        return
        except BaseException as error:  # noqa: BLE001 - each of them raises it in its own thread
            failure = error
        if failure is not None:
            with self._changed:
                # Those who were at it wait for each other again.
                self._expected |= {name for name, asked in group.items() if not asked.gone}
        for asked in everyone:
            _give(asked, failure)

    def _take(self, name: str, asked: _Asked) -> Iterator[Batch]:
        try:
            while True:
                try:
                    part = asked.parts.get(timeout=_LOOK_EVERY)
                except queue.Empty:
                    if self._stop():
                        raise Stopped(f"{name}: stopped while it waited for events") from None
                    continue
                if part is None:
                    return
                if isinstance(part, BaseException):
                    raise part
                yield part
                if part.position is not None and part.position >= asked.until:
                    return
        finally:
            asked.gone = True


def _give(asked: _Asked, part: Batch | BaseException | None) -> None:
    """Put it into the queue of one, unless that one has gone."""
    while not asked.gone:
        try:
            asked.parts.put(part, timeout=_LOOK_EVERY)
        except queue.Full:
            continue
        else:
            return


@dataclass(frozen=True)
class Ended:
    """How one of several rebuilds ended: by its outcome, or by an error."""

    projection: str
    outcome: Outcome | None = None
    error: BaseException | None = None


def run_all(
    works: Mapping[str, Callable[[], Outcome]], leave: Callable[[str], None]
) -> list[Ended]:
    """Do several at the same time, each in a thread, to the end of the last; one that fails does
    not stop the others.
    """
    ended: dict[str, Ended] = {}

    def run(name: str) -> None:
        try:
            ended[name] = Ended(name, outcome=works[name]())
        except EsopsError as error:
            ended[name] = Ended(name, error=error)
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            log.error("a defect", projection=name, error=f"{type(error).__name__}: {error}")
            ended[name] = Ended(name, error=error)
        finally:
            leave(name)

    threads = [threading.Thread(target=run, args=(name,), name=name, daemon=True) for name in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(_LOOK_EVERY)
    return [ended[name] for name in works]
