"""Types that can hold what another type rounds or cuts: a value that a column has changed differs
from what was given to it, in such a type.

numeric(12, 2), interval(0) and float round; varchar drops blanks at the end, name and "char" cut.
"""

from __future__ import annotations

from hashlib import sha256

import psycopg
from psycopg import sql

from esops.postgres.types import TypeTree

_BY_MODIFIER = frozenset(
    {"numeric", "varchar", "timestamp", "timestamptz", "time", "timetz", "interval"}
)
_ALWAYS = frozenset({"name", "char", "money", "float4", "float8"})
_WIDER = {"float4": "numeric", "float8": "numeric"}
_AS_TEXT = frozenset(
    {"", "anyenum", "name", "char", "money", "varchar", "json", "xml", "point", "line", "lseg"}
    | {"box", "path", "polygon", "circle"}
)
"""Compared as text: they are no wider, have no equality, or one that is not of the whole value."""


def rounds(tree: TypeTree, *, modified: bool = False) -> bool:
    """Whether a type may change a value without an error.

    `modified` says that it may have a modifier that the tree does not show.
    """
    modified = modified or tree.modifier != -1
    if tree.kind == "scalar":
        return tree.name in _ALWAYS or (modified and tree.name in _BY_MODIFIER)
    if tree.kind == "composite":
        return any(rounds(part, modified=True) for _, part in tree.parts)
    return tree.kind == "array" and any(rounds(part, modified=modified) for _, part in tree.parts)


def wide_type(connection: psycopg.Connection, tree: TypeTree) -> sql.Composable:
    """The type to compare in. For a row it is that of a temporary table, made here."""
    if tree.kind == "array":
        return sql.SQL("{}[]").format(wide_type(connection, tree.parts[0][1]))
    if tree.kind == "composite":
        return row_type(
            connection, [(name, wide_type(connection, part)) for name, part in tree.parts]
        )
    if tree.name in _AS_TEXT:
        return sql.Identifier("pg_catalog", "text")
    return sql.Identifier("pg_catalog", _WIDER.get(tree.name, tree.name))


def row_type(
    connection: psycopg.Connection, fields: list[tuple[str, sql.Composable]]
) -> sql.Identifier:
    """A row type with these fields; it stays as long as the session."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), kind) for name, kind in fields
    )
    text = columns.as_string(connection)
    name = f"esops_form_{sha256(text.encode()).hexdigest()[:16]}"
    connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} ({})").format(
            sql.Identifier("pg_temp", name), columns
        )
    )
    return sql.Identifier("pg_temp", name)
