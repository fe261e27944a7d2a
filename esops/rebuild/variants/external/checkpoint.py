"""How far the application is with a version that it builds and keeps fresh."""

from __future__ import annotations

from datetime import timedelta

from esops.errors import Refused
from esops.events import Position
from esops.moments import between
from esops.readmodel.registry import Version
from esops.stores.base import EventStore
from esops.stores.checkpoints import checkpoint_of, has_read

_ALIVE = timedelta(seconds=30)
"""A checkpoint that moved in this time belongs to a projector that is running."""


def reached(store: EventStore, version: Version) -> Position | None:
    """How far a version is by the application's checkpoint; None where it has none, or where esops
    keeps the version fresh.
    """
    there = None if version.checkpoint is None else checkpoint_of(store, version.checkpoint)
    return None if there is None else there.position


def is_ahead(store: EventStore, blue: Version, green: Version) -> bool:
    """Whether readers who move from blue to green see nothing older than before."""
    before = reached(store, blue)
    if before is None:
        return True
    now = reached(store, green)
    return now is not None and now >= before


def check_unused(store: EventStore, version: Version) -> None:
    """Raises Refused where the application still keeps a version fresh that is to be dropped."""
    there = None if version.checkpoint is None else checkpoint_of(store, version.checkpoint)
    # A library that notes no time cannot tell whether its projector still runs.
    age = None if there is None else between(there.updated_at, store.ping().clock)
    if there is not None and age is not None and age < _ALIVE:
        raise Refused(
            f"the application still keeps v{version.version} fresh: its checkpoint {there.name} "
            f"moved {age.total_seconds():.0f} s ago",
            hint="Stop that version of its projector first.",
        )
    # One that lives, and for which there is nothing to do, does not move.
    if there is None or not has_read(store, there, store.head().position):
        return
    signs = store.sql.signs_of_life(there.name) if store.sql is not None else ""
    if there.alive == "yes" or signs:
        raise Refused(
            f"the application may still keep v{version.version} fresh: its checkpoint {there.name} "
            f"is at the head, and {signs or there.evidence}",
            hint="Stop that version of its projector first. One that was killed falls behind with "
            "the next event.",
        )


class EventCount:
    """How many events there are up to a position that advances.

    Each event is counted once: counting all of them at every look would be expensive.
    """

    def __init__(self, store: EventStore) -> None:
        """Nothing is counted yet."""
        self._store = store
        self._to: Position | None = None
        self.events = 0

    def up_to(self, position: Position | None) -> int:
        """The number of events up to a position; never less than before."""
        if position is not None and (self._to is None or position > self._to):
            self.events += self._store.counts.between(self._to, position)
            self._to = position
        return self.events
