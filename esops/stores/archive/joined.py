"""A store and the archive that its old streams went to, as one: all events in their original order,
each once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from itertools import islice

from esops.events import (
    Checkpoint,
    EventFilter,
    NewEvent,
    Position,
    RecordedEvent,
    StreamInfo,
)
from esops.stores.archive.beginnings import JoinedLosses
from esops.stores.archive.cold import ColdPart
from esops.stores.archive.downwards import Down, batches_of, downwards
from esops.stores.archive.in_step import Cold, in_step, pages_of, place, version_of
from esops.stores.archive.joined_counts import JoinedCounts
from esops.stores.archive.joined_parts import JoinedNames, JoinedTimes
from esops.stores.archive.joined_search import JoinedSearch
from esops.stores.archive.joined_streams import JoinedStreams, each_together
from esops.stores.archive.lives import beginnings, of_the_present
from esops.stores.archive.store import ArchiveStore
from esops.stores.archive.together import together
from esops.stores.archiving import Archiving, TenantScope
from esops.stores.base import (
    EVERYTHING,
    Batch,
    EventStore,
    Head,
    StoreInfo,
    Unsettled,
    at_most,
    passes,
    settled,
)
from esops.stores.inline_tables import InlineTables
from esops.stores.parts import Halves, LogIdentity, Search, ServerAdmin, SettlingMemory
from esops.stores.positions import each_once, each_version_once

_AT_ONCE = 5_000
_A_MOMENT = 1.0
"""Seconds."""


class JoinedStore(EventStore):
    """EventStore over a hot store and its archive.

    Reading is joined. What is about the store itself is the hot store's: its processors, appends,
    archiving. SQL reads the hot store's tables only, so the joined store has no `sql`.
    """

    def __init__(self, hot: EventStore, cold: ColdPart) -> None:
        """Both are open, and are closed with this store."""
        self._hot, self._cold = hot, cold
        self._highest: Position | None = None
        """The highest head so far."""
        self.name = hot.name
        # Events that a run has kept in the hot store are in both, and would be counted twice.
        self.capabilities = replace(hot.capabilities, shards=False, count_between=False)

    @property
    def halves(self) -> Halves:
        """This store knows them."""
        return self

    @property
    def hot(self) -> EventStore:
        """The store without its archive."""
        return self._hot

    @property
    def cold(self) -> ArchiveStore:
        """The archive, with the runs that it had at the last look."""
        return self._cold.store

    def renewed(self) -> ArchiveStore:
        """The archive, with what has left the hot store up to now."""
        self._cold.renew()
        return self._cold.store

    def ping(self) -> StoreInfo:
        """What the hot store says of itself, where the archive can be reached, too."""
        info = self._hot.ping()
        self._cold.renew()
        return info

    def head(
        self,
        patience: timedelta = timedelta(seconds=1),
        after: Position | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Head:
        """The hot store's, or the newest archived event's where that was removed: what is archived
        had settled.
        """
        hot = self._hot.head(patience, after, stop)
        newest = self._newest_archived(hot.position)
        if newest is None or (hot.position is not None and hot.position >= newest):
            return hot
        return replace(hot, position=newest)

    def rest(self) -> None:
        """Of the hot store."""
        self._hot.rest()

    def wait(self, timeout: timedelta) -> None:
        """As the hot store does."""
        self._hot.wait(timeout)

    def _newest_archived(self, hot: Position | None) -> Position | None:
        # A head is asked for all the time. Where it lies no lower than ever before, only an event
        # could be beyond it that was written, archived and removed since the last look.
        known = hot is not None and self._highest is not None and hot >= self._highest
        store = self._cold.store if known and self._cold.age < _A_MOMENT else self.renewed()
        newest = store.head().position
        self._highest = max(
            (each for each in (hot, newest, self._highest) if each is not None), default=None
        )
        return newest

    def append(
        self, stream: str, events: Sequence[NewEvent], expected_version: int | None = None
    ) -> Position:
        """Append to the hot store."""
        return self._hot.append(stream, events, expected_version)

    def checkpoints(self) -> list[Checkpoint]:
        """Those of the hot store."""
        return self._hot.checkpoints()

    @property
    def archiving(self) -> Archiving | None:
        """That of the hot store."""
        return self._hot.archiving

    @property
    def tenant_scope(self) -> TenantScope | None:
        """That of the hot store."""
        return self._hot.tenant_scope

    @property
    def identity(self) -> LogIdentity | None:
        """That of the hot store."""
        return self._hot.identity

    @property
    def memory(self) -> SettlingMemory | None:
        """That of the hot store."""
        return self._hot.memory

    @property
    def inline(self) -> InlineTables | None:
        """Those of the hot store."""
        return self._hot.inline

    @property
    def admin(self) -> ServerAdmin | None:
        """That of the hot store."""
        return self._hot.admin

    @cached_property
    def counts(self) -> JoinedCounts:
        """Those of both stores."""
        return JoinedCounts(self)

    @cached_property
    def names(self) -> JoinedNames:
        """Those of both stores."""
        return JoinedNames(self)

    @cached_property
    def many_streams(self) -> JoinedStreams:
        """Each stream as both stores together have it."""
        return JoinedStreams(self)

    @cached_property
    def losses(self) -> JoinedLosses:
        """What neither store has."""
        return JoinedLosses(self)

    @cached_property
    def times(self) -> JoinedTimes:
        """By the hot store's list."""
        return JoinedTimes(self)

    @property
    def search(self) -> Search | None:
        """A search of both stores, where the hot store can search."""
        return None if self._hot.search is None else JoinedSearch(self._hot.search, self._cold)

    def read_all(
        self,
        after: Position | None = None,
        until: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """Events of both stores, merged by position; of one that both have, the hot store's."""
        yield from at_most(limit, self._merged(after, until, filter))

    def _merged(
        self, after: Position | None, until: Position | None, filter: EventFilter
    ) -> Iterator[Batch]:
        # Both have to end at one position, asked before both are read.
        short: Unsettled | None = None
        if until is None and filter.stream is None:
            until, short = settled(self, after)

        begins = {} if filter.stream is None else beginnings(self._hot, self.cold, filter.stream)

        def archived(reached: Position | None) -> Iterator[RecordedEvent]:
            for batch in self.cold.read_all(reached or after, until, filter):
                events = self._only_archived(batch.events, archived=filter.archived)
                yield from of_the_present(iter(events), begins)

        both = in_step(
            self._hot.read_all(after, until, filter), Cold(archived, self._cold.renew), place
        )
        # Of each store only as much is taken as is needed: nothing is collected but one batch.
        waiting: list[RecordedEvent] = []
        for events in each_once(both):
            waiting += events
            if len(waiting) >= _AT_ONCE:
                yield Batch(waiting, waiting[-1].position)
                waiting = []
        if waiting:
            yield Batch(waiting, waiting[-1].position)
        if short is not None:
            raise short

    def read_backwards(
        self,
        until: Position | None,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """A page of the hot store, and what the archive has beside it: what had left the store
        before the page was read is in a run that is sealed by then.
        """
        if filter.stream is not None:
            found = self._stream_backwards(filter.stream, until, after, filter)
        else:
            hot = self._hot.read_backwards(until, after, filter, limit)
            found = downwards(hot, self._archived_down(filter, limit), until, after)
        yield from batches_of(islice(found, limit), limit)

    def _archived_down(self, filter: EventFilter, limit: int | None) -> Down:
        def archived(until: Position | None, after: Position | None) -> Iterator[RecordedEvent]:
            # Of events that came back at new positions some are left out below.
            cold = self.renewed()
            most = None if cold.renumbered else limit
            for batch in cold.read_backwards(until, after, filter, most):
                yield from self._only_archived(batch.events, archived=filter.archived)

        return archived

    def _stream_backwards(
        self, stream: str, until: Position | None, after: Position | None, filter: EventFilter
    ) -> Iterator[RecordedEvent]:
        for event in self.read_stream(stream, backwards=True):
            if until is not None and event.position > until:
                continue
            if after is not None and event.position <= after:
                continue
            if passes(event, filter):
                yield event

    def _only_archived(
        self, events: Sequence[RecordedEvent], *, archived: bool
    ) -> Sequence[RecordedEvent]:
        """Archived events without those that came back at new positions: there the hot store gives
        them.
        """
        # Elsewhere both give an event at one position. That is known without asking, and also
        # where it is removed while both are read.
        if not self.cold.renumbered or not events:
            return events
        there = self._hot.many_streams.has_events(events, archived=archived)
        return [event for event, has in zip(events, there, strict=True) if not has]

    def follow(
        self,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        stop: Callable[[], bool] = lambda: False,
        poll: timedelta = timedelta(milliseconds=100),
    ) -> Generator[Batch, None, None]:
        """Both stores up to the present head, then the hot store: new events come there. What has
        left it before it was read comes from the archive.
        """
        head = self.head(after=after).position
        if head is not None and (after is None or head > after):
            for batch in self.read_all(after, head, filter):
                yield batch
                if stop():
                    return
            after = head
        while not stop():
            hot = self._hot.follow(after, filter, stop, poll)
            for batch in hot:
                if batch.position not in (None, after):
                    newest = self.renewed().head().position
                    if newest is not None and (after is None or newest > after):
                        # A store has one read at a time.
                        hot.close()
                        yield from self.read_all(after, batch.position, filter)
                        after = batch.position
                        yield Batch([], after)
                        break
                    after = batch.position
                yield batch

    def read_stream(
        self,
        stream: str,
        after_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> Iterator[RecordedEvent]:
        """The events of a stream from both stores, merged by version, each once."""
        # Several tenants may have the version that a page ends with, so that it is asked for again.
        again = 1 if backwards else -1
        begins = beginnings(self._hot, self.cold, stream)

        def archived(reached: int | None) -> Iterator[RecordedEvent]:
            behind = after_version if reached is None else reached + again
            # Those of an earlier stream do not count for the limit.
            most = None if begins else limit
            found = self.cold.read_stream(stream, behind, backwards, most)
            return of_the_present(found, begins)

        hot = self._hot.read_stream(stream, after_version, backwards, limit)
        both = in_step(
            pages_of(hot, version_of),
            Cold(archived, self._cold.renew),
            version_of,
            backwards=backwards,
        )
        merged = each_version_once(both)
        return (
            merged
            if limit is None
            else (event for _, event in zip(range(limit), merged, strict=False))
        )

    def stream_info(self, stream: str) -> StreamInfo | None:
        """The stream as both stores together have it."""
        hot = self._hot.stream_info(stream)
        cold = self.renewed()
        if hot is not None and hot.length and self._hot.archived.used_again(stream):
            return hot
        return together(hot, cold.stream_info(stream))

    def streams(
        self,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
        *,
        closed_by: Sequence[str] = (),
        measured: bool = False,
    ) -> Iterator[StreamInfo]:
        """By name, each as both stores together have it; where a name was used again, the earlier
        stream comes after the one that bears it now.
        """
        hot = self._hot.streams(filter, closed_by=closed_by, measured=measured)
        return islice(each_together(self, hot, filter, closed_by, measured=measured), limit)

    def close(self) -> None:
        """Close both stores."""
        self.cold.close()
        self._hot.close()
