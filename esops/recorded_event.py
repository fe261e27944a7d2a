"""Recorded events, and their positions in the log.

Hundreds of thousands of events a second pass through. So one call in C makes the events of a batch,
each of its stream, version, type and data, and of its place in the batch's columns: what else it
has is decoded for the whole batch when it is asked for first. Payloads stay the bytes that the
store had, and are decoded where they are needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol, Self

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
_Time = datetime | FarTime | int | None


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


class EventColumns(Protocol):
    """What the events of one batch have besides their streams, versions, types and data: a list for
    each, made when the first event is asked for it.
    """

    @property
    def ids(self) -> Sequence[str]:
        """Their ids."""
        ...

    @property
    def positions(self) -> Sequence[Position]:
        """Their places in the log."""
        ...

    def position_of(self, row: int) -> Position:
        """The place of one of them."""
        ...

    @property
    def metadata(self) -> Sequence[bytes]:
        """Their metadata, as stored."""
        ...

    @property
    def times(self) -> Sequence[_Time]:
        """When they were recorded, as the driver gave it."""
        ...

    @property
    def tenants(self) -> Sequence[str]:
        """Their tenants."""
        ...


class _Others(NamedTuple):
    """The same of one event that is in no batch."""

    id: str
    position: Position
    metadata: bytes
    recorded_at: _Time
    tenant: str


class _Parts(NamedTuple):
    stream: str
    version: int
    type: str
    data: bytes
    columns: EventColumns | None
    row: Any
    """The event's place in the columns; without them, _Others."""


_new: Any = tuple.__new__


class RecordedEvent(_Parts):
    """One event as its store has it: immutable, and in Python a tuple of nine fields.

    `id` names it; `stream` and `version` say where it is in its stream, counted as the store
    counts; `position` is its place in the log of all streams. `data` and `metadata` are the stored
    bytes (UTF-8 JSON, or whatever the application wrote); `metadata` is empty where the store keeps
    none. `tenant` is empty where the store has no tenants.

    An event of a bulk read shares what is seldom asked for with the other events of its batch,
    which live as long as it does: who keeps events keeps `detached()` ones.
    """

    __slots__ = ()
    __match_args__ = (
        "id", "stream", "version", "position", "type", "data", "metadata", "recorded_at", "tenant",
    )  # fmt: skip

    def __new__(
        cls,
        id: str,
        stream: str,
        version: int,
        position: Position,
        type: str,
        data: bytes,
        metadata: bytes,
        recorded_at: _Time,
        tenant: str = "",
    ) -> Self:
        """An event by itself."""
        others = _new(_Others, (id, position, metadata, recorded_at, tenant))
        made: Self = _new(cls, (stream, version, type, data, None, others))
        return made

    @property
    def id(self) -> str:
        """What names it in its store."""
        columns = self.columns
        name: str = self.row.id if columns is None else columns.ids[self.row]
        return name

    @property
    def position(self) -> Position:
        """Its place in the log of all streams."""
        columns = self.columns
        place: Position = self.row.position if columns is None else columns.positions[self.row]
        return place

    @property
    def metadata(self) -> bytes:
        """The stored bytes of its metadata; empty where there is none."""
        columns = self.columns
        stored: bytes = self.row.metadata if columns is None else columns.metadata[self.row]
        return stored

    @property
    def tenant(self) -> str:
        """Whose it is; empty where the store has no tenants."""
        columns = self.columns
        name: str = self.row.tenant if columns is None else columns.tenants[self.row]
        return name

    @property
    def _time(self) -> Any:
        columns = self.columns
        return self.row.recorded_at if columns is None else columns.times[self.row]

    @property
    def fields(self) -> tuple[Any, ...]:
        """All nine fields; the time as the store's driver gave it."""
        return (
            self.id, self.stream, self.version, self.position, self.type, self.data,
            self.metadata, self._time, self.tenant,
        )  # fmt: skip

    def detached(self) -> RecordedEvent:
        """The same event by itself, to be kept: it keeps no batch in memory."""
        return self if self.columns is None else RecordedEvent(*self.fields)

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]
        """An event of its nine fields."""
        return cls(*iterable)

    def _replace(self, **changes: Any) -> RecordedEvent:
        """The event with other values in some fields."""
        return RecordedEvent(**{**self._asdict(), **changes})

    def _asdict(self) -> dict[str, Any]:
        """The nine fields by their names."""
        return dict(zip(self.__match_args__, self.fields, strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordedEvent, self.fields

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.__match_args__)

    def __getitem__(self, place: Any) -> Any:
        return self.fields[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecordedEvent) and self.fields == other.fields

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.fields)

    def __lt__(self, other: Any) -> bool:
        less: bool = self.fields < other.fields
        return less

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
        return f"RecordedEvent({values})"

    @property
    def recorded_at(self) -> datetime | None:
        """When the store recorded the event, in UTC; None where it does not say.

        Raises TimeOutOfRange for a time that no datetime can hold, such as Postgres' infinity:
        `moment` has all of them.
        """
        # A bulk read leaves microseconds in the tuple: making a datetime of each would be slow.
        value = self._time
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
        value = self._time
        return moment(from_driver(value)) if isinstance(value, int) else value

    @property
    def recorded_microseconds(self) -> int | None:
        """Microseconds since 1970; ±esops.moments.INFINITY for an unbounded time."""
        value = self._time
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


class _Placed(NamedTuple):
    stream: str
    version: int
    type: str
    data: bytes
    columns: EventColumns | None
    row: Any
    position: Position


class PlacedEvent(RecordedEvent):
    """An event of a batch that has its position beside it: a projection that asks each event for
    its position gets it in a fifth of the time.
    """

    __slots__ = ()

    def __new__(cls, *fields: Any, **named: Any) -> RecordedEvent:  # type: ignore[misc]
        """Another event, which is by itself: who copies one with other fields gets that."""
        return RecordedEvent(*fields, **named)

    position = _Placed.position


def position_of(event: RecordedEvent) -> Position:
    """The position of an event, without making those of its whole batch."""
    return event.position if event.columns is None else event.columns.position_of(event.row)


def last_position(events: Sequence[RecordedEvent]) -> Position:
    """The position of the last of some events, without making those of its whole batch."""
    return position_of(events[-1])


def whole(events: Sequence[RecordedEvent], number: int) -> int:
    """At least how many of some events to take, if `number` are wanted, so that of no position a
    part is left: who continues does so behind a position. Those of one transaction may share one.
    """
    if not 0 < number < len(events):
        return number
    last = position_of(events[number - 1])
    while number < len(events) and position_of(events[number]) == last:
        number += 1
    return number


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID as it is usually written."""
    return _UUID.match(text) is not None


def category_of(stream: str) -> str | None:
    """The part of a stream's name before the first `-`; None where the whole name is a UUID."""
    return None if _UUID.match(stream) else stream.partition("-")[0]
