"""Tries, before a rebuild, whether the server takes again what a switch carries over.

A view over a view cannot use all that one over a table can (xmin, TABLESAMPLE, GROUP BY the key
alone), nor can a function's body; and Postgres replaces a view only where the types and collations
of its columns stay. Only Postgres knows all of that. So a temporary view of green gets the read
model's name, which hides the real one from this session, and the definitions are run against it.
The application's relations get no lock but that of a reader, and all of it is rolled back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import psycopg
from psycopg import errors, sql

from esops.postgres.connection import is_lost, qualified
from esops.postgres.statements import statements
from esops.readmodel.dependants import Dependant, dependants, qualified_names, references
from esops.rebuild.left_behind import Obstacle, Root, by_hand

_SQL = statements(__package__, "tried")
_TRIED = "esops_tried"
_NOT_TAKEN = "Postgres does not take it over the new version"
_RENAME = 'with switch = "rename" the read model stays a table'
_ARTEFACTS = (errors.InsufficientPrivilege, errors.UndefinedFunction, errors.LockNotAvailable)
"""What the trial itself may fail at, and the switch may not."""
_OF_KEYS = (errors.GroupingError, errors.UndefinedObject, errors.InvalidColumnReference)
"""What a table without keys fails at."""


def obstacles(connection: psycopg.Connection, roots: Sequence[Root]) -> list[Obstacle]:
    """What the server would not take in the switch, with its reason. Changes nothing.

    `connection` is in a transaction in which the targets are there.
    """
    found = _to_try(connection, roots)
    if not found:
        return []
    failed: list[tuple[Dependant, str]] = []
    becomes_view = any(root.view and root.current.kind != "v" for root in roots)
    with connection.transaction(force_rollback=True):
        path = sql.SQL(", ").join(
            sql.Identifier(each) for each in dict.fromkeys(root.name.schema for root in roots)
        )
        connection.execute(sql.SQL("SET LOCAL search_path = {}").format(path))
        definitions = [(each, _definition(connection, each)) for each in found]
        try:
            with connection.transaction():
                for root in roots:
                    connection.execute(_shadow(root))
        except errors.InsufficientPrivilege:
            return []  # the role may make nothing temporary, so that only the switch will tell
        for each, definition in definitions:
            reason = definition and _failure(connection, roots, each, definition)
            if reason:
                failed.append((each, reason))
    with qualified_names(connection):
        found_out = [by_hand(connection, roots, each, reason) for each, reason in failed]
    # What Postgres does not take now, it does not take after the switch.
    instead = f"; {_RENAME}" if becomes_view else ""
    return [
        replace(each, why=each.why + instead, after=None) if _NOT_TAKEN in each.why else each
        for each in found_out
    ]


def _to_try(connection: psycopg.Connection, roots: Sequence[Root]) -> list[Dependant]:
    """What refers to nothing but the relations themselves. Whatever uses their row types would see
    that of another one in the trial.
    """
    oids = [root.current.oid for root in roots]
    moved = [reference for oid in oids for reference in references(connection, oid)]
    with qualified_names(connection):
        return [
            each
            for each in dependants(connection, moved, oids)
            if each.kind in {"view", "materialised view", "function", "policy"}
            and not each.unparsed
            and not each.has_type
            and all(kind == "pg_class" for (kind, _), _ in each.uses)
        ]


def _definition(connection: psycopg.Connection, each: Dependant) -> str | None:
    row = connection.execute(_SQL[each.kind.split()[-1]], {"oid": each.oid}).fetchone()
    return None if row is None else row[0]


def _shadow(root: Root) -> sql.Composed:
    """What hides the read model from this session, and has green's columns."""
    target = qualified(root.target.schema, root.target.name)
    name = sql.Identifier("pg_temp", root.name.name)
    if not root.view:
        return sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {})").format(name, target)
    columns = sql.SQL(", ").join(sql.Identifier(each.name) for each in root.target.columns)
    return sql.SQL("CREATE TEMPORARY VIEW {} AS SELECT {} FROM {}").format(name, columns, target)


def _failure(
    connection: psycopg.Connection, roots: Sequence[Root], each: Dependant, definition: str
) -> str | None:
    """Why the server does not take an object again; None where it does."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(definition.encode())
            if each.kind != "view":
                return None
            now = {"oid": each.oid, "tried": f"pg_temp.{_TRIED}"}
            rows = connection.execute(_SQL["changed"], now).fetchall()
    except psycopg.DatabaseError as error:
        if is_lost(error):
            raise
        keyless = isinstance(error, _OF_KEYS) and not all(root.view for root in roots)
        if keyless or isinstance(error, _ARTEFACTS):
            return None
        return f"{_NOT_TAKEN}: {str(error).splitlines()[0]}"
    if not rows:
        return None
    return f"its column {rows[0][0]} would get {rows[0][1]}, which Postgres does not change"
