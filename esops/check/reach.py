"""The goal of a wait in one store, and whether a reader of it has taken in all up to there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from esops.errors import UsageError
from esops.events import Checkpoint, EventFilter, Position
from esops.stores.base import EventStore, Head

_AT_FIRST = timedelta(milliseconds=500)
_GLANCE = timedelta(milliseconds=20)
_COUNTED = 100_000
"""Events that a reader has not read are counted up to this many, where it wants only some."""
_LOOK = 0.4
"""Seconds between two looks at what holds the head back, each of one or two statements."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Something that reads a store: where it stands, and which events it wants."""

    key: object
    """What tells it from the others, and one version from the next."""
    position: Position | None
    filter: EventFilter
    tenant: str = ""
    unknown: bool = False
    """Whether its position is not known, so that None does not mean the beginning."""
    in_stream: tuple[str, int] | None = None

    @classmethod
    def of_application(cls, there: Checkpoint | None, projection: str) -> Self | None:
        """A processor of the application; None where there is none."""
        if there is None:
            return None
        filter = EventFilter(types=there.types, category=there.category, stream=there.stream)
        return cls(
            (projection, there.name),
            there.position,
            filter,
            there.tenant,
            unknown=there.position is None and bool(there.evidence) and there.in_stream is None,
            in_stream=there.in_stream,
        )


class Reach:
    """What is to be taken in of one store."""

    def __init__(self, store: EventStore) -> None:
        """Nothing is known yet: call `settle`."""
        self.store = store
        self.goal: Position | None = None
        self.settled = False
        """Whether everything up to the goal is there, so that readers can pass it."""
        self._head = Head(None)
        self._next: dict[object, Position] = {}
        """The first event that each reader had not read when it was looked for."""
        self._ends: dict[str, int] = {}
        """The last version of streams in which readers have their place."""

    def settle(
        self,
        position: Position | None,
        patience: timedelta,
        stop: Callable[[], bool],
        say: Callable[[str], None],
        passed: Position | None = None,
    ) -> None:
        """Find the goal: a position that was asked for, or what covers all that was committed
        before the call. Waits up to `patience` for that to settle; `passed` is known to be.

        Raises UsageError for a position of another store.
        """
        if position is not None and len(position) != self.store.capabilities.position_parts:
            raise UsageError(
                f"{position} is no position of store {self.store.name}",
                hint="`esops status` and `esops events` show positions as the store has them.",
            )
        self._head = self.store.head(min(patience, _AT_FIRST), passed, stop)
        if position is not None:
            self.goal = position
            self.settled = self._covers(self._head.position)
            return
        if self._head.held_back_by and patience > _AT_FIRST:
            say(f"waiting for the newest events to settle: {self.why_not_settled()}")
            # One call to the end, not one after the other: each would begin with what is
            # committed by then, and never end under writers whose transactions overlap.
            self._head = self.store.head(patience - _AT_FIRST, passed, _slowly(stop))
        self.settled = not self._head.held_back_by
        self.goal = self._head.position if self.settled else None

    def passed_by(self, reader: Reader) -> bool:
        """Whether a reader has taken in all that it wants of what comes up to the goal."""
        if reader.in_stream is not None:
            return self._passed_in_stream(*reader.in_stream)
        goal, position = self.goal, reader.position
        if self.goal is None or reader.unknown:
            return self.settled and self.goal is None
        if position is not None and goal is not None and position >= goal:
            return True
        if not self._is_settled(position):
            return False
        first = self._next.get(reader.key)
        if first is not None and (position is None or position < first):
            return False
        first = self._first_after(position, reader)
        if first is None:
            return True
        self._next[reader.key] = first
        return False

    def lag(self, reader: Reader) -> int:
        """How many events up to the goal a reader has not read, of those that it wants."""
        if reader.filter == EventFilter() and not reader.tenant:
            return self.store.counts.between(reader.position, self.goal)
        return self.store.counts.passing(
            reader.filter, self.goal, _COUNTED, reader.position, reader.tenant
        )

    def why_not_settled(self) -> str:
        """Who holds the store's settled head back, in words."""
        if self.goal is not None:
            self._head = self.store.head(_GLANCE)
        holders = "; ".join(each.in_words() for each in self._head.held_back_by[:3])
        here = f"store {self.store.name} is settled up to {self._head.position or 'nothing'} only"
        return f"{here}, held back by {holders}" if holders else here

    def _is_settled(self, position: Position | None) -> bool:
        if not self.settled:
            # Only for a position that was named: it may be of an event that is still to come.
            self.settled = self.goal is not None and self._covers(self.store.newest(position))
        return self.settled

    def _covers(self, head: Position | None) -> bool:
        return head is not None and self.goal is not None and head >= self.goal

    def _first_after(self, position: Position | None, reader: Reader) -> Position | None:
        # Without a limit: one of events of all tenants would end before the first of its own.
        for batch in self.store.read_all(position, self.goal, reader.filter, self._limit(reader)):
            for event in batch.events:
                if not reader.tenant or event.tenant == reader.tenant:
                    return event.position
        return None

    def _limit(self, reader: Reader) -> int | None:
        return None if reader.tenant else 1

    def _passed_in_stream(self, stream: str, read: int) -> bool:
        if stream not in self._ends:
            info = self.store.stream_info(stream)
            self._ends[stream] = -1 if info is None else info.last_version
        return self.settled and read >= self._ends[stream]


def _slowly(stop: Callable[[], bool]) -> Callable[[], bool]:
    """A store asks after each look whether to stop: then is the time to pause, for who waits for a
    transaction of minutes need not ask twenty times a second.
    """

    def asked() -> bool:
        end = time.monotonic() + _LOOK
        while not stop():
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        return True

    return asked
