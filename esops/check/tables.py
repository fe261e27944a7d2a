"""Copies of some rows of a read model's table, and their comparison with what the events make.

Both are in temporary tables, so that the snapshot in which rows are copied is over before anything
is made or compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from esops.check.checks import WrongKey
from esops.check.key_text import canonical_keys
from esops.check.result import KeyFindings
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.rebuild.refolded import temporary_like
from esops.rebuild.unwritten import Unwritten
from esops.rebuild.verification.comparison import compare, differs
from esops.rebuild.verification.sides import Sides, facts, rows_of, same_key, value_of
from esops.settings import VerifySettings

PIECE = 2_000
"""Keys whose rows are copied, made and compared at once."""
_KINDS = {(True, True): "unlike", (True, False): "surplus", (False, True): "missing"}
EVERY_ROW = sql.SQL("TRUE")
KeyText = tuple[str, ...]
"""The texts of the columns of a table's key, in their order."""


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Keys after one and up to another one; None: from the first one, to the last one."""

    after: KeyText | None
    until: KeyText | None


class CheckedTable:
    """A table of the read model: copies of what serves (`served`) and of what the events make
    (`made`), and how they are compared.
    """

    def __init__(
        self,
        connection: psycopg.Connection,
        name: str,
        tables: tuple[Table, Table],
        key: Sequence[str],
        verify: VerifySettings,
        number: int,
        unwritten: Unwritten,
    ) -> None:
        """`tables`: the version's own, and the one in which the events' rows are made. `unwritten`
        tells the columns that are not compared, since no code writes them.
        """
        self.name, self.key = name, tuple(key)
        self.live, self.folded = tables
        self._connection = connection
        self.served, self.made = (
            temporary_like(
                connection,
                self.live,
                sql.Identifier(f"esops_{side}_{number}"),
                key,
                makes_values=False,
            )
            for side in ("served", "made")
        )
        by_itself = catalog.defaults(connection, self.live.oid)
        numbers = [each for each, (value, own) in by_itself.items() if own and value is None]
        # What a rebuild was meant to change counts here; numbers of the table's own do not.
        self._verify = verify.model_copy(
            update={"expected": (), "ignore": (*verify.ignore, *numbers)}
        )
        self._unwritten = unwritten
        self._sides: dict[frozenset[str], Sides] = {}

    @property
    def verify(self) -> VerifySettings:
        """What is compared of the copies that were made last."""
        ignore = (*self._verify.ignore, *sorted(self._left_out()))
        return self._verify.model_copy(update={"ignore": ignore})

    @property
    def sides(self) -> Sides:
        """The copies, by what is compared."""
        left_out = self._left_out()
        if left_out not in self._sides:
            self._sides[left_out] = Sides.of(
                self._connection, (self.served, self.made), self.key, self.verify
            )
        return self._sides[left_out]

    def _left_out(self) -> frozenset[str]:
        return self._unwritten.columns(self._connection, self.made)

    # -- which rows

    def texts(self, alias: str = "t") -> list[sql.Composable]:
        """The columns of the key, as text."""
        return [sql.SQL("{}::text").format(sql.Identifier(alias, each)) for each in self.key]

    def of_keys(self, keys: Sequence[KeyText]) -> sql.Composable:
        """The condition that a row `t` has one of some keys."""
        columns = [list(column) for column in zip(*keys, strict=True)] or [[] for _ in self.key]
        return sql.SQL("({}) IN (SELECT * FROM unnest({}))").format(
            self._columns(),
            sql.SQL(", ").join(
                sql.SQL("{}::text[]::{}[]").format(
                    sql.Literal(values), sql.SQL(self.live.column(name).type)
                )
                for name, values in zip(self.key, columns, strict=True)
            ),
        )

    def within(self, keys: KeyRange) -> sql.Composable:
        """The condition that the key of a row `t` is in a range, which the key's index answers."""
        conditions: list[sql.Composable] = [EVERY_ROW]
        for bound, operator in ((keys.after, ">"), (keys.until, "<=")):
            if bound is not None:
                conditions.append(
                    sql.SQL("({}) {} ({})").format(
                        self._columns(), sql.SQL(operator), self._values(bound)
                    )
                )
        return both(*conditions)

    def page(self, after: KeyText | None, rows: int) -> KeyRange:
        """The range of the next rows that serve; open at its end where there are no more."""
        statement = sql.SQL("SELECT {} FROM {} AS t WHERE {} ORDER BY {} OFFSET {} LIMIT 1").format(
            sql.SQL(", ").join(self.texts()),
            qualified(self.live.schema, self.live.name),
            self.within(KeyRange(after, None)),
            self._columns(),
            sql.Literal(rows - 1),
        )
        row = self._connection.execute(statement).fetchone()
        return KeyRange(after, None if row is None else tuple(row))

    def keys(self, condition: sql.Composable, *, of: Table | None = None) -> list[KeyText]:
        """The keys of the rows that serve and meet a condition, or of those of another table."""
        table = of or self.live
        statement = sql.SQL("SELECT {} FROM {} AS t WHERE {}").format(
            sql.SQL(", ").join(self.texts()), qualified(table.schema, table.name), condition
        )
        return [tuple(row) for row in self._connection.execute(statement).fetchall()]

    def canonical(self, keys: Sequence[KeyText]) -> tuple[list[KeyText], list[KeyText]]:
        """See canonical_keys."""
        return canonical_keys(self._connection, self.live, self.key, keys)

    # -- copies

    def copy_served(self, condition: sql.Composable) -> None:
        """Copy rows that serve, in the snapshot of the transaction that is open."""
        self._copy(self.live, self.served, condition)

    def copy_made(self, condition: sql.Composable) -> None:
        """Copy rows as the events make them."""
        self._copy(self.folded, self.made, condition)

    def _copy(self, source: Table, into: Table, condition: sql.Composable) -> None:
        # Not TRUNCATE, which a transaction that only reads may not do.
        self._connection.execute(sql.SQL("DELETE FROM pg_temp.{}").format(_own(into)))
        names = sql.SQL(", ").join(sql.Identifier(each.name) for each in into.columns)
        self._connection.execute(
            sql.SQL("INSERT INTO pg_temp.{} ({names}) SELECT {names} FROM {} AS t WHERE {}").format(
                _own(into), qualified(source.schema, source.name), condition, names=names
            )
        )

    def drop(self, keys: Sequence[KeyText]) -> None:
        """Leave the rows of some keys out of the comparison."""
        if keys:
            for table in (self.served, self.made):
                self._connection.execute(
                    sql.SQL("DELETE FROM pg_temp.{} AS t WHERE {}").format(
                        _own(table), self.of_keys(keys)
                    )
                )

    def empty(self) -> None:
        """Give back the room of the copies."""
        for table in (self.served, self.made):
            self._connection.execute(sql.SQL("TRUNCATE pg_temp.{}").format(_own(table)))

    # -- comparison

    def compare(self, found: KeyFindings, *, several: bool) -> int:
        """Compare the copies, and add what they come to; returns how many keys they have."""
        verification = compare(self._connection, self.sides, "exact")
        wrong = self.wrong() if verification.differing else []
        found.add(self.name, verification, wrong, several=several)
        return verification.rows_green + verification.only_blue

    def wrong(self) -> list[WrongKey]:
        """The keys of copies that differ, in what counts."""
        sides = self.sides
        keys = [
            sql.SQL("coalesce({}::text, {}::text) AS {}").format(
                value_of("blue", pair), value_of("green", pair), sql.Identifier(f"w{pair.at}")
            )
            for pair in sides.key
        ]
        # OFFSET keeps the planner from computing each fact wherever it is named.
        statement = sql.SQL(
            "SELECT p.in_blue, p.in_green, {} FROM "
            "(SELECT {} FROM {} FULL JOIN {} ON {} OFFSET 0) AS p WHERE {}"
        ).format(
            sql.SQL(", ").join(sql.Identifier("p", f"w{pair.at}") for pair in sides.key),
            facts(sides, *keys),
            rows_of(sides, "blue"),
            rows_of(sides, "green"),
            same_key(sides),
            differs(sides),
        )
        return [
            WrongKey(self.name, tuple(key), _KINDS[there, made])
            for there, made, *key in self._connection.execute(statement).fetchall()
        ]

    def _columns(self) -> sql.Composable:
        return sql.SQL(", ").join(sql.Identifier("t", each) for each in self.key)

    def _values(self, key: KeyText) -> sql.Composable:
        return sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(self.live.column(name).type))
            for name, value in zip(self.key, key, strict=True)
        )


def both(*conditions: sql.Composable) -> sql.Composable:
    """The condition that all of some conditions hold."""
    return sql.SQL(" AND ").join(conditions)


def _own(table: Table) -> sql.Identifier:
    return sql.Identifier(table.name)
