"""The newest events of a store, asked once for all versions that follow it: how far it is settled,
and the events that came last, so that those who stand near the end read them from memory.

Only settled events are kept, and few of them: a version that is behind reads for itself.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import structlog

from esops.errors import ConnectionLost, EsopsError, Stopped, Unavailable
from esops.events import EventFilter, Position, RecordedEvent
from esops.running.pace import OFTEN, LookPace
from esops.stores.base import EVERYTHING, Batch, EventStore, passes
from esops.stores.outage import Outage

log = structlog.get_logger("esops.run")
_MOST_EVENTS, _MOST_BYTES = 2_000, 16 << 20
"""Of the events that are kept."""
_LOOK_SECONDS = 0.25
_KEPT_SECONDS = 10.0
"""What is older is not given any more: a mask or a removal may have come since."""


class _ReadPiece(NamedTuple):
    """Events after one position up to another, all of them, and when they were read."""

    after: Position | None
    until: Position
    events: list[RecordedEvent]
    size: int
    at: float


class NewestEvents:
    """The newest events of a store, in pieces that follow one another."""

    def __init__(self) -> None:
        """There is none yet."""
        self._pieces: deque[_ReadPiece] = deque()
        self._dropped = 0
        self._lock = threading.Lock()

    def drop(self) -> None:
        """Forget all, since a connection was lost: where the store has lost its newest events, it
        gives their positions to others. What is being read now is not kept either.
        """
        with self._lock:
            self._pieces.clear()
            self._dropped += 1

    def read(self, store: EventStore, after: Position | None, until: Position) -> None:
        """Keep the events between two positions, where they are not too many. Raises as
        `read_all`.
        """
        events: list[RecordedEvent] = []
        size, dropped = 0, self._dropped
        try:
            with closing(_read(store, after, until)) as found:
                for batch in found:
                    events += batch.events
                    size += sum(len(each.data) + len(each.metadata) for each in batch.events)
                    if size > _MOST_BYTES:
                        break
        except ConnectionLost:
            raise
        except EsopsError:
            # It may lie in an event that no version wants: whoever wants it will say so.
            size = _MOST_BYTES + 1
        with self._lock:
            if dropped != self._dropped:
                return
            if len(events) >= _MOST_EVENTS or size > _MOST_BYTES:
                self._pieces.clear()
                return
            if self._pieces and self._pieces[-1].until != after:
                self._pieces.clear()
            self._pieces.append(_ReadPiece(after, until, events, size, time.monotonic()))
            self._forget()

    def _forget(self) -> None:
        pieces, old = self._pieces, time.monotonic() - _KEPT_SECONDS
        while pieces and (
            pieces[0].at < old
            or sum(len(each.events) for each in pieces) > _MOST_EVENTS
            or sum(each.size for each in pieces) > _MOST_BYTES
        ):
            pieces.popleft()

    def between(
        self, after: Position | None, until: Position, filter: EventFilter
    ) -> Iterator[Batch] | None:
        """The events after a position up to another, as a store's `read_all` gives them; None where
        not all of them are kept, or the store alone knows which of them pass the filter.
        """
        # What a stream's category is may be in the store's own list of streams.
        if filter.archived or filter.shard is not None or filter.category is not None:
            return None
        with self._lock:
            self._forget()
            pieces = list(self._pieces)
        if not pieces or pieces[-1].until < until:
            return None
        first = pieces[0].after
        if first is not None and (after is None or after < first):
            return None
        found = [
            event
            for piece in pieces
            if after is None or piece.until > after
            for event in piece.events
            if (after is None or event.position > after)
            and event.position <= until
            and passes(event, filter)
        ]
        return iter([Batch(found, until)])


def _read(store: EventStore, after: Position | None, until: Position) -> Generator[Batch]:
    yield from store.read_all(after, until, EVERYTHING, _MOST_EVENTS)


@dataclass(frozen=True, slots=True)
class _Stand:
    """How far the store is settled, and whether that is known."""

    head: Position | None = None
    known: bool = False


class HeadWatch:
    """Watches one store in a thread of its own, over connections of its own.

    A store that was lost may come back as another one. So nothing that was known before counts
    afterwards, and it begins again once somebody has recognised the log.
    """

    def __init__(
        self,
        open_store: Callable[[], EventStore],
        stop: threading.Event,
        wake: Callable[[], None],
    ) -> None:
        """`wake` is called where there is something new. Begins with the first `know`."""
        self._open_store, self._stop, self._wake = open_store, stop, wake
        self._stand = _Stand()
        self._error: EsopsError | None = None
        self._after: Position | None = None
        self._lock, self._recognised, self._lost = threading.Lock(), threading.Event(), False
        self._thread: threading.Thread | None = None
        self.newest = NewestEvents()
        self.opening = 0
        """Another number each time that the store was opened again after it had been lost."""

    def know(self, position: Position | None, opening: int) -> None:
        """Begin, with a checkpoint that was recognised: what lies below it had settled. `opening`
        is what it was before that was asked; one of before a loss says nothing.
        """
        with self._lock:
            if self._lost or opening != self.opening:
                return
            if position is not None and (self._after is None or position > self._after):
                self._after = position
            self._recognised.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="esops-head", daemon=True)
            self._thread.start()

    def head(self) -> tuple[bool, Position | None]:
        """Whether the head is known yet, and what it is. Raises what the store raised."""
        if self._error is not None:
            raise self._error
        return self._stand.known, self._stand.head

    @property
    def last(self) -> Position | None:
        """The newest head that is known."""
        return self._stand.head

    def join(self, seconds: float) -> None:
        """Wait for the end of the thread, which closes its store."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _watch(self) -> None:
        try:
            while not self._stop.is_set():
                self._until_lost()
        except Stopped:
            pass
        except EsopsError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - raised in those who follow the store
            self._error = EsopsError(f"a defect in esops: {type(error).__name__}: {error}")
        self._wake()

    def _until_lost(self) -> None:
        outage = Outage("the store", log.warning, self._stop.is_set)
        while True:
            try:
                store = self._open_store()
                break
            except Unavailable as lost:
                if not isinstance(lost, ConnectionLost):
                    raise
                outage.wait(lost)
        with store:
            try:
                if store.memory is not None:
                    store.memory.keep()
                self._look_on(store)
            except ConnectionLost as lost:
                log.warning("connection lost", error=lost.message)
            finally:
                self._forget()

    def _forget(self) -> None:
        with self._lock:
            self._lost, self._after, self._stand = True, None, _Stand()
            self._recognised.clear()
        self.newest.drop()

    def _begin(self) -> None:
        """Wait until somebody has recognised the log over a connection of now."""
        with self._lock:
            if self._lost:
                self.opening, self._lost = self.opening + 1, False
        self._wake()
        while not self._recognised.wait(_LOOK_SECONDS) and not self._stop.is_set():
            pass

    def _look_on(self, store: EventStore) -> None:
        """Look until stopped, or until the store's head goes back, as after a loss."""
        self._begin()
        pace = LookPace()
        while not self._stop.is_set():
            before = self._stand
            head = store.newest(self._after)
            moved = not before.known or head != before.head
            if before.head is not None and (head is None or head < before.head):
                log.warning("the store's head went back", head=str(head), before=str(before.head))
                return
            if moved and head is not None:
                if before.known and (before.head is None or head > before.head):
                    self.newest.read(store, before.head, head)
                with self._lock:
                    self._after = head if self._after is None else max(self._after, head)
            self._stand = _Stand(head, known=True)
            if moved:
                self._wake()
            pause = pace.pause(moved=moved)
            # Never more often, however many notifications come.
            self._stop.wait(OFTEN.total_seconds())
            if pause > OFTEN:
                store.wait(timedelta(seconds=(pause - OFTEN).total_seconds()))
