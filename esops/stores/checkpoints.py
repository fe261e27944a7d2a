"""The application's processor that a configuration names."""

from __future__ import annotations

from esops.errors import Refused
from esops.events import Checkpoint, EventFilter, Position, own_names
from esops.stores.base import EventStore

SET_BACK = (
    "The store may have been emptied, or restored to an earlier time. Set the processor's row to "
    "where it stands in these events: at the beginning, if it has read none of them."
)
"""What to do about a checkpoint beyond all events."""


def checkpoint_of(store: EventStore, name: str) -> Checkpoint | None:
    """The application's processor of that name, or of `name/version` or `name/version/partition`
    where the library keeps these apart (Emmett); None where there is none.

    Raises Refused where a name alone is that of several.
    """
    there = store.checkpoints()
    # A name of its own comes first: an id may end as a version does.
    found = [each for each in there if each.name == name]
    found = found or [each for each in there if each.called(name)]
    if len(found) > 1:
        own = [
            names[0]
            for each, names in zip(there, own_names(there), strict=True)
            if each in found and names
        ]
        raise Refused(
            f"{name!r} names several of the application's processors",
            hint=f"Name one of: {', '.join(own)}.",
        )
    return found[0] if found else None


def processor_of(store: EventStore, name: str) -> Checkpoint | None:
    """As `checkpoint_of`. Raises Refused also for a row that no reader stands behind."""
    found = checkpoint_of(store, name)
    if found is not None and found.kind == "bookkeeping":
        others = [each.name for each in store.checkpoints() if each.kind == "processor"]
        raise Refused(
            f"{name!r} is the bookkeeping of the library, and no projection's progress",
            hint="Name the processor that makes the tables"
            + (f", one of: {', '.join(others)}." if others else "; the store has none."),
        )
    return found


def moved(name: str, before: object, now: object) -> str:
    """That a checkpoint stands somewhere now, and where it stood before, if that was elsewhere."""
    if str(before) == str(now):
        return f"{name} at {now}"
    return f"{name} at {now}, from {'nothing' if before is None else before}"


def has_read(store: EventStore, reader: Checkpoint, until: Position | None) -> bool:
    """Whether a processor has certainly read all that it reads up to a position. Its checkpoint may
    stand before that for good, as Emmett's does that moves over some types alone.
    """
    position = reader.position
    if until is None or (position is not None and position >= until):
        return True
    if position is None and reader.evidence:
        return False
    filter = EventFilter(types=reader.types, category=reader.category, stream=reader.stream)
    return store.counts.passing(filter, until, 1, position, reader.tenant) == 0
