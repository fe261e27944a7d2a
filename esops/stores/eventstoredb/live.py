"""Reading the log: once through, up to a position with checkpoints, and on and on."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from typing import Any

import structlog
from esdbclient.protos.Grpc import streams_pb2

from esops.errors import ConnectionLost, Refused
from esops.events import EventFilter, Position, RecordedEvent
from esops.stores.base import Batch
from esops.stores.eventstoredb import bulk
from esops.stores.eventstoredb.calls import AHEAD, Silent
from esops.stores.eventstoredb.connect import Connector, Link
from esops.stores.eventstoredb.errors import StreamGone

log = structlog.get_logger("esops.eventstoredb")

PATIENCE = 600.0
"""Seconds for which a follower keeps looking for a node."""
SILENCE = 10.0
"""Seconds after which a server that sends neither event nor checkpoint is asked in another way: old
ones never say "caught up".
"""
BEHIND = 10.0
"""Seconds for which a node whose log ends before a position may be a follower that is behind."""
LOOK_EVERY = 0.5
LINGER = 0.02
"""Seconds that the first event of a batch waits for others, live."""
_WHAT = "read $all"
_NO_POSITION = 2**64 - 1
FilterOptions = streams_pb2.ReadReq.Options.FilterOptions


class Page:
    """Events that are collected until they make a batch."""

    def __init__(self) -> None:
        self.events: list[RecordedEvent] = []
        self.size = 0

    def add(self, event: RecordedEvent) -> bool:
        """Add an event; returns whether the page is full."""
        self.events.append(event)
        self.size += len(event.data) + len(event.metadata)
        return self.size >= bulk.PAGE_BYTES or len(self.events) >= bulk.PAGE_EVENTS

    def take(self, position: Position) -> Batch:
        """All that was collected, as a batch that reaches up to a position."""
        events, self.events, self.size = self.events, [], 0
        return Batch(events, position)


def read(
    link: Link,
    after: Position | None,
    until: Position,
    filter: EventFilter,
    server: FilterOptions | None = None,
) -> Iterator[Batch]:
    """Everything after a position up to another, by one read that ends. `server`: what the server
    filters by, in place of the filter.
    """
    wanted = bulk.passes(filter) if server is None else _everything
    page = Page()
    request = bulk.read_all_request(after, filter=server or bulk.server_filter(filter))
    with contextlib.closing(bulk.Messages(link, request, _WHAT).each()) as messages:
        for message in messages:
            if message.WhichOneof("content") != "event":
                continue
            event = bulk.to_event(message.event.event)
            position = event.position
            if position > until:
                break
            # A read begins with the event at its position, which has been seen.
            if (after is None or position > after) and wanted(event) and page.add(event):
                yield page.take(position)
    yield page.take(until)


def _everything(event: RecordedEvent) -> bool:  # noqa: ARG001
    return True


def of_stream(
    link: Link, after: Position | None, until: Position | None, filter: EventFilter
) -> Iterator[Batch]:
    """One stream's events between two positions, or all after one, from the stream itself: quick,
    however long the log is.
    """
    assert filter.stream is not None
    page, of_category = Page(), bulk.wanted_streams(filter)(filter.stream)
    with contextlib.suppress(StreamGone):
        for event in events_of_stream(link, bulk.read_stream_request(filter.stream), filter.stream):
            if until is not None and event.position > until:
                break
            wanted = of_category and (not filter.types or event.type in filter.types)
            wanted = wanted and (after is None or event.position > after)
            if wanted and page.add(event):
                yield page.take(event.position)
    if until is not None:
        yield page.take(until)
    elif page.events:
        yield page.take(page.events[-1].position)


def tells_positions(link: Link, stream: str) -> bool:
    """Whether reads of streams tell the positions of events: servers before 22.10 do not."""
    with contextlib.suppress(StreamGone):
        found = bulk.first(
            link, bulk.read_stream_request(stream, limit=1), f"read stream {stream!r}"
        )
        return not found or has_place(found[0].position)
    return True


def has_place(position: Position) -> bool:
    """Whether a position of a read of a stream is one: older servers send the largest number."""
    return position[0] < _NO_POSITION


def up_to(
    link: Link,
    after: Position | None,
    until: Position,
    filter: EventFilter,
    server: FilterOptions | None = None,
) -> Generator[Batch, None, Position | None]:
    """Everything after a position up to another, by a subscription, since only those send
    checkpoints.

    Returns the position that was reached: short of `until` where the server fell silent, which old
    ones do at the end of the log. Checkpoints before `until` are safe: what the server wrote of
    late (see `follow`) lies after it.
    """
    wanted = bulk.passes(filter) if server is None else _everything
    page = Page()
    reached = after
    feed = _Feed(link, after, filter, SILENCE, server)
    try:
        with contextlib.closing(feed.each()) as items:
            for item in items:
                if isinstance(item, RecordedEvent):
                    if item.position > until:
                        break
                    if wanted(item) and page.add(item):
                        reached = item.position
                        yield page.take(reached)
                elif item is None:
                    break
                else:
                    if item >= until:
                        break
                    reached = item
                    yield page.take(item)
    except Silent:
        if page.events:
            reached = page.events[-1].position
            yield page.take(reached)
        return reached
    finally:
        feed.cancel()
    yield page.take(until)
    return until


class _Feed:
    """A subscription to $all after a position: its events, its checkpoints (as positions), and None
    when it has caught up.

    Servers from 21.10 to 23.10 read one record at or after the position and begin after that one,
    whatever its position: where a scavenge removed the record at the position, the next event would
    never come (Enumerators.AllSubscription.cs). So that record is looked for first, handed on from
    here, and subscribed after; and looked for again when the server has found its own place, since
    a scavenge may have come between. Servers before 21.10 begin with the record at the position
    itself, which is dropped.
    """

    def __init__(
        self,
        link: Link,
        after: Position | None,
        filter: EventFilter,
        idle: float,
        server: FilterOptions | None = None,
    ) -> None:
        self._link, self._filter, self._idle = link, filter, idle
        self._server = server or bulk.server_filter(filter)
        self._begin(after)

    def _begin(self, after: Position | None) -> None:
        self._start, self._next = after, None
        if after is not None:
            record = _beginning(self._link, after)
            # The record at the position itself has been seen; one after it has not.
            self._start, self._next = record.position, record if record.position > after else None
        request = bulk.read_all_request(self._start, filter=self._server, subscribe=True)
        self._messages = bulk.Messages(self._link, request, _WHAT, idle=self._idle)

    def each(self) -> Generator[RecordedEvent | Position | None]:
        wanted = bulk.wants(self._filter)
        while True:
            if self._next is not None and wanted(self._next):
                yield self._next
            start = self._start
            for message in self._messages.each():
                kind = message.WhichOneof("content")
                if kind == "event":
                    event = bulk.to_event(message.event.event)
                    if start is None or event.position > start:
                        yield event
                elif kind == "checkpoint":
                    checkpoint = Position(
                        (message.checkpoint.commit_position, message.checkpoint.prepare_position)
                    )
                    if start is None or checkpoint > start:
                        yield checkpoint
                elif kind == "caught_up":
                    yield None
                # From now on the server has its place, and a scavenge cannot move it.
                elif kind == "confirmation" and start is not None:
                    record = bulk.record_at(self._link, start)
                    if record is None or record.position != start:
                        break
            else:
                return
            self._messages.cancel()
            self._begin(start)

    def cancel(self) -> None:
        self._messages.cancel()


def _beginning(link: Link, after: Position) -> RecordedEvent:
    """The record at or after a position.

    Raises Refused if the log ends before it and does not grow up to it in time.
    """
    deadline = time.monotonic() + BEHIND
    while (record := bulk.record_at(link, after)) is None:
        if time.monotonic() >= deadline:
            raise Refused(
                f"the log of {link.target} ends before position {after}: it is not the one that "
                "the position was taken in",
                hint="It may have been replaced, or restored to an earlier time.",
            )
        time.sleep(LOOK_EVERY)
    return record


def events_of_stream(
    link: Link, request: streams_pb2.ReadReq, stream: str
) -> Iterator[RecordedEvent]:
    """A stream's events, links resolved; links whose event is gone are skipped."""
    with contextlib.closing(
        bulk.Messages(link, request, f"read stream {stream!r}").each()
    ) as messages:
        for message in messages:
            if message.WhichOneof("content") == "event" and message.event.HasField("event"):
                yield bulk.to_event(message.event.event)


def follow(
    connector: Connector,
    after: Position | None,
    filter: EventFilter,
    stop: Callable[[], bool],
    poll: timedelta,
) -> Iterator[Batch]:
    """Batches as they come; empty ones are heartbeats.

    A subscription that ends is taken up from the last position.
    """
    position, failing_since, pause = after, None, 0.1
    while not stop():
        subscription = None
        try:
            subscription = _Subscription(connector.link, position, filter)
            for batch in subscription.batches(position, stop, poll):
                failing_since, pause = None, 0.1
                position = batch.position
                yield batch
        except ConnectionLost as lost:
            connector.lost(lost)
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since > PATIENCE:
                raise
            log.warning(
                "the subscription was lost and starts again",
                error=lost.message,
                position=str(position),
            )
            time.sleep(pause)
            pause = min(pause * 2, 5.0)
            yield Batch([], position)
        finally:
            if subscription is not None:
                subscription.cancel()


class _Subscription:
    """A subscription to $all, read by a thread of its own, so that the follower can look up from
    it.
    """

    def __init__(self, link: Link, after: Position | None, filter: EventFilter) -> None:
        self._link, self._filter = link, filter
        # Live, silence is no sign of trouble; a connection that is gone is noticed by gRPC's
        # keep-alive.
        self._feed = _Feed(link, after, filter, float("inf"))
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=AHEAD)
        self._ended = threading.Event()
        threading.Thread(target=self._read, name="esops follow", daemon=True).start()

    def _read(self) -> None:
        try:
            for item in self._feed.each():
                self._put(item)
                if self._ended.is_set():
                    return
            self._put(ConnectionLost(f"{self._link.target} ended the subscription"))
        except Exception as error:  # noqa: BLE001  # told to the follower, which runs in another thread
            self._put(error)

    def _put(self, item: Any) -> None:
        # Not a plain put: a follower that has ended takes nothing more, and this thread would wait
        # for ever.
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.2)
                return

    def batches(
        self, position: Position | None, stop: Callable[[], bool], poll: timedelta
    ) -> Iterator[Batch]:
        wanted = bulk.passes(self._filter)
        page = Page()
        while not stop():
            try:
                # With events in hand the wait is short, so that they are not late; without any, it
                # is as long as until the next heartbeat.
                item = self._queue.get(timeout=LINGER if page.events else poll.total_seconds())
            except queue.Empty:
                if page.events:
                    position = page.events[-1].position
                yield page.take(position) if position is not None else Batch([], None)
                continue
            # First what came before the error: it was received, and its position saves reading it
            # again.
            if isinstance(item, Exception):
                if page.events:
                    yield page.take(page.events[-1].position)
                raise item
            if isinstance(item, RecordedEvent):
                if wanted(item) and page.add(item):
                    position = item.position
                    yield page.take(position)
            elif item is not None:
                place = self._before(item)
                last = page.events[-1].position if page.events else position
                if place is not None and (last is None or place > last):
                    position = place
                    yield page.take(place)

    def _before(self, checkpoint: Position) -> Position | None:
        """The newest event before a checkpoint.

        Servers before 22.10 send, on going live, a checkpoint at the place where the next event
        will be written: to resume from it would lose that event (esdbclient's tests call it the
        extra-checkpoint bug). Everything before it has been seen, though.
        """
        found = bulk.first(
            self._link, bulk.read_all_request(checkpoint, backwards=True, limit=1), _WHAT
        )
        return found[0].position if found else None

    def cancel(self) -> None:
        self._ended.set()
        self._feed.cancel()
