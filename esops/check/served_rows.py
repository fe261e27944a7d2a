"""The rows of a version's table beside those that were made again: which differ, and the statements
that make them right.

What `verify.ignore` names stays as it is in the row that serves, and so does what no code writes:
what the table makes itself, as numbers, times or by a trigger (rebuild/unwritten.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.rebuild.ignored import ignored_in, kept
from esops.rebuild.refolded import columns
from esops.rebuild.unwritten import Unwritten
from esops.rebuild.verification.comparison import differs
from esops.rebuild.verification.sides import Sides, facts, rows_of, same_key, value_of
from esops.settings import VerifySettings

RowKey = tuple[str, ...]
"""The values of a key's columns, as text."""


_WITHOUT_EQUALITY = frozenset(
    {"json", "xml", "point", "polygon", "path", "line", "lseg", "box", "circle"}
    | {"_json", "_xml", "_point", "_polygon"}
)
"""Types whose values are compared by their text."""


class NotTaken(Exception):
    """The table took rows without an error, and has others than were written."""

    def __init__(self) -> None:
        """The message is for the operator."""
        super().__init__(
            "the table has not taken it, and said nothing: a trigger, a rule or row security "
            "keeps it from being written so"
        )


class Differing(NamedTuple):
    """The keys of a table's rows that are not as the events make them, by what that takes."""

    insert: list[RowKey]
    update: list[RowKey]
    delete: list[RowKey]

    def __bool__(self) -> bool:
        return bool(self.insert or self.update or self.delete)


class ServedRows:
    """A table of a version (`l` in statements), and the temporary one with the rows as the events
    make them (`f`).
    """

    def __init__(
        self,
        connection: psycopg.Connection,
        tables: tuple[Table, Table],
        key: Sequence[str],
        by: Sequence[str],
        verify: VerifySettings,
        unwritten: Unwritten,
    ) -> None:
        """`tables` are the version's and the temporary one, `key` the columns of their key. `by`
        are the columns whose values a selected key has: others may follow in the table's own key.
        `unwritten` tells the columns that no code writes.

        Raises Refused where the table lacks one of them.
        """
        self.live, self.made = tables
        self.key, self._by = tuple(key), tuple(by)
        lacking = [name for name in by if not self.live.has(name)]
        if lacking:
            raise Refused(
                f"the table {self.live.schema}.{self.live.name} has no column "
                f"{' and '.join(lacking)}, so nobody knows which of its rows belong to a key",
                hint="Rebuild the projection: esops rebuild NAME --blue-green",
            )
        by_itself = catalog.defaults(connection, self.live.oid)
        self._computed = frozenset(each for each, (_, own) in by_itself.items() if own)
        self._identity = frozenset(each for each in self._computed if by_itself[each][0] is None)
        self._verify, self._unwritten = verify, unwritten
        self._compared: dict[frozenset[str], Sides] = {}
        self._take(connection, frozenset())

    def _take(self, connection: psycopg.Connection, unwritten: frozenset[str]) -> None:
        """Compare and write without some columns."""
        self._left_out = unwritten
        ignore = (*self._verify.ignore, *sorted((self._identity | unwritten) - set(self.key)))
        # What new logic was meant to change counts here, for there is no new logic.
        counted = self._verify.model_copy(update={"expected": (), "ignore": ignore})
        if unwritten not in self._compared:
            tables = self.live, self.made
            self._compared[unwritten] = Sides.of(connection, tables, self.key, counted)
        self._sides = self._compared[unwritten]
        self._ignored = ignored_in(self.live, self.live, counted)

    @property
    def is_by_key(self) -> bool:
        """Whether a selected key is that of one row."""
        return self._by == self.key

    def differing(self, connection: psycopg.Connection, keys: Sequence[RowKey]) -> Differing:
        """The rows of some selected keys that differ, in the connection's snapshot."""
        found = Differing([], [], [])
        if not keys:
            return found
        among = self._among("f", self._by)
        self._take(connection, self._unwritten.columns(connection, self.made, among, columns(keys)))
        sides, names = self._sides, [f"w{at}" for at in range(len(self.key))]
        texts = [
            sql.SQL("coalesce({}::text, {}::text) AS {}").format(
                value_of("blue", pair), value_of("green", pair), sql.Identifier(name)
            )
            for pair, name in zip(sides.key, names, strict=True)
        ]
        where = self._among("t", self._by)
        blue, green = (rows_of(sides, side, where=where) for side in ("blue", "green"))
        statement = sql.SQL(
            "SELECT p.in_blue, p.in_green, {} FROM (SELECT {} FROM {} FULL JOIN {} ON {} OFFSET 0) "
            "AS p WHERE {} ORDER BY {}"
        ).format(
            sql.SQL(", ").join(sql.Identifier("p", name) for name in names),
            facts(sides, *texts),
            blue,
            green,
            same_key(sides),
            differs(sides),
            sql.SQL(", ").join(sql.Identifier("p", name) for name in names),
        )
        for in_live, in_made, *key in connection.execute(statement, 2 * columns(keys)):
            only_one = found.delete if in_live else found.insert
            (found.update if in_live and in_made else only_one).append(tuple(key))
        return found

    def there(self, connection: psycopg.Connection, keys: Sequence[RowKey]) -> set[RowKey]:
        """Those of some selected keys that have a row that serves."""
        if not keys:
            return set()
        statement = sql.SQL("SELECT DISTINCT {} FROM {} AS l WHERE {}").format(
            sql.SQL(", ").join(
                sql.SQL("{}::text").format(sql.Identifier("l", name)) for name in self._by
            ),
            qualified(self.live.schema, self.live.name),
            self._among("l", self._by),
        )
        return set(connection.execute(statement, columns(keys)).fetchall())

    def see_written(self, connection: psycopg.Connection, keys: Sequence[RowKey]) -> None:
        """Raises NotTaken where the rows of some keys, which were written, are other ones."""
        if self.differing(connection, keys):
            raise NotTaken

    def write(
        self, connection: psycopg.Connection, found: Differing, types: Mapping[str, str]
    ) -> int:
        """Make rows right, in the transaction that the connection is in; returns by how much their
        number changes. `types` are the columns that the code writes, as far as that is known.
        """
        change = 0
        for statement, keys, each in (
            (self.delete_statement(), found.delete, -1),
            (self.update_statement(), found.update, 0),
            (self.insert_statement(types), found.insert, 1),
        ):
            if keys and statement is not None:
                change += each * connection.execute(statement, columns(keys)).rowcount
        return change

    def forms(self, connection: psycopg.Connection, types: Mapping[str, str]) -> list[str]:
        """The statements as text, with a parameter for the texts of each column of the keys."""
        made = (self.delete_statement(), self.update_statement(), self.insert_statement(types))
        return [
            each.as_string(connection).replace("%s", "$keys") for each in made if each is not None
        ]

    def guarded(
        self, connection: psycopg.Connection, found: Differing
    ) -> Iterator[tuple[RowKey, str]]:
        """For each row that differs a statement of its own, to be copied, that makes it right. It
        does nothing where anybody has written the row since.
        """
        for key, (version, *values) in self._values(connection, found.delete, made=False):
            yield (
                key,
                self._guarded_text(
                    connection, "DELETE FROM {} AS l WHERE {}", key, version, values
                ),
            )
        for key, (version, *values) in self._values(connection, found.update, made=True):
            width = len(self._written)
            new = sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), self._literal(name, value))
                for name, value, old in zip(
                    self._written, values[width:], values[:width], strict=True
                )
                if value != old
            )
            yield (
                key,
                self._guarded_text(
                    connection, "UPDATE {} AS l SET {} WHERE {}", key, version, values[:width], new
                ),
            )
        for key, values in self._missing(connection, found.insert):
            names = self._inserted()
            yield (
                key,
                sql.SQL(
                    "INSERT INTO {} ({}) SELECT {} WHERE NOT EXISTS (SELECT FROM {} AS l WHERE {})"
                )
                .format(
                    qualified(self.live.schema, self.live.name),
                    sql.SQL(", ").join(map(sql.Identifier, names)),
                    sql.SQL(", ").join(map(self._literal, names, values)),
                    qualified(self.live.schema, self.live.name),
                    self._is(key),
                )
                .as_string(connection),
            )

    def _guarded_text(
        self,
        connection: psycopg.Connection,
        form: LiteralString,
        key: RowKey,
        version: str,
        old: Sequence[str | None],
        *new: sql.Composable,
    ) -> str:
        guards: list[sql.Composable] = [self._is(key)]
        guards.append(sql.SQL("l.xmin::text = {}").format(sql.Literal(version)))
        for name, value in zip(self._written, old, strict=True):
            column: sql.Composable = sql.Identifier("l", name)
            given = self._literal(name, value)
            if self.live.column(name).kind in _WITHOUT_EQUALITY:
                column = sql.SQL("{}::text").format(column)
                given = sql.SQL("NULL") if value is None else sql.Literal(value)
            guards.append(sql.SQL("{} IS NOT DISTINCT FROM {}").format(column, given))
        return (
            sql.SQL(form)
            .format(
                qualified(self.live.schema, self.live.name), *new, sql.SQL(" AND ").join(guards)
            )
            .as_string(connection)
        )

    def _values(
        self, connection: psycopg.Connection, keys: Sequence[RowKey], *, made: bool
    ) -> Iterator[tuple[RowKey, list[Any]]]:
        """For rows that are there, their version and values, and those that the events make."""
        if not keys:
            return
        values = [sql.SQL("{}::text").format(sql.Identifier("l", name)) for name in self._written]
        if made:
            values += [sql.SQL("({})::text").format(self._new(name)) for name in self._written]
        statement = sql.SQL("SELECT {} FROM {} AS l{} WHERE {}").format(
            sql.SQL(", ").join([self._key_of("l"), sql.SQL("l.xmin::text"), *values]),
            qualified(self.live.schema, self.live.name),
            sql.SQL(" JOIN {} AS f ON {}" if made else "").format(self._made(), self._same()),
            self._among("l", self.key),
        )
        for row in connection.execute(statement, columns(keys)):
            yield tuple(row[: len(self.key)]), list(row[len(self.key) :])

    def _missing(
        self, connection: psycopg.Connection, keys: Sequence[RowKey]
    ) -> Iterator[tuple[RowKey, list[Any]]]:
        if not keys:
            return
        values = [
            sql.SQL("{}::text").format(sql.Identifier("f", name)) for name in self._inserted()
        ]
        statement = sql.SQL("SELECT {} FROM {} AS f WHERE {}").format(
            sql.SQL(", ").join([self._key_of("f"), *values]),
            self._made(),
            self._among("f", self.key),
        )
        for row in connection.execute(statement, columns(keys)):
            yield tuple(row[: len(self.key)]), list(row[len(self.key) :])

    @property
    def _written(self) -> list[str]:
        """The columns, beside the key, that an update gives values."""
        return [pair.name for pair in self._sides.others if pair.name not in self._computed]

    def _inserted(self) -> list[str]:
        left_out = self._computed | self._left_out
        return [each.name for each in self.made.columns if each.name not in left_out]

    def _literal(self, name: str, value: str | None) -> sql.Composable:
        """A column's value in a statement that is copied."""
        if value is None:
            return sql.SQL("NULL")
        return sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(self.live.column(name).type))

    def _is(self, key: RowKey) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier("l", name), self._literal(name, value))
            for name, value in zip(self.key, key, strict=True)
        )

    def _key_of(self, alias: str) -> sql.Composed:
        return sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(alias, name)) for name in self.key
        )

    # -- statements: the keys are given as one array of texts for each column

    def update_statement(self) -> sql.Composed | None:
        """Gives rows the values that the events make; None where rows are keys alone."""
        names = [pair.name for pair in self._sides.others if pair.name not in self._computed]
        if not names:
            return None
        return sql.SQL("UPDATE {} AS l SET {} FROM {} AS f WHERE {} AND {}").format(
            qualified(self.live.schema, self.live.name),
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), self._new(name)) for name in names
            ),
            self._made(),
            self._same(),
            self._among("l", self.key),
        )

    def delete_statement(self) -> sql.Composed:
        """Deletes rows that no event makes."""
        return sql.SQL("DELETE FROM {} AS l WHERE {}").format(
            qualified(self.live.schema, self.live.name), self._among("l", self.key)
        )

    def insert_statement(self, types: Mapping[str, str]) -> sql.Composed:
        """Inserts rows that are missing."""
        given = self._identity & {*self.key, *types}
        names = [
            sql.Identifier(each.name)
            for each in self.made.columns
            if each.name not in self._computed | self._left_out or each.name in given
        ]
        return sql.SQL(
            "INSERT INTO {} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {} AS f WHERE {}"
        ).format(
            qualified(self.live.schema, self.live.name),
            self._made(),
            self._among("f", self.key),
            names=sql.SQL(", ").join(names),
        )

    def _new(self, column: str) -> sql.Composable:
        """A column's value by the events; what is ignored in it stays as it is in the row."""
        paths = self._ignored.get(column)
        if not paths:
            return sql.Identifier("f", column)
        return kept(column, self.live.column(column).type, paths, ("l", "f"))

    def _made(self) -> sql.Composed:
        return sql.SQL("pg_temp.{}").format(sql.Identifier(self.made.name))

    def _same(self) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier("l", name), sql.Identifier("f", name))
            for name in self.key
        )

    def _among(self, alias: str, names: Sequence[str]) -> sql.Composed:
        """The condition that some columns have one of the values that are given."""
        return sql.SQL("({}) IN (SELECT * FROM unnest({}))").format(
            sql.SQL(", ").join(sql.Identifier(alias, name) for name in names),
            sql.SQL(", ").join(
                sql.SQL("%s::text[]::{}[]").format(sql.SQL(self.live.column(name).type))
                for name in names
            ),
        )
