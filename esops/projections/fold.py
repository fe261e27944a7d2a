"""Folds: the state of each key is its row, cached, and written back in bulk.

Reading a row for each event would make a fold as slow as the network. So rows are kept in two generations of bounded size
(an approximation of LRU that costs nothing an event); keys that are missing are fetched together, once a batch; changed
rows are written together at a checkpoint, new ones straight into the table by COPY. While a version is first loaded, a
Bloom filter of fixed size (B. Bloom, CACM 13/7, 1970) knows which keys cannot have been written yet, so that most need no look.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

import orjson
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from esops.backends.postgres.catalog import Table
from esops.backends.postgres.connect import is_lost, qualified
from esops.errors import Refused, UsageError, nearest
from esops.events import RecordedEvent
from esops.projections.definition import FoldDefinition, Key, Row, blame

CACHE_ROWS = 32_768
"""Rows that the cache holds if nothing else is asked for, in two generations."""
_BLOOM_BYTES = 8 << 20
_DELTA = sql.Identifier("esops_delta")
_TIMES = frozenset({"timestamp", "timestamptz", "date", "time", "timetz"})
_NUMBERS = frozenset({"int2", "int4", "int8", "float4", "float8"})
_TEXTS = frozenset({"text", "varchar", "bpchar", "citext"})


class BadEvent(Exception):
    """An event whose projection failed; `event` is None where a write failed and it is not known which one it was."""

    def __init__(self, reason: str, event: RecordedEvent | None, cause: BaseException | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.event = event
        self.__cause__ = cause


class Bloom:
    """A set of keys of fixed size that never forgets one, and seldom claims one that was never added."""

    def __init__(self, size: int = _BLOOM_BYTES) -> None:
        """Take the size in bytes, a power of two."""
        self._bits = bytearray(size)
        self._mask = size * 8 - 1

    def add(self, key: Key) -> None:
        """Remember a key."""
        code = hash(key)
        for place in (code & self._mask, (code >> 27) & self._mask):
            self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, key: Key) -> bool:
        code = hash(key)
        first, second = code & self._mask, (code >> 27) & self._mask
        return bool(self._bits[first >> 3] & (1 << (first & 7)) and self._bits[second >> 3] & (1 << (second & 7)))


class Fold:
    """One version's table as a fold sees it: apply events, then flush what changed in the checkpoint's transaction."""

    def __init__(
        self,
        definition: FoldDefinition,
        table: Table,
        value_types: Mapping[str, str],
        *,
        key: tuple[str, ...],
        conjoined: bool,
        empty: bool,
        ensure_key: Callable[[], None],
        cache_rows: int = CACHE_ROWS,
    ) -> None:
        """Take the definition and green's table with its key's columns (the key itself may not be built yet).

        `conjoined`: stream ids are not unique across tenants. `empty`: nothing is written yet. `ensure_key` is called
        before the first statement that needs the key. Raises UsageError where the key does not fit the definition's.
        """
        self.table = table
        self.key_columns = check_key(definition, table, key, conjoined=conjoined)
        self.value_types = dict(value_types)
        self._ensure_key = ensure_key
        self._evolve = definition.evolve
        self._key_of = _key_function(definition, len(self.key_columns))
        self._columns = {column.name: column for column in table.columns}
        self._json = frozenset(column.name for column in table.columns if column.kind in {"json", "jsonb"})
        self._written = Bloom() if empty else None
        self._generation = max(cache_rows // 2, 1)
        self._young: dict[Key, Row | None] = {}
        self._old: dict[Key, Row | None] = {}
        self._dirty: set[Key] = set()
        self._fresh: set[Key] = set()
        self._checked: set[tuple[str, ...]] = set()
        self._delta_ready = False

    @property
    def dirty(self) -> int:
        """How many rows wait to be written."""
        return len(self._dirty)

    @property
    def full(self) -> bool:
        """Whether the young generation has its size, so that what is dirty should be flushed and the old one forgotten."""
        return len(self._young) >= self._generation

    def forget(self) -> None:
        """Drop all state: a transaction failed, or the connection was lost."""
        self._young, self._old = {}, {}
        self._dirty, self._fresh = set(), set()
        self._written = None
        self._delta_ready = False

    def apply(self, events: Sequence[RecordedEvent], connection: psycopg.Connection) -> None:
        """Fold events into the cached rows, fetching first those that are missing. Raises BadEvent."""
        try:
            keys = list(map(self._key_of, events))
            missing = self._missing(keys)
        except Exception as error:
            raise self._blame_key(events, error) from error
        try:
            self._fetch(missing, connection)
        except psycopg.Error as error:
            if not _is_bad_row(error):
                raise
            raise BadEvent(f"its key does not fit the table's: {error}", None, error) from error
        rows, evolve = self._young, self._evolve
        event = None
        try:
            for key, event in zip(keys, events, strict=True):
                rows[key] = evolve(rows[key], event)
        except Exception as error:
            raise BadEvent(blame(error), event, error) from error
        touched = set(keys)
        for kind in {type(rows[key]) for key in touched} - {dict, type(None)}:
            raise BadEvent(f"the function returned a {kind.__name__}, not a row (a dict) or None", None)
        self._dirty |= touched

    def flush(self, connection: psycopg.Connection) -> int:
        """Write what changed, in the transaction that the connection is in; returns the change in the number of rows.

        Raises BadEvent for a row that the table will not take.
        """
        inserts: list[Row] = []
        upserts: list[Row] = []
        deletes: list[Key] = []
        for key in self._dirty:
            row = self._young[key]
            if row is None:
                if key not in self._fresh:
                    deletes.append(key)
            else:
                complete = self._with_key(key, row)
                (inserts if key in self._fresh else upserts).append(complete)
        try:
            change = self._insert(connection, inserts)
            change += self._upsert(connection, upserts)
            change -= self._delete(connection, deletes)
        except (psycopg.Error, TypeError, ValueError) as error:
            if isinstance(error, psycopg.Error) and not _is_bad_row(error):
                raise
            raise BadEvent(f"the table does not take its row: {_one_line(error)}", None, error) from error
        return change

    def flushed(self) -> None:
        """Take note that the transaction with the flush has committed."""
        if self._written is not None:
            for key in self._dirty:
                if self._young[key] is not None:
                    self._written.add(key)
        # A fresh key without a row stays fresh: nothing of it is in the table.
        self._fresh = {key for key in self._fresh if self._young.get(key) is None and key in self._young}
        self._dirty = set()
        if self.full:
            self._old, self._young = self._young, {}
            self._fresh = set()

    def _missing(self, keys: Iterable[Key]) -> set[Key]:
        missing = set(keys) - self._young.keys()
        if self._old:
            for key in missing & self._old.keys():
                self._young[key] = self._old.pop(key)
                missing.discard(key)
        return missing

    def _fetch(self, missing: set[Key], connection: psycopg.Connection) -> None:
        if not missing:
            return
        asked = list(missing) if self._written is None else [key for key in missing if key in self._written]
        young = self._young
        for key in missing:
            young[key] = None
        self._fresh |= missing
        for key, row in self._read(asked, connection):
            young[key] = row
            self._fresh.discard(key)

    def _read(self, keys: list[Key], connection: psycopg.Connection) -> Iterable[tuple[Key, Row]]:
        if not keys:
            return
        self._ensure_key()
        columns = [name for name in self.value_types if name in self._columns] or list(self.key_columns)
        statement = sql.SQL("SELECT k.esops_n, {} FROM {} AS t JOIN unnest({}) WITH ORDINALITY AS k({}, esops_n) ON {}").format(
            sql.SQL(", ").join(self._selected(name) for name in columns),
            qualified(self.table.schema, self.table.name),
            sql.SQL(", ").join(sql.SQL(f"%s::{self._columns[name].type}[]") for name in self.key_columns),  # type: ignore[arg-type]
            sql.SQL(", ").join(sql.Identifier(f"k{n}") for n in range(len(self.key_columns))),
            sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(sql.Identifier("t", name), sql.Identifier("k", f"k{n}"))
                for n, name in enumerate(self.key_columns)
            ),
        )
        parts = [[_key_text(part) for part in column] for column in zip(*map(self._parts, keys), strict=True)]
        converters = [self._converter(name) for name in columns]
        converted = [(place, convert) for place, convert in enumerate(converters) if convert is not None]
        with connection.cursor(row_factory=tuple_row) as cursor:
            for number, *values in cursor.execute(statement, parts):
                for place, convert in converted:
                    if values[place] is not None:
                        values[place] = convert(values[place])
                yield keys[number - 1], dict(zip(columns, values, strict=True))

    def _selected(self, name: str) -> sql.Composable:
        """A column to be read back; a uuid that was written as text comes as text at once."""
        column = sql.Identifier("t", name)
        if self._columns[name].kind == "uuid" and self.value_types.get(name) == "str":
            return sql.SQL("{}::text").format(column)
        return column

    def _converter(self, name: str) -> Callable[[Any], Any] | None:
        """How a column's value becomes again what the function wrote: numeric as int or float, times as text, and so on."""
        if name in self._json:
            return None
        kind, written = self._columns[name].kind, self.value_types.get(name)
        if written == "str":
            return _isoformat if kind in _TIMES else str if kind in {"numeric", *_NUMBERS} else None
        if written in {"int", "float"} and kind in {"numeric", *_NUMBERS, *_TEXTS}:
            return int if written == "int" else float
        if written == "Decimal" and kind in {*_NUMBERS, *_TEXTS}:
            return Decimal
        if written == "UUID" and kind in _TEXTS:
            return uuid.UUID
        if written == "datetime" and kind in _TEXTS:
            return datetime.fromisoformat
        return None

    def _parts(self, key: Key) -> tuple[Any, ...]:
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) != len(self.key_columns):
            raise ValueError(f"the key {key!r} has {len(parts)} parts, the table's has {len(self.key_columns)}")
        return parts

    def _with_key(self, key: Key, row: Row) -> Row:
        """The row with its key's columns, which it may leave out. Raises BadEvent where they are something else."""
        if len(self.key_columns) == 1 and row.get(self.key_columns[0]) == key:
            return row
        parts = self._parts(key)
        if not all(name in row for name in self.key_columns):
            return {**dict(zip(self.key_columns, parts, strict=True)), **row}
        for name, part in zip(self.key_columns, parts, strict=True):
            if row[name] != part and str(row[name]) != str(part):
                raise BadEvent(
                    f"its row has {name} = {row[name]!r}, but its key is {part!r}: give fold() the key function that makes it",
                    None,
                )
        return row

    def _by_columns(self, rows: list[Row]) -> Iterable[tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            groups.setdefault(tuple(row), []).append(row)
        for columns, group in groups.items():
            if columns not in self._checked:
                self._check(columns)
            values = [tuple(row.values()) for row in group]
            self._note_types(columns, values)
            yield columns, values if self._json.isdisjoint(columns) else self._wrapped(columns, values)

    def _note_types(self, columns: tuple[str, ...], values: list[tuple[Any, ...]]) -> None:
        """Keep the widest Python type of each column, column by column in C."""
        for name, column in zip(columns, zip(*values, strict=True), strict=True):
            for kind in set(map(type, column)):
                known, found = self.value_types.get(name), kind.__name__ if kind is not type(None) else "None"
                if known is None or (known != found and found != "None"):
                    self.value_types[name] = _wider(known, found)

    def _wrapped(self, columns: tuple[str, ...], values: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        json = [name in self._json for name in columns]
        return [
            tuple(Jsonb(value, dumps=orjson.dumps) if is_json and value is not None else value for is_json, value in zip(json, row, strict=True))
            for row in values
        ]

    def _check(self, columns: tuple[str, ...]) -> None:
        for name in columns:
            if name not in self._columns:
                raise BadEvent(
                    f"its row has a column {name!r} that {self.table.name} has not. {nearest(name, self._columns)}", None
                )
        self._checked.add(columns)

    def _insert(self, connection: psycopg.Connection, rows: list[Row]) -> int:
        for columns, values in self._by_columns(rows):
            self._copy(connection, qualified(self.table.schema, self.table.name), columns, values)
        return len(rows)

    def _copy(
        self, connection: psycopg.Connection, target: sql.Identifier, columns: tuple[str, ...], values: list[tuple[Any, ...]]
    ) -> None:
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(target, names)
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            write = copy.write_row
            for row in values:
                write(row)

    def _upsert(self, connection: psycopg.Connection, rows: list[Row]) -> int:
        added = 0
        if rows:
            self._ensure_key()
        for columns, values in self._by_columns(rows):
            self._stage(connection, columns, values)
            names = sql.SQL(", ").join(map(sql.Identifier, columns))
            others = [sql.Identifier(name) for name in columns if name not in self.key_columns]
            action = (
                sql.SQL("DO UPDATE SET {}").format(
                    sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(name) for name in others)
                )
                if others
                else sql.SQL("DO NOTHING")
            )
            # xmax is 0 in a row version that was inserted, and not in one that was updated.
            row = connection.execute(
                sql.SQL(
                    "WITH written AS (INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT ({}) {} RETURNING xmax = 0 AS added) "
                    "SELECT count(*) FILTER (WHERE added) FROM written"
                ).format(
                    qualified(self.table.schema, self.table.name),
                    names,
                    names,
                    _DELTA,
                    sql.SQL(", ").join(map(sql.Identifier, self.key_columns)),
                    action,
                )
            ).fetchone()
            assert row is not None
            added += row[0]
        return added

    def _delete(self, connection: psycopg.Connection, keys: list[Key]) -> int:
        if not keys:
            return 0
        self._ensure_key()
        self._stage(connection, self.key_columns, [self._parts(key) for key in keys])
        return connection.execute(
            sql.SQL("DELETE FROM {} AS t USING {} AS d WHERE {}").format(
                qualified(self.table.schema, self.table.name),
                _DELTA,
                sql.SQL(" AND ").join(
                    sql.SQL("{} = {}").format(sql.Identifier("t", name), sql.Identifier("d", name)) for name in self.key_columns
                ),
            )
        ).rowcount

    def _stage(self, connection: psycopg.Connection, columns: tuple[str, ...], values: list[tuple[Any, ...]]) -> None:
        """Bring rows into a temporary table without constraints, from which one statement merges them."""
        if not self._delta_ready:
            connection.execute(sql.SQL("DROP TABLE IF EXISTS pg_temp.{}").format(_DELTA))
            connection.execute(
                sql.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DELETE ROWS AS SELECT * FROM {} WITH NO DATA").format(
                    _DELTA, qualified(self.table.schema, self.table.name)
                )
            )
            self._delta_ready = True
        else:
            connection.execute(sql.SQL("TRUNCATE pg_temp.{}").format(_DELTA))
        self._copy(connection, _DELTA, columns, values)

    def _blame_key(self, events: Sequence[RecordedEvent], error: Exception) -> BadEvent:
        for event in events:
            try:
                hash(self._key_of(event))
            except Exception as again:  # noqa: BLE001 - it is the user's function
                return BadEvent(f"its key cannot be had: {blame(again)}", event, again)
        return BadEvent(blame(error), None, error)


def check_key(definition: FoldDefinition, table: Table, key: tuple[str, ...], *, conjoined: bool) -> tuple[str, ...]:
    """A table's key columns, if they fit what the fold is keyed by. Raises UsageError or Refused that says why not."""
    if not key:
        raise UsageError(
            f"{table.schema}.{table.name} has no primary key, which a fold needs: it is the fold's key",
            hint="Add PRIMARY KEY (…) to the table's DDL.",
        )
    if definition.key is None and conjoined and len(key) == 1:
        raise Refused(
            "the store is shared by tenants, and two of them may use the same stream id, so that it is no key by itself",
            hint="Give the table a key of tenant and stream, or name one `tenant` in the store's section.",
        )
    if definition.key is None and len(key) > (2 if conjoined else 1):
        raise UsageError(
            f"the key of {table.schema}.{table.name} has {len(key)} columns, the fold's key is the stream alone",
            hint="Give fold() a function that returns a tuple.",
        )
    return key


def _key_function(definition: FoldDefinition, columns: int) -> Callable[[RecordedEvent], Key]:
    if definition.key is not None:
        return definition.key
    return attrgetter("tenant", "stream") if columns == 2 else attrgetter("stream")


def _is_bad_row(error: psycopg.Error) -> bool:
    """Whether it is the row's fault, as against the server's, the role's or the connection's."""
    if is_lost(error):
        return False
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError):
        return True
    return isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None


def _one_line(error: BaseException) -> str:
    diagnosis = getattr(error, "diag", None)
    if diagnosis is not None and diagnosis.message_primary:
        detail = diagnosis.message_detail or diagnosis.context or ""
        return f"{diagnosis.message_primary} {detail}".strip().splitlines()[0]
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _isoformat(value: datetime | date) -> str:
    return value.isoformat()


def _key_text(part: Any) -> Any:
    return part if part is None or isinstance(part, str) else str(part)


def _wider(known: str | None, new: str) -> str:
    if known in {None, "None"} or {known, new} == {known}:
        return new
    order = ("bool", "int", "float", "Decimal")
    if known in order and new in order:
        return max(known, new, key=order.index)
    return "str" if "str" in {known, new} else new
