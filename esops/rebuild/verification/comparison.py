"""Does green say what blue says?

Counts and bucketed hashes are computed in the server, in one snapshot. Then only the buckets that
differ are compared row by row, and the differences are counted by column and shown with samples.

A thousand buckets of a commutative hash find a single differing row among millions at the cost of
one pass over each table, without a sort (the idea of Merkle-tree repair in Dynamo, DeCandia et al.,
SOSP 2007, one level deep).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from esops.errors import Refused, UsageError
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.readmodel.names import with_names
from esops.rebuild.verification.result import Method, Verification, not_compared
from esops.rebuild.verification.samples import samples
from esops.rebuild.verification.sides import (
    KeyTexts,
    Sides,
    bucket_digests,
    counting,
    expecting,
    facts,
    rows_of_buckets,
    rows_of_keys,
    rows_of_sample,
    value_of,
)

SAMPLED = 10_000
"""Rows that `sample` looks at on each side, about."""
_ONLY_ONE = sql.SQL("(NOT p.in_blue OR NOT p.in_green)")


def compare(connection: psycopg.Connection, sides: Sides, method: Method) -> Verification:
    """Compare two tables in the snapshot that the connection's transaction has."""
    if method == "none":
        return not_compared(_count(connection, sides.green))
    rows = _count(connection, sides.blue), _count(connection, sides.green)
    if method == "counts" or sides.lacks is not None:
        note = sides.lacks and (
            f"blue has no column {sides.lacks}, which is green's key, so only the numbers of rows "
            "could be compared"
        )
        return Verification("counts", *rows, abs(rows[0] - rows[1]), note=note)
    if method == "sample":
        return _compare_rows(connection, sides, _sampled(sides, rows), "sample", rows)
    # One pass over each table; usually there is nothing left to do after it.
    buckets = _differing_buckets(connection, sides)
    if not buckets:
        return Verification(method, *rows, 0)
    found = _compare_rows(connection, sides, [rows_of_buckets(sides, buckets)], method, rows)
    if not (found.differing or found.expected):
        raise Refused(
            "the tables differ by their digests, and no row of theirs does, so nothing is verified",
            hint="This is a defect of esops: please report it with the types of the table's "
            "columns. --compare counts compares without looking at the rows.",
        )
    return found


def keys_that_differ(
    connection: psycopg.Connection, sides: Sides, most: int
) -> list[KeyTexts] | None:
    """The keys whose rows differ, in the connection's snapshot; None where there are more than
    `most`.
    """
    buckets = _differing_buckets(connection, sides)
    if not buckets:
        return []
    names = [sql.Identifier("p", f"{what}{at}") for what in "kr" for at in range(len(sides.key))]
    castable = [
        sql.SQL("coalesce({}, {}) AS {}").format(
            *(
                pair.equality.key_text(column.tree, value_of(side, pair))
                for side, column in (("blue", pair.blue), ("green", pair.green))
            ),
            sql.Identifier(f"r{at}"),
        )
        for at, pair in enumerate(sides.key)
    ]
    joined = sql.SQL("(SELECT {} FROM {} OFFSET 0)").format(
        facts(sides, *castable), rows_of_buckets(sides, buckets)
    )
    rows = connection.execute(
        sql.SQL("SELECT {} FROM {} AS p WHERE {} LIMIT {}").format(
            sql.SQL(", ").join(names), joined, differs(sides), sql.Literal(most + 1)
        )
    ).fetchall()
    # One more than allowed was asked for, to tell "exactly the limit" from "more".
    return None if len(rows) > most else rows


def digests_of_keys(
    connection: psycopg.Connection, sides: Sides, keys: Sequence[KeyTexts]
) -> dict[KeyTexts, tuple[str | None, str | None]]:
    """A digest of blue's row and of green's row for each of some keys, found through the keys'
    indexes; None for a row that does not exist.
    """
    counted = [pair for pair in sides.others if not pair.may_differ]

    def digest(side: str) -> sql.Composable:
        # The constant keeps the row from being empty where only the key is compared.
        row = sql.SQL(", ").join(
            [
                sql.SQL("1"),
                *(
                    pair.counted_text(
                        pair.blue if side == "blue" else pair.green, value_of(side, pair)
                    )
                    for pair in counted
                ),
            ]
        )
        return sql.SQL("CASE WHEN {} THEN md5(ROW({})::text) END").format(
            sql.Identifier(side, "there"), row
        )

    names = [
        sql.Identifier("wanted", f"{what}{at}") for what in "kr" for at in range(len(sides.key))
    ]
    rows = connection.execute(
        sql.SQL("SELECT {}, {}, {} FROM {}").format(
            sql.SQL(", ").join(names), digest("blue"), digest("green"), rows_of_keys(sides, keys)
        )
    ).fetchall()
    return {tuple(row[:-2]): (row[-2], row[-1]) for row in rows}


def compare_keys(
    connection: psycopg.Connection, sides: Sides, keys: Sequence[KeyTexts], method: Method
) -> Verification:
    """Compare only the rows of some keys, each of which exists on one side at least; the numbers of
    rows in the result are those of the whole tables.
    """
    rows = _count(connection, sides.blue), _count(connection, sides.green)
    if not keys:
        return Verification(method, *rows, 0)
    pairs = [rows_of_keys(sides, keys)]
    return _compare_rows(connection, sides, pairs, method, rows)


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
    """The buckets in which something differs.

    A first pass takes the texts that cost least. Where they differ, values may be equal all the
    same, so the buckets that it finds are checked again.
    """
    found = _unlike_buckets(connection, sides, None, quick=True)
    if not found or all(pair.is_quick for pair in sides.pairs):
        return found
    return _unlike_buckets(connection, sides, found, quick=False)


def _unlike_buckets(
    connection: psycopg.Connection, sides: Sides, only: Sequence[int] | None, *, quick: bool
) -> list[int]:
    blue, green = (bucket_digests(sides, side, only, quick=quick) for side in ("blue", "green"))
    rows = connection.execute(
        sql.SQL(
            "SELECT coalesce(blue.bucket, green.bucket) FROM ({}) AS blue FULL JOIN ({}) AS green "
            "ON blue.bucket = green.bucket "
            "WHERE (blue.rows, blue.x, blue.s) IS DISTINCT FROM (green.rows, green.x, green.s)"
        ).format(blue, green)
    ).fetchall()
    return [row[0] for row in rows]


def _sampled(sides: Sides, rows: tuple[int, int]) -> list[sql.Composed]:
    """Random rows of each side with the row of the same key on the other side."""
    # Each side is sampled, since a row that only one side has can only be found from there.
    return [
        rows_of_sample(
            sides,
            side,
            sql.SQL(" TABLESAMPLE BERNOULLI ({}) REPEATABLE ({})").format(
                sql.Literal(round(min(100.0, 100.0 * SAMPLED / max(of, 1)), 6)), sql.Literal(number)
            ),
        )
        for number, (side, of) in enumerate(zip(("blue", "green"), rows, strict=True), 1)
    ]


def keys_unlike(connection: psycopg.Connection, sides: Sides) -> list[tuple[Any, ...]]:
    """The rows of green that blue lacks or has otherwise: whether blue has it, and the key's values
    as text.
    """
    key = [
        sql.SQL("{}::text AS {}").format(value_of("green", pair), sql.Identifier(f"w{at}"))
        for at, pair in enumerate(sides.key)
    ]
    statement = sql.SQL("SELECT p.in_blue, {} FROM (SELECT {} FROM {} OFFSET 0) AS p WHERE {}")
    return connection.execute(
        statement.format(
            sql.SQL(", ").join(sql.Identifier("p", f"w{at}") for at in range(len(key))),
            facts(sides, *key),
            rows_of_sample(sides, "green", sql.SQL("")),
            differs(sides),
        )
    ).fetchall()


def differs(sides: Sides) -> sql.Composed:
    """The condition on facts `p` that a pair of rows differs in what counts."""
    return sql.SQL("({})").format(
        sql.SQL(" OR ").join([_ONLY_ONE, *(fact for _, fact in counting(sides))])
    )


def _compare_rows(
    connection: psycopg.Connection,
    sides: Sides,
    joined: Sequence[sql.Composed],
    method: Method,
    rows: tuple[int, int],
) -> Verification:
    """Count the differences between the rows of joins by column, and keep examples."""
    # OFFSET keeps the planner from computing each fact wherever it is named.
    pairs = sql.SQL("({})").format(
        sql.SQL(" UNION ALL ").join(
            sql.SQL("(SELECT {} FROM {} OFFSET 0)").format(facts(sides), each) for each in joined
        )
    )
    columns, expected = dict(counting(sides)), dict(expecting(sides))
    conditions = [
        sql.SQL("p.in_blue AND NOT p.in_green"),
        sql.SQL("p.in_green AND NOT p.in_blue"),
        differs(sides),
        *columns.values(),
        *expected.values(),
    ]
    counts = connection.execute(
        sql.SQL("SELECT count(*), {} FROM {} AS p").format(
            sql.SQL(", ").join(
                sql.SQL("count(*) FILTER (WHERE {})").format(each) for each in conditions
            ),
            pairs,
        )
    ).fetchone()
    assert counts is not None
    compared, only_blue, only_green, differing, *rest = counts
    numbers = dict(zip([*columns, *expected], rest, strict=True))
    found = samples(connection, sides, joined, differs(sides)) if differing else None
    return Verification(
        method,
        *rows,
        differing,
        only_blue=only_blue,
        only_green=only_green,
        columns={name: numbers[name] for name in columns if numbers[name]},
        expected={name: numbers[name] for name in expected if numbers[name]},
        compared=compared if method == "sample" else None,
        samples=found.rows if found else [],
        paths=found.paths if found else {},
        paths_of=found.looked_at if found else None,
    )
