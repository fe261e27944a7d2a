"""Positions of a store, and the events that share one: a reader that stopped resumes behind it, so
all of them must be given out together, and each once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from esops.archive_format.snapshots import is_snapshot
from esops.events import Position, RecordedEvent


def check_parts(parts: int, *positions: Position | None) -> None:
    """Raise ValueError for a position of another store: it has another number of parts."""
    for position in positions:
        if position is not None and len(position) != parts:
            raise ValueError(
                f"{position} is not a position of this store: those have {parts} "
                f"part{'s' * (parts > 1)}"
            )


def whole_positions(batches: Iterable[list[RecordedEvent]]) -> Iterator[list[RecordedEvent]]:
    """The same events, in batches that end only where a position ends."""
    held: list[RecordedEvent] = []
    for batch in batches:
        events = held + batch if held else batch
        cut = len(events)
        while cut and events[cut - 1].position == events[-1].position:
            cut -= 1
        held = events[cut:]
        if cut:
            yield events[:cut]
    if held:
        yield held


def each_once(events: Iterable[RecordedEvent]) -> Iterator[list[RecordedEvent]]:
    """The events of each position, without those that come twice: the first of each stream and
    version, and of a snapshot and the original event that it replaced, the original. Those of one
    stream come by version.
    """
    here: list[RecordedEvent] = []
    for event in events:
        if here and event.position != here[0].position:
            yield _without_doubles(here)
            here = []
        here.append(event)
    if here:
        yield _without_doubles(here)


def _without_doubles(events: list[RecordedEvent]) -> list[RecordedEvent]:
    if len(events) == 1:
        return events
    kept: dict[tuple[str, int], RecordedEvent] = {}
    for event in events:
        key = (event.stream, event.version)
        if key not in kept or is_snapshot(kept[key].type):
            kept[key] = event
    by_version: dict[str, list[RecordedEvent]] = {}
    for event in sorted(kept.values(), key=lambda each: -each.version):
        by_version.setdefault(event.stream, []).append(event)
    return [by_version[event.stream].pop() for event in kept.values()]


def each_version_once(events: Iterator[RecordedEvent]) -> Iterator[RecordedEvent]:
    """The first of each version and tenant; of a snapshot and the original event, the original.

    Not by position: a node need not tell it where it reads a stream.
    """
    version: int | None = None
    held: dict[str, RecordedEvent] = {}
    """By tenant."""
    for event in events:
        if event.version != version:
            yield from held.values()
            version, held = event.version, {}
        if event.tenant not in held or is_snapshot(held[event.tenant].type):
            held[event.tenant] = event
    yield from held.values()
