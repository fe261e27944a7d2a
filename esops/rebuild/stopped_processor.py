"""Where the application's processor stands that writes the version that serves, if it stands.

Rows are compared at one position. A processor that has stopped stays at its own, while the head
moves on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from esops.errors import Refused
from esops.events import Checkpoint, Position
from esops.stores.base import EventStore
from esops.stores.checkpoints import checkpoint_of, has_read
from esops.wording import count

_BETWEEN_LOOKS_SECONDS = 1.0


@dataclass(frozen=True)
class StandingProcessor:
    """A processor of the application's, by name (None: there is none); `said`: the operator says
    that it has stopped.
    """

    store: EventStore
    name: str | None
    said: bool

    def stands_at(self, head: Position | None) -> Position | None:
        """Where it stands before the head; None where it moves, has read all, or is not known."""
        first = self._now()
        if first is None or first.position is None or has_read(self.store, first, head):
            return None
        if not self._has_stopped(first):
            if first.alive == "yes":
                return None
            time.sleep(_BETWEEN_LOOKS_SECONDS)
            if self.position() != first.position:
                return None
        return first.position

    def position(self) -> Position | None:
        """Where it is now."""
        now = self._now()
        return None if now is None else now.position

    def stopped(self) -> bool:
        """Whether it has certainly stopped."""
        now = self._now()
        return now is not None and self._has_stopped(now)

    def behind(self, at: Position, head: Position | None, command: str) -> Refused:
        """That rows cannot be compared where it stands before what green has applied."""
        events = count(self.store.counts.between(at, head), "event")
        return Refused(
            f"the application's processor {self.name} is at {at} and does not advance, {events} "
            "before green, so that rows of these events differ and nothing can be compared",
            hint=f"Start it, and let it run until esops waits for it to stop: {command} --resume",
        )

    def _has_stopped(self, reader: Checkpoint) -> bool:
        return self.said or reader.alive == "no"

    def _now(self) -> Checkpoint | None:
        return None if self.name is None else checkpoint_of(self.store, self.name)
