"""What a store needs so that its streams can be archived: `store.archiving`, one of the optional
parts of an event store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import orjson

from esops.events import (
    StreamInfo,
    StreamKey,
    StreamRef,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from esops.archive_format.schema import StreamRow


@dataclass(frozen=True, slots=True)
class TenantScope:
    """Which archived streams are those of a store that reads one tenant alone."""

    tenant: str
    layout: str
    """Of the store: runs of another kind of tables know other tenants."""
    column: str
    """The library's column with the tenant."""
    named: bool
    """Whether the store's streams bear the tenant's name."""

    def own(self, key: StreamKey, row: str | None) -> StreamKey | None:
        """The key under which the store has a stream of a run; None where it is another tenant's.

        `row` is the library's row of the stream, as JSON.
        """
        tenant = key.tenant or (orjson.loads(row).get(self.column) if row else None)
        if tenant is not None and tenant != self.tenant:
            return None
        return key._replace(tenant=self.tenant if self.named else "")

    def condition(self, tenant: str) -> str:
        """The condition in SQL for rows of which an expression gives the tenant, or null where
        nothing tells it.
        """
        own = self.tenant.replace("'", "''")
        return f"coalesce({tenant}, '{own}') = '{own}'"


class VersionRange(NamedTuple):
    """Events of one stream that are to be removed: those of versions `low` to `high`."""

    key: StreamKey
    low: int
    high: int
    last_version: int
    """The version that the stream was at when it was archived; at another it is left alone."""
    ends: bool
    """Whether this is the last range of its stream in this removal."""
    events: Iterable[pa.RecordBatch] = ()
    """What the archive has of these events, in its schema: all of them, or none are removed where
    a store can change events. A sequence, or read once where a whole long stream goes.
    """
    head: bool = False
    """Whether the stream continues behind `last_version`: then it is left alone only where nothing
    lies behind that, and may grow.
    """


class LateBeginning(NamedTuple):
    """A stream that has lost its first events."""

    key: StreamKey
    below: int
    """It has no event of a lower version."""
    type: str | None
    """Of the first event that it still has; None where it has none."""
    limited: bool = False
    """Whether a limit of the stream's own explains it."""
    category: str | None = None
    """None where nothing tells."""


class StreamPart(NamedTuple):
    """Versions `low` to `high` of a stream."""

    key: StreamKey
    low: int
    high: int

    def overlap(self, info: StreamInfo | None, *, archived: bool) -> int:
        """How many of its events are among those that can be read of the stream."""
        if info is None or info.deleted or (info.archived and not archived):
            return 0
        inside = min(info.last_version, self.high) - max(info.first_version, self.low) + 1
        return max(0, min(inside, info.length))


class Removed(NamedTuple):
    """What became of a range: how many events were removed, or the reason why none were."""

    part: VersionRange
    events: int
    reason: str | None
    lasting: bool = False
    """Whether the reason stays until somebody changes the database: rows that refer to the stream,
    for example, as against a writer.
    """


@dataclass(frozen=True, slots=True)
class HeadRemoval:
    """How a strategy removes the head of a stream that continues."""

    what: str
    """What it does, for the plan."""
    statements: Sequence[str] = ()
    """What is executed, word for word, with the streams as parameters."""
    until_only: bool = False
    """Whether what stays has to begin with an event that carries the state."""
    at_once: bool = True
    """Whether a head goes by one call, however many events it has: a library that loads the stream
    in between would begin in the middle of the head.
    """


@dataclass(frozen=True, slots=True)
class RemovalStrategy:
    """A way to remove archived streams from a store."""

    name: str
    keeps: int = 0
    """How many of a stream's last events have to stay."""
    whole: bool = False
    """Whether it removes only whole streams."""
    at_once: bool = False
    """Whether a part of a stream goes by one call, however many events it has."""
    heads: HeadRemoval | None = None
    """How it removes the head of a stream that continues; None where it does not."""
    only_whole: str = ""
    """Why it does not."""
    never: str = ""
    """A pattern of streams that it never removes, such as those that consumers keep their
    positions in.
    """
    what: str = ""
    """What it does, for the plan."""
    statements: Sequence[str] = ()
    """What is executed, word for word, with the streams as parameters."""
    reuse: Literal["", "begins", "continues", "refused"] = ""
    """What an append to the name of a removed stream does: it begins another stream at the first
    version, continues behind the last one, or is refused; empty where nobody knows.
    """
    again: str = ""
    """What that means here, as a sentence for the plan."""
    continuing: RemovalStrategy | None = None
    """The same removal so that such an append continues; None where the library does not allow it.
    """


class ArchivedGroup(NamedTuple):
    """Some archived streams: their keys, the store's own rows of them, and their events."""

    keys: Sequence[StreamKey]
    rows: Sequence[str | None]
    batches: Iterable[pa.RecordBatch]


class Renumbered(NamedTuple):
    """What a restore at new positions wrote, and the streams that it left out, with reasons."""

    streams: int
    events: int
    conflicts: Mapping[StreamKey, str]


class Archiving(Protocol):
    """How streams get into an archive, out of the store, and back."""

    @property
    def removals(self) -> Sequence[str]:
        """The names of its removal strategies: `archive`, `delete`, `truncate`, `tombstone`."""
        ...

    @property
    def restores(self) -> Literal["", "in place", "anywhere"]:
        """Whether archived events can come back as they were: not at all, only to the store that
        they came from, or to any store of its kind.
        """
        ...

    def extra_columns(self) -> list[str]:
        """The names of what the store keeps of an event beside the archive's own columns."""
        ...

    def export(
        self, streams: Iterable[StreamRef], columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The events of streams in the archive's schema: stream by stream, in order of version, of
        each up to `StreamRef.last` where that is given.

        `columns` names the extra columns wanted; without it, all of them. `archive_batches` makes
        such batches of events.
        """
        ...

    def stream_rows(self, streams: Sequence[StreamKey]) -> Mapping[tuple[str, str], StreamRow]:
        """The store's own row of each stream as JSON, and as a JSON array the categories in which
        the store finds it: None where its name tells, as what stands before its first `-`. Nothing
        of streams that have neither.
        """
        ...

    def removal_strategy(self, removal: str) -> RemovalStrategy:
        """The strategy of that name. Raises UsageError where the store has none of that name."""
        ...

    def head_limits(self, removal: str, streams: Sequence[StreamKey]) -> Mapping[StreamKey, int]:
        """The version up to which the head of each stream can be removed, so that the library
        still loads the stream; without one of which nothing can go. At least the last event stays.
        Asked only of a strategy that removes `heads`.
        """
        ...

    def remove(
        self,
        removal: str,
        parts: Sequence[VersionRange],
        lock_timeout: timedelta,
        statement_timeout: timedelta,
    ) -> list[Removed]:
        """Remove ranges of streams that are still as they were when they were archived: where an
        event could have been changed, each is compared in the statement that removes it.

        It may be asked again for the same ranges, after a crash.
        """
        ...

    def obstacles(self, removal: str, parts: Sequence[VersionRange]) -> Mapping[StreamKey, str]:
        """Why streams could not leave, as far as it is seen by looking: nothing is locked, tried
        or written. Only the ranges count, not `VersionRange.events`.
        """
        ...

    def try_removal(
        self,
        removal: str,
        parts: Sequence[VersionRange],
        lock_timeout: timedelta,
        statement_timeout: timedelta,
    ) -> list[Removed]:
        """What `remove` would do, as far as it can be tried; nothing is removed. A store that
        cannot try says that all of it would go.
        """
        ...

    def prove(self, rows: Sequence[str | None], batches: Iterable[pa.RecordBatch]) -> int:
        """Try whether streams' own rows and events would come back as they are; nothing stays
        written. Returns how many events were tried: none where nothing can come back otherwise.

        Raises Refused where one would not.
        """
        ...

    def check_room(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Check that archived events can come back to their positions; nothing is written.

        Raises Refused where other events are there.
        """
        ...

    def restore_streams(
        self,
        streams: Sequence[StreamKey],
        rows: Sequence[str | None] | None,
        batches: Iterable[pa.RecordBatch],
    ) -> int:
        """Restore archived streams as they were; returns how many events were missing.

        `rows` are the store's own rows of them; None: the streams are there, and only events come
        back.

        Raises Refused where that would change an event that is there.
        """
        ...

    def restore_renumbered(
        self,
        groups: Iterable[ArchivedGroup],
        *,
        skip_conflicts: bool,
        confirm: Callable[[], None],
    ) -> Renumbered:
        """Restore archived streams at new positions after all others, in the order of their old
        ones: all of them, in one transaction, or none. `confirm` is called when events are written
        and not committed; what it raises undoes all.

        Raises Refused for a stream of which the store has other events, which `skip_conflicts`
        leaves out; UsageError where the store cannot give new positions.
        """
        ...
