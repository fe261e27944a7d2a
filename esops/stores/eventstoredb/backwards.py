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
_ASKED = 100
"""Streams that are asked one by one what clients can read of them."""


class WhatCounts:
    """Which events count: all but what a scavenge has left of streams (see scavenged.py).

    What clients can read counts in any case, so that a look through $all for what was scavenged is
    needed only where a read meets something else, or very many streams.
    """

    def __init__(
        self,
        never: Callable[[], bool],
        lowest: Callable[[str], int | None],
        floors: Callable[[], Mapping[str, int]],
    ) -> None:
        """`never`: whether nothing was ever scavenged, as far as is known; `lowest` gives the first
        version of a stream that clients can read, None where they read none; `floors` those from
        which on the events of streams count.
        """
        self._never, self._lowest, self._look = never, lowest, floors
        self._whole: bool | None = None
        self._readable: dict[str, int | None] = {}
        self._floors: Mapping[str, int] | None = None

    def counts(self, event: RecordedEvent) -> bool:
        """Whether an event does."""
        if self._whole is None:
            self._whole = self._never()
        if self._whole:
            return True
        if self._floors is None:
            stream = event.stream
            if stream not in self._readable and len(self._readable) < _ASKED:
                self._readable[stream] = self._lowest(stream)
            low = self._readable.get(stream)
            if low is not None and event.version >= low:
                return True
            self._floors = self._look()
        return event.version >= self._floors.get(event.stream, 0)


def of_log(
    link: Link,
    filter: EventFilter,
    after: Position | None,
    until: Position | None,
    counts: Callable[[RecordedEvent], bool],
) -> Iterator[RecordedEvent]:
    """The events of $all up to one position and after another, the newest first.

    A read begins at the end of the log and not at a position: inside of a record, or after a
    scavenge, a server refuses that. It continues at the record that came last.
    """
    wanted, server = bulk.wants(filter), bulk.server_filter(filter)
    reached: Position | None = None
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
                if wanted(event) and counts(event):
                    yield event
        if seen < count:
            return
        count = _MOST


def of_stream(
    link: Link, filter: EventFilter, after: Position | None, until: Position | None
) -> Iterator[RecordedEvent]:
    """One stream's events up to one position and after another, the newest first."""
    assert filter.stream is not None
    if not bulk.wanted_streams(filter)(filter.stream):
        return  # it is not of the category
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
