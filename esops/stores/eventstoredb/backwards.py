"""Reading the log, and a stream, from the newest event back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from esops.events import EventFilter, Position, RecordedEvent
from esops.stores.base import Batch
from esops.stores.eventstoredb import bulk
from esops.stores.eventstoredb.connect import Link
from esops.stores.eventstoredb.errors import StreamGone
from esops.stores.eventstoredb.live import Page, events_of_stream

_FIRST, _MOST = 200, 2_000
"""Events that the first read asks for, and the later ones: a server reads ahead of its client."""
Floors = Callable[[Position, Position], Mapping[str, int]]
"""Gives, for a read that began at one position and has come down to another, the versions from
which on the events of streams count (see scavenged.py).
"""


def of_log(
    link: Link, filter: EventFilter, after: Position | None, until: Position | None, floors: Floors
) -> Iterator[RecordedEvent]:
    """The events of $all up to one position and after another, the newest first.

    A read begins at the end of the log and not at a position: inside of a record, or after a
    scavenge, a server refuses that. It continues at the record that came last.
    """
    wanted, server = bulk.wants(filter), bulk.server_filter(filter)
    begin: Position | None = None
    reached: Position | None = None
    known: Mapping[str, int] = {}
    count = _FIRST
    while True:
        request = bulk.read_all_request(reached, backwards=True, limit=count, filter=server)
        seen = 0
        with contextlib.closing(bulk.Messages(link, request, "read $all").each()) as messages:
            for message in messages:
                if message.WhichOneof("content") != "event":
                    continue
                seen += 1
                event = bulk.to_event(message.event.event)
                if after is not None and event.position <= after:
                    return
                if reached is not None and event.position >= reached:
                    continue
                reached = event.position
                if until is not None and reached > until:
                    continue
                begin = begin or reached
                known = known or floors(begin, reached)
                if wanted(event) and event.version >= known.get(event.stream, 0):
                    yield event
        if seen < count:
            return
        count = _MOST


def of_stream(
    link: Link, filter: EventFilter, after: Position | None, until: Position | None
) -> Iterator[RecordedEvent]:
    """One stream's events up to one position and after another, the newest first."""
    assert filter.stream is not None
    request = bulk.read_stream_request(filter.stream, backwards=True)
    with contextlib.suppress(StreamGone):
        for event in events_of_stream(link, request, filter.stream):
            if after is not None and event.position <= after:
                return
            if until is not None and event.position > until:
                continue
            if not filter.types or event.type in filter.types:
                yield event


def pages(events: Iterator[RecordedEvent], limit: int | None) -> Iterator[Batch]:
    """Events as batches; the first ends with what is asked for."""
    page = Page()
    for given, event in enumerate(events, 1):
        if page.add(event) or given == limit:
            yield page.take(event.position)
            if given == limit:
                return
    if page.events:
        yield page.take(page.events[-1].position)
