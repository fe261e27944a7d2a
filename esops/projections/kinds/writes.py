"""The write API of handlers and processes: inserts, upserts, updates, increments and deletes on a
version's tables, pipelined.

A statement is sent without waiting for the answer to the one before (libpq's pipeline mode); a read
waits for all of them. Tables go by the names that the application reads, whatever the version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from esops.errors import nearest
from esops.postgres.catalog import Table, defaults
from esops.postgres.connection import qualified
from esops.postgres.types import types_of
from esops.postgres.values import type_name, with_placeholders
from esops.projections.projector import VersionTables
from esops.readmodel.asked import Asked
from esops.readmodel.exact import exact_step, exact_value
from esops.readmodel.form import Convert, Unfit, cannot_hold
from esops.readmodel.names import with_names
from esops.readmodel.rows import BadEvent, json_columns
from esops.readmodel.types import Row


class Write:
    """What a handler writes with, inside the transaction of the checkpoint.

    All methods raise BadEvent for a table or column that does not exist.
    """

    def __init__(self, tables: VersionTables) -> None:
        """`open` has to be called before anything else."""
        self._tables = tables
        self._cursor: psycopg.Cursor[Any] | None = None
        self._reader: psycopg.Cursor[Row] | None = None
        self._statements: dict[tuple[Any, ...], bytes] = {}
        self._json = {name: json_columns(table) for name, table in tables.by_name.items()}
        self._defaults: dict[str, dict[str, str]] = {}
        self._asked = Asked(settle=self._settle)
        self._exact: dict[tuple[str, bool], dict[str, Convert | None]] = {}
        self._promised: list[tuple[psycopg.Cursor[Any], str]] = []

    def open(self, connection: psycopg.Connection) -> None:
        """Write on this connection, in the transaction that it is in."""
        self._connection, self._promised = connection, []
        self._asked.connection = connection
        self._cursor = connection.cursor()
        self._reader = connection.cursor(row_factory=dict_row)

    def check(self) -> None:
        """Raises BadEvent for an update or increment that has found no row.

        All statements have to be answered: outside of the pipeline.
        """
        promised, self._promised = self._promised, []
        for cursor, what in promised:
            if cursor.rowcount == 0:
                raise BadEvent(f"{what} finds no row")

    def insert(self, table: str, row: Row) -> None:
        """Add a row; its key must not be there."""
        self._send("insert", table, row)

    def upsert(self, table: str, row: Row) -> None:
        """Add a row; where its key is there, set the columns that the row has."""
        self._tables.ensure_keys()
        self._send("upsert", table, row)

    def update(self, table: str, key: Row, changes: Row, *, optional: bool = False) -> None:
        """Set columns of the rows whose columns have the values of `key`.

        Where there is none, the event is a poison event, unless the update is `optional`.
        """
        self._tables.ensure_keys()
        self._send("update", table, changes, key, promised=not optional)

    def increment(self, table: str, key: Row, by: Row) -> None:
        """Add to columns of the row with this primary key; where there is none, add it to their
        defaults (0 where there is none), in a new row.

        With other columns as the key, add to all rows that have these values; where there is none,
        the event is a poison event.
        """
        self._tables.ensure_keys()
        if twice := sorted(key.keys() & by.keys()):
            raise BadEvent(f"increment of {table} has column {twice[0]!r} in its key and in `by`")
        if set(self._tables.keys.get(table, ())) != key.keys():
            self._send("increment", table, by, key, promised=True)
            return
        assert self._cursor is not None
        statement = self._statement("add", table, tuple(by), tuple(key))
        keys, values = self._given(table, key), self._given(table, by, step=True)
        twice_each = [value for value in values for _ in (1, 2)]
        self._cursor.execute(statement, [*twice_each, *keys, *keys, *values])

    def delete(self, table: str, key: Row) -> None:
        """Remove the rows whose columns have the values of `key`; there may be none."""
        self._tables.ensure_keys()
        self._send("delete", table, {}, key)

    def get(self, table: str, key: Row) -> Row | None:
        """The row whose columns have the values of `key`, with all that was written before; None
        where there is none.

        Waits for all statements that were sent.
        """
        self._tables.ensure_keys()
        assert self._reader is not None
        return self._reader.execute(
            self._statement("get", table, (), tuple(key)), [*key.values()]
        ).fetchone()

    def execute(self, statement: str, *values: Any) -> None:
        """Send any other statement: tables as `{name}`, values as `%s`."""
        assert self._cursor is not None
        # The user has doubled percent signs where there are values; those of names are ours.
        named = with_names(statement, self._tables.names, doubled=bool(values))
        self._cursor.execute(named.encode(), values or None)

    def _send(
        self, what: str, table: str, values: Row, key: Row | None = None, *, promised: bool = False
    ) -> None:
        assert self._cursor is not None
        statement = self._statement(what, table, tuple(values), tuple(key or ()))
        cursor = self._cursor
        if promised:
            # A cursor of its own keeps the number of rows until everything is answered.
            cursor = self._connection.cursor()
            self._promised.append((cursor, f"{what} of {table} where {key}"))
        given = self._given(table, values, step=what == "increment")
        cursor.execute(statement, [*given, *self._wrapped(table, key or {})])

    def _given(self, table: str, row: Row, *, step: bool = False) -> list[Any]:
        """The values of some columns, or what is added to them, as they are sent.

        Raises BadEvent where a column would round or cut one.
        """
        exact = self._exact_of(table, step=step)
        made: Row = {}
        for name, value in row.items():
            convert = exact[name]
            try:
                made[name] = value if convert is None or value is None else convert(value)
            except Unfit as error:
                column = self._tables.by_name[table].column(name)
                what = f"it adds to {table}" if step else f"it writes to {table}"
                raise BadEvent(cannot_hold(what, column, value, error)) from None
        return self._wrapped(table, made)

    def _wrapped(self, table: str, row: Row) -> list[Any]:
        # A list or dict for a json column has to be wrapped; psycopg would make an array of a list.
        json = self._json.get(table, {})
        return [
            json[name](value) if name in json and value is not None else value
            for name, value in row.items()
        ]

    def _exact_of(self, table: str, *, step: bool) -> dict[str, Convert | None]:
        found = self._exact.get((table, step))
        if found is None:
            self._settle()
            columns = self._tables.by_name[table]
            types = types_of(self._connection, columns.oid)
            make = exact_step if step else exact_value
            found = self._exact[table, step] = {
                column.name: make(column, types[column.name], self._asked)
                for column in columns.columns
            }
        return found

    def _settle(self) -> None:
        """Wait for all that was sent, so that its errors are not taken for those of a question."""
        self._connection.execute("SELECT").fetchall()

    def _default(self, table: str, column: str) -> str | None:
        """The default of a column, as SQL."""
        found = self._defaults.get(table)
        if found is None:
            oid = self._tables.by_name[table].oid
            found = self._defaults[table] = {
                name: text
                for name, (text, own) in defaults(self._connection, oid).items()
                if text is not None and not own and not text.startswith("NULL")
            }
        return found.get(column)

    def _statement(
        self, what: str, table: str, columns: tuple[str, ...], key: tuple[str, ...]
    ) -> bytes:
        # Composing a statement costs more than sending it, and most events use the same few.
        made = self._statements.get((what, table, columns, key))
        if made is None:
            composed = self._made(what, table, columns, key)
            made = with_placeholders(composed).as_bytes(None)
            self._statements[what, table, columns, key] = made
        return made

    def _made(
        self, what: str, table: str, columns: Sequence[str], key: Sequence[str]
    ) -> sql.Composed:
        found = self._tables.by_name.get(table)
        if found is None:
            raise BadEvent(
                f"it writes to table {table!r}, but the projection has no such table. "
                f"{nearest(table, list(self._tables.by_name))}"
            )
        there_are = [column.name for column in found.columns]
        for name in (*columns, *key):
            if name not in there_are:
                raise BadEvent(
                    f"it writes to column {name!r}, but {table} has no such column. "
                    f"{nearest(name, there_are)}"
                )
        if what in {"update", "increment", "delete", "get"} and not key:
            raise BadEvent(f"{what} of {table} without a key would concern all rows")
        relation = qualified(found.schema, found.name)
        where = sql.SQL(" AND ").join(
            sql.SQL("{} = %s").format(sql.Identifier(each)) for each in key
        )
        if what == "get":
            return sql.SQL("SELECT * FROM {} WHERE {} LIMIT 1").format(relation, where)
        if what == "delete":
            return sql.SQL("DELETE FROM {} WHERE {}").format(relation, where)
        if what in {"update", "increment"}:
            form = sql.SQL("{0} = %s") if what == "update" else sql.SQL("{0} = {0} + %s")
            changes = sql.SQL(", ").join(form.format(sql.Identifier(each)) for each in columns)
            return sql.SQL("UPDATE {} SET {} WHERE {}").format(relation, changes, where)
        if what == "add":
            return self._add(found, table, columns, key)
        insert = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            relation,
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(sql.SQL("%s") for _ in columns),
        )
        return (
            insert
            if what == "insert"
            else sql.SQL("{} {}").format(insert, self._on_conflict(table, columns))
        )

    def _add(
        self, found: Table, table: str, columns: Sequence[str], key: Sequence[str]
    ) -> sql.Composed:
        """The increment of the row with a primary key, whether it is there or not.

        No INSERT … ON CONFLICT: that fails for a column that must not be NULL, also where the row
        is there.
        """
        changes, values = [], []
        for name in columns:
            kind, default = type_name(found.column(name).type), self._default(table, name)
            value = sql.SQL("%s::{}").format(kind)
            if default is not None:
                text: Any = default.replace("%", "%%")  # from the catalogue
                value = sql.SQL("({}) + %s").format(sql.SQL(text))
            values.append(value)
            # What is NULL counts as if the row were new.
            changes.append(
                sql.SQL("{0} = coalesce({0} + %s, {1})").format(sql.Identifier(name), value)
            )
        keys = [sql.SQL("%s::{}").format(type_name(found.column(name).type)) for name in key]
        return sql.SQL(
            "WITH found AS (UPDATE {0} SET {1} WHERE {2} RETURNING 1) INSERT INTO {0} ({3}) "
            "SELECT {4} WHERE NOT EXISTS (SELECT FROM found)"
        ).format(
            qualified(found.schema, found.name),
            sql.SQL(", ").join(changes),
            sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), value)
                for name, value in zip(key, keys, strict=True)
            ),
            sql.SQL(", ").join(map(sql.Identifier, [*key, *columns])),
            sql.SQL(", ").join([*keys, *values]),
        )

    def _on_conflict(self, table: str, columns: Sequence[str]) -> sql.Composed:
        key = self._tables.keys[table]
        if missing := [name for name in key if name not in columns]:
            raise BadEvent(f"upsert into {table} lacks column {missing[0]!r} of the primary key")
        # A row that has only its key: there is nothing to update.
        others = [name for name in columns if name not in key]
        changes = sql.SQL(", ").join(
            sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(each)) for each in others
        )
        action = sql.SQL("DO UPDATE SET {}").format(changes) if others else sql.SQL("DO NOTHING")
        return sql.SQL("ON CONFLICT ({}) {}").format(
            sql.SQL(", ").join(map(sql.Identifier, key)), action
        )


def operations(write: Write, requested: Sequence[Mapping[str, Any]]) -> None:
    """Run the operations that a process sent, each a mapping with `op`, `table` and what the
    operation needs.

    Raises BadEvent for an operation that is unknown or lacks something.
    """
    for each in requested:
        try:
            match each["op"]:
                case "insert":
                    write.insert(each["table"], each["row"])
                case "upsert":
                    write.upsert(each["table"], each["row"])
                case "update":
                    optional = each.get("optional") is True
                    write.update(each["table"], each["key"], each["set"], optional=optional)
                case "increment":
                    write.increment(each["table"], each["key"], each["by"])
                case "delete":
                    write.delete(each["table"], each["key"])
                case other:
                    raise BadEvent(
                        f"there is no operation {other!r}; there are insert, upsert, update, "
                        "increment and delete"
                    )
        except KeyError as error:
            raise BadEvent(f"the operation {dict(each)} lacks {error.args[0]!r}") from None
