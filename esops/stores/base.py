"""What esops needs of an event store. Read this file to write a backend.

A backend is a class with the attributes and methods of `EventStore`. What it cannot do it says in
its `Capabilities`; a
command that needs more names what is missing and what to do instead. Nothing asks a backend for its
class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Protocol, Self

import structlog

from esops.errors import Refused, Stopped, UsageError
from esops.events import (
    Checkpoint,
    EventFilter,
    NewEvent,
    Position,
    RecordedEvent,
    StreamInfo,
    StreamKey,
    StreamRef,
)

if TYPE_CHECKING:
    import pyarrow as pa

log = structlog.get_logger("esops.store")
EVERYTHING = EventFilter()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do beyond being read."""

    append: bool = False
    """Events can be appended by esops."""
    count_between: bool = False
    """It can say how many events lie between two positions; else that is an estimate."""
    shards: bool = False
    """Its streams can be dealt to several readers by a hash of their names."""
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
    """What is truncated or deleted stays on disk until a scavenge, which esops can start and watch.
    """
    persistent_subscriptions: bool = False
    """The server pushes events to groups of consumers, and parks what they cannot take."""
    server_projections: bool = False
    """Projections run inside the server."""
    first_version: int = 1
    """The version of a stream's first event."""
    settling: timedelta = timedelta(seconds=10)
    """How long a command waits for what was committed before it to settle: beyond the time for
    which missing numbers are watched.
    """
    removals: tuple[str, ...] = ()
    """How archived streams can be taken out of it: `archive`, `delete`, `truncate`, `tombstone`."""
    restores: Literal["", "in place", "anywhere"] = ""
    """Archived events can come back as they were: to the store that they came from, or to any of
    its kind.
    """


class VersionRange(NamedTuple):
    """Events of a stream that are to be taken out: those of versions `low` to `high`."""

    key: StreamKey
    low: int
    high: int
    last_version: int
    """The version that the stream was at when it was archived; at another it is left alone."""
    ends: bool
    """Whether this is all that is to go."""


class Removed(NamedTuple):
    """What became of a part: how many events went, and why none did."""

    part: VersionRange
    events: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class RemovalStrategy:
    """A way to take archived streams out of a store."""

    name: str
    keeps: int = 0
    """How many of a stream's last events have to stay."""
    whole: bool = False
    """Whether it takes streams as a whole alone."""
    never: str = ""
    """A pattern of streams that are not taken, such as those that consumers keep their positions
    in.
    """
    what: str = ""
    statements: Sequence[str] = ()
    """What is executed, word for word, with the streams as parameters."""


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


@dataclass(frozen=True, slots=True)
class Holder:
    """A session or hole that holds the settled head back: who it is, what it does, and for how
    long.
    """

    who: str
    what: str
    since: datetime | None

    def in_words(self) -> str:
        """In words."""
        return f"{self.who} ({self.what})"


class Batch(NamedTuple):
    """Some events in order (or none), and the position up to which everything has now been seen."""

    events: list[RecordedEvent]
    position: Position | None


class Found(NamedTuple):
    """What a search found, and how: through an index of the store, or by a scan and at
    what cost.
    """

    events: Iterator[RecordedEvent]
    how: str
    scans: int | None = None
    """About how many events are looked at, where no index answers; None where one does."""
    remedy: str = ""
    """The statement, or what else, would make such an index."""


class LengthCount(NamedTuple):
    """How many streams of a category and tenant have one length."""

    category: str | None
    tenant: str
    length: int
    streams: int


class Lengths(NamedTuple):
    """How many streams there are of each length, and where that is known from."""

    counts: Iterator[LengthCount]
    how: str


class MonthCount(NamedTuple):
    """How many events of a category a month (`2026-11`) has."""

    category: str | None
    month: str
    events: int


class SampledPage(NamedTuple):
    """Of one page of a table, taken at random: how many events it has, and how long the stream of
    one of them is.
    """

    category: str | None
    tenant: str
    events: int
    length: int


class LengthSample(NamedTuple):
    """Pages of a table, each of which was taken with the same probability, `share` (0 to 1)."""

    share: float
    pages: list[SampledPage]
    how: str


class SqlRange(NamedTuple):
    """Some of a store's events, as SQL in its own database says which: those after `after` (an
    expression) up to `until`.
    """

    after: str
    until: str
    reached: Position
    events: int


def at_most(limit: int | None, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches with so many events in all; the read behind them is ended with the last."""
    if limit is None:
        yield from batches
        return
    for events, position in batches:
        if len(events) >= limit:
            part = events[:limit]
            yield Batch(part, part[-1].position)
            return
        limit -= len(events)
        yield Batch(events, position)


Mark = Mapping[str, Any]
"""JSON that a store makes and reads itself."""

Ids = str | Sequence[str]
"""One id, or any of several."""


LOOKING = timedelta(seconds=5)
"""How long a look at how things are (status, show, doctor) waits for the same."""
_QUIETLY = timedelta(milliseconds=500)
"""So long a command waits without a word."""


class Unsettled(Stopped):
    """Some events that were committed could not be read: it is not settled what comes
    before them.
    """

    def __init__(self, store: EventStore, head: Position | None, holders: Sequence[Holder]) -> None:
        """Take the store, up to where it was read, and who holds the rest back."""
        who = "; ".join(each.in_words() for each in holders[:3])
        super().__init__(
            f"store {store.name} was read up to {head or 'nothing'} only: what follows may not be "
            f"complete yet, held back by {who}",
            hint="Run it again once that has ended. `esops status` and `esops doctor` show what "
            "holds the store back.",
        )


def settled(
    store: EventStore,
    after: Position | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Position | None, Unsettled | None]:
    """The newest settled position, once all that was committed before the call is settled; said on
    stderr where that takes longer.

    Where it does not settle in the store's `settling` time, or before `stop`, the second value says
    so, to be raised when the rest is done.
    """
    patience = store.capabilities.settling
    head = store.head(min(patience, _QUIETLY), after, stop)
    holders = store.held_back_by()
    if holders and patience > _QUIETLY and not stop():
        log.warning(
            "waiting for the newest events to settle",
            store=store.name,
            held_back_by=[each.in_words() for each in holders[:3]],
            at_most_seconds=patience.total_seconds(),
        )
        head = store.head(patience - _QUIETLY, after, stop)
        holders = store.held_back_by()
    return head, Unsettled(store, head, holders) if holders else None


class WrongExpectedVersion(Refused):
    """The stream is not at the version that was expected."""


class EventStore(Protocol):
    """An event store.

    All positions that it gives out are settled: no event will ever turn up before them.
    """

    name: str
    capabilities: Capabilities

    def ping(self) -> StoreInfo:
        """Reach the store. Raises Unavailable."""
        ...

    def head(
        self,
        patience: timedelta = timedelta(seconds=1),
        after: Position | None = None,
        stop: Callable[[], bool] = ...,
    ) -> Position | None:
        """The newest settled position; None where nothing is settled, which an empty store's is,
        too.

        Waits at most `patience`, and until `stop`, for all that was written before the call to
        settle. `after` is a position known to be
        settled, such as a checkpoint; it saves looking at what lies before it.
        """
        ...

    def held_back_by(self) -> list[Holder]:
        """Who kept the last `head` short of what was written before it; empty only where it was not
        short.
        """
        ...

    def read_all(
        self,
        after: Position | None = None,
        until: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """All events after a position up to another, in order, in batches of bounded memory.

        Without `until`: all that were committed before the call, as `settled` waits for them; where
        they do not settle in time, those that
        did, and then it raises Unsettled. One stream's events, which its versions put in order, are
        all given out, settled or not.
        `limit`: at most so many events, and no statement is open behind them. Fewer were found only
        where there are no more.
        A batch may be empty: then nothing that passes the filter was found up to its position,
        which is worth a checkpoint.
        """
        ...

    def follow(
        self,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        stop: Callable[[], bool] = ...,
        poll: timedelta = ...,
    ) -> Iterator[Batch]:
        """Like read_all, and then on, live.

        Empty batches are heartbeats; `stop` is asked between batches.
        """
        ...

    def mark(self, position: Position) -> Mark | None:
        """What tells this log, at a position, from any other: kept beside a checkpoint, and
        recognised when work goes on from there.

        None where the store has nothing of the kind.
        """
        ...

    def recognise(self, position: Position, mark: Mark) -> None:
        """Raises Refused where the log at a position is not the one that the mark was made in:
        replaced, restored, or another's.
        """
        ...

    def read_stream(
        self,
        stream: str,
        after_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> Iterator[RecordedEvent]:
        """One stream's events by version. Nothing where there is no such stream."""
        ...

    def stream_info(self, stream: str) -> StreamInfo | None:
        """One stream's length and ages; None where there is none."""
        ...

    def streams(
        self,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
        *,
        closed_by: Sequence[str] = (),
        measured: bool = False,
    ) -> Iterator[StreamInfo]:
        """The streams with an event that passes the filter, by name.

        With `closed_by`, whether each is closed by an event of one of these types; `measured`: with
        the bytes that it takes.
        """
        ...

    def counts_events(self, *, counted: bool = False) -> bool:
        """Whether `lengths` looks at every event (or stream), and not at a list of streams."""
        ...

    def lengths(self, filter: EventFilter = EVERYTHING, *, counted: bool = False) -> Lengths:
        """How many streams there are of each length, exactly, from the store's own list of streams
        where it has one.

        `counted`: from the events themselves, also where such a list says how long streams have
        ever been.
        """
        ...

    def longest(
        self,
        limit: int,
        filter: EventFilter = EVERYTHING,
        *,
        over: int = 0,
        closed_by: Sequence[str] = (),
        since: datetime | None = None,
        counted: bool = False,
    ) -> list[StreamInfo]:
        """The longest streams, of more than `over` events each, the longest first, measured.

        With `since`, how many events each has since then, in `recent`.
        """
        ...

    def grown(
        self, since: datetime, over: int, filter: EventFilter = EVERYTHING
    ) -> Iterator[tuple[StreamInfo, int]]:
        """The streams to which more than `over` events were appended since then, and how many.

        Nothing where times are not known.
        """
        ...

    def monthly(self, filter: EventFilter = EVERYTHING) -> list[MonthCount]:
        """Events by category and month (UTC).

        Looks at every event. Empty where times are not known.
        """
        ...

    def sample_lengths(self, pages: int, filter: EventFilter = EVERYTHING) -> LengthSample | None:
        """About so many pages of the events, taken at random; None where exact lengths cost as
        little, or a sample is not to be had.
        """
        ...

    def database(self) -> str | None:
        """What names the Postgres database that the events are in, over all servers; None where
        they are in none.
        """
        ...

    def hand_over(self, connection: Any, name: str, position: Position) -> None:
        """Set the checkpoint of a processor of the application's, in the transaction of a
        connection to the store's own database.

        Raises Refused while that processor lives, or where it is ahead.
        """
        ...

    def sql_range(self, after: Position | None, until: Position, events: int) -> SqlRange:
        """The first so many events after a position, at most up to another, for a statement in the
        store's own database.
        """
        ...

    def find(
        self,
        *,
        event_id: Ids | None = None,
        correlation_id: Ids | None = None,
        causation_id: Ids | None = None,
        keys: Sequence[str] = (),
    ) -> Found:
        """Events by their own ids, or by the correlation or causation ids in their metadata;
        exactly one kind is asked for.

        Through an index where the store has one, else by a scan, which is said before anything is
        read.
        `keys`: the keys of the metadata; left out: those of the field's conventions.
        """
        ...

    def append(
        self, stream: str, events: Sequence[NewEvent], expected_version: int | None = None
    ) -> Position:
        """Append in one transaction.

        `expected_version` is that of the stream's last event; None asks for nothing.

        One below the store's first version asks for a new stream (Postgres layouts 0, EventStoreDB
        -1).
        Returns the position of the last event. Raises WrongExpectedVersion.
        """
        ...

    def count_between(self, after: Position | None, until: Position | None) -> int:
        """How many events lie after one position up to another; an upper bound or an estimate where
        a count would be dear.

        0 only where there is really none.
        """
        ...

    def checkpoints(self) -> list[Checkpoint]:
        """The application's own processors, from the store's own bookkeeping."""
        ...

    # -- archiving; only of stores that say so in their capabilities

    def extra_columns(self) -> list[str]:
        """The names of what the store keeps of an event beside the archive's own columns."""
        ...

    def export(
        self, streams: Iterable[StreamRef], columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """All that the store has of streams, in the archive's schema, a stream after the other, by
        version.

        `columns`: the further columns; left out: all that there are.
        """
        ...

    def stream_rows(self, streams: Sequence[StreamKey]) -> Mapping[tuple[str, str], str]:
        """The store's own row of each stream as JSON, where it has such."""
        ...

    def removal_strategy(self, how: str) -> RemovalStrategy:
        """A way to take archived streams out.

        Raises UsageError for one that the store does not have.
        """
        ...

    def remove(
        self,
        how: str,
        parts: Sequence[VersionRange],
        lock_timeout: timedelta,
        statement_timeout: timedelta,
    ) -> list[Removed]:
        """Take parts of streams out, those that are as they were when they were archived.

        May be asked again for the same.
        """
        ...

    def restore_streams(
        self,
        streams: Sequence[StreamKey],
        rows: Sequence[str | None],
        batches: Iterable[pa.RecordBatch],
    ) -> int:
        """Bring archived streams back as they were; returns how many events were not there.

        Raises Refused where that would change what is there.
        """
        ...

    def close(self) -> None:
        """Give back all connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def checkpoint_of(store: EventStore, name: str) -> Checkpoint | None:
    """The application's processor of that name, or of `name/version` where it keeps versions apart
    (Emmett).

    Raises Refused where a name alone is that of several.
    """
    found = [
        each
        for each in store.checkpoints()
        if name in {each.name, f"{each.name}/{each.detail.get('version')}"}
    ]
    if len(found) > 1:
        versions = ", ".join(f"{each.name}/{each.detail.get('version')}" for each in found)
        raise Refused(
            f"{name!r} names several of the application's processors",
            hint=f"Name one of: {versions}.",
        )
    return found[0] if found else None


class Unmarked:
    """The methods of stores that cannot tell their log from another."""

    def mark(self, position: Position) -> Mark | None:  # noqa: ARG002 - nothing is known
        """None."""
        return None

    def recognise(self, position: Position, mark: Mark) -> None:
        """Nothing is compared."""


class OutsideOfSql:
    """The methods of stores whose events no statement of a read model's database can read."""

    name: str

    def database(self) -> str | None:
        """None: it is in no Postgres database."""
        return None

    def hand_over(self, connection: Any, name: str, position: Position) -> None:  # noqa: ARG002 - refused
        """Refused."""
        raise UsageError(
            f"store {self.name} keeps no checkpoints of an application that esops could set",
            hint='live = "esops"',
        )

    def sql_range(self, after: Position | None, until: Position, events: int) -> SqlRange:  # noqa: ARG002 - refused
        """Refused."""
        raise UsageError(
            f"store {self.name} is in no Postgres database: a projection of kind 'sql' cannot "
            "read it",
            hint="Use kind 'fold'.",
        )


class NothingArchived:
    """The methods of archiving, for stores that say in their capabilities that they have none."""

    name: str

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise UsageError(
            f"esops cannot archive the streams of store {self.name}, nor bring them back"
        )

    extra_columns = export = stream_rows = removal_strategy = remove = restore_streams = _refuse
