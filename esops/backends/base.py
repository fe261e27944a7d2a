"""What esops needs of an event store. Read this file to write a backend.

A backend is a class with the attributes and methods of `EventStore`. What it cannot do it says in its `Capabilities`; a
command that needs more names what is missing and what to do instead. Nothing asks a backend for its class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from esops.errors import Refused
from esops.events import Checkpoint, EventFilter, NewEvent, Position, RecordedEvent, StreamInfo

EVERYTHING = EventFilter()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do beyond being read."""

    append: bool = False
    """Events can be appended by esops."""
    count_between: bool = False
    """It can say how many events lie between two positions; else that is an estimate."""
    tenants: bool = False
    """The same stream id may stand for two streams, of two tenants."""
    checkpoints: bool = False
    """It keeps the positions of the application's own processors."""
    metadata: bool = False
    """Streams have metadata of their own."""
    truncate: bool = False
    """The beginning of a stream can be cut off."""
    delete: bool = False
    """A stream can be deleted such that its name can be used again."""
    tombstone: bool = False
    """A stream can be deleted for ever."""
    scavenge: bool = False
    """What is truncated or deleted stays on disk until a scavenge, which esops can start and watch."""
    persistent_subscriptions: bool = False
    """The server pushes events to groups of consumers, and parks what they cannot take."""
    server_projections: bool = False
    """Projections run inside the server."""
    first_version: int = 1
    """The version of a stream's first event."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store says of itself. `clock` is the server's time in UTC; `warnings` are sentences for an operator."""

    backend: str
    layout: str
    version: str
    clock: datetime
    detail: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Holder:
    """A session or hole that holds the settled head back: who it is, what it does, and for how long."""

    who: str
    what: str
    since: datetime | None


class Batch(NamedTuple):
    """Some events in order (or none), and the position up to which everything has now been seen."""

    events: list[RecordedEvent]
    position: Position | None


class Found(NamedTuple):
    """What a search found, and how: through an index of the store, or by a scan and at what cost."""

    events: Iterator[RecordedEvent]
    how: str


class WrongExpectedVersion(Refused):
    """The stream is not at the version that was expected."""


class EventStore(Protocol):
    """An event store. All positions that it gives out are settled: no event will ever turn up before them."""

    name: str
    capabilities: Capabilities

    def ping(self) -> StoreInfo:
        """Reach the store. Raises Unavailable."""
        ...

    def head(self, patience: timedelta = timedelta(seconds=1), after: Position | None = None) -> Position | None:
        """The newest settled position, waiting at most `patience` for writers that are under way; None if empty.

        `after` is a position known to be settled, such as a checkpoint; it saves looking at what lies before it.
        """
        ...

    def held_back_by(self) -> list[Holder]:
        """Who keeps `head` from moving on, as of the last call of it."""
        ...

    def read_all(
        self,
        after: Position | None = None,
        until: Position | None = None,
        filter: EventFilter = EVERYTHING,
    ) -> Iterator[Batch]:
        """All events after a position up to another (left out: the head), in order, in batches of bounded memory.

        A batch may be empty: then nothing that passes the filter was found up to its position, which is worth a checkpoint.
        """
        ...

    def follow(
        self,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        stop: Callable[[], bool] = ...,
        poll: timedelta = ...,
    ) -> Iterator[Batch]:
        """Like read_all, and then on, live. Empty batches are heartbeats; `stop` is asked between batches."""
        ...

    def read_stream(
        self, stream: str, after_version: int | None = None, backwards: bool = False, limit: int | None = None
    ) -> Iterator[RecordedEvent]:
        """One stream's events by version. Nothing where there is no such stream."""
        ...

    def stream_info(self, stream: str) -> StreamInfo | None:
        """One stream's length and ages; None where there is none."""
        ...

    def streams(self, filter: EventFilter = EVERYTHING, limit: int | None = None) -> Iterator[StreamInfo]:
        """The streams with an event that passes the filter, by name."""
        ...

    def find(self, *, event_id: str | None = None, correlation_id: str | None = None, causation_id: str | None = None) -> Found:
        """Events by their own id, or by the correlation or causation id in their metadata; exactly one is asked for.

        Through an index where the store has one, else by a scan, which is said.
        """
        ...

    def append(self, stream: str, events: Sequence[NewEvent], expected_version: int | None = None) -> Position:
        """Append in one transaction. `expected_version` is that of the stream's last event; None asks for nothing.

        One below the store's first version asks for a new stream (Postgres layouts 0, EventStoreDB -1).
        Returns the position of the last event. Raises WrongExpectedVersion.
        """
        ...

    def count_between(self, after: Position | None, until: Position | None) -> int:
        """How many events lie after one position up to another; an upper bound or an estimate where a count would be dear.

        0 only where there is really none.
        """
        ...

    def checkpoints(self) -> list[Checkpoint]:
        """The application's own processors, from the store's own bookkeeping."""
        ...

    def close(self) -> None:
        """Give back all connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
