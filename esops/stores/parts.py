"""The optional parts of an event store: what some stores can do beyond being read.

Each is a small protocol, and an attribute of the store (`store.archiving`, `store.search`, …) that
is None where a store has no such part. `esops.stores.base` gives every store `lengths` and
`search` that read all events; a store that knows better brings its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from esops.events import (
    EventFilter,
    Position,
    RecordedEvent,
    StreamKey,
)

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    from esops.stores.archive.store import ArchiveStore
    from esops.stores.archiving import LateBeginning
    from esops.stores.base import EventStore
    from esops.stores.eventstoredb.admin import Scavenge
    from esops.stores.eventstoredb.groups import PersistentSubscriptions
    from esops.stores.eventstoredb.server_projections import ServerProjections
    from esops.stores.readers import EventReader

EVERYTHING = EventFilter()
WITH_ARCHIVED = EventFilter(archived=True)
Ids = str | Sequence[str]
"""One id, or any of several."""


# -- which log it is

Mark = Mapping[str, Any]
"""JSON that a store makes and reads itself."""


class LogIdentity(Protocol):
    """How esops recognises a log: not one that replaced it, nor an older copy of it."""

    @property
    def covers_before(self) -> bool:
        """Whether a mark tells of all positions before its own, so that one at the end of a way is
        enough; where not, each checkpoint has one.
        """
        ...

    @property
    def gives_again(self) -> bool:
        """Whether numbers of events that were deleted are given to others, without a restore: then
        a process that reads on has to look at the mark of what it has read.
        """
        ...

    def check_reach(self, position: Position) -> None:
        """Raise AnotherLog where a position cannot be one of this log: it has other parts, or lies
        beyond all that was ever written.
        """
        ...

    def mark(self, position: Position) -> Mark | None:
        """What tells this log at a position from any other; kept beside a checkpoint.

        None where there is nothing at the position to tell it by.
        """
        ...

    def recognise(self, position: Position, mark: Mark, *, removed: bool = False) -> None:
        """Raise AnotherLog where the log up to a position is not the one that the mark was made in,
        or where that cannot be known.

        `removed`: somebody vouches that events which are gone were deleted, not lost.
        """
        ...

    def tells(self, position: Position, mark: Mark) -> bool | None:
        """Whether a mark of a position was made in this log: True where an event of the mark, or
        the place of the log, says so; False where other events are there; None where what it names
        is gone.
        """
        ...

    def mark_of(self, events: Sequence[RecordedEvent]) -> Mark | None:
        """The mark of the position of the last of some events that were read, in order, without
        asking the store.

        None where events do not tell enough.
        """
        ...


class LateEvent(NamedTuple):
    """An event that came at a number which had been passed as dead."""

    position: Position
    stream: str
    version: int
    type: str
    id: str
    passed_at: datetime
    """When a process of esops passed its number."""
    found_at: datetime | None
    """When it was found; None where that was not written down."""

    def in_words(self) -> str:
        """Which event it is."""
        what = f"{self.type}, {self.stream} version {self.version}"
        return f"event {self.id} ({what}) at {self.position}"


class SettlingMemory(Protocol):
    """What a store remembers between processes of what it took for settled."""

    def keep(self) -> None:
        """Write from now on what has to be remembered, where that is allowed."""
        ...

    def late(self) -> list[LateEvent]:
        """The events that came at numbers which had been passed as dead, newest first."""
        ...


# -- searching


class SearchResult(NamedTuple):
    """The events that a search finds, and how it finds them."""

    events: Iterator[RecordedEvent]
    how: str
    """An index of the store, or a scan, in words."""
    scans: int | None = None
    """About how many events a scan reads; None where an index answers."""
    remedy: str = ""
    """The statement, or what else, that would make an index."""


class Search(Protocol):
    """Finding events by their own ids, or by the ids in their metadata."""

    def find(
        self,
        *,
        event_id: Ids | None = None,
        correlation_id: Ids | None = None,
        causation_id: Ids | None = None,
        keys: Sequence[str] = (),
    ) -> SearchResult:
        """Events by exactly one kind of id. Nothing is read before the result is iterated.

        `keys` are the keys of the metadata to look under; without them, those of the field's
        conventions. Raises ValueError where none or several kinds of id are given.
        """
        ...


# -- events in a Postgres database


class SqlRange(NamedTuple):
    """Some of a store's events as SQL in its own database: those after `after` (an expression) up
    to `until`.
    """

    after: str
    until: str
    reached: Position
    events: int
    where: str = "TRUE"
    """The condition that holds for the store's own events: no archived ones, nor what the library
    writes for itself. The events are counted by it, and all other reads have it.
    """
    order: Sequence[str] = ()
    """The columns that the events are ordered by, quoted."""


class Concern(NamedTuple):
    """Something in the library's own bookkeeping that an operator should look at, and the fix."""

    kind: Literal[
        "reused ids",
        "orphan progress",
        "paused",
        "times",
        "doubled",
        "not unique",
        "never unique",
        "incomplete",
        "missing numbers",
    ]
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class SqlTables:
    """The tables that a store reads, for the rights and indexes that it needs."""

    schema: str
    events: sql.Identifier
    reads: Sequence[sql.Identifier]
    sequences: Sequence[sql.Identifier]
    order: Sequence[sql.Composable]
    """The columns that order all events, as an index has them."""
    archived: Sequence[sql.Identifier]
    """The tables that archiving changes; empty where streams cannot be removed."""


class SqlAccess(Protocol):
    """What SQL can do where the events are in a Postgres database."""

    @property
    def tables(self) -> SqlTables:
        """The tables behind the store."""
        ...

    def control(self) -> AbstractContextManager[psycopg.Connection]:
        """The store's connection for short questions; errors become ours."""
        ...

    def database(self) -> str:
        """What names this database among all servers."""
        ...

    def concerns(self) -> list[Concern]:
        """What an operator should look at in the library's own bookkeeping."""
        ...

    @property
    def begins_checkpoints(self) -> bool:
        """Whether a checkpoint can be set that the application has not stored yet."""
        ...

    def row_of(self, connection: psycopg.Connection, name: str) -> str | None:
        """What a processor's row says, in a form that changes whenever that moves or is touched;
        None where there is none. Asked often, also while readers wait.
        """
        ...

    def signs_of_life(self, name: str) -> str:
        """What says that a process may work for a processor now, for a person; empty where nothing
        says so.
        """
        ...

    def check_checkpoint(self, connection: psycopg.Connection, name: str) -> None:
        """Raise Refused where the checkpoint of a processor could not be set even if it stopped:
        there is no such processor, or the library cannot set it.
        """
        ...

    def set_checkpoint(
        self,
        connection: psycopg.Connection,
        name: str,
        position: Position,
        *,
        stopped: bool = False,
    ) -> str:
        """Set the checkpoint of a processor of the application's, in the transaction of a
        connection to the store's own database.

        `stopped`: the operator says that no process of it lives, whatever its row says; a lock that
        it holds is never overruled. Returns where the processor stands now, in words. Raises
        Refused while that processor may live, or where it is ahead.
        """
        ...

    def published(self) -> list[EventReader]:
        """What carries rows of the events' table out of the database: publications of logical
        replication, and slots that decode everything.
        """
        ...

    def range(self, after: Position | None, until: Position, events: int) -> SqlRange:
        """The first `events` events after a position, at most up to another."""
        ...


# -- tables that the application writes with each append


@dataclass(frozen=True, slots=True)
class InlineTable:
    """A table that the application's library writes in the transaction of each append."""

    schema: str
    name: str
    evidence: str
    """What says so, in words."""
    taken_over: str
    """What to do where nobody of the application's writes it any more, so that esops can."""
    registered: bool
    """Whether the library's own list names it. Otherwise only the table looks like one of its own,
    and one that somebody else made in that form looks the same.
    """


@dataclass(frozen=True, slots=True)
class KeptTable:
    """A table that a processor of the application's makes, after the appends."""

    schema: str
    name: str
    processors: tuple[str, ...]
    """Its rows of progress, as `checkpoints` names them; empty where its name is not known."""
    evidence: str
    """What says so, in words."""
    given_up: str
    """What to do where the application does not run that processor any more."""
    taken_over: str
    """As of an InlineTable."""
    registered: bool
    """As of an InlineTable."""


class StreamLength(NamedTuple):
    """Events of one stream that a filter wants."""

    events: int
    archived: int
    """How many of these are archived, whether or not the filter leaves those out."""


class Beyond(NamedTuple):
    """Which events there are after a position: the position of the last one (None: there is none),
    and their numbers, as ranges from the first to the last of each, in order. A number is the last
    part of a position.
    """

    end: Position | None
    numbers: Sequence[tuple[int, int]]


class InlineTables(Protocol):
    """The tables of the application's own projections, in the database of the events."""

    def database(self) -> str:
        """What names this database among all servers."""
        ...

    def tables(self) -> list[InlineTable]:
        """Those that there are, as far as the library's own tables tell."""
        ...

    def kept(self) -> list[KeptTable]:
        """Those that processors of the application's make, as far as the library's own tables
        tell.
        """
        ...

    def written_with_events(self, table: InlineTable | KeptTable) -> bool:
        """Whether rows of a table are of the very transactions that appended events to their
        streams, so that each append writes it. False where that does not show, as after a restore.
        """
        ...

    def visible(
        self, connection: psycopg.Connection, after: Position | None, filter: EventFilter
    ) -> list[RecordedEvent]:
        """All events after a position that a statement of the connection sees, settled or not, in
        order; those of one stream by their versions.
        """
        ...

    def changed(
        self, connection: psycopg.Connection, after: Position | None, filter: EventFilter
    ) -> list[StreamKey]:
        """The streams of these events, in their names' order."""
        ...

    def beyond(
        self, connection: psycopg.Connection, after: Position | None, most: int
    ) -> Beyond | None:
        """The events after a position, of any type, that a statement of the connection sees; None
        where they are more than `most`.
        """
        ...

    def late_beginnings(
        self, connection: psycopg.Connection, after: Position, filter: EventFilter
    ) -> list[LateBeginning]:
        """The streams without their first events whose first one now lies after a position, among
        those that a filter without its types wants.
        """
        ...

    def streams(self, connection: psycopg.Connection, names: Sequence[str]) -> list[StreamKey]:
        """Those streams with one of these names of which there is an event."""
        ...

    def whole(
        self,
        connection: psycopg.Connection,
        streams: Sequence[StreamKey],
        filter: EventFilter,
        until: Position | None = None,
        begins_with: Collection[str] = (),
    ) -> tuple[list[RecordedEvent], list[StreamKey]]:
        """All events of some streams that a statement of the connection sees, by their versions;
        and those of the streams that lack one, of any type, or have archived ones that the filter
        leaves out: nobody can fold them whole. `until`: no later ones than at a position. A stream
        may begin with an event of a type in `begins_with`.
        """
        ...

    def later(
        self,
        connection: psycopg.Connection,
        versions: Mapping[StreamKey, int],
        filter: EventFilter,
    ) -> list[RecordedEvent]:
        """As `whole`, what some streams have got after the versions that are given."""
        ...

    def lengths(
        self, connection: psycopg.Connection, streams: Sequence[StreamKey], filter: EventFilter
    ) -> Mapping[StreamKey, StreamLength]:
        """How many events of the filter streams have; those that have none are left out."""
        ...


# -- a store that is joined with its archive


class Halves(Protocol):
    """A store and the archive that its old streams went to, each by itself."""

    @property
    def hot(self) -> EventStore:
        """The store without its archive."""
        ...

    @property
    def cold(self) -> ArchiveStore:
        """The archive, with the runs that it had at the last look."""
        ...

    def renewed(self) -> ArchiveStore:
        """The archive, with what has left the hot store up to now."""
        ...


# -- payloads as they are stored


class StoredPayloads(Protocol):
    """Payloads as the library wrote them, where the store gives out others."""

    def give(self) -> Callable[[bytes], bytes]:
        """From now on, give payloads as the library wrote them; what it names their classes by is
        in the metadata. Returns what makes the plain JSON of one.
        """
        ...


# -- servers that run projections


class Scavengeable(NamedTuple):
    """What a scavenge would remove of what can no longer be read: the events of some streams, and
    the bytes of their data and metadata.
    """

    streams: int
    events: int
    bytes: int
    complete: bool
    """Whether all was counted; otherwise there may be more."""


class ServerAdmin(Protocol):
    """What an event store server does beside storing: projections, consumer groups, scavenges."""

    @property
    def projections(self) -> ServerProjections:
        """The projections that run inside the server."""
        ...

    @property
    def subscriptions(self) -> PersistentSubscriptions:
        """The groups of consumers that the server pushes events to."""
        ...

    def readers(self) -> list[EventReader]:
        """Who reads the events, as far as the server knows, without its own projections."""
        ...

    def unlisted(self, patience: timedelta) -> str:
        """What the server's own list of streams was found to lack, in words; empty where nothing.

        Looked for in a list that can be read within so long.
        """
        ...

    def scavengeable(self, patience: timedelta) -> Scavengeable:
        """What a scavenge would remove now, counted for at most so long."""
        ...

    def scavenge(self) -> Iterator[Scavenge]:
        """Scavenge each node of the cluster and tell how it goes, until all are done; a node that
        was not scavenged, too, with the reason.
        """
        ...
