"""Events, positions and streams, which every layer speaks of.

A `RecordedEvent` is a NamedTuple, since a hundred thousand of them a second pass through: one C
call (`RecordedEvent._make`) turns a row into an event. Payloads stay the bytes that the store had,
and are decoded where they are needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import orjson

from esops.causality import CORRELATION_KEYS, first_of, named_cause
from esops.moments import (
    EPOCH,
    FarTime,
    Moment,
    TimeOutOfRange,
    from_driver,
    microseconds_of,
    moment,
)

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")

_loads = orjson.loads


class Position(tuple[int, ...]):
    """A place in one store's log: opaque, totally ordered, printable.

    Inside is a tuple of integers whose meaning only the store's layout knows, so nobody else does
    arithmetic on it. `str()` and `parse()` are inverses.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return ":".join(map(str, self))

    def __repr__(self) -> str:
        return f"Position({self})"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read a position that `str()` wrote. Raises ValueError on anything else."""
        return cls(int(part) for part in text.split(":"))


class _Fields(NamedTuple):
    id: str
    stream: str
    version: int
    position: Position
    type: str
    data: bytes
    metadata: bytes
    recorded_at: datetime | FarTime | int | None
    tenant: str = ""


class RecordedEvent(_Fields):
    """One event as its store has it: a named tuple.

    `version` is the event's number in its stream, counted as the store counts; `position` is its
    place in the log of all streams. `data` and `metadata` are the stored bytes (UTF-8 JSON, or
    whatever the application wrote); `metadata` is empty where the store keeps none. `tenant` is
    empty where the store has no tenants.
    """

    __slots__ = ()

    @property
    def recorded_at(self) -> datetime | None:
        """When the store recorded the event, in UTC; None where it does not say.

        Raises TimeOutOfRange for a time that no datetime can hold, such as Postgres' infinity:
        `moment` has all of them.
        """
        # A bulk read leaves microseconds in the tuple: making a datetime of each would be slow.
        value: Any = self[7]
        if value is None or isinstance(value, datetime):
            return value
        try:
            return EPOCH + timedelta(0, 0, value)
        except (OverflowError, TypeError):  # beyond a datetime, or a FarTime
            raise TimeOutOfRange(
                f"it was recorded at {self.moment}, which no datetime can hold; event.moment can"
            ) from None

    @property
    def moment(self) -> Moment | None:
        """When the store recorded the event: a datetime, or a FarTime where no datetime can hold
        it; None where the store does not say.
        """
        value = self[7]
        return moment(from_driver(value)) if isinstance(value, int) else value

    @property
    def recorded_microseconds(self) -> int | None:
        """Microseconds since 1970; ±esops.moments.INFINITY for an unbounded time."""
        value = self[7]
        if isinstance(value, int):
            return from_driver(value)
        return None if value is None else microseconds_of(value)

    def json(self) -> Any:
        """Decode the payload. Raises orjson.JSONDecodeError where it is not JSON."""
        return _loads(self.data)

    def meta(self) -> dict[str, Any]:
        """Decode the metadata; an empty dict where there is none."""
        value = orjson.loads(self.metadata) if self.metadata else None
        return value if isinstance(value, dict) else {}

    @property
    def correlation_id(self) -> str | None:
        """The id that everything caused by one request shares: the first of CORRELATION_KEYS in the
        metadata.
        """
        return first_of(self.meta(), CORRELATION_KEYS)

    @property
    def causation_id(self) -> str | None:
        """What caused this event: the first of CAUSATION_KEYS, or message-db's `stream/version`.

        An id can be that of an event, of a message, or a span's W3C traceparent.
        """
        return named_cause(self.meta())

    @property
    def category(self) -> str | None:
        """The part of the stream's name before the first `-`; None where the name is a UUID."""
        return category_of(self.stream)


class NewEvent(NamedTuple):
    """An event to be appended. `id` is a UUID's text; `data` and `metadata` are JSON bytes."""

    id: str
    type: str
    data: bytes
    metadata: bytes = b"{}"
    recorded_at: Moment | None = None
    """When it was recorded first, where it comes from an archive: stores that take such a time
    keep it. None: now.
    """


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events to read: those that match everything that is given. No types means all types."""

    types: tuple[str, ...] = ()
    category: str | None = None
    stream: str | None = None
    archived: bool = False
    """Whether to read events of archived streams, too."""
    shard: tuple[int, int] | None = None
    """(number, of how many): only the streams that a hash of their names puts into this shard,
    counted from 0. For stores with the capability `shards`.
    """

    @property
    def everything(self) -> bool:
        """Whether nothing is filtered out."""
        return (
            not self.types and self.category is None and self.stream is None and self.shard is None
        )


class StreamKey(NamedTuple):
    """What names a stream: its id, and its tenant where the store has tenants."""

    stream: str
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One stream: how many of its events can be read, and the first and last of them.

    Times are UTC, and None where no event can be read or the store does not say.
    """

    name: str
    category: str | None
    length: int
    first_version: int
    last_version: int
    first_at: Moment | None
    last_at: Moment | None
    archived: bool = False
    tenant: str = ""
    deleted: Literal["", "soft", "tombstone"] = ""
    """soft: no event can be read, and the name can be used again; tombstone: it never can."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The store's own settings of the stream, such as EventStoreDB's $maxCount, $maxAge and $tb."""
    closed: bool | None = None
    """Whether its last event is of a type that closes it; None where that was not asked."""
    bytes: int | None = None
    """The size of its events in the store; None where that was not asked, or is not known."""
    recent: int | None = None
    """How many of its events are younger than a time that was asked for."""
    commands: int | None = None
    """How many commands are in it beside its events; None where that was not asked, or the store
    keeps none.
    """

    @property
    def key(self) -> StreamKey:
        """The stream's id and tenant."""
        return StreamKey(self.name, self.tenant)


class StreamRef(NamedTuple):
    """A stream that is asked for, and about how many events that is."""

    stream: str
    tenant: str
    events: int
    last: int | None = None
    """The version at which what is asked for ends; None: the stream is asked for whole."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a processor of the application has got, according to the store's own tables.

    The layout says what its row means; nobody compares the texts in `state` or `detail`, which are
    what else the store keeps of it (version, status, …). What is unknown is never taken for dead,
    and never for passed.
    """

    name: str
    position: Position | None
    """Up to which it has certainly read all that it reads; None: nothing, or unknown."""
    state: str
    updated_at: Moment | None
    detail: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["processor", "bookkeeping"] = "processor"
    """Bookkeeping is the library's own: no reader stands behind it."""
    tenant: str = ""
    """The only tenant whose events it reads; empty: all."""
    category: str | None = None
    """The only category that it reads; None: all."""
    stream: str | None = None
    """The only stream that it reads; None: all."""
    types: tuple[str, ...] = ()
    """The only types of events that it handles; empty: all, or unknown."""
    alive: Literal["yes", "no", "unknown"] = "unknown"
    """Whether a process works for it now."""
    evidence: str = ""
    """Why the position or `alive` is what it says, for a person; empty where that is plain."""
    beyond: bool = False
    """Whether it is beyond all events that there ever were, so that its position is unknown."""

    in_stream: tuple[str, int] | None = None
    """The stream that it reads, where it knows its place by the version of the last event that it
    has read there, and -1 before the first. That may be a stream of links.
    """

    holds_stream: StreamKey | None = None
    """The stream of the event at which it stands, where the library could not begin without that
    event.
    """

    @property
    def place(self) -> Position | str | None:
        """Its position, or its place in the stream that it reads, as a person reads it."""
        if self.in_stream is not None:
            stream, version = self.in_stream
            return f"{stream}: {version}"
        return self.position

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, and where the library keeps a row for each version and partition `name/version`
        and `name/version/partition`.
        """
        parts = [self.name]
        for more in filter(None, map(self.detail.get, ("version", "partition"))):
            parts.append(f"{parts[-1]}/{more}")
        return tuple(parts)

    def called(self, name: str) -> bool:
        """Whether a name is one of its own."""
        return name in self.names


def own_names(found: Sequence[Checkpoint]) -> list[tuple[str, ...]]:
    """Of each of some checkpoints, the names that no other one has: the shortest first."""
    known = Counter(name for each in found for name in each.names)
    return [tuple(name for name in each.names if known[name] == 1) for each in found]


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID as it is usually written."""
    return _UUID.match(text) is not None


def category_of(stream: str) -> str | None:
    """The part of a stream's name before the first `-`; None where the whole name is a UUID."""
    return None if _UUID.match(stream) else stream.partition("-")[0]


def asked_for(**ids: str | Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """Return what a search is for: the one kind of id that was given, and its values.

    Raises ValueError where none or several kinds were given.
    """
    given = [(which, value) for which, value in ids.items() if value is not None]
    if len(given) != 1:
        raise ValueError("a search is for one of " + ", ".join(ids))
    which, value = given[0]
    return which, (value,) if isinstance(value, str) else tuple(value)
