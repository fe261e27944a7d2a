"""The key of a row, as an operator writes it: the value alone, or a JSON object of its columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from esops.errors import UsageError
from esops.postgres.catalog import Table
from esops.readmodel.form import Unfit
from esops.readmodel.rows import one_line
from esops.readmodel.shape import Shape
from esops.readmodel.types import Key

_CUT = ("varchar", "bpchar", "numeric", "bit", "varbit")
_ROUNDED = ("timestamp", "timestamptz", "time", "timetz", "interval")
_WHOLE = {
    **{each: f'pg_catalog."{each}"' for each in (*_CUT, *_ROUNDED)},
    "name": "pg_catalog.text",
    "char": "pg_catalog.text",
}
"""Types of which a column takes a part of some values, by what takes all of them."""


def parse_key(
    connection: psycopg.Connection, table: Table, key_columns: Sequence[str], text: str
) -> Key:
    """The key in the form of the table.

    Raises UsageError where the text is no key of this table.
    """
    parts = _parts(text, key_columns)
    values = []
    for name, part in zip(key_columns, parts, strict=True):
        statement = sql.SQL("SELECT %s::{}").format(sql.SQL(table.column(name).type))
        try:
            row = connection.execute(statement, [part]).fetchone()
        except psycopg.Error as error:
            raise UsageError(
                f"{part!r} is no value of {name} ({table.column(name).type}): {one_line(error)}"
            ) from None
        assert row is not None
        values.append(row[0])
    shape = Shape(table, tuple(key_columns), {})
    shape.open(connection)
    try:
        return shape.key(tuple(values) if len(values) > 1 else values[0])
    except Unfit as error:
        raise UsageError(f"{text!r} is no key of {table.schema}.{table.name}: {error}") from None


def canonical_keys(
    connection: psycopg.Connection,
    table: Table,
    key_columns: Sequence[str],
    keys: Sequence[tuple[str, ...]],
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Keys that somebody wrote, each once and as the server writes them; and those that are none of
    this table, since the type of a column makes another value of what was written.

    Raises UsageError for one that is no value of its column.
    """
    if not keys:
        return [], []
    names = [sql.Identifier(f"k{at}") for at in range(len(key_columns))]
    of_key = [table.column(each) for each in key_columns]
    casts = [
        sql.SQL("k.{}::{}").format(name, sql.SQL(each.type))
        for name, each in zip(names, of_key, strict=True)
    ]
    same = [
        sql.SQL("{cast}::{whole} = k.{name}::{whole}").format(
            cast=cast, name=name, whole=sql.SQL(_WHOLE[each.kind])
        )
        for cast, name, each in zip(casts, names, of_key, strict=True)
        if each.kind in _WHOLE
    ]
    statement = sql.SQL("SELECT {}, {}, {} FROM unnest({}) AS k({})").format(
        sql.SQL(" AND ").join([sql.SQL("TRUE"), *same]),
        sql.SQL(", ").join(sql.SQL("{}::text").format(each) for each in casts),
        sql.SQL(", ").join(names),
        sql.SQL(", ").join(sql.SQL("%s::text[]") for _ in names),
        sql.SQL(", ").join(names),
    )
    try:
        values = [list(each) for each in zip(*keys, strict=True)]
        rows = connection.execute(statement, values).fetchall()
    except psycopg.DataError as error:
        raise UsageError(
            f"a key does not fit ({', '.join(key_columns)}) of {table.name}: "
            f"{error.diag.message_primary}"
        ) from None
    width = len(key_columns)
    found = {row[1 : 1 + width] for row in rows if row[0]}
    return sorted(found), sorted({row[1 + width :] for row in rows if not row[0]})


def written_key(key: Key, key_columns: Sequence[str]) -> str:
    """A key as `parse_key` takes it."""
    if len(key_columns) == 1:
        return str(key)
    parts = dict(zip(key_columns, key, strict=True))
    return json.dumps(parts, default=str, ensure_ascii=False)


def _parts(text: str, key_columns: Sequence[str]) -> list[str]:
    """The text of each column."""
    given: Any = None
    if text.lstrip().startswith(("{", "[")):
        try:
            given = json.loads(text)
        except ValueError:
            given = None
    if isinstance(given, list) and len(given) == len(key_columns) > 1:
        # As `esops rebuild --keys` takes it.
        given = dict(zip(key_columns, given, strict=True))
    if isinstance(given, dict) and set(given) == set(key_columns):
        return [
            value if isinstance(value, str) else json.dumps(value)
            for value in (given[name] for name in key_columns)
        ]
    if len(key_columns) == 1:
        return [text]
    example = json.dumps(dict.fromkeys(key_columns, "…"), ensure_ascii=False)
    raise UsageError(
        f"the key has {len(key_columns)} columns ({', '.join(key_columns)})",
        hint=f"Write it as JSON: '{example}'",
    )
