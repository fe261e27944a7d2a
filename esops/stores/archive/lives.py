"""Two streams of one name, apart: the one that the store has now, and an earlier one that was
archived before the name was used again.

Both begin at the first version, so that a merge by version would give events of both as one stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from esops.events import Position, RecordedEvent
from esops.stores.base import EventStore


def beginnings(hot: EventStore, cold: EventStore, stream: str) -> dict[str, Position]:
    """By tenant, where the stream begins that bears a name now; nothing for a name that stands for
    one stream. What is archived of it and lies before that is an earlier stream.
    """
    found: dict[str, Position] = {}
    for key in hot.archived.used_again(stream):
        first = next((e for e in hot.read_stream(stream) if e.tenant == key.tenant), None)
        if first is None:
            continue
        begin, bound = first.position, first.version
        archived = sorted(
            (event.position, event.version)
            for event in cold.read_stream(stream)
            if event.tenant == key.tenant and event.position < begin
        )
        # Its own first events may be archived, too: back to where versions do not go down further.
        for position, version in reversed(archived):
            if version >= bound:
                break
            begin, bound = position, version
        found[key.tenant] = begin
    return found


def of_the_present(
    events: Iterator[RecordedEvent], begins: Mapping[str, Position]
) -> Iterator[RecordedEvent]:
    """The events of a stream, without those of an earlier one of its name."""
    if not begins:
        return events
    return (
        event
        for event in events
        if event.tenant not in begins or event.position >= begins[event.tenant]
    )
