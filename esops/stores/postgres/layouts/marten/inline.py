"""Marten's inline projections, whose documents each append writes in its own transaction.

Nothing lists them. An async projection has a row of progress; a document table, or one that a flat
table projection writes to, without such a row is written by the application. Facts: databases that
9.58 and 9.29 made; see docs/reference/layouts.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
from psycopg import sql

from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.stores.parts import InlineTable
from esops.stores.postgres.layouts.marten.daemon import BOOKKEEPING

_SQL = statements(__package__, "inline")
_ROW = re.compile(r"(?P<name>[^:]+)(?::V(?P<version>\d+))?:")
_NUMBERED = re.compile(r"(?P<alias>.+)_(?P<version>\d+)\Z")
_PROGRESSION = "mt_event_progression"


def tables(connection: psycopg.Connection) -> list[InlineTable]:
    """The tables of the database that have the form of Marten's, and no projection's progress."""
    rows = connection.execute(_SQL["tables"]).fetchall()
    if not rows:
        return []
    # Of all of Marten's stores in the database: documents may lie in any schema.
    known = _projections(connection)
    found = []
    for schema, name, alias, document in rows:
        if known.keys().isdisjoint(_called(alias)):
            what = "a document table" if document else "the table of a flat table projection"
            found.append(
                InlineTable(
                    schema,
                    name,
                    f"it is {what} of Marten, and {_PROGRESSION} has no projection of that name",
                    registered=False,
                )
            )
    return found


def processor(connection: psycopg.Connection, table: str) -> str | None:
    """The row of progress of the async projection that makes a table; None where there is none."""
    known = _projections(connection)
    alias = table.removeprefix("mt_doc_")
    return next((known[each] for each in _called(alias) if each in known), None)


def _projections(connection: psycopg.Connection) -> dict[tuple[str, int], str]:
    """The rows of progress of async projections, each by the projection's name in the form of a
    table's, and its version.
    """
    found: dict[tuple[str, int], str] = {}
    for schema in catalog.schemas_with(connection, _PROGRESSION):
        statement = sql.SQL("SELECT name FROM {} ORDER BY name").format(
            sql.Identifier(schema, _PROGRESSION)
        )
        for (row,) in connection.execute(statement).fetchall():
            match = _ROW.match(row)
            if match is None or match["name"] in BOOKKEEPING:
                continue
            name, version = _plain(match["name"]), int(match["version"] or 1)
            found.setdefault((name, version), row)
            # What a class is called that makes documents of another one.
            found.setdefault((name.removesuffix("projection"), version), row)
    return found


def _called(alias: str) -> Iterator[tuple[str, int]]:
    """What the projection of a table may be called, and in which version."""
    yield _plain(alias), 1
    if numbered := _NUMBERED.match(alias):
        yield _plain(numbered["alias"]), int(numbered["version"])


def _plain(name: str) -> str:
    return "".join(each for each in name.lower() if each.isalnum())
