"""An archive as an event store, read-only: the events of all sealed runs of one store, in their
original order, each once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from esops.archive_format.manifest import Manifest
from esops.archive_format.repository import Repository
from esops.archive_format.runs import Catalog, Run
from esops.errors import UsageError
from esops.events import (
    EventFilter,
    NewEvent,
    Position,
    RecordedEvent,
    StreamInfo,
)
from esops.settings import ArchiveStoreSettings
from esops.stores.archive.categories import Categories
from esops.stores.archive.complete import check_complete
from esops.stores.archive.counts import ArchiveCounts
from esops.stores.archive.files import ArchiveFiles
from esops.stores.archive.names import ArchiveNames
from esops.stores.archive.search import ArchiveSearch
from esops.stores.archive.streams import AllArchived, ArchiveStreams, streams_of
from esops.stores.archived import ArchivedStreams
from esops.stores.archiving import TenantScope
from esops.stores.base import (
    EVERYTHING,
    Batch,
    Capabilities,
    EventStore,
    Head,
    StoreInfo,
    at_most,
)
from esops.stores.parts import SearchResult
from esops.stores.positions import check_parts, whole_positions
from esops.wording import count

if TYPE_CHECKING:
    from esops.stores.archive.beginnings import ArchiveLosses


class ArchiveStore(EventStore):
    """EventStore over a repository; see esops.stores.base for what each method promises."""

    Settings = ArchiveStoreSettings
    capabilities = Capabilities(count_between=True)

    def __init__(
        self,
        name: str,
        settings: ArchiveStoreSettings,
        runs: Sequence[tuple[Run, Manifest]] | None = None,
        scope: TenantScope | None = None,
    ) -> None:
        """Read the catalog, unless the runs are given; with a `scope`, what that tenant has.

        Raises UsageError where the repository holds several stores' events, and none is named.
        """
        assert settings.cold is not None
        self.name = name
        self.repository = Repository(settings.cold)
        names = () if settings.source_store is None else settings.sources(name)
        if runs is None:
            catalog = Catalog(self.repository)
            every = catalog.sealed()
            check_complete(catalog, every, lambda name: not names or name in names)
            runs = [each for each in every if not names or each[1].store in names]
        if len(names) > 1:
            # The names of one store: its events are read as those of the last one.
            one = {"store": names[-1]}
            runs = [(run, manifest.model_copy(update=one)) for run, manifest in runs]
        stores = sorted({manifest.store for _, manifest in runs})
        if len(stores) > 1:
            raise UsageError(
                f"stores.{name}: the repository {self.repository.address} holds the events of "
                f"several stores: {', '.join(stores)}",
                hint="Name one with `of`.",
            )
        self.files = ArchiveFiles(runs, scope, stores[0] if stores else "".join(names[-1:]))
        newest = runs[-1][1] if runs else None
        if newest is not None:
            self.capabilities = Capabilities(
                count_between=True,
                # Whether the store uses names again or not: both streams would be in its archive.
                names_begin_again=True,
                server_streams=newest.layout == "eventstoredb",
                first_version=newest.first_version,
                position_parts=newest.position_parts,
            )

    @property
    def runs(self) -> Sequence[tuple[Run, Manifest]]:
        """The runs that are read, the oldest first."""
        return self.files.runs

    @property
    def renumbered(self) -> bool:
        """Whether a run's events may be in the store at other positions than they have here."""
        return any(run.renumbered for run, _ in self.runs)

    @property
    def of(self) -> str:
        """The name of the store that the events were archived from."""
        return self.files.of

    def ping(self) -> StoreInfo:
        """The repository, its runs and events, from the manifests alone."""
        detail = {
            "repository": self.repository.address,
            "of store": self.of,
            "runs": str(len(self.runs)),
            "events": str(sum(manifest.events for _, manifest in self.runs)),
            **({} if self.runs else {"note": "nothing is archived yet"}),
            **self._unlisted(),
        }
        return StoreInfo("archive", self.files.layout, "1", datetime.now(UTC), detail)

    def _unlisted(self) -> dict[str, str]:
        runs = Categories(self.runs, lambda _: "").unlisted
        if not runs:
            return {}
        note = "of an earlier esops, which kept no categories: streams' names tell"
        return {"note": f"{count(runs, 'run')} {note}"}

    def head(
        self,
        patience: timedelta = timedelta(seconds=1),  # noqa: ARG002 - nothing is waited for
        after: Position | None = None,  # noqa: ARG002
        stop: Callable[[], bool] = lambda: False,  # noqa: ARG002
    ) -> Head:
        """The last position of all runs: an archive is always settled."""
        return Head(
            max((Position.parse(manifest.last_position) for _, manifest in self.runs), default=None)
        )

    def read_all(
        self,
        after: Position | None = None,
        until: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """Events in order: DuckDB sorts them, on disk where memory does not suffice."""
        if not self.runs:  # nor does it know what a position of its store is
            return
        check_parts(self.files.parts, after, until)
        source = self.files.database.stored(filter.stream, after, until)
        found = self.files.read(source, self.files.where(filter, after, until))
        yield from at_most(
            limit, (Batch(events, events[-1].position) for events in whole_positions(found))
        )

    def read_backwards(
        self,
        until: Position | None,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """From the newest runs back, as far as is needed: manifests say which positions a run
        has.
        """
        if not self.runs:
            return
        if filter.stream is not None:
            yield from self._sorted(
                self.files.database.stored(filter.stream),
                self.files.where(filter, after, until),
                "version DESC, position_1 DESC, position_2 DESC",
                limit,
            )
            return
        for low, high in self._windows(until, after):
            if limit == 0:
                return
            source = self.files.database.stored(None, low, high)
            order = "position_1 DESC, position_2 DESC, version DESC"
            where = self.files.where(filter, low, high)
            for batch in self._sorted(source, where, order, limit):
                limit = None if limit is None else limit - len(batch.events)
                yield batch

    def _windows(
        self, until: Position | None, after: Position | None
    ) -> Iterator[tuple[Position | None, Position | None]]:
        """Between the ends of runs, from the newest back: the first windows need few of them."""
        ends = {Position.parse(manifest.last_position) for _, manifest in self.runs}
        within = (
            end for end in ends if (until is None or end < until) and (after is None or end > after)
        )
        high = until
        for low in sorted(within, reverse=True):
            yield low, high
            high = low
        if high is None or after is None or after < high:
            yield after, high

    def _sorted(
        self, source: str, where: tuple[str, list[Any]], order: str, limit: int | None
    ) -> Iterator[Batch]:
        for events in self.files.read(source, where, order, limit):
            if events:
                yield Batch(events, events[-1].position)

    def follow(
        self,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        stop: Callable[[], bool] = lambda: False,
        poll: timedelta = timedelta(milliseconds=100),
    ) -> Generator[Batch, None, None]:
        """All that is there, and then heartbeats: an archive gets older events, never
        newer ones.
        """
        for batch in self.read_all(after, None, filter):
            yield batch
            after = batch.position
            if stop():
                return
        # The filter may have left out the last events: what was read reaches up to the head all the
        # same.
        head = self.head().position
        after = head if head is not None and (after is None or head > after) else after
        while not stop():
            yield Batch([], after)
            time.sleep(poll.total_seconds())

    def read_stream(
        self,
        stream: str,
        after_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> Iterator[RecordedEvent]:
        """The events of a stream by version."""
        if not self.runs:
            return
        where, values = self.files.where(EventFilter(stream=stream))
        if after_version is not None:
            where = f"{where} AND version {'<' if backwards else '>'} ?"
            values.append(after_version)
        order = f"version {'DESC' if backwards else 'ASC'}, position_1, position_2"
        source = self.files.database.stored(stream)
        for events in self.files.read(source, (where, values), order, limit):
            yield from events

    def streams(
        self,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
        *,
        closed_by: Sequence[str] = (),
        measured: bool = False,
    ) -> Iterator[StreamInfo]:
        """The streams, counted from the events: an event that several runs have counts once."""
        if not self.runs:
            return iter(())
        return streams_of(self.files, filter, limit, closed_by, measured=measured)

    @cached_property
    def counts(self) -> ArchiveCounts:
        """Counted in the files."""
        return ArchiveCounts(self, self.files)

    @cached_property
    def names(self) -> ArchiveNames:
        """Looked up in the files, where they are on this machine."""
        return ArchiveNames(self, self.files, here=self.repository.folder is not None)

    @cached_property
    def many_streams(self) -> ArchiveStreams:
        """With the categories that the store had."""
        return ArchiveStreams(self, self.files)

    @cached_property
    def losses(self) -> ArchiveLosses:
        """Snapshots that are in the place of events, too."""
        from esops.stores.archive.beginnings import ArchiveLosses

        return ArchiveLosses(self)

    @cached_property
    def archived(self) -> ArchivedStreams:
        """All streams."""
        return AllArchived(self)

    @property
    def search(self) -> ArchiveSearch:
        """By a scan of the files."""
        return ArchiveSearch(self._found)

    def _found(self, condition: str, values: Sequence[Any]) -> SearchResult:
        """The events of this store for which a condition on the files' columns holds."""
        how = f"a scan of {len(self.runs)} archived runs"
        if not self.runs:
            return SearchResult(iter(()), how, 0)
        where = f"store = ? AND {condition}", [self.of, *values]
        found = self.files.read(self.files.database.stored(), where)
        return SearchResult(
            (event for events in found for event in events),
            how,
            self.counts.between(None, self.head().position),
        )

    def append(
        self, stream: str, events: Sequence[NewEvent], expected_version: int | None = None
    ) -> Position:
        """Raises UsageError: an archive takes no events."""
        raise UsageError(
            f"{len(events)} events for {stream!r}, expected at {expected_version}: an archive is "
            "read-only",
            hint="`esops archive run` adds events to it, and `esops archive restore` restores "
            "streams from it.",
        )

    def close(self) -> None:
        """Delete what was fetched."""
        self.files.close()
