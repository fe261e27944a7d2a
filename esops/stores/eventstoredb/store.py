"""The event store that a node of EventStoreDB is.

What is settled is simple here: a node gives out only what is committed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import UUID

import structlog
from esdbclient import NewEvent as Proposed
from esdbclient import StreamState
from esdbclient import exceptions as esdb

from esops.errors import ConnectionLost, Refused, Unavailable
from esops.events import (
    CAUSATION_KEYS,
    CORRELATION_KEYS,
    Checkpoint,
    EventFilter,
    NewEvent,
    Position,
    RecordedEvent,
    StreamInfo,
    StreamKey,
    StreamRef,
    asked_for,
)
from esops.settings import StoreSettings
from esops.stores.base import (
    EVERYTHING,
    Batch,
    Capabilities,
    Found,
    Holder,
    Ids,
    Mark,
    OutsideOfSql,
    RemovalStrategy,
    Removed,
    StoreInfo,
    VersionRange,
    WrongExpectedVersion,
    at_most,
)
from esops.stores.counting import CountedOneByOne
from esops.stores.eventstoredb import archiving as shelve
from esops.stores.eventstoredb import bulk, identity, live, lookup
from esops.stores.eventstoredb.admin import Admin, Scavenges
from esops.stores.eventstoredb.connect import Connector, Link
from esops.stores.eventstoredb.errors import StreamGone
from esops.stores.eventstoredb.groups import PersistentSubscriptions
from esops.stores.eventstoredb.server_projections import ServerProjections

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
log = structlog.get_logger("esops.eventstoredb")

NO_STREAM, STREAM_EXISTS = -1, -4
"""Expected versions as the store's own clients number them; None is any."""
_LONG = 4 * 1024 * 1024
"""Bytes of log from which on a filtered read asks for checkpoints, so that its progress can be
kept.
"""
_NEAR = 64 * 1024
"""Bytes of log in which events are counted one by one."""
_SAMPLE = 500
_AT_VERSION = re.compile(r"is (\d+) not")


def open_eventstoredb(name: str, settings: StoreSettings) -> EventStoreDBStore:
    """Open a store. Raises Unavailable where no node can be reached."""
    return EventStoreDBStore(name, settings)


class EventStoreDBStore(OutsideOfSql, CountedOneByOne):
    """EventStore over EventStoreDB; see esops.stores.base for what each method promises.

    Positions are (commit, prepare). Versions (revisions) count from 0. Events of the system are
    left out unless a filter
    names them. $all shows events that were truncated or deleted until a scavenge has removed them;
    streams do not.
    """

    capabilities = Capabilities(
        append=True,
        metadata=True,
        truncate=True,
        delete=True,
        tombstone=True,
        scavenge=True,
        persistent_subscriptions=True,
        server_projections=True,
        checkpoints=True,
        first_version=0,
        removals=tuple(sorted(shelve.WAYS)),
        restores="in place",
    )

    def __init__(self, name: str, settings: StoreSettings) -> None:
        """Connect. Raises UsageError for a URI that cannot be read, Unavailable where no node
        answers.
        """
        assert settings.uri is not None
        self.name = name
        self._connector = Connector(name, settings.uri)
        self._bytes_an_event: float | None = None
        self._known: tuple[Position, Mark] | None = None
        """The last position whose mark was made or recognised."""
        try:
            with self._talking("tell the cluster's members") as link:
                link.client.read_gossip(timeout=link.deadline)
        except BaseException:
            self.close()
            raise

    # -- the connection

    @contextlib.contextmanager
    def _talking(self, what: str = "answer") -> Iterator[Link]:
        """A link for some calls; errors become ours, and a lost link is dropped, so that the next
        call finds another.
        """
        try:
            link = self._connector.link
            with link.call(what):
                yield link
        except ConnectionLost as lost:
            self._connector.lost(lost)
            raise

    def _twice(self, ask: Callable[[Link], T], what: str) -> T:
        """A short question, asked again on a new connection where the first is gone: a node that
        restarted is not noticed.
        """
        try:
            with self._talking(what) as link:
                return ask(link)
        except ConnectionLost as lost:
            log.debug("asked again", error=lost.message)
            with self._talking(what) as link:
                return ask(link)

    @property
    def admin(self) -> Admin:
        """The HTTP administration of the node that is connected to."""
        return Admin(self._connector.spec, self._connector.link.target)

    @property
    def scavenges(self) -> Scavenges:
        """What the system's streams tell of scavenges."""
        return Scavenges(self.read_stream)

    @property
    def subscriptions(self) -> PersistentSubscriptions:
        """The persistent subscriptions."""
        return PersistentSubscriptions(self._talking, self._twice, self)

    @property
    def projections(self) -> ServerProjections:
        """The projections inside the server."""
        return ServerProjections(self._talking)

    def ping(self) -> StoreInfo:
        """The node's version, its state, and the cluster's leader."""
        with self._talking("tell the cluster's members") as link:
            members = link.client.read_gossip(timeout=link.deadline)
            target = link.target
        states = {
            f"{member.address}:{member.port}": member.state.removeprefix("NODE_STATE_").lower()
            for member in members
        }
        mine = states.get(target) or (
            next(iter(states.values())) if len(states) == 1 else "unknown"
        )
        leader = next((address for address, state in states.items() if state == "leader"), "none")
        detail = {"node": target, "state": mine, "leader": leader, "nodes": str(len(states))}
        try:
            with self.admin as admin:
                told = admin.info()
        except Unavailable as error:
            # Where only gRPC gets through, the version stays unknown.
            log.debug("no HTTP", error=error.message)
            return StoreInfo("eventstoredb", "eventstoredb", "unknown", datetime.now(UTC), detail)
        return StoreInfo("eventstoredb", "eventstoredb", told.version, told.clock, detail)

    # -- the log

    def head(
        self,
        patience: timedelta = timedelta(seconds=1),  # noqa: ARG002 - nothing is waited for
        after: Position | None = None,  # noqa: ARG002
        stop: Callable[[], bool] = lambda: False,  # noqa: ARG002
    ) -> Position | None:
        """The newest event's position, whatever its type: nothing will ever turn up before it."""
        request = bulk.read_all_request(None, backwards=True, limit=1)
        found = self._twice(lambda link: bulk.first(link, request, "read $all"), "read $all")
        return found[0].position if found else None

    def held_back_by(self) -> list[Holder]:
        """Nobody: positions are given at the commit."""
        return []

    def mark(self, position: Position) -> Mark | None:
        """The record there, and its epoch."""
        check_position(position)
        with self._talking("read $all") as link:
            found = identity.mark(link, position)
        self._known = None if found is None else (position, found)
        return found

    def recognise(self, position: Position, mark: Mark) -> None:
        """By the record at the mark. It is looked for again whenever a read goes on from there."""
        with self._talking("read $all") as link:
            identity.recognise(link, self.name, mark)
        self._known = (position, mark)

    def read_all(
        self,
        after: Position | None = None,
        until: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """One read of $all, filtered in the server; a long one asks for checkpoints, so that rare
        events cost no progress.

        One stream's events come from that stream: what was truncated or deleted only with
        `archived` in the filter.
        """
        for position in (after, until):
            check_position(position)
        until = self.head() if until is None else until
        if until is None or (after is not None and after >= until):
            return
        yield from at_most(limit, self._counted(after, until, filter))

    def _counted(
        self, after: Position | None, until: Position, filter: EventFilter
    ) -> Iterator[Batch]:
        """Events between two positions, from whose number the size of one is learnt."""
        read, start = 0, after[0] if after else 0
        for batch in self._between(after, until, filter):
            read += len(batch.events)
            if read > _SAMPLE and batch.position is not None:
                self._bytes_an_event = max(1.0, (batch.position[0] - start) / read)
            yield batch

    def _between(
        self, after: Position | None, until: Position, filter: EventFilter
    ) -> Iterator[Batch]:
        long = until[0] - (after[0] if after else 0) > _LONG
        if self._known is not None and self._known[0] == after:
            self.recognise(*self._known)
        try:
            link = self._connector.link
            if (
                filter.stream is not None
                and not filter.archived
                and live.tells_positions(link, filter.stream)
            ):
                yield from live.of_stream(link, after, until, filter)
                return
            if long:
                after = yield from live.up_to(link, after, until, filter)
            if after is None or after < until:
                yield from live.read(link, after, until, filter)
        except ConnectionLost as lost:
            self._connector.lost(lost)
            raise

    def follow(
        self,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        stop: Callable[[], bool] = lambda: False,
        poll: timedelta = timedelta(milliseconds=100),
    ) -> Iterator[Batch]:
        """A catch-up subscription to $all, taken up again from its last position whenever it ends.

        Raises ConnectionLost when no node could be reached for ten minutes.
        """
        check_position(after)
        yield from live.follow(self._connector, after, filter, stop, poll)

    def count_between(self, after: Position | None, until: Position | None) -> int:
        """Counted over a short way; else estimated from the bytes between and the bytes that an
        event takes here.
        """
        if until is None or (after is not None and after >= until):
            return 0
        between = until[0] - (after[0] if after else 0)
        if between <= _NEAR:
            return sum(len(batch.events) for batch in self.read_all(after, until))
        return max(1, round(between / self._event_size()))

    def _event_size(self) -> float:
        """Bytes of log for each event that is wanted: as the last read found it; before one, as the
        newest events show.
        """
        if self._bytes_an_event is None:
            filter = bulk.server_filter(EVERYTHING)
            request = bulk.read_all_request(None, backwards=True, limit=_SAMPLE, filter=filter)
            count, length = self._twice(
                lambda link: bulk.span(link, request, "read $all"), "read $all"
            )
            if count < 2:
                return 100.0
            self._bytes_an_event = max(1.0, length / (count - 1))
        return self._bytes_an_event

    # -- streams

    def read_stream(
        self,
        stream: str,
        after_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> Iterator[RecordedEvent]:
        """Resolves links; those whose event is gone are passed over, as are streams that are not
        there or were deleted.
        """
        if after_version is None:
            revision = None
        elif backwards:
            if after_version <= 0:
                return
            revision = after_version - 1
        else:
            revision = after_version + 1
        request = bulk.read_stream_request(
            stream,
            revision=revision,
            backwards=backwards,
            limit=bulk.NO_LIMIT if limit is None else limit,
            resolve=True,
        )
        try:
            link = self._connector.link
            yield from live.events_of_stream(link, request, stream)
        except StreamGone:
            return
        except ConnectionLost as lost:
            self._connector.lost(lost)
            raise

    def stream_info(self, stream: str) -> StreamInfo | None:
        """What can be read of it, by two reads of one event each, and its settings by a third."""
        return self._twice(lambda link: lookup.stream_info(link, stream), f"read stream {stream!r}")

    def streams(
        self,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
        *,
        closed_by: Sequence[str] = (),
        measured: bool = False,  # noqa: ARG002 - what a stream takes is not told here
    ) -> Iterator[StreamInfo]:
        """Names from $streams where that projection runs, else from a scan of $all; then each
        stream's ends.
        """
        source = self.streams_come_from()
        log.info("streams", source=source)
        names = (
            self._names_by_scan(filter)
            if source.startswith("a scan")
            else self._names_from_links(filter)
        )
        return lookup.infos(self._connector, names, limit, closed_by)

    def streams_come_from(self) -> str:
        """Where `streams` gets the names, and what that costs."""
        if self.projections.runs("$streams"):
            return "$streams: one link a stream, then two reads a stream"
        head = self.head()
        events = self.count_between(None, head)
        return (
            f"a scan of $all, about {events:,} events, then two reads a stream; with the "
            "projection $streams enabled, no scan"
        )

    def _how(self) -> str:
        return self.streams_come_from()

    def _names_from_links(self, filter: EventFilter) -> Iterator[str]:
        wanted = bulk.wanted_streams(filter)
        with self._talking("read stream '$streams'") as link:
            yield from (name for name in lookup.names_from_links(link) if wanted(name))

    def _names_by_scan(self, filter: EventFilter) -> Iterator[str]:
        for batch in self.read_all(filter=filter):
            yield from (event.stream for event in batch.events)

    def find(
        self,
        *,
        event_id: Ids | None = None,
        correlation_id: Ids | None = None,
        causation_id: Ids | None = None,
        keys: Sequence[str] = (),
    ) -> Found:
        """A correlation id from `$bc-…` where that projection runs; all else by a scan of $all."""
        which, values = asked_for(
            event_id=event_id, correlation_id=correlation_id, causation_id=causation_id
        )
        by_correlation = which == "correlation_id"
        if by_correlation and not keys and self.projections.runs("$by_correlation_id"):
            streams = [f"$bc-{value}" for value in values]
            events = (event for stream in streams for event in self.read_stream(stream))
            return Found(
                events, "the stream" + "s" * (len(streams) > 1) + " " + ", ".join(streams[:3])
            )
        wanted = keys or (CORRELATION_KEYS if by_correlation else CAUSATION_KEYS)
        asked = {value.lower() for value in values} if which == "event_id" else set(values)
        found = (
            event
            for batch in self.read_all()
            for event in batch.events
            if lookup.is_wanted(event, which, asked, wanted)
        )
        better = "enable the projection $by_correlation_id" if by_correlation else ""
        count = self.count_between(None, self.head())
        return Found(found, f"a scan of $all, about {count:,} events", count, better)

    def append(
        self, stream: str, events: Sequence[NewEvent], expected_version: int | None = None
    ) -> Position:
        """Append atomically.

        The same events (with their ids) asked for again after a lost answer are written once.

        With an expectation that holds for ever, without one as long as the server remembers the
        ids.
        Raises WrongExpectedVersion, StreamGone, and Refused over the server's limit of 1 MiB.
        """
        proposed = [
            Proposed(event.type, event.data, event.metadata, id=UUID(event.id)) for event in events
        ]
        state: Any = {
            None: StreamState.ANY,
            NO_STREAM: StreamState.NO_STREAM,
            STREAM_EXISTS: StreamState.EXISTS,
        }.get(expected_version, expected_version)
        try:
            with self._talking(f"append to {stream!r}") as link:
                commit = link.client.append_to_stream(
                    stream, current_version=state, events=proposed, timeout=link.deadline
                )
        except WrongExpectedVersion as wrong:
            found = _AT_VERSION.search(wrong.message)
            there = f"is at version {found[1]}" if found else "does not exist"
            asked = {NO_STREAM: "new", STREAM_EXISTS: "there"}.get(
                expected_version or 0, f"at version {expected_version}"
            )
            raise WrongExpectedVersion(
                f"the stream {stream!r} {there}, not {asked}", hint=wrong.hint
            ) from None
        except StreamGone:
            raise StreamGone(
                f"the stream {stream!r} was tombstoned: its name can never be used again"
            ) from None
        except ConnectionLost as lost:
            hint = (
                "Whether it was written is not known. Append the same events again, with their "
                "ids: they are written once."
            )
            raise ConnectionLost(lost.message, hint=hint) from lost
        return Position((commit, commit))

    # -- taking things out

    def metadata(self, stream: str) -> tuple[dict[str, Any], int | None]:
        """A stream's metadata and their version; empty and None where there are none."""
        with self._talking(f"read the metadata of {stream!r}") as link:
            return lookup.metadata(link, stream)

    def set_metadata(
        self, stream: str, metadata: dict[str, Any], expected_version: int | None = None
    ) -> None:
        """Write a stream's metadata, whole. Raises WrongExpectedVersion."""
        state: Any = StreamState.ANY if expected_version is None else expected_version
        if expected_version == NO_STREAM:
            state = StreamState.NO_STREAM
        with self._talking(f"write the metadata of {stream!r}") as link:
            link.client.set_stream_metadata(
                stream, metadata=metadata, current_version=state, timeout=link.deadline
            )

    def truncate(self, stream: str, before: int) -> None:
        """Let reads of a stream begin at a version; what lies before stays in $all until a
        scavenge. Other metadata are kept.

        Raises Refused where it would bring events back, WrongExpectedVersion where somebody else
        wrote the metadata meanwhile.
        """
        document, version = self.metadata(stream)
        if document.get("$tb", 0) > before:
            raise Refused(f"the stream {stream!r} is truncated before {document['$tb']} already")
        self.set_metadata(
            stream, {**document, "$tb": before}, NO_STREAM if version is None else version
        )

    def delete(self, stream: str, expected_version: int | None = None) -> None:
        """Delete softly: nothing can be read, the name can be used again, versions go on."""
        with self._talking(f"delete {stream!r}") as link, _not_there(stream):
            link.client.delete_stream(
                stream, current_version=_state(expected_version), timeout=link.deadline
            )

    def tombstone(self, stream: str, expected_version: int | None = None) -> None:
        """Delete for ever: the name can never be used again."""
        with self._talking(f"tombstone {stream!r}") as link, _not_there(stream):
            link.client.tombstone_stream(
                stream, current_version=_state(expected_version), timeout=link.deadline
            )

    # -- archiving

    def extra_columns(self) -> list[str]:
        """The content type."""
        return list(shelve.COLUMNS)

    def export(
        self, streams: Iterable[StreamRef], columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """A read of each stream, one after the other."""
        try:
            yield from shelve.export(self._connector.link, streams, columns)
        except ConnectionLost as lost:
            self._connector.lost(lost)
            raise

    def stream_rows(self, streams: Sequence[StreamKey]) -> Mapping[tuple[str, str], str]:
        """Each stream's metadata."""
        with self._talking("read streams' metadata") as link:
            return shelve.rows(link, streams)

    def removal_strategy(self, how: str) -> RemovalStrategy:
        """Truncate, delete or tombstone."""
        return shelve.removal_strategy(how)

    def remove(
        self,
        how: str,
        parts: Sequence[VersionRange],
        lock_timeout: timedelta,  # noqa: ARG002 - nothing is locked here
        statement_timeout: timedelta,  # noqa: ARG002
    ) -> list[Removed]:
        """Stream by stream, each with the expectation of its last version."""
        return shelve.remove(self, how, parts)

    def restore_streams(
        self,
        streams: Sequence[StreamKey],
        rows: Sequence[str | None],
        batches: Iterable[pa.RecordBatch],
    ) -> int:
        """By the metadata that each stream had, while no scavenge has removed its events."""
        return shelve.restore_streams(self, streams, rows, batches)

    def checkpoints(self) -> list[Checkpoint]:
        """The server's projections and persistent subscriptions: how far they are."""
        now = datetime.now(UTC)
        found = [
            Checkpoint(
                one.name,
                one.place,
                one.status,
                now,
                {"kind": "projection", "progress": f"{one.progress:.1f} %"},
            )
            for one in self.projections.all()
        ]
        for group in self.subscriptions.all():
            detail = {
                "kind": "persistent subscription",
                "parked": str(group.parked),
                "consumers": str(group.consumers),
            }
            found.append(
                Checkpoint(f"{group.stream}::{group.name}", group.place, group.status, now, detail)
            )
        return found

    def close(self) -> None:
        """Close the connection."""
        self._connector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_position(position: Position | None) -> None:
    """Raises ValueError for a position that is of another kind of store."""
    if position is not None and len(position) != 2:
        raise ValueError(
            f"{position} is not a position of this store: those have 2 parts, commit:prepare"
        )


def _state(expected_version: int | None) -> Any:
    return StreamState.ANY if expected_version is None else expected_version


@contextlib.contextmanager
def _not_there(stream: str) -> Iterator[None]:
    try:
        yield
    except esdb.NotFound:
        raise Refused(f"there is no stream {stream!r}") from None
