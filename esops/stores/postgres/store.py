"""An event store in Postgres, whatever its layout: the head, reads, appends, its parts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from psycopg.sql import SQL, Composable, Literal

from esops.events import (
    Checkpoint,
    EventFilter,
    NewEvent,
    Position,
    RecordedEvent,
    StreamInfo,
    last_position,
)
from esops.postgres.connection import translated
from esops.postgres.session import use_own_path
from esops.settings import PostgresSettings
from esops.stores.archiving import TenantScope
from esops.stores.base import (
    EVERYTHING,
    Batch,
    Capabilities,
    EventStore,
    Head,
    StoreInfo,
    Unsettled,
    missing,
    settled,
)
from esops.stores.parts import StoredPayloads
from esops.stores.positions import check_parts, whole_positions
from esops.stores.postgres.archived import PostgresArchived
from esops.stores.postgres.connections import StoreConnections
from esops.stores.postgres.counting import Counting
from esops.stores.postgres.counts import PostgresCounts
from esops.stores.postgres.dated import PostgresTimes
from esops.stores.postgres.drawn import of_these_events
from esops.stores.postgres.identity import PostgresIdentity
from esops.stores.postgres.inline import PostgresInline
from esops.stores.postgres.known import PostgresNames
from esops.stores.postgres.late import PostgresMemory
from esops.stores.postgres.layouts.base import NO_TENANT, Layout
from esops.stores.postgres.layouts.finding import find_layout
from esops.stores.postgres.listening import Listener
from esops.stores.postgres.losses import PostgresLosses
from esops.stores.postgres.many_streams import PostgresStreams
from esops.stores.postgres.masking import PostgresMasking
from esops.stores.postgres.settled_head import SettledHead
from esops.stores.postgres.sql_access import PostgresSql

if TYPE_CHECKING:
    from esops.stores.postgres.archiving import StreamArchiver
    from esops.stores.postgres.reading import PagedReader
    from esops.stores.postgres.search import IndexedSearch


class PostgresStore(EventStore):
    """EventStore over Postgres; see esops.stores.base for what each method promises."""

    Settings = PostgresSettings
    capabilities = Capabilities(append=True, count_between=True, checkpoints=True, shards=True)

    def __init__(self, name: str, settings: PostgresSettings) -> None:
        """Connect and find the layout in the catalogue."""
        self.name = name
        self._dsn, self._tenant = settings.dsn, settings.tenant
        self._handled = {name: tuple(types) for name, types in settings.processors.items()}
        self._connections = StoreConnections(name, settings.dsn)
        self.control, self.listing = self._connections.control, self._connections.listing
        self.own_connection = self._connections.own
        with translated():
            # Before anything is read: a replica would say something else about what is settled.
            self._connections.refuse_replica()
            self.layout: Layout = find_layout(self._connections.shared(), name, settings)
        self._head = SettledHead(name, self.layout, self._connections.shared)
        rules = self.layout.archiving
        self.capabilities = replace(
            self.capabilities,
            tenants=self.layout.tenants,
            named_tenants=self.layout.mapped.tenant != NO_TENANT,
            append=self.layout.appends,
            uuid_streams=self.layout.stream_kind == "uuid",
            keeps_ids=rules is None or "id" in rules.columns,
            uuid_events=self.layout.id_column is not None,
            hidden_rows=self.layout.hidden_rows,
            names_begin_again=self.layout.used_again is not None,
            first_version=self.layout.first_version,
            position_parts=len(self.layout.order),
            settling=settings.settle_timeout + settings.hole_threshold,
        )

    # -- parts

    @cached_property
    def lengths(self) -> Counting:
        """Grouped in the server."""
        return Counting(self.layout, self.own_connection, self.control, self.listing)

    @cached_property
    def _reader(self) -> PagedReader:
        from esops.stores.postgres.reading import PagedReader

        return PagedReader(self.layout, self._dsn, self._connections.shared)

    @cached_property
    def counts(self) -> PostgresCounts:
        """Counted in the server."""
        return PostgresCounts(self)

    @cached_property
    def names(self) -> PostgresNames:
        """Asked of the server, which has two seconds."""
        return PostgresNames(self)

    @cached_property
    def many_streams(self) -> PostgresStreams:
        """Asked of the server in few statements."""
        return PostgresStreams(self)

    @cached_property
    def losses(self) -> PostgresLosses:
        """Counted in the server."""
        return PostgresLosses(self)

    @cached_property
    def archived(self) -> PostgresArchived:
        """By the mark of their events, where the library has one."""
        return PostgresArchived(self)

    @cached_property
    def times(self) -> PostgresTimes:
        """By an index on the time, and by the library's list of streams."""
        return PostgresTimes(self)

    @property
    def search(self) -> IndexedSearch:
        """By an index where there is one."""
        from esops.stores.postgres.search import IndexedSearch

        return IndexedSearch(self.layout, self.control, self._reader)

    @property
    def sql(self) -> PostgresSql:
        """Direct access to the tables, for what runs where the events are."""
        return PostgresSql(self.layout, self.control, self.counts)

    @property
    def inline(self) -> PostgresInline:
        """As the layout finds them."""
        return PostgresInline(self.layout, self.control, self._select)

    def _select(self, *conditions: Composable) -> str:
        return self._reader.select(*conditions)

    @cached_property
    def _listener(self) -> Listener:
        return Listener(self.layout.channel)

    @cached_property
    def memory(self) -> PostgresMemory:
        """In the store's own database."""
        return PostgresMemory(self.layout, lambda: self._head.rule, self.control)

    @cached_property
    def identity(self) -> PostgresIdentity:
        """By the newest events, and where they are."""
        return PostgresIdentity(self.name, self.layout, self.control)

    @property
    def archiving(self) -> StreamArchiver:
        """How streams leave the store and come back; None where the layout cannot do that."""
        return self._archiver

    @cached_property
    def _archiver(self) -> StreamArchiver:
        # Imported for archiving only: it brings all of Arrow's compute functions, which reading
        # does without.
        from esops.stores.postgres.archiving import StreamArchiver

        return StreamArchiver(self.layout, self._dsn, self.control)

    @property
    def tenant_scope(self) -> TenantScope | None:
        """By the layout's column for the tenant."""
        column = self.layout.tenant_column
        if self._tenant is None or column is None:
            return None
        named = self.layout.mapped.tenant != NO_TENANT
        return TenantScope(self._tenant, self.layout.name, column, named)

    @property
    def stored_payloads(self) -> StoredPayloads | None:
        """As the layout unwraps them."""
        return self.layout.stored_payloads

    @property
    def masking(self) -> PostgresMasking:
        """By updates of the events' rows."""
        return PostgresMasking(self.layout, self._dsn, self.control)

    # -- reading and writing

    def ping(self) -> StoreInfo:
        """Version, clock and variant."""
        question = "SELECT current_setting('server_version'), clock_timestamp()"
        with self.control() as connection:
            (row,) = connection.execute(question).fetchall()
            warnings = self.layout.warnings(connection)
        absent = self.names.absent_tenant()
        detail = {
            "schema": self.layout.schema,
            "written by": f"{self.layout.name} {self.layout.version}",
            **self.layout.detail,
            **({"note": absent} if absent else {}),
        }
        return StoreInfo(
            "postgres", self.layout.name, row[0], row[1].astimezone(UTC), detail, warnings
        )

    def head(
        self,
        patience: timedelta = timedelta(seconds=1),
        after: Position | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Head:
        """By the layout's rule, with the sessions and missing numbers that hold it back."""
        return self._head.head(patience, after, stop)

    def newest(self, after: Position | None) -> Position | None:
        """By one statement, where no number was drawn since the last look."""
        return self._head.newest(after)

    def wait(self, timeout: timedelta) -> None:
        """Until the library notifies of new events, where it has a channel for that."""
        with self.control() as connection:
            self._listener.wait(connection, timeout)

    def read_all(
        self,
        after: Position | None = None,
        until: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """In pages of numbers, or by key where a position has more than one part."""
        self._check(after, until)
        if filter.stream is not None and until is None:
            beyond = [self.layout.beyond(after)] if after is not None else []
            for events in self._reader.by_version(
                [self.layout.where(filter), *beyond], limit=limit
            ):
                yield Batch(events, last_position(events))
            return
        short: Unsettled | None = None
        if until is None:
            until, short = settled(self, after)
        given = 0
        if until is not None and (after is None or after < until):
            found = self._reader.between(after, until, filter, limit)
            for events in whole_positions(found) if self.layout.shares_numbers else found:
                given += len(events)
                yield Batch(events, last_position(events))
        if short is not None and (limit is None or given < limit):
            raise short

    def read_backwards(
        self,
        until: Position | None,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """By the index that orders the events, from its end; those of a stream by the index of
        versions.
        """
        self._check(after, until)
        if filter.stream is not None:
            bounds = [self.layout.beyond(after)] if after is not None else []
            bounds += [self.layout.up_to(until)] if until is not None else []
            found = self._reader.by_version(
                [self.layout.where(filter), *bounds], backwards=True, limit=limit
            )
        elif until is None:
            return
        else:
            # Imported where events are read, as above.
            from esops.stores.postgres.backwards import BackwardReader

            reader = BackwardReader(self.layout, self._connections.shared, self._reader)
            found = reader.between(after, until, filter, limit)
        for events in found:
            yield Batch(events, last_position(events))

    def _check(self, *positions: Position | None) -> None:
        check_parts(self.capabilities.position_parts, *positions)

    def follow(
        self,
        after: Position | None = None,
        filter: EventFilter = EVERYTHING,
        stop: Callable[[], bool] = lambda: False,
        poll: timedelta = timedelta(milliseconds=100),
    ) -> Generator[Batch, None, None]:
        """By looks at the head."""
        self._check(after)
        yield from super().follow(after, filter, stop, poll)

    def read_stream(
        self,
        stream: str,
        after_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> Iterator[RecordedEvent]:
        """By version, in pages, so that long streams stay flat in memory. Where the name was used
        again, the stream that is not archived.
        """
        conditions = [self.layout.where(self._of_stream(stream))]
        if after_version is not None:
            operator = SQL("<" if backwards else ">")
            conditions.append(
                SQL("{} {} {}").format(self.layout.mapped.version, operator, Literal(after_version))
            )
        for events in self._reader.by_version(conditions, backwards=backwards, limit=limit):
            yield from events

    def streams(
        self,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
        *,
        closed_by: Sequence[str] = (),
        measured: bool = False,
    ) -> Iterator[StreamInfo]:
        """Grouped in the server, given out through a cursor."""
        return self.lengths.streams(filter, limit, closed_by, measured)

    def stream_info(self, stream: str) -> StreamInfo | None:
        """See EventStore. The first, where several tenants have a stream of that name."""
        info = next(self.streams(self._of_stream(stream), limit=1), None)
        commands = None if info is None else self.lengths.commands_of([info.key])
        if info is None or commands is None:
            return info
        return replace(info, commands=commands.get(info.key, 0))

    def _of_stream(self, stream: str) -> EventFilter:
        """The filter for one stream, archived or not, and never for two of one name."""
        return EventFilter(stream=stream, archived=not self.archived.used_again(stream))

    def append(
        self, stream: str, events: Sequence[NewEvent], expected_version: int | None = None
    ) -> Position:
        """Append in one transaction, as the library of the layout does it."""
        if not self.layout.appends:
            raise missing(self, "append")
        with self.control() as connection:
            with connection.transaction():
                use_own_path(connection)  # for triggers of the application
                position = self.layout.append(connection, stream, events, expected_version)
            # Where the sequence has a CACHE, this session would hold numbers for as long as it
            # lives.
            connection.execute("DISCARD SEQUENCES")
            return position

    def checkpoints(self) -> list[Checkpoint]:
        """From the library's own table, with the types of events that the configuration names."""
        with self.control() as connection:
            found = self.layout.checkpoints(connection)
            found = of_these_events(connection, self.layout.sequences, found)
        handled = self._handled
        return [
            next(
                (replace(each, types=handled[name]) for name in handled if each.called(name)), each
            )
            for each in found
        ]

    def rest(self) -> None:
        """Close the connection for bulk reads."""
        self._reader.close()

    def close(self) -> None:
        """Close all connections."""
        if "_reader" in vars(self):
            self._reader.close()
        if "_archiver" in vars(self):
            self._archiver.close()
        connection = self._connections.opened
        if connection is not None:
            self._head.remember(connection)
            connection.close()
