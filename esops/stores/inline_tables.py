"""The tables that the application's library writes from its events, as a part of a store: in the
transaction of each append, or by a processor after it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from esops.events import EventFilter, Position, RecordedEvent, StreamKey

if TYPE_CHECKING:
    import psycopg

    from esops.stores.archiving import LateBeginning


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
