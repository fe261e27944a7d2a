"""SQL expressions and conditions that several layouts and the reading of them need."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from psycopg import sql


def storable(texts: Sequence[str]) -> list[str]:
    """Those texts that Postgres can have: what has a zero character names nothing there."""
    return [text for text in texts if "\0" not in text]


def named(columns: Sequence[sql.Composable]) -> sql.Composed:
    """Columns of a SELECT under names of ours: ORDER BY would take those that Postgres gives them,
    such as `id` for `id::text`, before the table's own.
    """
    return sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(column, sql.Identifier(f"esops:{at}"))
        for at, column in enumerate(columns)
    )


def same_uuid(column: sql.Composable, text: str) -> sql.Composable:
    """The condition that a uuid column has a value given as text; a text that is no uuid names
    nothing.
    """
    try:
        return sql.SQL("{} = {}::uuid").format(column, sql.Literal(str(UUID(text))))
    except ValueError:
        return sql.SQL("FALSE")


def category_in(name: sql.Composable) -> sql.Composable:
    """The category in a stream's name: what stands before the first `-`, and nothing where the
    whole is a UUID.
    """
    # The length first: it needs no look at the text, and few names are as long as a UUID.
    return sql.SQL(
        "CASE WHEN octet_length({0}) = 36 AND {0} LIKE '________-____-____-____-____________' "
        "THEN NULL "
        "ELSE split_part({0}, '-', 1) END"
    ).format(name)
