"""Does green say what blue says?

Counts and bucketed hashes are computed in the server, in one snapshot; then only the buckets that
differ are compared row
by row, and the differences are counted by column and shown with samples.

A thousand buckets of a commutative hash find a single differing row among millions at the cost of
one pass over each
table, without a sort (the idea of Merkle-tree repair in Dynamo, DeCandia et al., SOSP 2007, one
level deep).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import psycopg
from psycopg import sql

from esops.errors import UsageError
from esops.postgres.catalog import Column, Table
from esops.postgres.connection import qualified
from esops.readmodel.names import with_names
from esops.readmodel.tables import common_columns

Method = Literal["exact", "columns", "sample", "counts", "none"]
BUCKETS = 1024
SAMPLES = 50
"""Differing rows that are kept as examples; a terminal shows the first of them."""
SAMPLED = 10_000
"""Rows that `sample` looks at on each side, about."""


@dataclass(frozen=True)
class Verification:
    """What a comparison found.

    `differing` counts rows that are missing on a side or unlike; `note` tells its limits.
    """

    method: str
    rows_blue: int | None
    rows_green: int
    differing: int
    position: str | None = None
    only_blue: int = 0
    only_green: int = 0
    columns: Mapping[str, int] = field(default_factory=dict)
    expected: Mapping[str, int] = field(default_factory=dict)
    """Differences in columns that are meant to change; they do not count."""
    compared: int | None = None
    """How many rows were looked at, where it was a sample."""
    samples: Sequence[Mapping[str, Any]] = ()
    failed_assertions: Sequence[str] = ()
    note: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON and the journal."""
        return asdict(self)


def together(found: Mapping[str, Verification]) -> Verification:
    """Those of several tables as one, by the tables' names."""
    if not found:
        return Verification("none", None, 0, 0)
    return Verification(
        method=next(iter(found.values())).method,
        rows_blue=sum(each.rows_blue or 0 for each in found.values()),
        rows_green=sum(each.rows_green for each in found.values()),
        differing=sum(each.differing for each in found.values()),
        only_blue=sum(each.only_blue for each in found.values()),
        only_green=sum(each.only_green for each in found.values()),
        columns={
            f"{name}.{column}": count
            for name, each in found.items()
            for column, count in each.columns.items()
        },
        expected={
            f"{name}.{column}": count
            for name, each in found.items()
            for column, count in each.expected.items()
        },
        compared=sum(each.compared or 0 for each in found.values()) or None,
        samples=[
            {"table": name, **sample} for name, each in found.items() for sample in each.samples
        ],
        note="; ".join(f"{name}: {each.note}" for name, each in found.items() if each.note) or None,
    )


def check_assertions(
    connection: psycopg.Connection, green: Mapping[str, tuple[str, str]], assertions: Sequence[str]
) -> list[str]:
    """The user's SQL assertions that do not hold of green's tables.

    Raises UsageError for one that cannot be run.
    """
    failed = []
    for assertion in assertions:
        try:
            with connection.transaction():
                row = connection.execute(with_names(assertion, green).encode()).fetchone()
        except psycopg.errors.Error as error:
            raise UsageError(f"the assertion {assertion!r} cannot be run: {error}") from error
        if row is None or row[0] is not True:
            failed.append(assertion)
    return failed


def compare(
    connection: psycopg.Connection,
    blue: Table,
    green: Table,
    key: Sequence[str],
    method: Method,
    ignore: Sequence[str],
    expected: Sequence[str] = (),
) -> Verification:
    """Compare two tables in the snapshot that the connection's transaction has.

    Columns of `ignore` are not looked at; those of `expected` are, and their differences do not
    count.
    """
    if method == "none":
        return Verification("none", None, _count(connection, green), 0)
    rows_blue, rows_green = _count(connection, blue), _count(connection, green)
    if method == "counts":
        return Verification("counts", rows_blue, rows_green, abs(rows_blue - rows_green))
    missing_key = [name for name in key if not blue.has(name)]
    if missing_key:
        note = (
            f"blue has no column {missing_key[0]}, which is green's key: only counts could be "
            "compared"
        )
        return Verification("counts", rows_blue, rows_green, abs(rows_blue - rows_green), note=note)
    sides = Sides.of(blue, green, key, ignore, expected)
    if method == "sample":
        return _sampled(connection, sides, rows_blue, rows_green)
    buckets = _differing_buckets(connection, sides)
    if not buckets:
        return Verification(method, rows_blue, rows_green, 0)
    return _row_diffs(connection, sides, _of_buckets(sides, buckets), method, rows_blue, rows_green)


def tolerated(verification: Verification, max_diff: str) -> bool:
    """Whether the differences stay within `N` rows or `P%` of blue's.

    Raises UsageError for anything else.
    """
    if verification.failed_assertions:
        return False
    text = max_diff.strip()
    try:
        if text.endswith("%"):
            of = verification.compared or verification.rows_blue or 0
            return verification.differing <= float(text[:-1]) / 100 * max(of, 1)
        return verification.differing <= int(text)
    except ValueError:
        raise UsageError(
            f"--max-diff {max_diff!r} is neither a number of rows nor a percentage like 2.5%"
        ) from None


def _count(connection: psycopg.Connection, table: Table) -> int:
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {}").format(qualified(table.schema, table.name))
    ).fetchone()
    return int(row[0]) if row else 0


def _text(column: Column, alias: str) -> sql.Composable:
    """A column so that both sides compare alike, whatever the type: numbers by value, the rest as
    text.
    """
    name = sql.Identifier(alias, column.name)
    if column.kind == "numeric":
        return sql.SQL("trim_scale({})::text").format(name)
    return sql.SQL("{}::text").format(name)


def _bucket(table: Table, key: Sequence[str], alias: str) -> sql.Composable:
    parts = sql.SQL(", ").join(_text(table.column(name), alias) for name in key)
    return sql.SQL("(hashtextextended(ROW({})::text, 0) & {})").format(
        parts, sql.Literal(BUCKETS - 1)
    )


def _digests(table: Table, key: Sequence[str], columns: Sequence[str]) -> sql.Composable:
    row = sql.SQL(", ").join(_text(table.column(name), "t") for name in columns)
    return sql.SQL(
        "SELECT {} AS bucket, count(*) AS rows, bit_xor(h) AS x, sum(h::numeric) AS s FROM {} "
        "AS t, "
        "LATERAL (SELECT hashtextextended(ROW({})::text, 1) AS h) AS hashed GROUP BY 1"
    ).format(_bucket(table, key, "t"), qualified(table.schema, table.name), row)


def _differing_buckets(connection: psycopg.Connection, sides: Sides) -> list[int]:
    rows = connection.execute(
        sql.SQL(
            "SELECT coalesce(b.bucket, g.bucket) FROM ({}) AS b FULL JOIN ({}) AS g ON b.bucket = "
            "g.bucket "
            "WHERE (b.rows, b.x, b.s) IS DISTINCT FROM (g.rows, g.x, g.s)"
        ).format(
            *(_digests(table, sides.key, sides.columns) for table in (sides.blue, sides.green))
        )
    ).fetchall()
    return [row[0] for row in rows]


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
        """By the columns that both have, but for those to be ignored."""
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
                _text(self.blue.column(name), "b"), _text(self.green.column(name), "g")
            )
            for name in self.key
        )

    def unlike(self, name: str) -> sql.Composable:
        """The condition that rows b and g differ in a column."""
        return sql.SQL("{} IS DISTINCT FROM {}").format(
            _text(self.blue.column(name), "b"), _text(self.green.column(name), "g")
        )


def _of_buckets(sides: Sides, buckets: Sequence[int]) -> sql.Composable:
    """The rows of some buckets, b and g side by side."""
    return sql.SQL(
        "(SELECT * FROM {} AS b WHERE {} = ANY({list})) AS b FULL JOIN (SELECT * FROM {} AS g "
        "WHERE {} = ANY({list})) AS g ON {}"
    ).format(
        qualified(sides.blue.schema, sides.blue.name),
        _bucket(sides.blue, sides.key, "b"),
        qualified(sides.green.schema, sides.green.name),
        _bucket(sides.green, sides.key, "g"),
        sides.same_key,
        list=sql.Literal(list(buckets)),
    )


Key = tuple[str, ...]
"""A row's key, as text."""


def keys_that_differ(connection: psycopg.Connection, sides: Sides, most: int) -> list[Key] | None:
    """The keys whose rows differ, in the connection's snapshot; None where there are more than
    `most`.
    """
    buckets = _differing_buckets(connection, sides)
    if not buckets:
        return []
    unlike = [sides.unlike(name) for name in sides.compared]
    one_only = [sql.SQL("{} IS NULL").format(sql.Identifier(side, sides.key[0])) for side in "bg"]
    rows = connection.execute(
        sql.SQL("SELECT {} FROM {} WHERE {} LIMIT {}").format(
            sql.SQL(", ").join(
                sql.SQL("coalesce({}, {})").format(
                    _text(sides.blue.column(name), "b"), _text(sides.green.column(name), "g")
                )
                for name in sides.key
            ),
            _of_buckets(sides, buckets),
            sql.SQL(" OR ").join([*one_only, *unlike]),
            sql.Literal(most + 1),
        )
    ).fetchall()
    return None if len(rows) > most else rows


def look_again(
    connection: psycopg.Connection, sides: Sides, keys: Sequence[Key]
) -> dict[Key, tuple[str | None, str | None]]:
    """A digest of blue's row and of green's for each of some keys, found through the keys' indexes;
    None for one that is not there.
    """

    def digest(table: Table, alias: str) -> sql.Composable:
        row = sql.SQL(", ").join(
            [sql.SQL("1"), *(_text(table.column(name), alias) for name in sides.compared)]
        )
        there = sql.Identifier(alias, sides.key[0])
        return sql.SQL("CASE WHEN {} IS NOT NULL THEN md5(ROW({})::text) END").format(there, row)

    rows = connection.execute(
        sql.SQL("SELECT {}, {}, {} FROM {}").format(
            sql.SQL(", ").join(sql.Identifier("w", f"k{at}") for at in range(len(sides.key))),
            digest(sides.blue, "b"),
            digest(sides.green, "g"),
            _of_keys(sides, keys),
        )
    ).fetchall()
    return {tuple(row[:-2]): (row[-2], row[-1]) for row in rows}


def compare_keys(
    connection: psycopg.Connection, sides: Sides, keys: Sequence[Key], method: Method
) -> Verification:
    """Compare the rows of some keys alone, each of which is there on one side at least; the counts
    of rows are of all.
    """
    rows_blue, rows_green = _count(connection, sides.blue), _count(connection, sides.green)
    if not keys:
        return Verification(method, rows_blue, rows_green, 0)
    return _row_diffs(connection, sides, _of_keys(sides, keys), method, rows_blue, rows_green)


def _of_keys(sides: Sides, keys: Sequence[Key]) -> sql.Composable:
    """The rows of some keys, b and g side by side, beside the keys as w."""
    names = [f"k{at}" for at in range(len(sides.key))]
    wanted = sql.SQL("unnest({}) AS w({})").format(
        sql.SQL(", ").join(
            sql.SQL("{}::text[]").format(sql.Literal([key[at] for key in keys]))
            for at in range(len(names))
        ),
        sql.SQL(", ").join(map(sql.Identifier, names)),
    )

    def side(table: Table, alias: str) -> sql.Composable:
        same = sql.SQL(" AND ").join(
            sql.SQL("{} = {}::{}").format(
                sql.Identifier(alias, column),
                sql.Identifier("w", name),
                sql.SQL(table.column(column).type),
            )
            for column, name in zip(sides.key, names, strict=True)
        )
        return sql.SQL("LEFT JOIN {} AS {} ON {}").format(
            qualified(table.schema, table.name), sql.Identifier(alias), same
        )

    return sql.SQL("{} {} {}").format(wanted, side(sides.blue, "b"), side(sides.green, "g"))


def _sampled(
    connection: psycopg.Connection, sides: Sides, rows_blue: int, rows_green: int
) -> Verification:
    """Rows of each side at random, each beside that of the same key on the other, found through the
    key's index.
    """
    shares = [min(100.0, 100.0 * SAMPLED / max(rows, 1)) for rows in (rows_blue, rows_green)]
    same = sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier("b", name), sql.Identifier("g", name))
        for name in sides.key
    )
    blue, green = (qualified(table.schema, table.name) for table in (sides.blue, sides.green))
    pairs = sql.SQL(
        "(SELECT b, g FROM {blue} AS b TABLESAMPLE BERNOULLI ({b}) REPEATABLE (1) LEFT JOIN "
        "{green} AS g ON {same} "
        "UNION ALL SELECT b, g FROM {green} AS g TABLESAMPLE BERNOULLI ({g}) REPEATABLE (2) LEFT "
        "JOIN {blue} AS b ON {same})"
    ).format(
        blue=blue,
        green=green,
        same=same,
        b=sql.Literal(round(shares[0], 6)),
        g=sql.Literal(round(shares[1], 6)),
    )
    # Both sides of a pair as rows again; a side that is not there is a row of nulls, as of an outer
    # join.
    columns = [
        sql.SQL("(SELECT {}) AS {}").format(
            sql.SQL(", ").join(
                sql.SQL("(pair.{0}).{1} AS {1}").format(sql.SQL(side), sql.Identifier(name))
                for name in sides.columns
            ),
            sql.SQL(side),
        )
        for side in "bg"
    ]
    joined = sql.SQL("{} AS pair CROSS JOIN LATERAL {} CROSS JOIN LATERAL {}").format(
        pairs, *columns
    )
    return _row_diffs(connection, sides, joined, "sample", rows_blue, rows_green)


def _row_diffs(
    connection: psycopg.Connection,
    sides: Sides,
    joined: sql.Composable,
    method: Method,
    rows_blue: int,
    rows_green: int,
) -> Verification:
    """Differences between rows b and g of `joined`, counted by column, with examples."""
    key, columns = sides.key, sides.columns
    others = [name for name in columns if name not in key]
    unlike = [sides.unlike(name) for name in others]
    counting = [
        each for name, each in zip(others, unlike, strict=True) if name not in sides.expected
    ]
    only_green = sql.SQL("{} IS NULL").format(sql.Identifier("b", key[0]))
    only_blue = sql.SQL("{} IS NULL").format(sql.Identifier("g", key[0]))
    both_unlike = sql.SQL("NOT ({} OR {}) AND ({})").format(
        only_green, only_blue, sql.SQL(" OR ").join(counting) if counting else sql.SQL("FALSE")
    )
    counts = connection.execute(
        sql.SQL(
            "SELECT count(*), count(*) FILTER (WHERE {}), count(*) FILTER (WHERE {}), count(*) "
            "FILTER (WHERE {}){} FROM {}"
        ).format(
            only_blue,
            only_green,
            both_unlike,
            sql.SQL("").join(
                sql.SQL(", count(*) FILTER (WHERE NOT ({} OR {}) AND {})").format(
                    only_green, only_blue, each
                )
                for each in unlike
            ),
            joined,
        )
    ).fetchone()
    assert counts is not None
    samples = connection.execute(
        sql.SQL(
            "SELECT {}, to_jsonb(b), to_jsonb(g) FROM {} WHERE {} OR {} OR {} ORDER BY 1 LIMIT {}"
        ).format(
            sql.SQL("coalesce({}, {})").format(
                _text(sides.green.column(key[0]), "g"), _text(sides.blue.column(key[0]), "b")
            ),
            joined,
            only_blue,
            only_green,
            both_unlike,
            sql.Literal(SAMPLES),
        )
    ).fetchall()
    by_column = {name: count for name, count in zip(others, counts[4:], strict=True) if count}
    return Verification(
        method,
        rows_blue,
        rows_green,
        counts[1] + counts[2] + counts[3],
        only_blue=counts[1],
        only_green=counts[2],
        columns={name: count for name, count in by_column.items() if name not in sides.expected},
        expected={name: count for name, count in by_column.items() if name in sides.expected},
        compared=counts[0] if method == "sample" else None,
        samples=[_sample(key, columns, _there(b, key), _there(g, key)) for _, b, g in samples],
    )


def _there(row: dict[str, Any] | None, key: Sequence[str]) -> dict[str, Any] | None:
    """A row that is there: of a sample, one that is not comes as a row of nulls."""
    return row if row is not None and row.get(key[0]) is not None else None


def _sample(
    key: Sequence[str],
    columns: Sequence[str],
    blue: dict[str, Any] | None,
    green: dict[str, Any] | None,
) -> dict[str, Any]:
    there = green or blue or {}
    shown = {"key": {name: there.get(name) for name in key}}
    if blue is None or green is None:
        only = {name: there.get(name) for name in columns}
        return {
            **shown,
            "blue": None if blue is None else only,
            "green": None if green is None else only,
        }
    unlike = [name for name in columns if blue.get(name) != green.get(name)]
    return {
        **shown,
        "blue": {name: blue.get(name) for name in unlike},
        "green": {name: green.get(name) for name in unlike},
    }
