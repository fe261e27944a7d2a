"""What esops needs of an event store. Read this file to write one.

A store is a class that derives from `EventStore` and gives it the five abstract methods. An entry
point of the group `esops.stores` makes it known (docs/how-to/add-a-store.md), and
`esops.testing.StoreContract` proves that it keeps its promises.

What else is asked of a store are parts, which are its attributes. Some (`counts`, `names`, …) every
store has: they are built on these methods in the simplest way, and a store brings its own class
where it can do better. The others (`esops.stores.parts`) are None where a store has none; a command
that needs one says so by `missing`, and what to do instead. Nothing asks a store for its class.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from types import TracebackType
from typing import ClassVar, NamedTuple, Protocol, Self

from esops.errors import Refused
from esops.events import (
    Checkpoint,
    EventFilter,
    NewEvent,
    Position,
    RecordedEvent,
    StreamInfo,
    whole,
)
from esops.settings import StoreSettings
from esops.stores.archived import ArchivedStreams
from esops.stores.archiving import Archiving, TenantScope
from esops.stores.capabilities import Capabilities, missing, require
from esops.stores.counts import EventCounts
from esops.stores.inline_tables import InlineTables
from esops.stores.lengths import StreamLengths
from esops.stores.losses import StreamLosses
from esops.stores.many_streams import ManyStreams
from esops.stores.masking import Masking
from esops.stores.names import StoreNames
from esops.stores.parts import (
    EVERYTHING,
    WITH_ARCHIVED,
    Halves,
    LogIdentity,
    Search,
    ServerAdmin,
    SettlingMemory,
    SqlAccess,
    StoredPayloads,
)
from esops.stores.settling import LOOKING, Head, Holder, Unsettled, settled
from esops.stores.times import EventTimes

__all__ = [
    "EVERYTHING",
    "LOOKING",
    "WITH_ARCHIVED",
    "Batch",
    "Capabilities",
    "EventStore",
    "Head",
    "Holder",
    "StoreInfo",
    "StoreSettings",
    "Unsettled",
    "WrongExpectedVersion",
    "at_most",
    "missing",
    "passes",
    "require",
    "settled",
]


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store says of itself.

    `clock` is the server's time in UTC; `warnings` are sentences for an operator.
    """

    backend: str
    layout: str
    version: str
    clock: datetime
    detail: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


class Batch(NamedTuple):
    """Some events in order (or none), and the position up to which everything has now been seen."""

    events: list[RecordedEvent]
    position: Position | None


class WrongExpectedVersion(Refused):
    """The stream is not at the version that was expected."""


def at_most(limit: int | None, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches of `limit` events in all, as `read_all` counts; the read behind them ends there."""
    if limit is None:
        yield from batches
        return
    for events, position in batches:
        if len(events) >= limit:
            part = events[: whole(events, limit)]
            yield Batch(part, part[-1].position)
            return
        limit -= len(events)
        yield Batch(events, position)


def passes(event: RecordedEvent, filter: EventFilter) -> bool:
    """Whether a filter wants an event, as far as the event itself tells: `archived` and `shard` are
    for stores that know of such.
    """
    return (
        (not filter.types or event.type in filter.types)
        and filter.category in {None, event.category}
        and filter.stream in {None, event.stream}
        and (not filter.looks or filter.admits(event))
    )


class EventStore(Protocol):
    """An event store. All positions that it gives out are settled: no event will ever turn up
    before them.
    """

    Settings: ClassVar[type[StoreSettings]] = StoreSettings
    """The model of its table in esops.toml, which `__init__(name, settings)` gets validated."""
    name: str
    """Its name in esops.toml; set it in `__init__`."""
    capabilities: Capabilities = Capabilities()
    """What it can do beyond being read."""

    @abstractmethod
    def ping(self) -> StoreInfo:
        """Reach the store. Raises Unavailable."""

    @abstractmethod
    def head(
        self,
        patience: timedelta = timedelta(seconds=1),
        after: Position | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Head:
        """The newest settled position.

        Waits at most `patience`, and until `stop`, for all that was written before the call to
        settle. `after` is a position known to be settled, such as a checkpoint; a store need not
        look at what lies before it.
        """

    @abstractmethod
    def read_all(
        self,
        after: Position | None = None,
        until: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """All events after one position up to another, in order, in batches of bounded memory.

        Without `until`: all that were committed before the call, waited for as `settled` does;
        where some do not settle in time, those that did, and then it raises Unsettled. Events of
        one stream, which its versions put in order, are all given out, settled or not.
        With `limit`: this many events, and those that share the last one's position, behind which
        a reader continues; no statement stays open. Fewer come only where there are no more.
        A batch may be empty: then no event up to its position passes the filter.
        """

    def read_backwards(
        self,
        until: Position | None,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """The events up to a settled position and after another, the newest first, in batches of
        bounded memory; at most `limit` of them. Those of one stream come by version, settled or
        not where `until` is None.

        A batch's position is that of its last event: all that lies between was given out. This one
        reads forwards and keeps the last `limit` events; without a limit it raises
        MissingCapability. A store that can read from its end overrides it.
        """
        if limit is None:
            raise missing(self, "backwards")
        found = self.read_all(after, until, filter)
        newest = deque((event.detached() for batch in found for event in batch.events), limit)
        if newest:
            yield Batch([*reversed(newest)], newest[0].position)

    @abstractmethod
    def read_stream(
        self,
        stream: str,
        after_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> Iterator[RecordedEvent]:
        """One stream's events by version. Nothing where there is no such stream."""

    @abstractmethod
    def streams(
        self,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
        *,
        closed_by: Sequence[str] = (),
        measured: bool = False,
    ) -> Iterator[StreamInfo]:
        """The streams with an event that passes the filter, by name.

        With `closed_by`, each says whether an event of one of these types closes it; with
        `measured`, how many bytes it takes.
        """

    def follow(
        self,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        stop: Callable[[], bool] = lambda: False,
        poll: timedelta = timedelta(milliseconds=100),
    ) -> Generator[Batch, None, None]:
        """Like read_all, and then on as events come, until `stop`, which is asked between batches.

        Empty batches are heartbeats.
        """
        while not stop():
            head = self.newest(after)
            if head is not None and (after is None or head > after):
                for batch in self.read_all(after, head, filter):
                    yield batch
                    if stop():
                        return
                # Up to the head, though the last event that passed the filter may lie before it:
                # rare events cost no progress.
                after = head
                yield Batch([], after)
            else:
                yield Batch([], after)
                time.sleep(poll.total_seconds())

    def newest(self, after: Position | None) -> Position | None:
        """The settled head at one look of a follower, which does not ask who holds it back. Where
        nothing was written since the last look, it should cost next to nothing.
        """
        return self.head(timedelta(milliseconds=20), after).position

    def wait(self, timeout: timedelta) -> None:
        """Wait for so long between two looks; less, where the store says that something came."""
        time.sleep(timeout.total_seconds())

    def rest(self) -> None:
        """Close what only long reads need, until the next one."""
        return

    def stream_info(self, stream: str) -> StreamInfo | None:
        """One stream's length and ages; None where there is no such stream."""
        return next(self.streams(EventFilter(stream=stream, archived=True)), None)

    def append(
        self,
        stream: str,  # noqa: ARG002 - refused
        events: Sequence[NewEvent],  # noqa: ARG002
        expected_version: int | None = None,  # noqa: ARG002
    ) -> Position:
        """Append in one transaction; returns the position of the last event.

        `expected_version` is that of the stream's last event; None asks for nothing; one below the
        store's first version asks for a new stream. Raises WrongExpectedVersion.
        """
        raise missing(self, "append")

    def checkpoints(self) -> list[Checkpoint]:
        """How far the application's own processors are, from the store's own bookkeeping."""
        return []

    def close(self) -> None:
        """Close all connections; a store without any has nothing to do."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- parts that every store has; built on the methods above where it brings no better ones

    @cached_property
    def counts(self) -> EventCounts:
        """How many events there are."""
        return EventCounts(self)

    @cached_property
    def names(self) -> StoreNames:
        """Which types, categories, streams and tenants there are."""
        return StoreNames(self)

    @cached_property
    def many_streams(self) -> ManyStreams:
        """Questions about many streams at once."""
        return ManyStreams(self)

    @cached_property
    def losses(self) -> StreamLosses:
        """Which streams have lost their first events."""
        return StreamLosses(self)

    @cached_property
    def archived(self) -> ArchivedStreams:
        """Which streams are archived, deleted or truncated."""
        return ArchivedStreams(self)

    @cached_property
    def times(self) -> EventTimes:
        """When events happened."""
        return EventTimes(self)

    # -- optional parts; None where the store does not have them

    @property
    def lengths(self) -> StreamLengths | None:
        """How long streams are and how fast they grow."""
        from esops.stores.counting import CountedLengths

        return CountedLengths(self)

    @property
    def search(self) -> Search | None:
        """Finding events by ids."""
        from esops.stores.scanning import ScannedSearch

        return ScannedSearch(self)

    @property
    def archiving(self) -> Archiving | None:
        """How streams get into an archive, out of the store, and back."""
        return None

    @property
    def tenant_scope(self) -> TenantScope | None:
        """Which archived streams are its own, where it reads one tenant of several."""
        return None

    @property
    def halves(self) -> Halves | None:
        """The store and its archive, each by itself, where it is joined with one."""
        return None

    @property
    def stored_payloads(self) -> StoredPayloads | None:
        """Payloads as the library wrote them; None where they always come like that."""
        return None

    @property
    def masking(self) -> Masking | None:
        """How personal data in its events is masked."""
        return None

    @property
    def identity(self) -> LogIdentity | None:
        """How esops tells this log from another at the same address."""
        return None

    @property
    def memory(self) -> SettlingMemory | None:
        """What it remembers between processes of what it took for settled."""
        return None

    @property
    def sql(self) -> SqlAccess | None:
        """What SQL can do where the events are in a Postgres database."""
        return None

    @property
    def inline(self) -> InlineTables | None:
        """The tables that the application writes in the transaction of each append."""
        return None

    @property
    def admin(self) -> ServerAdmin | None:
        """Projections, consumer groups and scavenges of a server."""
        return None
