"""Rows of a version as the events make them, in temporary tables beside the version's own.

The tables belong to the session and vanish with it. Nothing that the application reads or writes is
touched. A fold that is keyed by the stream is made again from the events of some streams alone,
which the store finds by its index; every other kind from one pass over the log, which can be
continued to a later position.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice

import psycopg
from psycopg import sql

from esops.config import Config
from esops.errors import Refused, Stopped
from esops.events import EventFilter, Position, RecordedEvent, StreamKey
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import translated
from esops.projections.definition import (
    Definition,
    ExternalDefinition,
    FoldDefinition,
    SqlDefinition,
)
from esops.projections.kinds import of_one_database, open_projector
from esops.projections.kinds.fold import Fold, following_cache
from esops.projections.kinds.fold_key import of_stream
from esops.projections.kinds.sql import range_statement
from esops.projections.projector import Projector, VersionTables
from esops.readmodel.after_load import noted_key
from esops.readmodel.dead_letters import positions_of
from esops.readmodel.registry import Version
from esops.readmodel.rows import BadEvent, one_line
from esops.readmodel.types import Key
from esops.rebuild.refolded import pieces, temporary_like
from esops.rebuild.unwritten import Unwritten, without_changing_defaults
from esops.running.code import code_of
from esops.running.throttle import Throttle
from esops.running.user_schema import naming
from esops.settings import ProjectionSettings
from esops.stores.base import Batch, EventStore, require
from esops.stores.whole_streams import WholeStreams

_PIECE = 2_000
_WRITTEN = 50_000
"""Events after which rows are written, at the latest."""
_STATEMENT_EVENTS, _SMALLEST, _LARGEST = 10_000, 1_000, 200_000
"""Events that one statement of kind sql covers: no snapshot is to live for long."""
_FIRST, _AT_ONCE = 100, 20_000
"""Streams that are read first, and events of several streams that are in memory at once, about."""
_TEXTS = frozenset({"text", "varchar"})
_PLAIN = _TEXTS | {"uuid", "int2", "int4", "int8"}


def built_by(config: Config, version: Version) -> Definition:
    """The code that built a version. Raises Refused where it is not there any more."""
    definition, same = code_of(config, version)
    name = version.projection
    if isinstance(definition, ExternalDefinition):
        raise Refused(
            f"the application builds {name}, so esops has no code that could make its rows again",
            hint='Name a fold that makes the same rows, with live = "app" or "inline".',
        )
    if not same:
        raise Refused(
            f"the code of {name} has changed since v{version.version} was built, so its rows are "
            "not what the code of today makes of the events",
            hint=f"Restore the code, or name it: projections.{name}.versions.{version.version}."
            f"python. Or rebuild: esops rebuild {name} --blue-green",
        )
    return definition


class Scratch:
    """Temporary tables with rows of one version, as its code makes them of the events.

    `tables` are the temporary ones by the names that the application reads, `live` the version's
    own. They are empty at first.
    """

    def __init__(
        self,
        connection: psycopg.Connection,
        store: EventStore,
        version: Version,
        definition: Definition,
        settings: ProjectionSettings,
        *,
        label: str = "folded",
        filter: EventFilter | None = None,
    ) -> None:
        """The connection is one to the read model, outside a transaction, and not a pooler's that
        changes sessions. `label` tells the tables of several apart. `filter`: which events make the
        rows, where these are others than the projection's settings say.

        Raises Refused where a table is not there any more, has no key, or may not be made.
        """
        self.connection, self._store, self._version = connection, store, version
        self.definition, self._settings = definition, settings
        self.filter = filter or settings.filter
        """Which events make the rows."""
        of_one_database(definition, store, connection)
        self.live = _own_tables(connection, version)
        self.keys = {
            name: table.key or noted_key(version, table.name) for name, table in self.live.items()
        }
        self.tables = {
            name: temporary_like(
                connection, table, sql.Identifier(f"esops_{label}_{number}"), self.keys[name]
            )
            for number, (name, table) in enumerate(self.live.items())
        }
        of_fold = isinstance(definition, FoldDefinition)
        for name, table in self.tables.items():
            without_changing_defaults(connection, table, self.keys[name], of_fold=of_fold)
        self.skipped = positions_of(connection, version.projection, version.version)
        """The positions of the version's dead letters."""
        self.position: Position | None = None
        """Up to where `advance` has applied the events."""
        self.events = 0
        """How many events were applied."""
        self.value_types: dict[str, str] = dict(version.value_types)
        """By column, the Python type that a fold writes, as far as it has shown."""
        self._projector: Projector | None = None
        self._statement = _STATEMENT_EVENTS

    @property
    def by_stream(self) -> bool:
        """Whether each row is of the events of one stream, which its key names as the store
        does.
        """
        if not isinstance(self.definition, FoldDefinition) or self.definition.key is not None:
            return False
        ((name, table),) = self.live.items()
        kinds = {table.column(each).kind for each in self.keys[name]}
        uuids = {"uuid"} if self._store.capabilities.uuid_streams else set[str]()
        return kinds <= _TEXTS | uuids

    def look_at_skipped(self) -> None:
        """Read again which events are dead letters, in the snapshot that rows are copied in.

        Raises Refused where one of those that `advance` has passed is none any more.
        """
        version = self._version
        now = positions_of(self.connection, version.projection, version.version)
        passed = self.position
        if passed is not None and any(each <= passed for each in self.skipped ^ now):
            raise Refused(
                f"dead letters of {version.projection} were replayed or discarded while its rows "
                "were made again",
                hint="Nothing was changed. Run it again.",
            )
        self.skipped = now

    def close(self) -> None:
        """Drop the tables, and end what the projector holds."""
        self._end()
        for table in self.tables.values():
            self.connection.execute(sql.SQL("DROP TABLE IF EXISTS pg_temp.{}").format(_own(table)))

    def empty(self) -> None:
        """Begin again: no row, and no event applied."""
        self._end()
        self.position = None
        for table in self.tables.values():
            self.connection.execute(
                sql.SQL("TRUNCATE pg_temp.{} RESTART IDENTITY").format(_own(table))
            )

    def unwritten(self, name: str) -> Unwritten:
        """Which columns of a table the code does not write, by the name that the application
        reads.
        """
        of_fold = isinstance(self.definition, FoldDefinition)
        return Unwritten(
            self.connection,
            (self.live[name], self.tables[name]),
            self.keys[name],
            (lambda: self.value_types) if of_fold else None,
        )

    # -- a fold that is keyed by the stream

    def key(self, stream: StreamKey) -> tuple[str, ...]:
        """The key of a stream's row, as text."""
        ((name, _),) = self.live.items()
        return tuple(getattr(stream, each) for each in of_stream(self.keys[name]))

    def stream(self, key: Sequence[str]) -> StreamKey:
        """The stream whose row has a key."""
        ((name, _),) = self.live.items()
        return StreamKey(**dict(zip(of_stream(self.keys[name]), key, strict=True)))

    def refold(self, streams: Sequence[StreamKey], until: Position) -> dict[StreamKey, str]:
        """Make the rows of some streams from all their events up to a position, in the place of
        those that were made before.

        Returns the streams of which nobody knows the row, each with the reason: they have lost
        events, or the code fails on one. They have no row then.
        """
        self.empty()
        unknown: dict[StreamKey, str] = {}
        rest, size = list(streams), _FIRST
        while rest:
            some, rest = rest[:size], rest[size:]
            whole = self._store.whole_streams(some, until, self.filter, self._settings.begins_with)
            self._make(whole, unknown)
            # As many streams as have about as many events as memory is for.
            size = max(1, min(_PIECE, _AT_ONCE * len(some) // max(1, len(whole.events))))
        return unknown

    def make(self, whole: WholeStreams) -> dict[StreamKey, str]:
        """As `refold`, of events that somebody else has read."""
        self.empty()
        unknown: dict[StreamKey, str] = {}
        self._make(whole, unknown)
        return unknown

    def _make(self, whole: WholeStreams, unknown: dict[StreamKey, str]) -> None:
        unknown.update(whole.lacking)
        events = [
            each
            for each in whole.events
            if each.position not in self.skipped
            and StreamKey(each.stream, each.tenant) not in whole.lacking
        ]
        self._fold(events, unknown)

    def _fold(self, events: Sequence[RecordedEvent], unknown: dict[StreamKey, str]) -> None:
        """Write the rows of some streams' events; where the code fails, stream by stream."""
        try:
            self._write(events)
        except BadEvent:
            by_stream: dict[StreamKey, list[RecordedEvent]] = {}
            for each in events:
                by_stream.setdefault(StreamKey(each.stream, each.tenant), []).append(each)
            for stream, own in by_stream.items():
                try:
                    self._write(own)
                except BadEvent as bad:
                    unknown[stream] = f"the code fails on one of its events: {bad.reason}"

    def _write(self, events: Sequence[RecordedEvent]) -> None:
        """In a transaction of its own: what is not written whole leaves nothing behind."""
        fold = self.new_fold()
        try:
            with translated(), naming(self._version_tables()), self.connection.transaction():
                for some in pieces(events, _PIECE):
                    fold.apply(some, self.connection)
                    if fold.full:
                        fold.flush(self.connection)
                        fold.flushed()
                fold.flush(self.connection)
            self.value_types |= fold.value_types
        finally:
            fold.close()
        self.events += len(events)

    def new_fold(self) -> Fold:
        """A fold into the temporary table, which knows of no row yet."""
        fold = open_projector(self.definition, self._version_tables())
        assert isinstance(fold, Fold)
        return fold

    # -- every kind, by a pass over the log

    def advance(
        self,
        until: Position,
        throttle: Throttle,
        *,
        stop: Callable[[], bool] = lambda: False,
        wanted: Callable[[Key], bool] | None = None,
        report: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Apply all events after the position that was reached, up to another.

        `wanted`: the only keys whose rows are to be made, for a fold; it must be the same at each
        call. `report` gets the number of events applied. Raises Stopped, and Refused where the code
        fails on an event.
        """
        if isinstance(self.definition, SqlDefinition):
            self._by_ranges(until, throttle, stop, report)
        elif self.position is None or self.position < until:
            try:
                for reached in self._passes(until, throttle, stop, wanted):
                    self.position = reached
                    report(self.events)
            except BadEvent as bad:
                raise self._fails(bad.reason) from bad.__cause__
            self.position = until

    def _passes(
        self,
        until: Position,
        throttle: Throttle,
        stop: Callable[[], bool],
        wanted: Callable[[Key], bool] | None,
    ) -> Iterator[Position]:
        """One read after the other, each with a pause behind it where there is a rate."""
        projector, position = self._open(), self.position
        while position is None or position < until:
            throttle.wait()
            limit, seen, unwritten = (throttle.slice if throttle.rests else None), 0, 0
            # Closed at once, whatever ends this: a rest is to find no statement open.
            with closing(self._batches(position, until, limit)) as batches:
                for batch in batches:
                    events = iter(batch.events)
                    while some := list(islice(events, min(_PIECE, projector.most_at_once))):
                        seen += len(some)
                        unwritten += len(some)
                        self._apply(projector, some, wanted)
                        if projector.full or unwritten >= _WRITTEN:
                            self._flush(projector)
                            unwritten = 0
                        if stop():
                            raise Stopped("stopped; nothing was changed")
                    if batch.position is not None:
                        position = batch.position
                        yield position
                    if throttle.holds() or bool(throttle.rests) != (limit is not None):
                        break
                else:
                    if limit is None or seen < limit:
                        position = until
            self._flush(projector)
            throttle.spend(seen)
        yield until

    def _batches(
        self, after: Position | None, until: Position, limit: int | None
    ) -> Generator[Batch]:
        yield from self._store.read_all(after, until, self.filter, limit)

    def _apply(
        self,
        projector: Projector,
        events: list[RecordedEvent],
        wanted: Callable[[Key], bool] | None,
    ) -> None:
        applied = [each for each in events if each.position not in self.skipped]
        with translated(), naming(self._version_tables()):
            if wanted is not None and isinstance(projector, Fold) and applied:
                keys, _ = projector.keys(applied, self.connection)
                applied = [each for each, key in zip(applied, keys, strict=True) if wanted(key)]
            if applied:
                projector.apply(applied, self.connection)
        self.events += len(events)

    def _flush(self, projector: Projector) -> None:
        with translated(), naming(self._version_tables()):
            with self.connection.transaction():
                projector.flush(self.connection)
            projector.flushed()
        self.value_types |= projector.value_types

    def _by_ranges(
        self,
        until: Position,
        throttle: Throttle,
        stop: Callable[[], bool],
        report: Callable[[int], None],
    ) -> None:
        """Kind sql: statement by statement."""
        assert isinstance(self.definition, SqlDefinition)
        names = self._version_tables().names
        access = require(self._store, self._store.sql, "sql")
        while self.position is None or self.position < until:
            throttle.wait()
            if stop():
                raise Stopped("stopped; nothing was changed")
            most = min(self._statement, throttle.slice) if throttle.rests else self._statement
            part = access.range(self.position, until, max(most, _SMALLEST))
            text = range_statement(self.definition, names, part)
            tables = self._version_tables()
            with translated(), naming(tables), self.connection.transaction():
                try:
                    self.connection.execute(text.encode())
                except (psycopg.DataError, psycopg.ProgrammingError) as error:
                    raise self._fails(one_line(error)) from error
            self.position = part.reached
            self.events += part.events
            report(self.events)
            self._statement = min(self._statement * 2, _LARGEST)
            throttle.spend(part.events)

    def made(self) -> set[tuple[str, ...]]:
        """The keys of the rows that were made, of the first table."""
        name, table = next(iter(self.tables.items()))
        statement = sql.SQL("SELECT {} FROM pg_temp.{} AS t").format(
            sql.SQL(", ").join(
                sql.SQL("{}::text").format(sql.Identifier("t", each)) for each in self.keys[name]
            ),
            _own(table),
        )
        return set(self.connection.execute(statement).fetchall())

    def keys_of(self, events: Sequence[RecordedEvent]) -> set[tuple[str, ...]]:
        """The keys of a fold's rows that some events change, as text; dead letters change none.

        Raises BadEvent where one cannot be made.
        """
        events = [each for each in events if each.position not in self.skipped]
        if not events:
            return set()
        fold = self.new_fold()
        try:
            with translated(), naming(self._version_tables()):
                _, keys = fold.keys(events, self.connection)
        finally:
            fold.close()
        return {texts_of(key) for key in keys}

    @property
    def plain_keys(self) -> bool:
        """Whether it is a fold, and what Python has for the text of a key is what Postgres has."""
        if not isinstance(self.definition, FoldDefinition):
            return False
        ((name, table),) = self.live.items()
        return {table.column(each).kind for each in self.keys[name]} <= _PLAIN

    def _fails(self, reason: str) -> Refused:
        name = self._version.projection
        return Refused(
            f"the code of {name} fails on an event that v{self._version.version} has taken: "
            f"{reason}",
            hint="Where that is for a moment, such as a lookup that does not answer, run it again. "
            "Else its dead letters may have been discarded, or what it looks up may have changed: "
            f"esops rebuild {name} --blue-green",
        )

    # -- what both need

    def _open(self) -> Projector:
        if self._projector is None:
            self._projector = open_projector(self.definition, self._version_tables())
        assert self._projector is not None
        return self._projector

    def _end(self) -> None:
        if self._projector is not None:
            self._projector.close()
            self._projector = None

    def _version_tables(self) -> VersionTables:
        can = self._store.capabilities
        return VersionTables(
            projection=self._version.projection,
            version=self._version.version,
            by_name=self.tables,
            keys=self.keys,
            value_types=self._version.value_types,
            conjoined=can.tenants,
            empty=self.position is None,
            cache=following_cache(self._settings.cache),
            ensure_keys=lambda: None,
            begins=can.first_version if can.names_begin_again else None,
        )


def texts_of(key: Key) -> tuple[str, ...]:
    """The texts of a key's columns; a key of one column is its value alone."""
    return tuple(map(str, key)) if isinstance(key, tuple) else (str(key),)


def _own_tables(connection: psycopg.Connection, version: Version) -> Mapping[str, Table]:
    """The version's own tables, by the names that the application reads."""
    found: dict[str, Table] = {}
    for name, physical in version.tables.items():
        table = catalog.find_table(connection, *physical)
        said = f"the table {'.'.join(physical)} of {version.projection} v{version.version}"
        if table is None:
            raise Refused(
                f"{said} does not exist any more",
                hint=f"Rebuild: esops rebuild {version.projection} --blue-green",
            )
        if not (table.key or noted_key(version, table.name)):
            raise Refused(
                f"{said} has no primary key, by which rows could be compared",
                hint="Give it one: ALTER TABLE … ADD PRIMARY KEY (…).",
            )
        found[name] = table
    return found


def _own(table: Table) -> sql.Identifier:
    return sql.Identifier(table.name)
