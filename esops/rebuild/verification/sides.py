"""Two tables side by side, as SQL: what they are compared by, and how their rows are paired.

Every expression is computed in the server, so that no row travels that does not differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from esops.postgres.catalog import Column, Table
from esops.postgres.connection import qualified
from esops.readmodel.tables import common_columns

BUCKETS = 1024
BLUE, GREEN, WANTED = "esops:blue", "esops:green", "esops:wanted"
"""What the sides and the keys go by in statements: names that no column of a user's has."""
_ONE, _HASH = "esops:one", sql.Identifier("esops:hash")

Key = tuple[str, ...]
"""A row's key, each column as text."""


@dataclass(frozen=True)
class Sides:
    """Two tables, by what they are compared."""

    blue: Table
    green: Table
    key: tuple[str, ...]
    columns: Sequence[str]
    expected: frozenset[str]

    @classmethod
    def of(
        cls,
        blue: Table,
        green: Table,
        key: Sequence[str],
        ignore: Sequence[str],
        expected: Sequence[str],
    ) -> Sides:
        """Two tables, compared by the columns that both have, without those to be ignored."""
        return cls(
            blue, green, tuple(key), common_columns(blue, green, ignore), frozenset(expected)
        )

    @property
    def compared(self) -> list[str]:
        """The columns whose differences count."""
        return [name for name in self.columns if name not in self.key and name not in self.expected]

    @property
    def same_key(self) -> sql.Composable:
        """The condition that rows b and g are of one key."""
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(
                as_text(self.blue.column(name), BLUE), as_text(self.green.column(name), GREEN)
            )
            for name in self.key
        )

    def unlike(self, name: str) -> sql.Composable:
        """The condition that rows b and g differ in a column."""
        return sql.SQL("{} IS DISTINCT FROM {}").format(
            as_text(self.blue.column(name), BLUE), as_text(self.green.column(name), GREEN)
        )


def as_text(column: Column, alias: str) -> sql.Composable:
    """A column as text that is equal on both sides exactly if the values are, whatever the types:
    1.0 and 1.00 are one number.
    """
    name = sql.Identifier(alias, column.name)
    # Byte by byte: in the column's own collation, 'Bob' may be 'BOB'.
    if column.kind == "numeric":
        return sql.SQL('trim_scale({})::text COLLATE "C"').format(name)
    return sql.SQL('{}::text COLLATE "C"').format(name)


def bucket_of(table: Table, key: Sequence[str], alias: str) -> sql.Composable:
    """The number of the bucket that a row's key falls into, the same on both sides."""
    parts = sql.SQL(", ").join(as_text(table.column(name), alias) for name in key)
    return sql.SQL("(hashtextextended(ROW({})::text, 0) & {})").format(
        parts, sql.Literal(BUCKETS - 1)
    )


def bucket_digests(table: Table, key: Sequence[str], columns: Sequence[str]) -> sql.Composable:
    """For each bucket the number of its rows and two commutative digests of them.

    XOR alone would not see a row that is there twice; the sum does.
    """
    row = sql.SQL(", ").join(as_text(table.column(name), _ONE) for name in columns)
    return sql.SQL(
        "SELECT {bucket} AS bucket, count(*) AS rows, bit_xor({hash}) AS x, "
        "sum({hash}::numeric) AS s FROM {table} AS {one}, "
        "LATERAL (SELECT hashtextextended(ROW({row})::text, 1) AS {hash}) AS hashed GROUP BY 1"
    ).format(
        bucket=bucket_of(table, key, _ONE),
        hash=_HASH,
        table=qualified(table.schema, table.name),
        one=sql.Identifier(_ONE),
        row=row,
    )


def rows_of_buckets(sides: Sides, buckets: Sequence[int]) -> sql.Composable:
    """The rows of some buckets, b and g side by side."""
    return sql.SQL(
        "(SELECT * FROM {} AS {b} WHERE {} = ANY({list})) AS {b} FULL JOIN (SELECT * FROM {} AS "
        "{g} WHERE {} = ANY({list})) AS {g} ON {}"
    ).format(
        qualified(sides.blue.schema, sides.blue.name),
        bucket_of(sides.blue, sides.key, BLUE),
        qualified(sides.green.schema, sides.green.name),
        bucket_of(sides.green, sides.key, GREEN),
        sides.same_key,
        list=sql.Literal(list(buckets)),
        b=sql.Identifier(BLUE),
        g=sql.Identifier(GREEN),
    )


def rows_of_keys(sides: Sides, keys: Sequence[Key]) -> sql.Composable:
    """The rows of some keys, b and g side by side, beside the keys as w."""
    names = [f"k{at}" for at in range(len(sides.key))]
    wanted = sql.SQL("unnest({}) AS {}({})").format(
        sql.SQL(", ").join(
            sql.SQL("{}::text[]").format(sql.Literal([key[at] for key in keys]))
            for at in range(len(names))
        ),
        sql.Identifier(WANTED),
        sql.SQL(", ").join(map(sql.Identifier, names)),
    )

    def side(table: Table, alias: str) -> sql.Composable:
        # The first condition finds the row by its index, and the second makes sure of it: in the
        # collation of the index, 'Bob' may be 'BOB'.
        same = sql.SQL(" AND ").join(
            sql.SQL("{} = {}::{} AND {} = {}").format(
                sql.Identifier(alias, column),
                sql.Identifier(WANTED, name),
                sql.SQL(table.column(column).type),
                as_text(table.column(column), alias),
                sql.Identifier(WANTED, name),
            )
            for column, name in zip(sides.key, names, strict=True)
        )
        return sql.SQL("LEFT JOIN {} AS {} ON {}").format(
            qualified(table.schema, table.name), sql.Identifier(alias), same
        )

    return sql.SQL("{} {} {}").format(wanted, side(sides.blue, BLUE), side(sides.green, GREEN))
