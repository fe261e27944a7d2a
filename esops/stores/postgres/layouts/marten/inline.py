"""Marten's inline projections, whose documents each append writes in its own transaction.

Nothing lists them. An async projection has a row of progress; a document table, or one that a flat
table projection writes to, without such a row is written by the application. Facts: databases that
9.58 and 9.29 made; see docs/reference/layouts.md.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

import psycopg
from psycopg import sql

from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.stores.inline_tables import InlineTable, KeptTable
from esops.stores.postgres.layouts.marten.daemon import BOOKKEEPING

_SQL = statements(__package__, "inline")
_ROW = re.compile(r"(?P<name>[^:]+)(?::V(?P<version>\d+))?:")
_NUMBERED = re.compile(r"(?P<alias>.+)_(?P<version>\d+)\Z")
_PROGRESSION = "mt_event_progression"
_TAKEN_OVER = "rename it, and let esops make a new one by `ddl`"


def tables(connection: psycopg.Connection) -> list[InlineTable]:
    """The tables of the database that have the form of Marten's, and no projection's progress."""
    return [
        InlineTable(
            schema,
            name,
            f"it is {what} of Marten, and {_PROGRESSION} has no projection of that name",
            _TAKEN_OVER,
            registered=False,
        )
        for schema, name, what, processors in _found(connection)
        if not processors
    ]


def kept(connection: psycopg.Connection) -> list[KeptTable]:
    """Those that have the progress of an async projection of their name."""
    return [
        KeptTable(
            schema,
            name,
            processors,
            f"it is {what} of Marten, and {_PROGRESSION} has {', '.join(processors)}",
            f"delete its row from {_PROGRESSION}",
            _TAKEN_OVER,
            registered=False,
        )
        for schema, name, what, processors in _found(connection)
        if processors
    ]


def _found(
    connection: psycopg.Connection,
) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Tables in Marten's form: schema, name, what each is, and its projection's progress."""
    rows = connection.execute(_SQL["tables"]).fetchall()
    # Of all of Marten's stores in the database: documents may lie in any schema.
    known = _projections(connection) if rows else {}
    for schema, name, alias, document in rows:
        what = "a document table" if document else "the table of a flat table projection"
        processors = (row for each in _called(alias) for row in known.get(each, ()))
        yield schema, name, what, tuple(dict.fromkeys(processors))


def _projections(connection: psycopg.Connection) -> dict[tuple[str, int], list[str]]:
    """The rows of progress of async projections, by the projection's name in the form of a table's,
    and its version: one for each shard, and for each tenant that has numbers of its own.
    """
    found = defaultdict[tuple[str, int], list[str]](list)
    for schema in catalog.schemas_with(connection, _PROGRESSION):
        statement = sql.SQL("SELECT name FROM {} ORDER BY name").format(
            sql.Identifier(schema, _PROGRESSION)
        )
        for (row,) in connection.execute(statement).fetchall():
            match = _ROW.match(row)
            if match is None or match["name"] in BOOKKEEPING:
                continue
            name, version = _plain(match["name"]), int(match["version"] or 1)
            # The second is what a class is called that makes documents of another one.
            for each in {name, name.removesuffix("projection")}:
                found[each, version].append(row)
    return found


def _called(alias: str) -> Iterator[tuple[str, int]]:
    """What the projection of a table may be called, and in which version."""
    yield _plain(alias), 1
    if numbered := _NUMBERED.match(alias):
        yield _plain(numbered["alias"]), int(numbered["version"])


def _plain(name: str) -> str:
    return "".join(each for each in name.lower() if each.isalnum())
