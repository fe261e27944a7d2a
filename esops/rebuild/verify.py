"""Does green say what blue says?

Counts and bucketed hashes are computed in the server, in one snapshot; then only the buckets that differ are compared row
by row, and the differences are counted by column and shown with samples.

A thousand buckets of a commutative hash find a single differing row among millions at the cost of one pass over each
table, without a sort (the idea of Merkle-tree repair in Dynamo, DeCandia et al., SOSP 2007, one level deep).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import psycopg
from psycopg import sql

from esops.backends.postgres.catalog import Column, Table
from esops.backends.postgres.connect import qualified
from esops.errors import UsageError
from esops.projections.readmodel import common_columns, with_names

Method = Literal["exact", "columns", "counts", "none"]
BUCKETS = 1024
SAMPLES = 5


@dataclass(frozen=True)
class Verification:
    """What a comparison found. `differing` counts rows that are missing on a side or unlike; `note` tells its limits."""

    method: str
    rows_blue: int | None
    rows_green: int
    differing: int
    position: str | None = None
    only_blue: int = 0
    only_green: int = 0
    columns: Mapping[str, int] = field(default_factory=dict)
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
        columns={f"{name}.{column}": count for name, each in found.items() for column, count in each.columns.items()},
        samples=[{"table": name, **sample} for name, each in found.items() for sample in each.samples],
        note="; ".join(f"{name}: {each.note}" for name, each in found.items() if each.note) or None,
    )


def check_assertions(
    connection: psycopg.Connection, green: Mapping[str, tuple[str, str]], assertions: Sequence[str]
) -> list[str]:
    """The user's SQL assertions that do not hold of green's tables. Raises UsageError for one that cannot be run."""
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
    connection: psycopg.Connection, blue: Table, green: Table, key: Sequence[str], method: Method, ignore: Sequence[str]
) -> Verification:
    """Compare two tables in the snapshot that the connection's transaction has."""
    if method == "none":
        return Verification("none", None, _count(connection, green), 0)
    rows_blue, rows_green = _count(connection, blue), _count(connection, green)
    if method == "counts":
        return Verification("counts", rows_blue, rows_green, abs(rows_blue - rows_green))
    columns = common_columns(blue, green, ignore)
    missing_key = [name for name in key if not blue.has(name)]
    if missing_key:
        note = f"blue has no column {missing_key[0]}, which is green's key: only counts could be compared"
        return Verification("counts", rows_blue, rows_green, abs(rows_blue - rows_green), note=note)
    buckets = _differing_buckets(connection, blue, green, key, columns)
    if not buckets:
        return Verification(method, rows_blue, rows_green, 0)
    return _row_diffs(connection, blue, green, key, columns, buckets, method, rows_blue, rows_green)


def tolerated(verification: Verification, max_diff: str) -> bool:
    """Whether the differences stay within `N` rows or `P%` of blue's. Raises UsageError for anything else."""
    if verification.failed_assertions:
        return False
    text = max_diff.strip()
    try:
        if text.endswith("%"):
            return verification.differing <= float(text[:-1]) / 100 * max(verification.rows_blue or 0, 1)
        return verification.differing <= int(text)
    except ValueError:
        raise UsageError(f"--max-diff {max_diff!r} is neither a number of rows nor a percentage like 2.5%") from None


def _count(connection: psycopg.Connection, table: Table) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(qualified(table.schema, table.name))).fetchone()
    return int(row[0]) if row else 0


def _text(column: Column, alias: str) -> sql.Composable:
    """A column so that both sides compare alike, whatever the type: numbers by value, the rest as text."""
    name = sql.Identifier(alias, column.name)
    if column.kind == "numeric":
        return sql.SQL("trim_scale({})::text").format(name)
    return sql.SQL("{}::text").format(name)


def _bucket(table: Table, key: Sequence[str], alias: str) -> sql.Composable:
    parts = sql.SQL(", ").join(_text(table.column(name), alias) for name in key)
    return sql.SQL("(hashtextextended(ROW({})::text, 0) & {})").format(parts, sql.Literal(BUCKETS - 1))


def _digests(table: Table, key: Sequence[str], columns: Sequence[str]) -> sql.Composable:
    row = sql.SQL(", ").join(_text(table.column(name), "t") for name in columns)
    return sql.SQL(
        "SELECT {} AS bucket, count(*) AS rows, bit_xor(h) AS x, sum(h::numeric) AS s FROM {} AS t, "
        "LATERAL (SELECT hashtextextended(ROW({})::text, 1) AS h) AS hashed GROUP BY 1"
    ).format(_bucket(table, key, "t"), qualified(table.schema, table.name), row)


def _differing_buckets(
    connection: psycopg.Connection, blue: Table, green: Table, key: Sequence[str], columns: Sequence[str]
) -> list[int]:
    rows = connection.execute(
        sql.SQL(
            "SELECT coalesce(b.bucket, g.bucket) FROM ({}) AS b FULL JOIN ({}) AS g ON b.bucket = g.bucket "
            "WHERE (b.rows, b.x, b.s) IS DISTINCT FROM (g.rows, g.x, g.s)"
        ).format(_digests(blue, key, columns), _digests(green, key, columns))
    ).fetchall()
    return [row[0] for row in rows]


def _row_diffs(
    connection: psycopg.Connection,
    blue: Table,
    green: Table,
    key: Sequence[str],
    columns: Sequence[str],
    buckets: Sequence[int],
    method: Method,
    rows_blue: int,
    rows_green: int,
) -> Verification:
    others = [name for name in columns if name not in key]
    unlike = [
        sql.SQL("{} IS DISTINCT FROM {}").format(_text(blue.column(name), "b"), _text(green.column(name), "g"))
        for name in others
    ]
    join = sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(_text(blue.column(name), "b"), _text(green.column(name), "g")) for name in key
    )
    joined = sql.SQL(
        "(SELECT * FROM {} AS b WHERE {} = ANY({list})) AS b FULL JOIN (SELECT * FROM {} AS g WHERE {} = ANY({list})) AS g ON {}"
    ).format(
        qualified(blue.schema, blue.name),
        _bucket(blue, key, "b"),
        qualified(green.schema, green.name),
        _bucket(green, key, "g"),
        join,
        list=sql.Literal(list(buckets)),
    )
    only_green = sql.SQL("{} IS NULL").format(sql.Identifier("b", key[0]))
    only_blue = sql.SQL("{} IS NULL").format(sql.Identifier("g", key[0]))
    both_unlike = sql.SQL("NOT ({} OR {}) AND ({})").format(
        only_green, only_blue, sql.SQL(" OR ").join(unlike) if unlike else sql.SQL("FALSE")
    )
    counts = connection.execute(
        sql.SQL("SELECT count(*) FILTER (WHERE {}), count(*) FILTER (WHERE {}), count(*) FILTER (WHERE {}){} FROM {}").format(
            only_blue,
            only_green,
            both_unlike,
            sql.SQL("").join(
                sql.SQL(", count(*) FILTER (WHERE NOT ({} OR {}) AND {})").format(only_green, only_blue, each)
                for each in unlike
            ),
            joined,
        )
    ).fetchone()
    assert counts is not None
    samples = connection.execute(
        sql.SQL("SELECT {}, to_jsonb(b), to_jsonb(g) FROM {} WHERE {} OR {} OR {} ORDER BY 1 LIMIT {}").format(
            sql.SQL("coalesce({}, {})").format(_text(green.column(key[0]), "g"), _text(blue.column(key[0]), "b")),
            joined,
            only_blue,
            only_green,
            both_unlike,
            sql.Literal(SAMPLES),
        )
    ).fetchall()
    return Verification(
        method,
        rows_blue,
        rows_green,
        counts[0] + counts[1] + counts[2],
        only_blue=counts[0],
        only_green=counts[1],
        columns={name: count for name, count in zip(others, counts[3:], strict=True) if count},
        samples=[_sample(key, columns, b, g) for _, b, g in samples],
    )


def _sample(
    key: Sequence[str], columns: Sequence[str], blue: dict[str, Any] | None, green: dict[str, Any] | None
) -> dict[str, Any]:
    there = green or blue or {}
    shown = {"key": {name: there.get(name) for name in key}}
    if blue is None or green is None:
        only = {name: there.get(name) for name in columns}
        return {**shown, "blue": None if blue is None else only, "green": None if green is None else only}
    unlike = [name for name in columns if blue.get(name) != green.get(name)]
    return {**shown, "blue": {name: blue.get(name) for name in unlike}, "green": {name: green.get(name) for name in unlike}}
