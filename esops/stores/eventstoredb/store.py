"""The event store that a node of EventStoreDB is.

What is settled is simple here: a node gives out only what is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import structlog

from esops.errors import ConnectionLost, Unavailable
from esops.events import (
    Checkpoint,
    EventFilter,
    NewEvent,
    Position,
    RecordedEvent,
    StreamInfo,
)
from esops.settings import EventStoreDBSettings
from esops.stores.base import (
    EVERYTHING,
    Batch,
    Capabilities,
    EventStore,
    Head,
    StoreInfo,
    at_most,
)
from esops.stores.counting import CountedLengths
from esops.stores.eventstoredb import (
    backwards,
    bulk,
    live,
    lookup,
    scavenged,
)
from esops.stores.eventstoredb.changes import StreamChanges
from esops.stores.eventstoredb.connect import Connector, speaks_tls
from esops.stores.eventstoredb.errors import StreamGone
from esops.stores.eventstoredb.estimates import NodeCounts
from esops.stores.eventstoredb.gone import NodeArchived, NodeLosses
from esops.stores.eventstoredb.identity import NodeIdentity, check_position
from esops.stores.eventstoredb.listing import StreamNames
from esops.stores.eventstoredb.many_streams import NodeStreams
from esops.stores.eventstoredb.node import NodeAdmin
from esops.stores.eventstoredb.search import NodeSearch

if TYPE_CHECKING:
    from esops.stores.eventstoredb.archiving import NodeArchiving

log = structlog.get_logger("esops.eventstoredb")

_LONG = 4 * 1024 * 1024
"""Bytes of log from which on a filtered read asks for checkpoints, so that its progress can be
kept.
"""


class EventStoreDBStore(EventStore):
    """EventStore over EventStoreDB; see esops.stores.base for what each method promises.

    Positions are (commit, prepare). Versions (revisions) count from 0. Events of the system are
    left out unless a filter names them. $all shows events that were truncated or deleted until a
    scavenge has removed them; streams do not.
    """

    Settings = EventStoreDBSettings
    capabilities = Capabilities(
        append=True,
        checkpoints=True,
        uuid_events=True,
        server_streams=True,
        first_version=0,
        position_parts=2,
    )

    def __init__(self, name: str, settings: EventStoreDBSettings) -> None:
        """Connect. Raises UsageError for a URI that cannot be read, Unavailable where no node
        answers.
        """
        self.name = name
        self._connector = Connector(name, settings.uri)
        self.listing = StreamNames(self, self._connector.talking)
        """The names of all streams."""
        self._scavenged = scavenged.Scavenged(
            self._between,
            lambda: self.head().position,
            lambda: self._connector.link.target,
            lambda: lookup.never_scavenged(self._connector),
        )
        try:
            with self._connector.talking("list the cluster's members") as link:
                link.client.read_gossip(timeout=link.deadline)
        except ConnectionLost:
            self.close()
            spec = self._connector.spec
            node = None if spec.options.Tls else speaks_tls(spec)
            if node is None:
                raise
            raise Unavailable(
                f"{node} speaks TLS, and the URI of store {name} says tls=false",
                hint="Write tls=true in the URI, and name the CA's file with tlsCaFile.",
            ) from None
        except BaseException:
            self.close()
            raise

    # -- the connection

    @property
    def admin(self) -> NodeAdmin:
        """Projections, persistent subscriptions and scavenges."""
        return NodeAdmin(self, self._connector)

    @property
    def changes(self) -> StreamChanges:
        """Truncating, deleting and tombstoning streams."""
        return StreamChanges(self._connector.talking)

    @property
    def archiving(self) -> NodeArchiving:
        """Streams read whole, removed, and made readable again."""
        # Imported for archiving only: it brings Arrow.
        from esops.stores.eventstoredb.archiving import NodeArchiving

        return NodeArchiving(self, self._connector)

    @property
    def lengths(self) -> CountedLengths:
        """Counted stream by stream."""
        return CountedLengths(self, self.listing.source)

    @cached_property
    def counts(self) -> NodeCounts:
        """Counted where they are few, else estimated."""
        return NodeCounts(self, self._between, self._connector.twice)

    @cached_property
    def many_streams(self) -> NodeStreams:
        """Several streams asked about at the same time."""
        return NodeStreams(self, self._connector, self.listing)

    @cached_property
    def losses(self) -> NodeLosses:
        """What scavenges have left."""
        return NodeLosses(self, self._scavenged)

    @cached_property
    def archived(self) -> NodeArchived:
        """By the metadata of streams in $all."""
        return NodeArchived(self, self._scavenged)

    @property
    def search(self) -> NodeSearch:
        """By the index of correlation ids, or a scan."""
        return NodeSearch(self)

    @cached_property
    def identity(self) -> NodeIdentity:
        """By the record at a position."""
        return NodeIdentity(self.name, self._connector)

    def ping(self) -> StoreInfo:
        """The node's version, its state, and the cluster's leader."""
        with self._connector.talking("list the cluster's members") as link:
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
            with self.admin.http() as http:
                info = http.info()
        except Unavailable as error:
            # Where only gRPC gets through, the version stays unknown.
            log.debug("no HTTP", error=error.message)
            return StoreInfo("eventstoredb", "eventstoredb", "unknown", datetime.now(UTC), detail)
        return StoreInfo("eventstoredb", "eventstoredb", info.version, info.clock, detail)

    # -- the log

    def head(
        self,
        patience: timedelta = timedelta(seconds=1),  # noqa: ARG002 - nothing is waited for
        after: Position | None = None,  # noqa: ARG002
        stop: Callable[[], bool] = lambda: False,  # noqa: ARG002
    ) -> Head:
        """The newest event's position, whatever its type: positions are given at the commit."""
        request = bulk.read_all_request(None, backwards=True, limit=1)
        found = self._connector.twice(
            lambda link: bulk.first(link, request, "read $all"), "read $all"
        )
        return Head(found[0].position if found else None)

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
        `archived` in the filter. So do those of a stream of which a scavenge has removed events;
        else $all has what was truncated or deleted.
        """
        for position in (after, until):
            check_position(position)
        if until is None and filter.stream is not None and not filter.archived:
            # Without a question to $all: this user may have the right to read the stream alone.
            link = self._connector.link
            try:
                if live.tells_positions(link, filter.stream):
                    yield from at_most(limit, live.of_stream(link, after, None, filter))
                    return
            except ConnectionLost as lost:
                self._connector.lost(lost)
                raise
        until = self.head().position if until is None else until
        if until is None or (after is not None and after >= until):
            return
        found = self._between(after, until, filter)
        if self._may_meet_remains(after, until, filter):
            floors = self._scavenged.floors(fresh=after is None)
            found = scavenged.without(found, floors) if floors else found
        yield from at_most(limit, found)

    def read_backwards(
        self,
        until: Position | None,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """From the end of $all, or of the stream, by reads that the server filters."""
        for position in (after, until):
            check_position(position)
        try:
            link = self._connector.link
            if filter.stream is not None and live.tells_positions(link, filter.stream):
                found = backwards.of_stream(link, filter, after, until)
            else:
                found = backwards.of_log(link, filter, after, until, self._counts(filter))
            yield from backwards.pages(found, limit)
        except ConnectionLost as lost:
            self._connector.lost(lost)
            raise

    def _counts(self, filter: EventFilter) -> Callable[[RecordedEvent], bool]:
        """What says whether an event of a read backwards counts."""
        if filter.archived or (filter.types and all(each[:1] == "$" for each in filter.types)):
            return lambda _: True
        return backwards.WhatCounts(
            lambda: lookup.never_scavenged(self._connector),
            lambda stream: lookup.lowest_readable(self._connector, stream),
            lambda: self._scavenged.floors(fresh=True),
        ).counts

    def _may_meet_remains(
        self, after: Position | None, until: Position, filter: EventFilter
    ) -> bool:
        """Whether a read may come upon events that a scavenge left though no client can read them:
        not in the chunk that is being written, which is never scavenged.
        """
        if filter.archived or (filter.types and all(each[:1] == "$" for each in filter.types)):
            return False
        return self._scavenged.known or after is None or until[0] - after[0] > _LONG

    def _between(
        self,
        after: Position | None,
        until: Position,
        filter: EventFilter,
        server: live.FilterOptions | None = None,
    ) -> Iterator[Batch]:
        """What $all has, as it is."""
        long = until[0] - (after[0] if after else 0) > _LONG
        self.identity.recognise_again(after)
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
                after = yield from live.up_to(link, after, until, filter, server)
            if after is None or after < until:
                yield from live.read(link, after, until, filter, server)
        except ConnectionLost as lost:
            self._connector.lost(lost)
            raise

    def follow(
        self,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        stop: Callable[[], bool] = lambda: False,
        poll: timedelta = timedelta(milliseconds=100),
    ) -> Generator[Batch, None, None]:
        """A catch-up subscription to $all, taken up again from its last position whenever it ends.

        Raises ConnectionLost when no node could be reached for ten minutes.
        """
        check_position(after)
        found = live.follow(self._connector, after, filter, stop, poll)
        # Who follows from a position on is beyond what a scavenge can have left by then.
        end = self.head().position if after is None else None
        meets = end is not None and self._may_meet_remains(None, end, filter)
        if meets and (floors := self._scavenged.floors(fresh=True)):
            found = scavenged.without(found, floors)
        yield from found

    # -- streams

    def read_stream(
        self,
        stream: str,
        after_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> Iterator[RecordedEvent]:
        """Resolves links; links whose event is gone are skipped, as are streams that do not exist
        or were deleted.
        """
        if after_version is None:
            revision = None
        elif backwards:
            # Revisions count from 0: nothing comes before the first.
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
        return self._connector.twice(
            lambda link: lookup.stream_info(link, stream), f"read stream {stream!r}"
        )

    def streams(
        self,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
        *,
        closed_by: Sequence[str] = (),
        measured: bool = False,  # noqa: ARG002 - a node does not say what a stream takes
    ) -> Iterator[StreamInfo]:
        """Names from $streams where that projection runs and lacks nothing, else from a scan of
        $all; then each stream's ends.
        """
        log.info("streams", source=self.listing.source())
        return lookup.infos(self._connector, self.listing.each(filter), limit, closed_by)

    def append(
        self, stream: str, events: Sequence[NewEvent], expected_version: int | None = None
    ) -> Position:
        """Append atomically; see StreamChanges."""
        return self.changes.append(stream, events, expected_version)

    def checkpoints(self) -> list[Checkpoint]:
        """The server's projections and persistent subscriptions."""
        return self.admin.checkpoints()

    def close(self) -> None:
        """Close the connections to the cluster."""
        self._connector.close()
