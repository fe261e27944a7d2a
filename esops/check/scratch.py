"""Temporary tables beside a version's own, for its rows as the events make them.

The tables belong to the session and vanish with it. Nothing that the application reads or writes is
touched. `refold` makes the rows of some streams in them, and `log_pass` those of a pass over the
log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.events import EventFilter, Position, RecordedEvent, StreamKey
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import translated
from esops.projections.definition import Definition, FoldDefinition
from esops.projections.kinds import of_one_database, open_projector
from esops.projections.kinds.fold import Fold, following_cache
from esops.projections.kinds.fold_key import of_stream
from esops.projections.projector import Projector, VersionTables
from esops.readmodel.after_load import noted_key
from esops.readmodel.dead_letters import positions_of
from esops.readmodel.registry import Version
from esops.readmodel.types import Key
from esops.rebuild.refolded import temporary_like
from esops.rebuild.unwritten import Unwritten, without_changing_defaults
from esops.running.user_schema import naming
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore

_TEXTS = frozenset({"text", "varchar"})
_PLAIN = _TEXTS | {"uuid", "int2", "int4", "int8"}


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
        filter: EventFilter | None = None,
    ) -> None:
        """The connection is one to the read model, outside a transaction, and not a pooler's that
        changes sessions. `filter`: which events make the rows, where these are others than the
        projection's settings say.

        Raises Refused where a table is not there any more, has no key, or may not be made.
        """
        self.connection, self.store, self.version = connection, store, version
        self.definition, self.settings = definition, settings
        self.filter = filter or settings.filter
        """Which events make the rows."""
        of_one_database(definition, store, connection)
        self.live = _own_tables(connection, version)
        self.keys = {
            name: table.key or noted_key(version, table.name) for name, table in self.live.items()
        }
        self.tables = {
            name: temporary_like(
                connection, table, sql.Identifier(f"esops_folded_{number}"), self.keys[name]
            )
            for number, (name, table) in enumerate(self.live.items())
        }
        of_fold = isinstance(definition, FoldDefinition)
        for name, table in self.tables.items():
            without_changing_defaults(connection, table, self.keys[name], of_fold=of_fold)
        self.skipped = positions_of(connection, version.projection, version.version)
        """The positions of the version's dead letters."""
        self.position: Position | None = None
        """Up to where a pass over the log has applied the events."""
        self.events = 0
        """How many events were applied."""
        self.value_types: dict[str, str] = dict(version.value_types)
        """By column, the Python type that a fold writes, as far as it has shown."""
        self._projector: Projector | None = None

    @property
    def by_stream(self) -> bool:
        """Whether each row is of the events of one stream, which its key names as the store
        does.
        """
        if not isinstance(self.definition, FoldDefinition) or self.definition.key is not None:
            return False
        ((name, table),) = self.live.items()
        kinds = {table.column(each).kind for each in self.keys[name]}
        uuids = {"uuid"} if self.store.capabilities.uuid_streams else set[str]()
        return kinds <= _TEXTS | uuids

    @property
    def plain_keys(self) -> bool:
        """Whether it is a fold, and what Python has for the text of a key is what Postgres has."""
        if not isinstance(self.definition, FoldDefinition):
            return False
        ((name, table),) = self.live.items()
        return {table.column(each).kind for each in self.keys[name]} <= _PLAIN

    def look_at_skipped(self) -> None:
        """Read again which events are dead letters, in the snapshot that rows are copied in.

        Raises Refused where one of those that a pass over the log has gone by is none any more.
        """
        version = self.version
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

    def key(self, stream: StreamKey) -> tuple[str, ...]:
        """The key of a stream's row, as text."""
        ((name, _),) = self.live.items()
        return tuple(getattr(stream, each) for each in of_stream(self.keys[name]))

    def stream(self, key: Sequence[str]) -> StreamKey:
        """The stream whose row has a key."""
        ((name, _),) = self.live.items()
        return StreamKey(**dict(zip(of_stream(self.keys[name]), key, strict=True)))

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
            with translated(), naming(self.version_tables()):
                _, keys = fold.keys(events, self.connection)
        finally:
            fold.close()
        return {texts_of(key) for key in keys}

    def new_fold(self) -> Fold:
        """A fold into the temporary table, which knows of no row yet."""
        fold = open_projector(self.definition, self.version_tables())
        assert isinstance(fold, Fold)
        return fold

    def projector(self) -> Projector:
        """The one that applies events of every kind, until the tables are emptied."""
        if self._projector is None:
            self._projector = open_projector(self.definition, self.version_tables())
        assert self._projector is not None
        return self._projector

    def _end(self) -> None:
        if self._projector is not None:
            self._projector.close()
            self._projector = None

    def version_tables(self) -> VersionTables:
        """The temporary tables, as code that makes rows sees them."""
        can = self.store.capabilities
        return VersionTables(
            projection=self.version.projection,
            version=self.version.version,
            by_name=self.tables,
            keys=self.keys,
            value_types=self.version.value_types,
            conjoined=can.tenants,
            empty=self.position is None,
            cache=following_cache(self.settings.cache),
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
