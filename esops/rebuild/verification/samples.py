"""Rows that differ, as examples: by column, and in JSON by path."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

import psycopg
from psycopg import sql

from esops.postgres.types import TypedColumn, TypeTree
from esops.rebuild.verification.pair import Pair
from esops.rebuild.verification.paths import MISSING, differences, generalised, written
from esops.rebuild.verification.sides import Sides, facts, value_of

SAMPLES = 50
"""Differing rows that are kept as examples; a terminal shows the first of them."""
LOOKED_AT = 1_000
"""Differing rows of which paths into JSON are counted."""
_AT_ONCE = 50
_PATHS = 50
"""The most paths that are shown of one row's column."""
_EXACT = 2**63


@dataclass(frozen=True)
class Samples:
    """Examples of rows that differ, and the paths at which JSON differs."""

    rows: list[dict[str, Any]]
    paths: Mapping[str, int]
    """How many of the rows that were looked at differ at each path, by the path as in
    `verify.ignore`; the most frequent first.
    """
    looked_at: int | None
    """Of how many rows the paths were counted; None where no JSON differs."""


def samples(
    connection: psycopg.Connection,
    sides: Sides,
    joined: Sequence[sql.Composed],
    differs: sql.Composable,
) -> Samples:
    """The first rows of some joins that differ, ordered by key."""
    rows: list[dict[str, Any]] = []
    paths: dict[str, int] = {}
    looked_at = 0
    for pair in _rows(connection, sides, joined, differs):
        looked_at += pair.in_blue and pair.in_green
        by_column = pair.by_column()
        if len(rows) < SAMPLES:
            rows.append(pair.sample(by_column))
        for path in {path for each in by_column for path in each.general}:
            paths[path] = paths.get(path, 0) + 1
    order = sorted(paths, key=lambda path: (-paths[path], path))
    return Samples(rows, {path: paths[path] for path in order}, looked_at if paths else None)


@dataclass(frozen=True)
class _Unlike:
    """What differs of a column: what to show for each side, and the general paths in JSON."""

    blue: Mapping[str, Any]
    green: Mapping[str, Any]
    general: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Row:
    """A pair of rows that differ: for each column whether it does, and what both say."""

    sides: Sides
    in_blue: bool
    in_green: bool
    cells: Sequence[tuple[bool, str | None, str | None, str | None, str | None]]
    """For each column: whether it differs, and of blue and green the text to show (JSON) and the
    canonical text.
    """

    def by_column(self) -> list[_Unlike]:
        """What differs, by column; nothing where there is only one row."""
        if not (self.in_blue and self.in_green):
            return []
        return [
            _unlike(pair, cell) for pair, cell in zip(self.sides.pairs, self.cells, strict=True)
            if cell[0]
        ]  # fmt: skip

    def sample(self, unlike: Sequence[_Unlike]) -> dict[str, Any]:
        """The pair as an example; all columns of a row that only one side has."""
        all_of = {
            pair.name: _shown(cell[2] if self.in_green else cell[1])
            for pair, cell in zip(self.sides.pairs, self.cells, strict=True)
        }
        key = {"key": {pair.name: all_of[pair.name] for pair in self.sides.key}}
        if not (self.in_blue and self.in_green):
            return {
                **key,
                "blue": all_of if self.in_blue else None,
                "green": all_of if self.in_green else None,
            }
        return {
            **key,
            "blue": {name: value for each in unlike for name, value in each.blue.items()},
            "green": {name: value for each in unlike for name, value in each.green.items()},
        }


def _rows(
    connection: psycopg.Connection,
    sides: Sides,
    joined: Sequence[sql.Composed],
    differs: sql.Composable,
) -> Iterator[_Row]:
    # What is shown is computed only for the rows that are shown.
    values = [
        sql.SQL("{} AS {}").format(value_of(side, pair), sql.Identifier(f"{side}{pair.at}"))
        for pair in sides.pairs
        for side in ("blue", "green")
    ]
    pairs = sql.SQL(" UNION ALL ").join(
        sql.SQL("(SELECT {} FROM {} OFFSET 0)").format(facts(sides, *values), each)
        for each in joined
    )
    order = sql.SQL(", ").join(sql.Identifier("p", f"k{at}") for at in range(len(sides.key)))
    first = sql.SQL("(SELECT * FROM ({}) AS p WHERE {} ORDER BY {} LIMIT {})").format(
        pairs, differs, order, sql.Literal(LOOKED_AT)
    )
    cells = [
        each
        for pair in sides.pairs
        for each in (
            sql.SQL("false") if pair in sides.key else sql.Identifier("p", f"u{pair.at}"),
            *_displays(pair),
            pair.text(pair.blue, sql.Identifier("p", f"blue{pair.at}")),
            pair.text(pair.green, sql.Identifier("p", f"green{pair.at}")),
        )
    ]
    statement = sql.SQL("SELECT p.in_blue, p.in_green, {} FROM {} AS p ORDER BY {}").format(
        sql.SQL(", ").join(cells), first, order
    )
    # Documents may be large: a few rows at a time.
    with connection.transaction(), connection.cursor("esops_samples") as cursor:
        cursor.itersize = _AT_ONCE
        for in_blue, in_green, *rest in cursor.execute(statement):
            grouped = [tuple(rest[at : at + 5]) for at in range(0, len(rest), 5)]
            yield _Row(sides, in_blue, in_green, grouped)


def _displays(pair: Pair) -> Iterator[sql.Composable]:
    for name, side in (("blue", pair.blue), ("green", pair.green)):
        value = sql.Identifier("p", f"{name}{pair.at}")
        yield _display(pair, side, value)


def _display(pair: Pair, side: TypedColumn, value: sql.Composable) -> sql.Composable:
    """A value as JSON, for a person."""
    if pair.is_json:
        return pair.text(side, value)
    # What a json says may not be valid as jsonb.
    if _has_json(side.tree):
        value = sql.SQL("({})::text").format(value)
    return sql.SQL("to_jsonb({})::text").format(value)


def _has_json(tree: TypeTree) -> bool:
    return tree.name == "json" or any(_has_json(part) for _, part in tree.parts)


def _unlike(
    pair: Pair, cell: tuple[bool, str | None, str | None, str | None, str | None]
) -> _Unlike:
    _, *shown, blue_text, green_text = cell
    if pair.is_json and None not in shown:
        blue, green = (_parsed(text or "") for text in shown)
        parts = list(islice(differences(blue, green), _PATHS))
        if parts:
            return _Unlike(
                {written(pair.name, at): _plain(old) for at, old, _ in parts if old is not MISSING},
                {written(pair.name, at): _plain(new) for at, _, new in parts if new is not MISSING},
                frozenset(written(pair.name, generalised(at)) for at, _, _ in parts),
            )
        return _Unlike({pair.name: blue_text}, {pair.name: green_text})
    blue, green = map(_shown, shown)
    # What looks alike as JSON is shown as what was compared: 0 and -0, for example.
    if blue == green:
        blue, green = blue_text, green_text
    return _Unlike({pair.name: blue}, {pair.name: green})


def _shown(text: str | None) -> Any:
    return None if text is None else _plain(_parsed(text))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_float=Decimal)
    except ValueError:
        return text


def _plain(value: Any) -> Any:
    """A value with numbers that JSON can say exactly, others as text."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, Decimal):
        return float(value) if Decimal(repr(float(value))) == value else str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _EXACT:
        return str(value)
    return value
