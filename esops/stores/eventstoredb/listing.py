"""The names of all streams: from the list that `$streams` keeps, or by a read of `$all`.

That projection links the event 0 of each stream, so its list lacks streams whose event 0 was
scavenged before it was enabled, and those whose event 0 claims to be JSON and is none
(EventFilter.PassesValidation). Nothing on the node tells that. So the streams of some events from
all over the log are looked for in the list; where it lacks one, `$all` is read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from esops.errors import Denied, Unavailable
from esops.events import EventFilter, Position, RecordedEvent
from esops.stores.eventstoredb import bulk, live
from esops.stores.eventstoredb.connect import Link
from esops.stores.eventstoredb.errors import StreamGone
from esops.stores.parts import EVERYTHING
from esops.wording import count

if TYPE_CHECKING:
    from esops.stores.eventstoredb.store import EventStoreDBStore

log = structlog.get_logger("esops.eventstoredb")

STREAMS = "$streams"
_ENDS, _PLACES, _EACH = 500, 8, 50
"""Events that are looked at from either end of the log, and places between with events of each."""
_TAIL = 1_000
_SETTLE = 0.3
"""Seconds after which links of what a projection has read are in its stream, at the latest."""


class StreamNames:
    """The streams of a node."""

    def __init__(
        self, store: EventStoreDBStore, talking: Callable[[str], AbstractContextManager[Link]]
    ) -> None:
        """`talking` gives a link to the node for some calls."""
        self._store, self._talking = store, talking
        self._lacks = ""

    def source(self, *, counted: bool = False) -> str:
        """Where the names come from, and what that costs. What a list was found to lack is
        remembered.
        """
        why = ""
        if not counted:
            runs = self._store.admin.projections.runs(STREAMS)
            if runs and not self._lacks:
                return f"{STREAMS}: one link a stream, then two reads a stream"
            why = (
                f"; {self._lacks}"
                if runs
                else f"; enable the projection {STREAMS} to avoid the scan"
            )
        events = self._store.counts.between(None, self._store.head().position)
        return f"a scan of $all, about {events:,} events, then two reads a stream{why}"

    def each(self, filter: EventFilter, *, counted: bool = False) -> Iterator[str]:
        """The names, some of them several times. `counted`: from the events, in any case."""
        wanted = bulk.wanted_streams(filter)
        listed = None if counted or self._lacks else self._store.admin.projections.usable(STREAMS)
        if listed is None:
            yield from self._scanned(filter)
            return
        with self._talking(f"read stream {STREAMS!r}") as link:
            sample = sampled(link)
            looked_up = len(sample)
            for name in names_in(link):
                sample.pop(name, None)
                if wanted(name):
                    yield name
        # Streams that are newer than the list can be are no sign of anything.
        yield from (name for name in sample if wanted(name))
        self._lacks = self._lacking(sample, listed.place, looked_up)
        if self._lacks:
            log.warning("$all is read for the list of streams", reason=self._lacks)
            yield from self._scanned(filter)

    def lacking(self, patience: timedelta) -> str:
        """What the list was found to lack, in words; empty where it lacks nothing of a sample, does
        not run, may not be read, or is too long to be read within `patience`.
        """
        with contextlib.suppress(Denied):
            return self._lacking_within(patience)
        return ""

    def _lacking_within(self, patience: timedelta) -> str:
        listed = self._store.admin.projections.usable(STREAMS)
        if listed is None:
            return ""
        deadline = time.monotonic() + patience.total_seconds()
        with self._talking(f"read stream {STREAMS!r}") as link:
            sample = sampled(link)
            looked_up = len(sample)
            for name in names_in(link):
                sample.pop(name, None)
                if not sample or time.monotonic() > deadline:
                    return ""
        return self._lacking(sample, listed.place, looked_up)

    def _scanned(self, filter: EventFilter) -> Iterator[str]:
        for batch in self._store.read_all(filter=filter):
            yield from (event.stream for event in batch.events)

    def _lacking(
        self, sample: dict[str, RecordedEvent], read_up_to: Position | None, looked_up: int
    ) -> str:
        old = {
            name: event
            for name, event in sample.items()
            if read_up_to is not None and event.position <= read_up_to
        }
        if not old:
            return ""
        time.sleep(_SETTLE)
        with self._talking(f"read stream {STREAMS!r}") as link:
            for name in _newest_names(link):
                old.pop(name, None)
            # A stream that nobody can read is lacking in no list.
            lacking = [name for name in old if _first(link, name) is not None]
        if not lacking:
            return ""
        return (
            f"the list that the projection {STREAMS} keeps lacks {len(lacking):,} of "
            f"{count(looked_up, 'stream')} that were looked up, such as {lacking[0]}: it was "
            "enabled after a scavenge, or first events are not valid JSON"
        )


def names_in(link: Link) -> Iterator[str]:
    """The names in `$streams`: each link points to a stream's first event."""
    yield from map(_name, live.events_of_stream(link, bulk.read_stream_request(STREAMS), STREAMS))


def _newest_names(link: Link) -> Iterator[str]:
    request = bulk.read_stream_request(STREAMS, backwards=True, limit=_TAIL)
    yield from map(_name, bulk.first(link, request, f"read stream {STREAMS!r}") or ())


def _name(event: RecordedEvent) -> str:
    # A link's data is `<version>@<stream>`, and a stream's name may have an @, too.
    return event.data.decode().partition("@")[2]


def _first(link: Link, stream: str) -> RecordedEvent | None:
    with contextlib.suppress(StreamGone):
        request = bulk.read_stream_request(stream, limit=1)
        found = bulk.first(link, request, f"read stream {stream!r}")
        return found[0] if found else None
    return None


def sampled(link: Link) -> dict[str, RecordedEvent]:
    """Streams of events from all over the log, each with the oldest of its events among them; none
    where the user has no right to read $all.
    """
    found: dict[str, RecordedEvent] = {}
    filter = bulk.server_filter(EVERYTHING)

    def look(after: Position | None, limit: int, *, backwards: bool = False) -> None:
        request = bulk.read_all_request(after, backwards=backwards, limit=limit, filter=filter)
        # A part of the log with nothing but the system's events takes longer than a short call.
        with contextlib.suppress(Unavailable):
            for event in bulk.first(link, request, "read $all") or ():
                if not event.stream.startswith("$"):
                    known = found.get(event.stream)
                    if known is None or event.position < known.position:
                        found[event.stream] = event

    look(None, _ENDS)
    look(None, _ENDS, backwards=True)
    for place in places(link):
        look(place, _EACH)
    return found


def places(link: Link) -> Iterator[Position]:
    """Positions of some links of `$streams`: places all over the log where a read can begin. None
    where there are no links, or the user has no right to read them.
    """

    def link_at(revision: int | None, *, backwards: bool = False) -> RecordedEvent | None:
        request = bulk.read_stream_request(STREAMS, revision=revision, backwards=backwards, limit=1)
        with contextlib.suppress(Unavailable):
            found = bulk.first(link, request, f"read stream {STREAMS!r}")
            return found[0] if found else None
        return None

    last = link_at(None, backwards=True)
    if last is None or not live.has_place(last.position):
        return
    for part in range(1, min(_PLACES, last.version)):
        each = link_at(last.version * part // _PLACES)
        if each is not None:
            yield each.position
