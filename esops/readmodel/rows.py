"""The rows of a version's table in bulk: read by key, written by COPY, merged through a temporary
table.

A row is read in the form in which a fold keeps it (shape.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from esops.errors import nearest
from esops.postgres.catalog import Table
from esops.postgres.connection import is_lost, qualified
from esops.postgres.values import type_name
from esops.readmodel.asked import text_of
from esops.readmodel.json_forms import dumps
from esops.readmodel.shape import Shape
from esops.readmodel.types import Key, Row

_DELTA = sql.Identifier("esops_delta")


def json_columns(table: Table) -> Mapping[str, Callable[[Any], Any]]:
    """The columns of JSON, and how a value for each is wrapped: psycopg alone would make an array
    of a list, and nothing of a dict.
    """
    wraps = {"json": _json, "jsonb": _json, "_json": _json_array, "_jsonb": _json_array}
    return {column.name: wraps[column.kind] for column in table.columns if column.kind in wraps}


def _json(value: Any) -> Any:
    return Jsonb(value, dumps=dumps)


def _json_array(value: Any) -> Any:
    return [None if each is None else _json(each) for each in value]


class BadEvent(Exception):
    """One of the events since the last checkpoint cannot be projected.

    The runner finds out which one: it applies fewer and fewer events at a time.
    """

    def __init__(self, reason: str) -> None:
        """`reason` is for the operator, and goes into the dead letter where there is one."""
        super().__init__(reason)
        self.reason = reason


class Rows:
    """The rows of one table, by the columns of its key."""

    def __init__(
        self,
        table: Table,
        key_columns: tuple[str, ...],
        value_types: Mapping[str, str],
        ensure_key: Callable[[], None],
    ) -> None:
        """`value_types` has the types written so far, by column.

        `ensure_key` is called before the first statement that needs the key of the table.
        """
        self.table = table
        self.key_columns = key_columns
        self.shape = Shape(table, key_columns, value_types)
        self._ensure_key = ensure_key
        self._name = qualified(table.schema, table.name)
        self._columns = {column.name: column for column in table.columns}
        self._json = json_columns(table)
        self._checked: set[tuple[str, ...]] = set()
        self._delta_ready = False

    def read(self, connection: psycopg.Connection, keys: list[Key]) -> Iterable[tuple[Key, Row]]:
        """The rows of those of the keys that are in the table, in the form of `shape`.

        The keys have their form. Raises psycopg.DataError for one that is no value of its column.
        """
        if not keys:
            return
        self._ensure_key()
        # Columns that were never written hold their default, which the function has never seen.
        columns = self.shape.names
        # All keys in one query. Each row comes with the index of its key, so that it need not be
        # found by its values.
        statement = sql.SQL(
            "SELECT k.esops_n, {} FROM {} AS t JOIN unnest({}) WITH ORDINALITY AS k({}, "
            "esops_n) ON {}"
        ).format(
            sql.SQL(", ").join(sql.Identifier("t", name) for name in columns),
            self._name,
            sql.SQL(", ").join(
                sql.SQL("%s::{}[]").format(type_name(self._columns[name].type))
                for name in self.key_columns
            ),
            sql.SQL(", ").join(sql.Identifier(f"k{n}") for n in range(len(self.key_columns))),
            sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(sql.Identifier("t", name), sql.Identifier("k", f"k{n}"))
                for n, name in enumerate(self.key_columns)
            ),
        )
        parts = [
            [text_of(part, connection) for part in column]
            for column in zip(*map(self.shape.parts, keys), strict=True)
        ]
        # Most columns need no conversion: only the others are touched in the loop over the rows.
        converted = self.shape.loaded()
        with connection.cursor(row_factory=tuple_row) as cursor:
            for number, *values in cursor.execute(statement, parts):
                for place, convert in converted:
                    if values[place] is not None:
                        values[place] = convert(values[place])
                key = keys[number - 1]
                yield key, self.shape.rekeyed(key, dict(zip(columns, values, strict=True)))

    def _by_columns(
        self, rows: list[Row]
    ) -> Iterable[tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
        # COPY needs rows with the same columns; a function may return rows with different ones.
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            groups.setdefault(tuple(row), []).append(row)
        for columns, group in groups.items():
            if columns not in self._checked:
                self._check(columns)
            values = [tuple(row.values()) for row in group]
            yield (
                columns,
                values if self._json.keys().isdisjoint(columns) else self._wrapped(columns, values),
            )

    def _wrapped(
        self, columns: tuple[str, ...], values: list[tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        json = [self._json.get(name) for name in columns]
        return [
            tuple(
                value if wrap is None or value is None else wrap(value)
                for wrap, value in zip(json, row, strict=True)
            )
            for row in values
        ]

    def _check(self, columns: tuple[str, ...]) -> None:
        for name in columns:
            if name not in self._columns:
                raise BadEvent(
                    f"its row has column {name!r}, but {self.table.name} has no such column. "
                    f"{nearest(name, self._columns)}"
                )
        self._checked.add(columns)

    def insert(self, connection: psycopg.Connection, rows: list[Row]) -> int:
        """Write rows whose keys are not in the table; returns their number."""
        for columns, values in self._by_columns(rows):
            self._copy(connection, self._name, columns, values)
        return len(rows)

    def _copy(
        self,
        connection: psycopg.Connection,
        target: sql.Identifier,
        columns: tuple[str, ...],
        values: list[tuple[Any, ...]],
    ) -> None:
        # COPY is several times as fast as INSERT, and takes any number of rows in one statement.
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(target, names)
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            write = copy.write_row
            for row in values:
                write(row)

    def upsert(self, connection: psycopg.Connection, rows: list[Row]) -> int:
        """Write rows whose keys may be in the table; returns how many were not."""
        added = 0
        if rows:
            self._ensure_key()
        for columns, values in self._by_columns(rows):
            # COPY cannot update: the rows are copied aside and merged by one INSERT … ON CONFLICT.
            self._stage(connection, columns, values)
            names = sql.SQL(", ").join(map(sql.Identifier, columns))
            others = [sql.Identifier(name) for name in columns if name not in self.key_columns]
            action = (
                sql.SQL("DO UPDATE SET {}").format(
                    sql.SQL(", ").join(
                        sql.SQL("{0} = EXCLUDED.{0}").format(name) for name in others
                    )
                )
                if others
                else sql.SQL("DO NOTHING")
            )
            insert = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT ({}) {}").format(
                self._name,
                names,
                names,
                _DELTA,
                sql.SQL(", ").join(map(sql.Identifier, self.key_columns)),
                action,
            )
            added += self._insert_counted(connection, insert, len(values))
        return added

    def _insert_counted(
        self, connection: psycopg.Connection, insert: sql.Composed, staged: int
    ) -> int:
        """Merge the rows that are staged; returns how many were not in the table."""
        counted = sql.SQL(
            # xmax is 0 in a row version that was inserted, and not in one that was updated.
            "WITH written AS ({} RETURNING xmax = 0 AS added) "
            "SELECT count(*) FILTER (WHERE added) FROM written"
        ).format(insert)
        if self.table.kind == "p":
            # Of a partitioned table, Postgres does not return xmax.
            counted = sql.SQL(
                "WITH written AS ({}) SELECT {} - (SELECT count(*) FROM {} AS t JOIN {} AS d ON {})"
            ).format(insert, sql.Literal(staged), self._name, _DELTA, self._same("t", "d"))
        row = connection.execute(counted).fetchone()
        assert row is not None
        return int(row[0])

    def delete(self, connection: psycopg.Connection, keys: list[Key]) -> int:
        """Delete the rows of some keys; returns how many were in the table."""
        if not keys:
            return 0
        self._ensure_key()
        self._stage(connection, self.key_columns, [self.shape.parts(key) for key in keys])
        return connection.execute(
            sql.SQL("DELETE FROM {} AS t USING {} AS d WHERE {}").format(
                self._name, _DELTA, self._same("t", "d")
            )
        ).rowcount

    def _same(self, one: str, other: str) -> sql.Composed:
        """The condition that two rows have the same key."""
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(one, name), sql.Identifier(other, name))
            for name in self.key_columns
        )

    def _stage(
        self,
        connection: psycopg.Connection,
        columns: tuple[str, ...],
        values: list[tuple[Any, ...]],
    ) -> None:
        """Copy rows into a temporary table without constraints, for one statement to merge them."""
        # Kept for the session, and emptied for each use: creating it costs more than filling it.
        if not self._delta_ready:
            connection.execute(sql.SQL("DROP TABLE IF EXISTS pg_temp.{}").format(_DELTA))
            connection.execute(
                # SELECT copies the columns without NOT NULL and keys: a row may lack columns here.
                sql.SQL(
                    "CREATE TEMPORARY TABLE {} ON COMMIT DELETE ROWS AS SELECT * FROM {} WITH "
                    "NO DATA"
                ).format(_DELTA, self._name)
            )
            self._delta_ready = True
        else:
            connection.execute(sql.SQL("TRUNCATE pg_temp.{}").format(_DELTA))
        self._copy(connection, _DELTA, columns, values)


def is_bad_row(error: psycopg.Error) -> bool:
    """Whether the row causes the error, and not the server, the role or the connection."""
    if is_lost(error):
        return False
    # A value out of range, a constraint, a missing value: another row would have been accepted.
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError):
        return True
    if isinstance(error, psycopg.errors.CardinalityViolation):
        return True  # two keys of the fold are one value in the table
    # Without a state it does not come from the server: psycopg cannot adapt a value.
    return isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None


def one_line(error: BaseException) -> str:
    """The message of a database error in one line, with its detail."""
    diagnosis = getattr(error, "diag", None)
    if diagnosis is not None and diagnosis.message_primary:
        detail = diagnosis.message_detail or diagnosis.context or ""
        return f"{diagnosis.message_primary} {detail}".strip().splitlines()[0]
    return str(error).splitlines()[0] if str(error) else type(error).__name__
