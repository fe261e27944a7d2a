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
    count_between: bool = False
    """It can say how many events lie between two positions."""
    tenants: bool = False
    """The same stream id may stand for two streams, of two tenants."""
    checkpoints: bool = False
    """It keeps the positions of the application's own processors."""


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
    ) -> Iterator[list[RecordedEvent]]:
        """All events after a position up to another (left out: the head), in order, in lists of bounded memory."""
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

    def append(self, stream: str, events: Sequence[NewEvent], expected_version: int | None = None) -> Position:
        """Append in one transaction. `expected_version` None asks for nothing, 0 for a new stream.

        Returns the position of the last event. Raises WrongExpectedVersion.
        """
        ...

    def count_between(self, after: Position | None, until: Position | None) -> int:
        """How many events lie after one position up to another; an upper bound where an exact count would be dear."""
        ...

    def checkpoints(self) -> list[Checkpoint]:
        """The application's own processors, from the store's own bookkeeping."""
        ...

    def close(self) -> None:
        """Give back all connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
