"""The events of a store in the order of its log: what `esops events` reads and shows."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain, islice
from typing import Any

from esops.errors import EsopsError, UsageError
from esops.events import EventFilter, Position, RecordedEvent
from esops.exact_json import loads
from esops.stores.base import Batch, EventStore, Unsettled, settled
from esops.stores.capabilities import MissingCapability
from esops.stores.filters import no_stream, nothing_passes, only_archived, unknown_names
from esops.trace.backlog import Backlog
from esops.trace.conditions import Condition, fulfils, leads_nowhere, metadata_of

EVENT_COLUMNS = (
    "position",
    "recorded_at",
    "type",
    "stream",
    "version",
    "id",
    "data",
    "metadata",
)
_GLANCE = timedelta(milliseconds=500)
_MANY = 100_000
"""Events: a longer read for the sake of a time is announced."""


@dataclass(frozen=True)
class LogRequest:
    """Which events to read, and in which order.

    Raises UsageError where two parts of it exclude each other.
    """

    filter: EventFilter
    after: Position | None = None
    limit: int | None = None
    """Only the first N."""
    last: int | None = None
    """Only the last N."""
    reverse: bool = False
    """The newest first."""
    follow: bool = False
    """Wait for new events when all others are read: those from now on, unless `after`, `last` or a
    time in the filter says where to begin.
    """
    where: Sequence[Condition] = ()
    """Values that the events must have."""
    skew: timedelta | None = None
    """By how much the times of events are out of the order of the log, at most, as far as whoever
    asks knows; None: by anything.
    """

    def __post_init__(self) -> None:
        """Refuse what cannot be done together."""
        for one, other, why in (
            (self.limit is not None, self.last is not None, _BOTH_ENDS),
            (self.follow, self.reverse, "--follow waits for the newest events, which come last"),
            (self.follow, self.filter.before is not None, "--until ends what --follow waits for"),
        ):
            if one and other:
                raise UsageError(why, hint="Leave one of the two out.")
        since, before = self.filter.since, self.filter.before
        if since is not None and before is not None and since >= before:
            raise UsageError(
                f"no time is between --since and --until: {since:%Y-%m-%d %H:%M:%S} UTC is not "
                f"before {before:%Y-%m-%d %H:%M:%S} UTC",
            )
        if self.skew is not None and since is None:
            raise UsageError(
                "--skew says how far times are out of order, for --since",
                hint="Add --since, or leave it out.",
            )

    @property
    def looks(self) -> bool:
        """Whether each event has to be looked at here."""
        return self.filter.looks or bool(self.where)


_BOTH_ENDS = "--limit counts from the beginning and --last from the end"


class LogReader:
    """Reads events once, as it is iterated over."""

    def __init__(
        self,
        store: EventStore,
        request: LogRequest,
        stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`say` is told what takes long. Raises NoStream if one stream is asked for that does not
        exist.

        A stream that is followed may be created later, so that it need not exist.
        """
        request = _of_tenant(store, request)
        self._store, self._request, self._stop, self._say = store, request, stop, say
        self.incomplete: Unsettled | None = None
        """Why the newest events could not be read. Known when all others were read, and None if
        the limit was reached before.
        """
        self.count = 0
        """How many events were given."""
        self.timeless = 0
        """How many events were left out since the store does not say when they were recorded."""
        self.reached: Position | None = request.after if request.last is None else None
        """After which position nothing was given yet, once that is known."""
        self._looked_at = 0
        self._nowhere = {path for path, _ in request.where}
        """Paths of values that led to nothing in all events that were looked at."""
        stream = request.filter.stream
        if stream is not None and not request.follow and store.stream_info(stream) is None:
            raise no_stream(store, stream)
        # From now on: what is not settled yet comes when it is.
        self._head = self._now() if request.follow else None
        if request.follow and request.last is None and not self._dated and request.after is None:
            self.reached = self._head

    def __iter__(self) -> Iterator[RecordedEvent]:
        """The events. Raises UsageError if the position is not one of this store's."""
        try:
            for event in islice(self._events(), self._request.limit):
                self.count += 1
                yield event
                self.reached = event.position
        except ValueError as error:  # a position with another number of parts
            raise UsageError(str(error)) from None

    def _now(self) -> Position | None:
        """Up to which position events are not new. What is held back there is waited for, and it is
        said by whom: until it settles, nothing can be shown, and then it comes as if it were new.
        """
        request = self._request
        if self._of_stream or (request.after and request.last is None and not self._dated):
            return self._store.head(_GLANCE).position
        head, unsettled = settled(self._store, None, self._stop, self._say)
        if unsettled is not None:
            self._say(f"{unsettled.message}; they come when that has ended")
        return head

    def _events(self) -> Iterator[RecordedEvent]:
        request = self._request
        if request.follow:
            return self._followed()
        until, unsettled = self._end()
        self._unsettled = unsettled
        found = self._past(until) if until is not None or self._of_stream else iter(())
        return chain(found, self._ended())

    def _ended(self) -> Iterator[RecordedEvent]:
        # Reached only where all others were taken.
        self.incomplete = self._unsettled
        return
        yield

    @property
    def _of_stream(self) -> bool:
        return self._request.filter.stream is not None

    def _end(self) -> tuple[Position | None, Unsettled | None]:
        # The versions of one stream order its events, so that nothing has to settle.
        if self._of_stream:
            return None, None
        return settled(self._store, self._request.after, self._stop)

    def _past(self, until: Position | None) -> Iterator[RecordedEvent]:
        """What there is up to a position, as the request wants it."""
        request = self._request
        if request.reverse:
            return self._newest(until, request.last or request.limit)
        if request.last is not None:
            return self._last(until, request.last)
        after, until = self._from(until)
        # What is looked at here may be left out here, and does not count.
        limit = None if request.looks else request.limit
        found = self._wanted(self._store.read_all(after, until, request.filter, limit))
        return islice(found, limit)  # a read ends only where a position does

    def _followed(self) -> Iterator[RecordedEvent]:
        request = self._request
        if request.after is not None and request.last is None and not self._dated:
            return self._new(request.after)
        before = self._before(self._head) if request.last or self._dated else iter(())
        return chain(before, self._new(self._head))

    def _before(self, head: Position | None) -> Iterator[RecordedEvent]:
        if head is None:
            return iter(())
        if self._request.last is not None:
            return self._last(head, self._request.last)
        after, until = self._from(head)
        return self._wanted(self._store.read_all(after, until, self._request.filter))

    def _new(self, after: Position | None) -> Iterator[RecordedEvent]:
        # Whatever the clock of its writer said, what comes now is new.
        filter = replace(self._request.filter, since=None, before=None)
        for batch in self._store.follow(after, filter, self._stop):
            for event in batch.events:
                if filter.admits(event) and self._has_values(event):
                    yield event

    # -- from the end

    def _last(self, until: Position | None, number: int) -> Iterator[RecordedEvent]:
        backlog = Backlog()
        for event in self._newest(until, number):
            backlog.add(event)
        return backlog.reversed()

    def _newest(self, until: Position | None, number: int | None) -> Iterator[RecordedEvent]:
        request = self._request
        after, until = self._from(until)
        limit = None if request.looks else number
        found = self._store.read_backwards(until, after, request.filter, limit)
        try:
            yield from islice(self._wanted(found), number)
        except MissingCapability:
            # A store of another package may read forwards only.
            if number is None:
                raise
            forwards = self._wanted(self._store.read_all(after, until, request.filter))
            yield from reversed(deque((event.detached() for event in forwards), number))

    # -- times

    @property
    def _dated(self) -> bool:
        return self._request.filter.since is not None

    def _from(self, until: Position | None) -> tuple[Position | None, Position | None]:
        """Between which positions the wanted times are, as far as an index tells, or whoever asks
        knows; else all are looked at.
        """
        request, filter = self._request, self._request.filter
        after = request.after
        if filter.since is None or self._of_stream or until is None:
            return after, until
        between = self._store.times.positions_between(filter.since, filter.before)
        if between is not None:
            first, last = between
            after = first if after is None or (first is not None and first > after) else after
            return after, min(last, until)
        if request.skew is not None:
            return self._begin(until, request.skew), until
        self._announce(after, until)
        return after, until

    def _begin(self, until: Position, skew: timedelta) -> Position | None:
        """A position before which nothing is wanted: events are that much out of order at most."""
        since, after = self._request.filter.since, self._request.after
        assert since is not None
        filter = EventFilter(archived=True)
        with suppress(MissingCapability):  # a store that reads forwards reads all
            for batch in self._store.read_backwards(until, after, filter):
                for event in batch.events:
                    at = event.moment
                    if at is not None and at < since - skew:
                        return event.position
        return after

    def _announce(self, after: Position | None, until: Position) -> None:
        events = self._store.counts.between(after, until)
        if events > _MANY:
            number = self._request.limit or self._request.last
            looked_at = f"all {events:,} events up to now are looked at"
            if number is not None:
                looked_at = f"up to {events:,} events are looked at, until {number:,} are found"
            self._say(
                f"store {self._store.name} has no index of times, so {looked_at}. "
                "Times need not follow the order of the log. If you know by how "
                "much they are out of order at most, --skew (such as --skew 1h) saves that."
            )

    # -- what is wanted

    def _wanted(self, batches: Iterator[Batch]) -> Iterator[RecordedEvent]:
        filter, looks = self._request.filter, self._request.filter.looks
        dated = filter.since is not None or filter.before is not None
        for batch in batches:
            for event in batch.events:
                if looks and not filter.admits(event):
                    self.timeless += dated and event.moment is None
                elif self._has_values(event):
                    yield event

    def _has_values(self, event: RecordedEvent) -> bool:
        if not self._request.where:
            return True
        self._looked_at += 1
        return fulfils(event, self._request.where, self._nowhere)

    # -- where nothing is found

    def unknown_names(self) -> list[str]:
        """What to say of types and of a category that no event has, archived or not."""
        return [
            f"store {self._store.name} has no event of {what} {name!r} yet"
            for what, name in unknown_names(self._store, self._request.filter)
        ]

    def nobody_has_names(self) -> EsopsError | None:
        """The error where no event can be given, for names that none has: asked before a read that
        may be one of the whole log. None where that is not known quickly, or was not asked here.
        """
        request = self._request
        if request.last is None and not request.reverse and not request.where:
            return None  # the store itself looks for the names, and the answer is known after it
        return nothing_passes(self._store, replace(request.filter, since=None, before=None))

    def nothing_found(self) -> EsopsError | str:
        """Why no event was given: the error of names that no event has, together or alone; or what
        to say where the store has such events, and none of them was asked for.
        """
        request, name = self._request, self._store.name
        filter = replace(request.filter, since=None, before=None)
        narrowed = (
            (request.after is not None, f"after position {request.after}"),
            (filter != request.filter, "in that time"),
            (bool(request.where), "with that value"),
        )
        how = " and ".join(words for is_so, words in narrowed if is_so)
        error = nothing_passes(self._store, filter, known_to_be_none=not how)
        if error is not None:
            return error
        if hidden := only_archived(self._store, filter):
            return hidden
        if self._looked_at and self._nowhere:
            return leads_nowhere(min(self._nowhere, key=str), self._looked_at)
        return f"store {name} has no {'such ' * (not filter.everything)}event {how}".rstrip()


def _of_tenant(store: EventStore, request: LogRequest) -> LogRequest:
    """The request without a tenant that is the store's only one, which its events need not say."""
    scope = store.tenant_scope
    if scope is None or scope.tenant != request.filter.tenant:
        return request
    return replace(request, filter=replace(request.filter, tenant=None))


def event_columns(store: EventStore) -> Sequence[str]:
    """The columns of a table of events: with their tenant, where a store has tenants."""
    named = store.capabilities.tenants or store.capabilities.named_tenants
    return (*EVENT_COLUMNS, "tenant") if named else EVENT_COLUMNS


def parse_position(text: str) -> Position:
    """Read a position that esops printed. Raises UsageError."""
    try:
        return Position.parse(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is not a position",
            hint="`esops events` prints positions. They look like 42 or 490:402.",
        ) from None


def event_as_dict(event: RecordedEvent) -> dict[str, Any]:
    """An event under the documented field names.

    Numbers are as they are written. A payload that is not JSON is in `data_base64` instead of
    `data`.
    """
    row: dict[str, Any] = {
        "id": event.id,
        "stream": event.stream,
        "version": event.version,
        "position": str(event.position),
        "type": event.type,
        "recorded_at": event.moment,
    }
    try:
        row["data"] = loads(event.data)
    except ValueError:
        row["data"] = None
        row["data_base64"] = base64.b64encode(event.data).decode()
    try:
        row["metadata"] = metadata_of(event)
    except ValueError:
        row["metadata"] = {}
    if event.tenant:
        row["tenant"] = event.tenant
    return row
