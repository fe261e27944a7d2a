"""An archive as an event store, read-only: the events of all sealed runs of one store, in their
original order, each once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

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
    StreamKey,
    category_of,
)
from esops.moments import moment
from esops.settings import ArchiveStoreSettings
from esops.stores.archive.categories import Categories
from esops.stores.archive.complete import check_complete
from esops.stores.archive.reading import Database, beyond, microseconds, read, up_to
from esops.stores.archive.search import ArchiveSearch
from esops.stores.archiving import LateBeginning, TenantScope
from esops.stores.base import (
    EVERYTHING,
    Batch,
    Capabilities,
    EventStore,
    Head,
    StoreInfo,
    at_most,
)
from esops.stores.parts import WITH_ARCHIVED, SearchResult, What
from esops.stores.payloads import DECODERS
from esops.stores.positions import whole_positions
from esops.wording import count

_FAR = "recorded_at < TIMESTAMPTZ '4714-11-24 (BC) 00:00:00+00'"
_NAMED = {"event type": "type", "stream": "stream"}


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
        self._runs, self._scope = runs, scope
        self._of = stores[0] if stores else "".join(names[-1:])
        newest = runs[-1][1] if runs else None
        self._layout = newest.layout if newest is not None else "empty"
        self._parts = newest.position_parts if newest is not None else 1
        if newest is not None:
            self.capabilities = Capabilities(
                count_between=True,
                # Whether the store uses names again or not: both streams would be in its archive.
                names_begin_again=True,
                server_streams=newest.layout == "eventstoredb",
                first_version=newest.first_version,
                position_parts=newest.position_parts,
            )
        self._opened: Database | None = None

    @property
    def _database(self) -> Database:
        if self._opened is None:
            self._opened = Database(self._runs, self._scope)
        return self._opened

    @property
    def runs(self) -> Sequence[tuple[Run, Manifest]]:
        """The runs that are read, the oldest first."""
        return self._runs

    @property
    def renumbered(self) -> bool:
        """Whether a run's events may be in the store at other positions than they have here."""
        return any(run.renumbered for run, _ in self._runs)

    def _ask(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        cursor = self._database.connection.cursor()
        try:
            return cursor.execute(statement, list(values)).fetchall()
        finally:
            cursor.close()

    @property
    def of(self) -> str:
        """The name of the store that the events were archived from."""
        return self._of

    def ping(self) -> StoreInfo:
        """The repository, its runs and events, from the manifests alone."""
        detail = {
            "repository": self.repository.address,
            "of store": self._of,
            "runs": str(len(self._runs)),
            "events": str(sum(manifest.events for _, manifest in self._runs)),
            **({} if self._runs else {"note": "nothing is archived yet"}),
            **self._unlisted(),
        }
        return StoreInfo("archive", self._layout, "1", datetime.now(UTC), detail)

    def _unlisted(self) -> dict[str, str]:
        runs = Categories(self._runs, lambda _: "").unlisted
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
            max(
                (Position.parse(manifest.last_position) for _, manifest in self._runs), default=None
            )
        )

    def read_all(
        self,
        after: Position | None = None,
        until: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """Events in order: DuckDB sorts them, on disk where memory does not suffice."""
        if not self._runs:  # nor does it know what a position of its store is
            return
        for position in (after, until):
            if position is not None and len(position) != self._parts:
                raise ValueError(
                    f"{position} is not a position of this store: those have {self._parts} parts"
                )
        where, values = self._where(filter)
        for position, compare in ((after, beyond), (until, up_to)):
            if position is not None:
                condition, more = compare(position)
                where, values = f"{where} AND {condition}", [*values, *more]
        source = self._database.stored(filter.stream, after, until)
        found = read(self._database, source, self._parts, self._layout, where, values)
        yield from at_most(
            limit, (Batch(events, events[-1].position) for events in whole_positions(found))
        )

    def _where(self, filter: EventFilter) -> tuple[str, list[Any]]:
        conditions, values = ["store = ?"], [self._of]
        if filter.types:
            conditions.append(f"type IN ({', '.join('?' * len(filter.types))})")
            values += filter.types
        if filter.stream is not None:
            conditions.append("stream = ?")
            values.append(filter.stream)
        if filter.category is not None:
            condition, more = self._database.in_category(filter.category)
            conditions.append(condition)
            values += more
        if filter.tenant is not None:
            conditions.append("tenant = ?")
            values.append(filter.tenant)
        if self._layout not in DECODERS:  # of which the payloads tell the time
            for sign, at in ((">=", filter.since), ("<", filter.before)):
                if at is not None:
                    # What esops.moments keeps below all times is far in the future.
                    conditions.append(f"(recorded_at {sign} ?::TIMESTAMPTZ OR {_FAR})")
                    values.append(at.isoformat())
        return " AND ".join(conditions), values

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
        if not self._runs:
            return
        if filter.stream is not None:
            where, values = self._where(filter)
            for position, compare in ((after, beyond), (until, up_to)):
                if position is not None:
                    condition, more = compare(position)
                    where, values = f"{where} AND {condition}", [*values, *more]
            yield from self._sorted(
                self._database.stored(filter.stream),
                (where, values),
                "version DESC, position_1 DESC, position_2 DESC",
                limit,
            )
            return
        for low, high in self._windows(until, after):
            if limit == 0:
                return
            where, values = self._where(filter)
            for position, compare in ((low, beyond), (high, up_to)):
                if position is not None:
                    condition, more = compare(position)
                    where, values = f"{where} AND {condition}", [*values, *more]
            source = self._database.stored(None, low, high)
            order = "position_1 DESC, position_2 DESC, version DESC"
            for batch in self._sorted(source, (where, values), order, limit):
                limit = None if limit is None else limit - len(batch.events)
                yield batch

    def _windows(
        self, until: Position | None, after: Position | None
    ) -> Iterator[tuple[Position | None, Position | None]]:
        """Between the ends of runs, from the newest back: the first windows need few of them."""
        ends = {Position.parse(manifest.last_position) for _, manifest in self._runs}
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
        found = read(self._database, source, self._parts, self._layout, *where, order, limit)
        for events in found:
            if events:
                yield Batch(events, events[-1].position)

    def follow(
        self,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        stop: Callable[[], bool] = lambda: False,
        poll: timedelta = timedelta(milliseconds=100),
    ) -> Iterator[Batch]:
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
        if not self._runs:
            return
        where, values = self._where(EventFilter(stream=stream))
        if after_version is not None:
            where, values = (
                f"{where} AND version {'<' if backwards else '>'} ?",
                [*values, after_version],
            )
        order = f"version {'DESC' if backwards else 'ASC'}, position_1, position_2"
        source = self._database.stored(stream)
        for events in read(
            self._database, source, self._parts, self._layout, where, values, order, limit
        ):
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
        if not self._runs:
            return
        where, values = self._where(filter)
        closed = "NULL"
        if closed_by:
            types = ", ".join(["?"] * len(closed_by))
            closed = (
                f"coalesce(max(version) FILTER (WHERE type IN ({types})) = max(version), FALSE)"
            )
        size = (
            "sum(octet_length(data) + coalesce(octet_length(metadata), 0))" if measured else "NULL"
        )
        at = microseconds("recorded_at")
        # A stream that was exported by two runs has its events twice in the files.
        bound = f" LIMIT {limit}" if limit is not None else ""
        categories = self._database.categories.of_streams()
        statement = (
            "SELECT s.*, first_category, coalesce(said, FALSE) FROM ("
            "SELECT stream, tenant, count(*), min(version), max(version), "
            f"min({at}), max({at}), "
            f"{closed}, {size} FROM (SELECT DISTINCT ON (position_1, position_2, stream, "
            "version) * "
            f"FROM ({self._database.stored(filter.stream)}) WHERE NOT hidden AND {where}) "
            f"GROUP BY 1, 2 ORDER BY 1, 2{bound}) s "
            f"LEFT JOIN ({categories}) USING (stream, tenant) ORDER BY 1, 2"
        )
        cursor = self._database.connection.cursor()
        try:
            result = cursor.execute(statement, [*closed_by, *values])
            while rows := result.fetchmany(1_000):
                for (
                    name,
                    tenant,
                    length,
                    first,
                    last,
                    first_at,
                    last_at,
                    closes,
                    taken,
                    own,
                    said,
                ) in rows:
                    low, high = (None if at is None else moment(at) for at in (first_at, last_at))
                    ends = (length, first, last, low, high)
                    yield StreamInfo(
                        name,
                        own if said else own or category_of(name),
                        *ends,
                        tenant=tenant,
                        closed=closes,
                        bytes=taken,
                    )
        finally:
            cursor.close()

    def asked(self, statement: str, filter: EventFilter) -> Iterator[tuple[Any, ...]]:
        """The rows of a statement about `{stored}` events of which `{where}` holds, so that a
        filter without its types wants them, and the `{categories}` of streams.
        """
        if not self._runs:
            return
        where, values = self._where(replace(filter, types=()))
        asked = statement.format(
            stored=self._database.stored(filter.stream),
            where=where,
            categories=self._database.categories.of_streams(),
        )
        cursor = self._database.connection.cursor()
        try:
            result = cursor.execute(asked, values)
            while rows := result.fetchmany(1_000):
                yield from rows
        finally:
            cursor.close()

    def late_beginnings(self, filter: EventFilter = WITH_ARCHIVED) -> Iterator[LateBeginning]:
        """Also those whose library put a snapshot in the place of the first event alone."""
        from esops.stores.archive.beginnings import snapshots_in

        yield from super().late_beginnings(filter)
        first = self.capabilities.first_version
        yield from (each for each in snapshots_in(self, filter) if each.below == first)

    @property
    def search(self) -> ArchiveSearch:
        """By a scan of the files."""
        return ArchiveSearch(self._found)

    def _found(self, condition: str, values: Sequence[Any]) -> SearchResult:
        """The events of this store for which a condition on the files' columns holds."""
        how = f"a scan of {len(self._runs)} archived runs"
        if not self._runs:
            return SearchResult(iter(()), how, 0)
        where, values = f"store = ? AND {condition}", [self._of, *values]
        found = read(
            self._database, self._database.stored(), self._parts, self._layout, where, values
        )
        return SearchResult(
            (event for events in found for event in events),
            how,
            self.count_between(None, self.head().position),
        )

    def count_between(self, after: Position | None, until: Position | None) -> int:
        """The number of events between two positions, counted in the files."""
        if until is None or not self._runs:
            return 0
        where, values = up_to(until)
        if after is not None:
            condition, more = beyond(after)
            where, values = f"{where} AND {condition}", [*values, *more]
        distinct = (
            "SELECT DISTINCT position_1, position_2, stream, version FROM "
            f"({self._database.stored(None, after, until)})"
        )
        rows = self._ask(
            f"SELECT count(*) FROM ({distinct} WHERE store = ? AND NOT hidden AND {where})",
            [self._of, *values],
        )
        return int(rows[0][0])

    def any_passes(self, filter: EventFilter) -> bool | None:
        """Looked up in the files, where they are on this machine."""
        if not self._runs:
            return False
        if self.repository.folder is None:
            return None  # fetching them takes too long
        where, values = self._where(filter)
        source = self._database.stored(filter.stream)
        return bool(
            self._ask(f"SELECT 1 FROM ({source}) WHERE NOT hidden AND {where} LIMIT 1", values)
        )

    def archived_streams(self) -> Iterator[StreamKey]:
        """All that it has."""
        return self.stream_keys()

    def categories_of(self, streams: Collection[StreamKey]) -> Mapping[StreamKey, str | None]:
        """As the store had them."""
        named = super().categories_of(streams)
        if not self._runs or not streams or not self._database.categories.kept:
            return named
        marks = ", ".join(["?"] * len(streams))
        rows = self._ask(
            "SELECT stream, tenant, first_category, said FROM "
            f"({self._database.categories.of_streams()}) WHERE stream IN ({marks})",
            [each.stream for each in streams],
        )
        own = {StreamKey(stream, tenant): found for stream, tenant, *found in rows}
        unknown = (None, False)
        return {
            each: category if said else category or named[each]
            for each in named
            for category, said in [own.get(each, unknown)]
        }

    def names(self, what: What) -> list[str]:
        """From the files, where they are on this machine."""
        if not self._runs or self.repository.folder is None:
            return []
        if what == "category":
            rows = self._ask(self._database.categories.names(self._database.stored()))
            return [name for (name,) in rows if name]
        column = _NAMED[what]
        rows = self._ask(
            f"SELECT DISTINCT {column} FROM ({self._database.stored()}) WHERE store = ? LIMIT 1000",
            [self._of],
        )
        return [name for (name,) in rows if name]

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
        if self._opened is not None:
            self._opened.close()
            self._opened = None
