"""Events, positions and streams, which every layer speaks of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from esops.moments import Moment
from esops.recorded_event import (
    EventColumns,
    PlacedEvent,
    Position,
    RecordedEvent,
    category_of,
    is_uuid,
    last_position,
    position_of,
    whole,
)

__all__ = [
    "Checkpoint",
    "EventColumns",
    "EventFilter",
    "NewEvent",
    "PlacedEvent",
    "Position",
    "RecordedEvent",
    "StreamInfo",
    "StreamKey",
    "StreamRef",
    "asked_for",
    "category_of",
    "is_uuid",
    "last_position",
    "own_names",
    "position_of",
    "whole",
]


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
    tenant: str | None = None
    """Only events of this tenant. This and the times are for looking at events: a store leaves out
    what it can without reading it, and whoever asks looks at each event (`EventFilter.admits`).
    """
    since: datetime | None = None
    """Only events that were recorded at this time or later."""
    before: datetime | None = None
    """Only events that were recorded before this time."""

    @property
    def everything(self) -> bool:
        """Whether nothing is filtered out."""
        return (
            not self.types
            and self.category is None
            and self.stream is None
            and self.shard is None
            and not self.looks
        )

    @property
    def looks(self) -> bool:
        """Whether each event has to be looked at, by `admits`."""
        return any(each is not None for each in (self.tenant, self.since, self.before))

    def admits(self, event: RecordedEvent) -> bool:
        """Whether an event is of the tenant, and within the times; one without a time never is."""
        if self.tenant is not None and event.tenant != self.tenant:
            return False
        if self.since is None and self.before is None:
            return True
        at = event.moment
        return (
            at is not None
            and (self.since is None or at >= self.since)
            and (self.before is None or at < self.before)
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

    noted_every: int = 1
    """After how many events its library writes its position, where it writes it now and then only:
    it may have read up to one fewer than that beyond it.
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


def asked_for(**ids: str | Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """Return what a search is for: the one kind of id that was given, and its values.

    Raises ValueError where none or several kinds were given.
    """
    given = [(which, value) for which, value in ids.items() if value is not None]
    if len(given) != 1:
        raise ValueError("a search is for one of " + ", ".join(ids))
    which, value = given[0]
    return which, (value,) if isinstance(value, str) else tuple(value)
