"""The rows of some streams as all their events make them, in a temporary table beside the version's
own, to be compared with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.events import RecordedEvent, StreamKey
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import database_of, qualified
from esops.projections.definition import FoldDefinition
from esops.projections.kinds.fold import Fold
from esops.projections.kinds.fold_key import of_stream
from esops.projections.projector import VersionTables
from esops.readmodel.registry import Version
from esops.readmodel.rows import BadEvent
from esops.rebuild.unwritten import Unwritten, without_changing_defaults
from esops.rebuild.verification.sides import Sides
from esops.settings import VerifySettings
from esops.stores.base import EventStore
from esops.stores.inline_tables import InlineTables

FOLDED = sql.Identifier("esops_folded")
"""The temporary table; it has the rows that were made last."""
Key = tuple[str, ...]
"""The values of a row's key, as text."""
_PIECE = 2_000
_CACHED = 8 << 20
"""Bytes of rows: the streams of a few pieces."""


class RefoldedRows:
    """The rows of a fold that is keyed by the stream, in the transaction of whoever asks."""

    def __init__(
        self,
        connection: psycopg.Connection,
        store: EventStore,
        version: Version,
        definition: FoldDefinition,
        verify: VerifySettings,
    ) -> None:
        """Raises Refused where the events and the table are not in one database any more."""
        name = version.projection
        if store.inline is None or store.inline.database() != database_of(connection):
            raise Refused(f"the events of {name} and its table are not in one database any more")
        table = catalog.find_table(connection, *version.table)
        if table is None:
            raise Refused(f"the table {'.'.join(version.table)} does not exist any more")
        self.inline: InlineTables = store.inline
        self.live, self.fresh = table, temporary_like(connection, table)
        without_changing_defaults(connection, self.fresh, table.key, of_fold=True)
        by_itself = catalog.defaults(connection, table.oid)
        self.computed = frozenset(each for each, (_, own) in by_itself.items() if own)
        self.identity = frozenset(each for each in self.computed if by_itself[each][0] is None)
        self._verify = verify
        self._types = dict(version.value_types)
        self._unwritten = Unwritten(connection, (table, self.fresh), table.key, lambda: self._types)
        self._sides: dict[frozenset[str], Sides] = {}
        self._connection, self._version, self._definition = connection, version, definition
        self._conjoined = store.capabilities.tenants
        self._fold: Fold | None = None

    @property
    def unwritten(self) -> frozenset[str]:
        """The columns that the code does not write, as far as it has shown."""
        return self._unwritten.columns(self._connection, self.fresh)

    @property
    def sides(self) -> Sides:
        """The version's table and the temporary one, by what is compared."""
        unwritten = self.unwritten
        if unwritten not in self._sides:
            # What new logic was meant to change counts here; numbers of the table's own do not.
            ignored = (*self._verify.ignore, *sorted(self.identity | unwritten))
            counted = self._verify.model_copy(update={"expected": (), "ignore": ignored})
            tables = self.live, self.fresh
            self._sides[unwritten] = Sides.of(self._connection, tables, self.live.key, counted)
        return self._sides[unwritten]

    def make(self, events: Sequence[RecordedEvent]) -> Mapping[str, str]:
        """Fold all events of some streams into the temporary table; returns by column the type of
        what was written.

        Raises Refused where the code fails.
        """
        self._connection.execute(sql.SQL("TRUNCATE pg_temp.{}").format(FOLDED))
        name = next(iter(self._version.tables))
        of_version = VersionTables(
            projection=self._version.projection,
            version=self._version.version,
            by_name={name: self.fresh},
            keys={name: self.live.key},
            value_types=self._version.value_types,
            conjoined=self._conjoined,
            empty=True,
            cache=_CACHED,
            ensure_keys=lambda: None,
        )
        self._fold = Fold(self._definition, of_version)
        return self.add(events)

    def add(self, events: Sequence[RecordedEvent]) -> Mapping[str, str]:
        """Fold later events of the same streams into the rows that were made last, in a transaction
        that ends well; else as `make`.
        """
        assert self._fold is not None
        try:
            for some in pieces(events, _PIECE):
                self._fold.apply(some, self._connection)
            self._fold.flush(self._connection)
            self._fold.flushed()
        except BadEvent as bad:
            raise Refused(
                f"the code of {self._version.projection} fails on an event: {bad.reason}"
            ) from bad.__cause__
        self._types |= self._fold.value_types
        return self._fold.value_types

    def key(self, stream: StreamKey) -> Key:
        """The key of a stream's row."""
        return tuple(getattr(stream, each) for each in of_stream(self.live.key))

    def stream(self, key: Key) -> StreamKey:
        """The stream whose row has a key."""
        return StreamKey(**dict(zip(of_stream(self.live.key), key, strict=True)))

    def there(self, keys: Iterable[Key], lock: str = "") -> set[Key]:
        """Those of the keys that have a row in the version's own table."""
        wanted = list(keys)
        if not wanted:
            return set()
        statement = sql.SQL("SELECT {} FROM {} AS l WHERE {}{}").format(
            self.key_of("l"), self.name, self.among("l"), sql.SQL(lock)
        )
        return set(self._connection.execute(statement, columns(wanted)).fetchall())

    def every_key(self) -> Iterator[Key]:
        """The keys of all rows of the version's own table, in one transaction."""
        statement = sql.SQL("SELECT {} FROM {} AS l").format(self.key_of("l"), self.name)
        with (
            self._connection.transaction(),
            self._connection.cursor("esops_keys") as cursor,
        ):
            cursor.itersize = _PIECE
            yield from cursor.execute(statement)

    def made(self) -> set[Key]:
        """The keys of the rows that were made last."""
        statement = sql.SQL("SELECT {} FROM {} AS f").format(self.key_of("f"), FOLDED)
        return set(self._connection.execute(statement).fetchall())

    def key_of(self, alias: str) -> sql.Composed:
        """The values of the key, as text."""
        return sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(alias, name)) for name in self.live.key
        )

    @property
    def name(self) -> sql.Identifier:
        """The version's own table."""
        return qualified(self.live.schema, self.live.name)

    def among(self, alias: str) -> sql.Composed:
        """The condition that a row has one of the keys that are given as a column of values for
        each column of the key.
        """
        of_key = [self.live.column(name) for name in self.live.key]
        return sql.SQL("({}) IN (SELECT * FROM unnest({}))").format(
            sql.SQL(", ").join(sql.Identifier(alias, each.name) for each in of_key),
            sql.SQL(", ").join(
                sql.SQL("%s::text[]::{}[]").format(sql.SQL(each.type)) for each in of_key
            ),
        )

    def same_key(self) -> sql.Composed:
        """The condition that a row `l` of the version has the key of a row `f` that was made."""
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier("l", name), sql.Identifier("f", name))
            for name in self.live.key
        )


Item = TypeVar("Item")


def pieces(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """The items in lists of up to `most`."""
    every = iter(items)
    while some := list(islice(every, most)):
        yield some


def columns(keys: Sequence[Key]) -> list[list[str]]:
    """The values of each column of the key."""
    return [list(column) for column in zip(*keys, strict=True)]


def temporary_like(
    connection: psycopg.Connection,
    live: Table,
    own: sql.Identifier = FOLDED,
    key: Sequence[str] = (),
    *,
    makes_values: bool = True,
) -> Table:
    """A temporary table like a version's, for the rows as the events make them.

    `key`: of a table whose key is not built yet. `makes_values`: whether the table gives rows their
    default and computed values, as the version's does.
    """
    statement = sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {} {}, PRIMARY KEY ({}))").format(
        own,
        qualified(live.schema, live.name),
        sql.SQL(
            "INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING IDENTITY" if makes_values else ""
        ),
        sql.SQL(", ").join(map(sql.Identifier, key or live.key)),
    )
    try:
        connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        refused = missing_right(connection)
        if refused is None:
            raise
        raise Refused(f"this role {refused[0]}", hint=refused[1]) from None
    row = connection.execute(
        "SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()"
    ).fetchone()
    assert row is not None
    found = catalog.find_table(connection, row[0], own.as_string(connection).strip('"'))
    assert found is not None
    others = [each.name for each in found.columns if each.name not in found.key]
    if not makes_values and others:
        # A copy of rows that were made may lack what the version's table adds.
        statement = sql.SQL("ALTER TABLE pg_temp.{} {}").format(
            own,
            sql.SQL(", ").join(
                sql.SQL("ALTER {} DROP NOT NULL").format(sql.Identifier(each)) for each in others
            ),
        )
        connection.execute(statement)
    return found


def missing_right(connection: psycopg.Connection) -> tuple[str, str] | None:
    """What the role may not do, to make rows again, and the statement that lets it."""
    row = connection.execute(
        "SELECT has_database_privilege(current_database(), 'TEMPORARY'), "
        "format('GRANT TEMPORARY ON DATABASE %I TO %I', current_database(), current_user)"
    ).fetchone()
    assert row is not None
    return None if row[0] else ("may not make temporary tables in this database", row[1])
