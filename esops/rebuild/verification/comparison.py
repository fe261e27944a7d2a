"""Does green say what blue says?

Counts and bucketed hashes are computed in the server, in one snapshot. Then only the buckets that
differ are compared row by row, and the differences are counted by column and shown with samples.

A thousand buckets of a commutative hash find a single differing row among millions at the cost of
one pass over each table, without a sort (the idea of Merkle-tree repair in Dynamo, DeCandia et al.,
SOSP 2007, one level deep).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from esops.errors import UsageError
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.readmodel.names import with_names
from esops.rebuild.verification.result import Method, Verification, not_compared
from esops.rebuild.verification.sides import (
    BLUE,
    GREEN,
    WANTED,
    Key,
    Sides,
    as_text,
    bucket_digests,
    rows_of_buckets,
    rows_of_keys,
)

SAMPLES = 50
"""Differing rows that are kept as examples; a terminal shows the first of them."""
SAMPLED = 10_000
"""Rows that `sample` looks at on each side, about."""


def compare(connection: psycopg.Connection, sides: Sides, method: Method) -> Verification:
    """Compare two tables in the snapshot that the connection's transaction has."""
    if method == "none":
        return not_compared(_count(connection, sides.green))
    rows = _count(connection, sides.blue), _count(connection, sides.green)
    missing_key = next((name for name in sides.key if not sides.blue.has(name)), None)
    if method == "counts" or missing_key is not None:
        note = missing_key and (
            f"blue has no column {missing_key}, which is green's key, so only the numbers of rows "
            "could be compared"
        )
        return Verification("counts", *rows, abs(rows[0] - rows[1]), note=note)
    if method == "sample":
        return _compare_sample(connection, sides, rows)
    # One pass over each table; usually there is nothing left to do after it.
    buckets = _differing_buckets(connection, sides)
    if not buckets:
        return Verification(method, *rows, 0)
    return _compare_rows(connection, sides, rows_of_buckets(sides, buckets), method, rows)


def keys_that_differ(connection: psycopg.Connection, sides: Sides, most: int) -> list[Key] | None:
    """The keys whose rows differ, in the connection's snapshot; None where there are more than
    `most`.
    """
    buckets = _differing_buckets(connection, sides)
    if not buckets:
        return []
    unlike = [sides.unlike(name) for name in sides.compared]
    one_only = [
        sql.SQL("{} IS NULL").format(sql.Identifier(side, sides.key[0])) for side in (BLUE, GREEN)
    ]
    rows = connection.execute(
        sql.SQL("SELECT {} FROM {} WHERE {} LIMIT {}").format(
            sql.SQL(", ").join(
                sql.SQL("coalesce({}, {})").format(
                    as_text(sides.blue.column(name), BLUE), as_text(sides.green.column(name), GREEN)
                )
                for name in sides.key
            ),
            rows_of_buckets(sides, buckets),
            sql.SQL(" OR ").join([*one_only, *unlike]),
            sql.Literal(most + 1),
        )
    ).fetchall()
    # One more than allowed was asked for, to tell "exactly the limit" from "more".
    return None if len(rows) > most else rows


def digests_of_keys(
    connection: psycopg.Connection, sides: Sides, keys: Sequence[Key]
) -> dict[Key, tuple[str | None, str | None]]:
    """A digest of blue's row and of green's row for each of some keys, found through the keys'
    indexes; None for a row that does not exist.
    """

    def digest(table: Table, alias: str) -> sql.Composable:
        # The constant keeps the row from being empty where only the key is compared.
        row = sql.SQL(", ").join(
            [sql.SQL("1"), *(as_text(table.column(name), alias) for name in sides.compared)]
        )
        there = sql.Identifier(alias, sides.key[0])
        return sql.SQL("CASE WHEN {} IS NOT NULL THEN md5(ROW({})::text) END").format(there, row)

    rows = connection.execute(
        sql.SQL("SELECT {}, {}, {} FROM {}").format(
            sql.SQL(", ").join(sql.Identifier(WANTED, f"k{at}") for at in range(len(sides.key))),
            digest(sides.blue, BLUE),
            digest(sides.green, GREEN),
            rows_of_keys(sides, keys),
        )
    ).fetchall()
    return {tuple(row[:-2]): (row[-2], row[-1]) for row in rows}


def compare_keys(
    connection: psycopg.Connection, sides: Sides, keys: Sequence[Key], method: Method
) -> Verification:
    """Compare only the rows of some keys, each of which exists on one side at least; the numbers of
    rows in the result are those of the whole tables.
    """
    rows = _count(connection, sides.blue), _count(connection, sides.green)
    if not keys:
        return Verification(method, *rows, 0)
    return _compare_rows(connection, sides, rows_of_keys(sides, keys), method, rows)


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


def _count(connection: psycopg.Connection, table: Table) -> int:
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {}").format(qualified(table.schema, table.name))
    ).fetchone()
    return int(row[0]) if row else 0


def _differing_buckets(connection: psycopg.Connection, sides: Sides) -> list[int]:
    rows = connection.execute(
        sql.SQL(
            "SELECT coalesce(b.bucket, g.bucket) FROM ({}) AS b FULL JOIN ({}) AS g ON b.bucket = "
            "g.bucket "
            "WHERE (b.rows, b.x, b.s) IS DISTINCT FROM (g.rows, g.x, g.s)"
        ).format(
            *(
                bucket_digests(table, sides.key, sides.columns)
                for table in (sides.blue, sides.green)
            )
        )
    ).fetchall()
    return [row[0] for row in rows]


def _compare_sample(
    connection: psycopg.Connection, sides: Sides, rows: tuple[int, int]
) -> Verification:
    """Compare random rows of each side with the row of the same key on the other side, which is
    found through the key's index.
    """
    # Each side is sampled, since a row that only one side has can only be found from there.
    shares = [min(100.0, 100.0 * SAMPLED / max(each, 1)) for each in rows]
    same = sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(BLUE, name), sql.Identifier(GREEN, name))
        for name in sides.key
    ) + sql.SQL(" AND {}").format(sides.same_key)
    blue, green = (qualified(table.schema, table.name) for table in (sides.blue, sides.green))
    pairs = sql.SQL(
        "(SELECT {b}, {g} FROM {blue} AS {b} TABLESAMPLE BERNOULLI ({b_share}) REPEATABLE (1) "
        "LEFT JOIN {green} AS {g} ON {same} "
        "UNION ALL SELECT {b}, {g} FROM {green} AS {g} TABLESAMPLE BERNOULLI ({g_share}) "
        "REPEATABLE (2) LEFT JOIN {blue} AS {b} ON {same})"
    ).format(
        blue=blue,
        green=green,
        same=same,
        b=sql.Identifier(BLUE),
        g=sql.Identifier(GREEN),
        b_share=sql.Literal(round(shares[0], 6)),
        g_share=sql.Literal(round(shares[1], 6)),
    )
    # Both sides of a pair become rows again, so that the same conditions work as on a join of
    # tables; a missing side is a row of nulls, as an outer join would give.
    columns = [
        sql.SQL("(SELECT {}) AS {}").format(
            sql.SQL(", ").join(
                sql.SQL("(pair.{0}).{1} AS {1}").format(sql.Identifier(side), sql.Identifier(name))
                for name in sides.columns
            ),
            sql.Identifier(side),
        )
        for side in (BLUE, GREEN)
    ]
    joined = sql.SQL("{} AS pair CROSS JOIN LATERAL {} CROSS JOIN LATERAL {}").format(
        pairs, *columns
    )
    return _compare_rows(connection, sides, joined, "sample", rows)


@dataclass(frozen=True)
class _Conditions:
    """When rows b and g of a join differ, as SQL."""

    only_blue: sql.Composable
    only_green: sql.Composable
    unlike: Mapping[str, sql.Composable]
    """By column; of rows that are on both sides."""
    counted: sql.Composable
    """Rows that are on both sides and differ in a column whose differences count."""

    @classmethod
    def of(cls, sides: Sides) -> _Conditions:
        # The key is never null in a row that exists, so its null means that the side is missing.
        only_green = sql.SQL("{} IS NULL").format(sql.Identifier(BLUE, sides.key[0]))
        only_blue = sql.SQL("{} IS NULL").format(sql.Identifier(GREEN, sides.key[0]))
        on_both = sql.SQL("NOT ({} OR {})").format(only_green, only_blue)
        others = [name for name in sides.columns if name not in sides.key]
        unlike = {name: sql.SQL("{} AND {}").format(on_both, sides.unlike(name)) for name in others}
        counting = [sides.unlike(name) for name in sides.compared] or [sql.SQL("FALSE")]
        counted = sql.SQL("{} AND ({})").format(on_both, sql.SQL(" OR ").join(counting))
        return cls(only_blue, only_green, unlike, counted)


def _compare_rows(
    connection: psycopg.Connection,
    sides: Sides,
    joined: sql.Composable,
    method: Method,
    rows: tuple[int, int],
) -> Verification:
    """Count the differences between rows b and g of `joined` by column, and keep examples."""
    conditions = _Conditions.of(sides)
    counts = connection.execute(
        sql.SQL("SELECT count(*), {} FROM {}").format(
            sql.SQL(", ").join(
                sql.SQL("count(*) FILTER (WHERE {})").format(each)
                for each in (
                    conditions.only_blue,
                    conditions.only_green,
                    conditions.counted,
                    *conditions.unlike.values(),
                )
            ),
            joined,
        )
    ).fetchone()
    assert counts is not None
    compared, only_blue, only_green, unlike, *by_column = counts
    columns = {
        name: count for name, count in zip(conditions.unlike, by_column, strict=True) if count
    }
    return Verification(
        method,
        *rows,
        only_blue + only_green + unlike,
        only_blue=only_blue,
        only_green=only_green,
        columns={name: count for name, count in columns.items() if name not in sides.expected},
        expected={name: count for name, count in columns.items() if name in sides.expected},
        compared=compared if method == "sample" else None,
        samples=_samples(connection, sides, joined, conditions),
    )


def _samples(
    connection: psycopg.Connection, sides: Sides, joined: sql.Composable, conditions: _Conditions
) -> list[dict[str, Any]]:
    """The first rows that differ, ordered by key."""
    key = sides.key
    rows = connection.execute(
        sql.SQL(
            "SELECT coalesce({}, {}), to_jsonb({}), to_jsonb({}) FROM {} WHERE {} OR {} OR {} "
            "ORDER BY 1 LIMIT {}"
        ).format(
            as_text(sides.green.column(key[0]), GREEN),
            as_text(sides.blue.column(key[0]), BLUE),
            sql.Identifier(BLUE),
            sql.Identifier(GREEN),
            joined,
            conditions.only_blue,
            conditions.only_green,
            conditions.counted,
            sql.Literal(SAMPLES),
        )
    ).fetchall()
    return [_sample(key, sides.columns, _there(b, key), _there(g, key)) for _, b, g in rows]


def _there(row: dict[str, Any] | None, key: Sequence[str]) -> dict[str, Any] | None:
    """The row, or None: in a sample, a missing row comes as a row of nulls."""
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
