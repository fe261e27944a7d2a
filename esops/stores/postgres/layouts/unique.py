"""The unique indexes of a described table: which rows they keep apart, and how such an index can be
made on a plain table, a partitioned one, or one from which others inherit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from esops.postgres import catalog
from esops.postgres.statements import statements

_SQL = statements(__package__, "custom")
_MOST_NAMED = 10
"""Partitions for which the statement is written out."""
_C = sql.Identifier


@dataclass(frozen=True)
class UniqueIndex:
    """A unique index of a table."""

    name: str
    columns: tuple[str, ...]
    weakness: str | None
    """Why it does not keep all rows apart; None: it does."""


@dataclass(frozen=True)
class Remedy:
    """How to keep rows apart where nothing does."""

    statements: str | None = None
    """To be run in the database; None where no statement does it."""
    words: str = ""
    """What to do, where no statement does it."""
    impossible: str | None = None
    """Why no unique index can ever be on these columns alone."""


def unique_indexes(connection: psycopg.Connection, table: catalog.Table) -> list[UniqueIndex]:
    """Those of a table, those of expressions alone with no columns."""
    rows = connection.execute(_SQL["unique"], (table.oid,)).fetchall()
    return [UniqueIndex(name, tuple(columns or ()), weakness) for name, columns, weakness in rows]


def proves(index: UniqueIndex, columns: Sequence[str]) -> bool:
    """Whether no two rows can be the same in these columns, where none is null."""
    return index.weakness is None and set(index.columns) <= set(columns)


def remedy(connection: psycopg.Connection, table: catalog.Table, columns: Sequence[str]) -> Remedy:
    """How a table gets a unique index that keeps its rows apart by some columns."""
    name = _C(table.schema, table.name).as_string(None)
    row = connection.execute(
        _SQL["what_an_index_cannot"], {"table": table.oid, "columns": list(columns)}
    ).fetchone()
    inherits, impossible = row or (False, None)
    if inherits:
        return Remedy(
            words=f"No index covers a table and those that inherit from it: move their rows into "
            f"{name} and drop them, or make it a partitioned table."
        )
    if impossible is not None:
        return Remedy(impossible=impossible)
    for each in unique_indexes(connection, table):
        if each.weakness == "is not valid" and set(each.columns) <= set(columns):
            return _of_invalid(table, each)
    create = "CREATE UNIQUE INDEX CONCURRENTLY ON {} ({});"
    listed = sql.SQL(", ").join(map(_C, columns)).as_string(None)
    if table.kind != "p":
        return Remedy(create.format(name, listed))
    # The last one takes those of the partitions for its parts.
    parts = catalog.row_tables(connection, name)
    made = [create.format(part, listed) for part in parts[:_MOST_NAMED]]
    if len(parts) > _MOST_NAMED:
        made.append(f"(and so on for {len(parts) - _MOST_NAMED:,} more partitions)")
    return Remedy(" ".join([*made, f"CREATE UNIQUE INDEX ON {name} ({listed});"]))


def _of_invalid(table: catalog.Table, index: UniqueIndex) -> Remedy:
    name = _C(table.schema, index.name).as_string(None)
    if table.kind != "p":
        return Remedy(f"REINDEX INDEX CONCURRENTLY {name};")
    listed = sql.SQL(", ").join(map(_C, index.columns)).as_string(None)
    return Remedy(
        words=f"Some partition has no index that is attached to {name}. Make it there: CREATE "
        f"UNIQUE INDEX CONCURRENTLY … ON … ({listed}); and attach it: ALTER INDEX {name} ATTACH "
        "PARTITION …;"
    )
