"""All events of some streams up to a position, and which of the streams nobody can fold whole."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from esops.archive_format.snapshots import is_snapshot
from esops.events import EventFilter, Position, RecordedEvent, StreamKey

if TYPE_CHECKING:
    from esops.stores.base import EventStore

GONE = "the store does not give all of its events (removed, compacted or archived)"


class WholeStreams(NamedTuple):
    """What a store gives of some streams."""

    events: list[RecordedEvent]
    """Those that the filter wants, in the order of their positions."""
    lacking: Mapping[StreamKey, str]
    """The streams of which events up to the position are not there, and why; they may have events
    among `events`.
    """


def read_whole(
    store: EventStore,
    streams: Sequence[StreamKey],
    until: Position,
    filter: EventFilter,
    begins_with: Collection[str] = (),
) -> WholeStreams:
    """One stream after the other, of any store (see ManyStreams.whole)."""
    wanted, found = set(streams), list[RecordedEvent]()
    lacking = dict[StreamKey, str]()
    for name in sorted({each.stream for each in streams}):
        # What is gone may have had any type, so all types are read.
        of_stream = replace(filter, stream=name, types=(), archived=True)
        last = dict[StreamKey, int]()
        first_version = store.capabilities.first_version
        for batch in store.read_all(None, until, of_stream):
            for event in batch.events:
                key = StreamKey(event.stream, event.tenant)
                if key not in wanted:
                    continue
                if not _follows(event, last.get(key), first_version, begins_with):
                    lacking[key] = GONE
                last[key] = max(event.version, last.get(key, event.version))
                if not filter.types or event.type in filter.types:
                    found.append(event)
        info = store.stream_info(name)
        for key in (each for each in wanted if each.stream == name):
            if info is None or info.tenant not in {"", key.tenant}:
                continue
            if key not in last and info.last_version >= first_version and not info.length:
                lacking[key] = GONE
            if info.archived and not filter.archived:
                lacking[key] = "it is archived, and the projection leaves such streams out"
    found.sort(key=lambda event: event.position)
    return WholeStreams(found, lacking)


def _follows(
    event: RecordedEvent, last: int | None, first_version: int, begins_with: Collection[str]
) -> bool:
    """Whether nothing is missing right before an event, of which `last` is the version before."""
    if last is not None:
        # A name can begin again, and an older transaction may have appended after a newer one.
        return event.version <= last + 1
    if event.type in begins_with:
        return True
    return event.version == first_version and not is_snapshot(event.type)
