"""Events of a store's table held against those that an archive has, by the server and as text.

Each value of the archive is turned into what a restore would write, and printed again: what is
equal here comes back as it was. Of payloads, which are long, only the hashes are sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import psycopg
import pyarrow as pa
from psycopg import sql

from esops.errors import Refused
from esops.postgres.statements import statements
from esops.postgres.values import type_name
from esops.stores.postgres.archived_rows import WritableTable, values_of
from esops.stores.postgres.layouts.archiving import LayoutArchiving, as_text

_EXACT = {
    "smallint",
    "integer",
    "bigint",
    "boolean",
    "uuid",
    "timestamp with time zone",
    "timestamp without time zone",
}
"""Types whose values are equal exactly if they print the same: they need not be printed."""
_SQL = statements(__package__, "comparing")


@dataclass(frozen=True)
class ComparedRows:
    """Archived events as the parameters of a statement."""

    columns: tuple[str, ...]
    """Those that a restore would write."""
    hashed: frozenset[str]
    """Those of which only a hash is compared."""
    parameters: dict[str, Any]


class Comparison:
    """The statements that compare, for one layout."""

    def __init__(
        self, rules: LayoutArchiving, events: sql.Identifier, table: WritableTable
    ) -> None:
        """`events` names the table, and `table` says what its columns are."""
        self._rules, self._events, self._table = rules, events, table

    def rows(self, batch: pa.RecordBatch, *, whole: bool = True) -> ComparedRows:
        """Events of an archive. Raises Refused where the table has lost a column of theirs, or, if
        they are to be the `whole` rows, has got one since.
        """
        rows = values_of(batch, self._rules)
        names = self._table.written(list(rows[0]))
        if whole and (new := self._table.kinds.keys() - {*names, *self._rules.beside}):
            raise Refused(
                f"table {self._table.table.name} has a column {min(new)!r}, and the run does not: "
                "its values would be lost",
                hint="The column was added since the run was archived. Archive the events again: "
                "esops archive run POLICY --start-again",
            )
        values = {name: [row[name] for row in rows] for name in names}
        hashed = {name for name in names if any(isinstance(v, bytes) for v in values[name])}
        for name in hashed:
            values[name] = [
                None if v is None else hashlib.sha256(v).hexdigest() for v in values[name]
            ]
        return ComparedRows(
            tuple(names),
            frozenset(hashed),
            {
                "stream": array_of(batch.column("stream").to_pylist()),
                "tenant": array_of(batch.column("tenant").to_pylist()),
                **{f"c{number}": array_of(values[name]) for number, name in enumerate(names)},
            },
        )

    def statement(self, name: str, rows: ComparedRows) -> sql.Composed:
        """A statement of comparing.sql for such rows."""
        version = self._rules.columns["version"]
        equal = [self._equal(column, rows) for column in rows.columns]
        arrays = [f"%(c{number})s::text[]" for number in range(len(rows.columns))]
        return sql.SQL(_SQL[name]).format(
            events=self._events,
            of_stream=self._rules.of_stream,
            version=sql.Identifier("e", version),
            same_version=sql.SQL("{} = {}").format(
                sql.Identifier("e", version), self._value(version, rows)
            ),
            arrays=sql.SQL(", ").join(sql.SQL(each) for each in arrays),
            names=sql.SQL(", ").join(
                sql.Identifier(f"c{number}") for number in range(len(rows.columns))
            ),
            equal=sql.SQL(" AND ").join(equal),
            different=sql.SQL(", ").join(
                sql.SQL("CASE WHEN NOT ({}) THEN {} END").format(each, sql.Literal(column))
                for column, each in zip(rows.columns, equal, strict=True)
            ),
        )

    def whole(self, columns: Sequence[str]) -> ComparedRows:
        """Rows with these columns, to print a statement."""
        payload = {self._rules.columns.get(name) for name in ("data", "metadata")}
        names = self._table.written(columns)
        return ComparedRows(tuple(names), frozenset(names) & payload, {})

    def _value(self, column: str, rows: ComparedRows) -> sql.Composed:
        """What a restore would write into a column."""
        number = rows.columns.index(column)
        kind = type_name(self._table.kinds[column])
        return sql.SQL("{}::{}").format(sql.Identifier("k", f"c{number}"), kind)

    def _equal(self, column: str, rows: ComparedRows) -> sql.Composable:
        stored, kind = sql.Identifier("e", column), self._table.kinds[column]
        archived: sql.Composable = sql.Identifier("k", f"c{rows.columns.index(column)}")
        there: sql.Composable = stored
        if column in rows.hashed:
            content = "{}" if kind == "bytea" else "convert_to({}::text, 'UTF8')"
            there = sql.SQL(f"encode(sha256({content}), 'hex')").format(stored)
        elif kind in _EXACT:
            archived = self._value(column, rows)
        else:
            there = as_text(stored, kind)
            archived = as_text(self._value(column, rows), kind)
        return sql.SQL("{} IS NOT DISTINCT FROM {}").format(there, archived)


def _hash(value: bytes | None) -> str | None:
    return None if value is None else hashlib.sha256(value).hexdigest()


def shape_of(connection: psycopg.Connection, table: sql.Identifier) -> str:
    """What changes where a table gets or loses a column, or one becomes another."""
    row = connection.execute(_SQL["shape"], (table.as_string(connection),)).fetchone()
    return str(row and row[0])


def array_of(texts: Sequence[str | None]) -> str | list[str | None]:
    """Texts as the literal of an array, where it needs no escapes: psycopg's own takes as long as
    the statement.
    """
    json = orjson.dumps(texts).decode()
    return list(texts) if "\\" in json else f"{{{json[1:-1]}}}"
