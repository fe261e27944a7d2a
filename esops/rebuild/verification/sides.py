"""Two tables side by side, as SQL: what they are compared by, and how their rows are paired.

Every expression is computed in the server, so that no row travels that does not differ. The names
of the user's columns occur only where a table is read; from there on, everything goes by names of
esops' own, and nothing can collide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from esops.errors import UsageError
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.postgres.types import TypedColumn, types_of
from esops.rebuild.verification.bookkeeping import bookkeeping_of
from esops.rebuild.verification.equality import Equality
from esops.rebuild.verification.pair import Pair
from esops.rebuild.verification.paths import Steps, split_name, written
from esops.settings import VerifySettings

BUCKETS = 1024
KeyTexts = tuple[str, ...]
"""A row's key: each column's canonical text, then each as text that can be cast to its type."""


@dataclass(frozen=True)
class Sides:
    """Two tables, by what they are compared."""

    blue: Table
    green: Table
    pairs: Sequence[Pair]
    """The columns that are compared, and those of the key."""
    key: Sequence[Pair]
    """Empty where blue lacks a column of the key."""
    lacks: str | None = None
    """The column of the key that blue lacks."""

    @classmethod
    def of(
        cls,
        connection: psycopg.Connection,
        tables: tuple[Table, Table],
        key: Sequence[str],
        settings: VerifySettings,
    ) -> Sides:
        """Two tables, blue and green, compared by the columns that both have, without those to be
        ignored and what a library keeps for itself.

        Raises UsageError for a path that leads into a column that is not JSON.
        """
        blue, green = tables
        typed = [types_of(connection, table.oid) for table in tables]
        equality = Equality(connection.info.server_version, settings.json_equality)
        ignore = (*settings.ignore, *bookkeeping_of(blue, green))
        ignored, expected = (paths_by_column(names, green) for names in (ignore, settings.expected))
        pairs: list[Pair] = []
        for column in green.columns:
            name = column.name
            if not blue.has(name) or (() in ignored.get(name, ()) and name not in key):
                continue
            paths = [
                tuple(each for each in found.get(name, ()) if each) for found in (ignored, expected)
            ]
            may_differ = () in expected.get(name, ()) and name not in key
            types = typed[0][name], typed[1][name]
            pairs.append(Pair(len(pairs), name, *types, equality, paths[0], paths[1], may_differ))
            if any(paths) and (name in key or not pairs[-1].is_json):
                raise UsageError(
                    f"verify names a path into the column {name}, which is "
                    + ("of the key" if name in key else "not JSON in both versions"),
                    hint="Name the whole column, or a path into another one.",
                )
        by_name = {pair.name: pair for pair in pairs}
        lacks = next((name for name in key if name not in by_name), None)
        return cls(blue, green, pairs, [] if lacks else [by_name[name] for name in key], lacks)

    @property
    def others(self) -> list[Pair]:
        """The columns that are not of the key."""
        return [pair for pair in self.pairs if pair not in self.key]

    def table(self, side: str) -> Table:
        """The table of a side, "blue" or "green"."""
        return self.blue if side == "blue" else self.green


def paths_by_column(names: Sequence[str], table: Table) -> dict[str, list[Steps]]:
    """What entries of `verify` name in a table, by column; the empty path is the whole column.

    Raises UsageError for a path that cannot be read.
    """
    found: dict[str, list[Steps]] = {}
    columns = [column.name for column in table.columns]
    for name in names:
        if (split := split_name(name, columns)) is not None:
            found.setdefault(split[0], []).append(split[1])
    return found


def value_of(side: str, pair: Pair) -> sql.Composable:
    """A column's value in a row of `rows_of`."""
    return sql.Identifier(side, f"v{pair.at}")


def rows_of(
    sides: Sides,
    side: str,
    *,
    where: sql.Composable | None = None,
    sample: sql.Composable | None = None,
) -> sql.Composed:
    """The rows of a side, as an item of FROM: values go by v0, v1, …, and `there` is true, so that
    an outer join has NULL there for a row that is missing.
    """
    table = sides.table(side)
    values = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(sql.Identifier("t", pair.name), sql.Identifier(f"v{pair.at}"))
        for pair in sides.pairs
    )
    return sql.SQL("(SELECT {}, true AS there FROM {} AS t{}{}) AS {}").format(
        values,
        qualified(table.schema, table.name),
        sql.SQL("") if sample is None else sample,
        sql.SQL("") if where is None else sql.SQL(" WHERE {}").format(where),
        sql.Identifier(side),
    )


def _column(side: str, pair: Pair) -> TypedColumn:
    return pair.blue if side == "blue" else pair.green


def _bucket(sides: Sides, side: str) -> sql.Composed:
    """The number of the bucket that a row's key falls into, the same on both sides."""
    parts = sql.SQL(", ").join(
        pair.text(_column(side, pair), sql.Identifier("t", pair.name)) for pair in sides.key
    )
    return sql.SQL('(hashtextextended(ROW({})::text COLLATE "C", 0) & {})').format(
        parts, sql.Literal(BUCKETS - 1)
    )


def bucket_digests(
    sides: Sides, side: str, only: Sequence[int] | None = None, *, quick: bool
) -> sql.Composed:
    """For each bucket the number of its rows and two commutative digests of them.

    XOR alone would not see a row that is there twice; the sum does. `quick`: of texts of which
    equal values may have several.
    """
    table, bucket = sides.table(side), _bucket(sides, side)
    row = sql.SQL(", ").join(
        (pair.quick_text if quick else pair.text)(
            _column(side, pair), sql.Identifier("t", pair.name)
        )
        for pair in sides.pairs
    )
    # OFFSET keeps the planner from computing each hash twice.
    return sql.SQL(
        "SELECT d.bucket, count(*) AS rows, bit_xor(d.hash) AS x, sum(d.hash) AS s FROM (SELECT "
        '{bucket} AS bucket, hashtextextended(ROW({row})::text COLLATE "C", 1) AS hash FROM '
        "{table} AS t{where} OFFSET 0) AS d GROUP BY 1"
    ).format(
        bucket=bucket,
        table=qualified(table.schema, table.name),
        row=row,
        where=_in(bucket, only),
    )


def _in(bucket: sql.Composable, only: Sequence[int] | None) -> sql.Composable:
    if only is None:
        return sql.SQL("")
    return sql.SQL(" WHERE {} = ANY({})").format(bucket, sql.Literal(list(only)))


def rows_of_buckets(sides: Sides, buckets: Sequence[int]) -> sql.Composed:
    """The rows of some buckets, both sides joined."""
    blue, green = (
        rows_of(
            sides,
            side,
            where=sql.SQL("{} = ANY({})").format(_bucket(sides, side), sql.Literal(list(buckets))),
        )
        for side in ("blue", "green")
    )
    same = sql.SQL(" AND ").join(sql.SQL("{} = {}").format(*_texts(pair)) for pair in sides.key)
    return sql.SQL("{} FULL JOIN {} ON {}").format(blue, green, same)


def rows_of_sample(sides: Sides, side: str, share: sql.Composable) -> sql.Composed:
    """A share of the rows of a side, each with the row of its key on the other side, which is found
    through the key's index.
    """
    other = "green" if side == "blue" else "blue"
    same = sql.SQL(" AND ").join(_found(pair) for pair in sides.key)
    return sql.SQL("{} LEFT JOIN {} ON {}").format(
        rows_of(sides, side, sample=share), rows_of(sides, other), same
    )


def rows_of_keys(sides: Sides, keys: Sequence[KeyTexts]) -> sql.Composed:
    """The rows of some keys, both sides joined, beside the keys as `wanted`."""
    number = len(sides.key)
    names = [f"k{at}" for at in range(number)] + [f"r{at}" for at in range(number)]
    wanted = sql.SQL("unnest({}) AS wanted({})").format(
        sql.SQL(", ").join(
            sql.SQL("{}::text[]").format(sql.Literal([key[at] for key in keys]))
            for at in range(len(names))
        ),
        sql.SQL(", ").join(map(sql.Identifier, names)),
    )

    def join(side: str) -> sql.Composable:
        conditions = [
            sql.SQL("{} = wanted.{}").format(
                pair.text(_column(side, pair), value_of(side, pair)), sql.Identifier(f"k{at}")
            )
            for at, pair in enumerate(sides.key)
        ]
        # Through the index, where the text of one side is a value of the other's type.
        conditions += [
            sql.SQL("{} = wanted.{}::{}").format(
                value_of(side, pair),
                sql.Identifier(f"r{at}"),
                sql.SQL(sides.table(side).column(pair.name).type),
            )
            for at, pair in enumerate(sides.key)
            if pair.comparable
        ]
        return sql.SQL("LEFT JOIN {} ON {}").format(
            rows_of(sides, side), sql.SQL(" AND ").join(conditions)
        )

    return sql.SQL("{} {} {}").format(wanted, join("blue"), join("green"))


def same_key(sides: Sides) -> sql.Composed:
    """The condition that a row of blue and one of green are of one key."""
    return sql.SQL(" AND ").join(sql.SQL("{} = {}").format(*_texts(pair)) for pair in sides.key)


def _texts(pair: Pair) -> tuple[sql.Composed, sql.Composed]:
    return pair.text(pair.blue, value_of("blue", pair)), pair.text(
        pair.green, value_of("green", pair)
    )


def _found(pair: Pair) -> sql.Composable:
    """The condition that two rows are of one key. What the index says alone would not do: in its
    collation, 'Bob' may be 'BOB'.
    """
    same = sql.SQL("{} = {}").format(*_texts(pair))
    if not pair.comparable:
        return same
    return sql.SQL("{} = {} AND {}").format(value_of("blue", pair), value_of("green", pair), same)


# -- what is true of a pair of rows


def facts(sides: Sides, *more: sql.Composable) -> sql.Composed:
    """What a pair of rows says, as a list for SELECT, with `more` behind it.

    These are in_blue, in_green; k0, k1, …: the canonical texts of the key; of each other column u3:
    whether it differs, c3: whether it differs in what counts, e3_0, e3_1, …: whether what is at
    each path that is expected to differ does.
    """
    listed: list[sql.Composable] = [
        sql.SQL("coalesce(blue.there, false) AS in_blue"),
        sql.SQL("coalesce(green.there, false) AS in_green"),
    ]
    for at, pair in enumerate(sides.key):
        blue, green = _texts(pair)
        listed.append(
            sql.SQL("coalesce({}, {}) AS {}").format(green, blue, sql.Identifier(f"k{at}"))
        )
    for pair in sides.others:
        listed += _facts_of(pair)
    return sql.SQL(", ").join([*listed, *more])


def _facts_of(pair: Pair) -> Iterator[sql.Composable]:
    values = (pair.blue, value_of("blue", pair)), (pair.green, value_of("green", pair))
    unlike = {f"u{pair.at}": [pair.text(*value) for value in values]}
    if pair.expected:
        unlike[f"c{pair.at}"] = [pair.counted_text(*value) for value in values]
    for number, steps in enumerate(pair.expected):
        unlike[f"e{pair.at}_{number}"] = [pair.text_at(value, steps) for _, value in values]
    for name, texts in unlike.items():
        yield sql.SQL(
            "(blue.there AND green.there AND {} IS DISTINCT FROM {}) IS TRUE AS {}"
        ).format(*texts, sql.Identifier(name))


def counting(sides: Sides) -> Iterator[tuple[str, sql.Composable]]:
    """The columns whose differences count, each with the fact that says so."""
    for pair in sides.others:
        if not pair.may_differ:
            yield (
                pair.name,
                sql.Identifier("p", f"{'c' if pair.expected else 'u'}{pair.at}"),
            )


def expecting(sides: Sides) -> Iterator[tuple[str, sql.Composable]]:
    """The columns and paths whose differences do not count, each with the fact that says so."""
    for pair in sides.others:
        if pair.may_differ:
            yield pair.name, sql.Identifier("p", f"u{pair.at}")
        else:
            for number, steps in enumerate(pair.expected):
                yield written(pair.name, steps), sql.Identifier("p", f"e{pair.at}_{number}")
