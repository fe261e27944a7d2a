"""Emmett's inline projections, whose documents each append writes in its own transaction.

Emmett lists all projections in emt_projections, and writes type `a` for inline ones, too: what
tells them apart is that only an async one has a processor. Facts: databases that 0.42.0 and
0.43.0-beta.39 made; see docs/reference/layouts.md.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.stores.inline_tables import InlineTable, KeptTable

_SQL = statements(__package__, "inline")
_C = sql.Identifier
_INACTIVE = "set its status in emt_projections to 'inactive'"
_NAMED = ("tables", "kept")
"""The statements that give names of tables, which `located` looks for."""
PROJECTOR = "emt:processor:projector:"
"""Begins the name of a processor that is an async projection."""


def tables(connection: psycopg.Connection, schema: str) -> list[InlineTable]:
    """The tables of the inline projections that are active."""
    statement = _statement(connection, schema, "tables")
    if statement is None:
        return []
    return [
        InlineTable(
            where,
            name,
            f"Emmett lists the projection {name!r} in emt_projections, and no processor makes it",
            _INACTIVE,
            registered=True,
        )
        for where, name, _ in connection.execute(statement).fetchall()
    ]


def status(connection: psycopg.Connection, schema: str, name: str) -> str | None:
    """The status of an inline projection, by its name; None where there is none."""
    statement = _statement(connection, schema, "status")
    if statement is None:
        return None
    row = connection.execute(statement, {"name": name}).fetchone()
    return None if row is None else str(row[0])


def kept(connection: psycopg.Connection, schema: str) -> list[KeptTable]:
    """The tables of the projections that a processor makes."""
    statement = _statement(connection, schema, "kept")
    if statement is None:
        return []
    return [
        KeptTable(
            where,
            name,
            (processor,) if processor else (),
            f"emt_processors has the processor {processor!r}"
            if processor
            else f"emt_projections has {name!r} as 'async_processing', so that a processor with a "
            "name of its own makes it",
            "delete its row from emt_processors"
            if processor
            else "set its status in emt_projections to 'inactive', or 'active' where it is inline",
            f"delete its row from emt_processors, and {_INACTIVE}" if processor else _INACTIVE,
            registered=True,
        )
        for where, name, processor in connection.execute(statement).fetchall()
    ]


def _statement(connection: psycopg.Connection, schema: str, which: str) -> sql.Composed | None:
    # Up to 0.41 there are neither: then nothing tells which projections there are.
    for table in ("emt_projections", "emt_processors"):
        if catalog.find_table(connection, schema, table) is None:
            return None
    text = _SQL[which]
    if which in _NAMED:
        text = _SQL["located"].replace("{named}", text)
    return sql.SQL(text).format(
        projections=_C(schema, "emt_projections"),
        processors=_C(schema, "emt_processors"),
        projector=sql.Literal(PROJECTOR),
        schema=sql.Literal(schema),
    )
