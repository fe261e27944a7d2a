"""The optional parts of an event store: what some stores can do beyond being read.

Each is a small protocol, and an attribute of the store (`store.archiving`, `store.search`, …) that
is None where a store has no such part. `esops.stores.base` gives every store `lengths` and
`search` that read all events; a store that knows better brings its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from esops.events import (
    EventFilter,
    Position,
    RecordedEvent,
)

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    from esops.stores.archive.store import ArchiveStore
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

    def session(self) -> object | None:
        """What stays the same object for as long as the log that is asked cannot have become
        another one, such as a session with its server. A process that reads on looks at its mark
        again where this has changed, and before each step where it is None. Connects where nothing
        is connected yet.
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
