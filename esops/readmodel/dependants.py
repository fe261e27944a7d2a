"""What else in the database refers to a read model by its identity and not by its name: views,
functions, policies of other tables, columns of its row type, and whatever else pg_depend knows.

After a switch, all of it would silently stay with the old version.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from esops.postgres.statements import statements

_SQL = statements(__package__, "dependants")
REPLACED = "esops: replaced by a switch, and to be dropped"
"""The comment of a function that another one has replaced: whoever was calling it at the moment of
the switch finds it still.
"""
_CALLS = timedelta(seconds=2)
"""How long calls that were waiting for a switch may take before such a function is dropped."""

Reference = tuple[str, int]
"""What is referred to: the catalogue table that has it, and its oid."""


@dataclass(frozen=True, slots=True)
class Dependant:
    """One object that refers to a relation, its row type, or a function."""

    kind: str
    """view, materialised view, rule, policy, default, generated column, foreign key, constraint,
    trigger, function, index, column, table, or other.
    """
    catalogue: str
    """The catalogue table that has it."""
    oid: int
    """Of views the relation's; otherwise that of the object itself."""
    name: str
    """In words, with its qualified name: `policy p of public.orders`."""
    relation: int
    """The relation that it belongs to; 0 where there is none."""
    relation_name: str
    relation_is_view: bool
    column: str | None
    """Quoted where it has to be."""
    uses: tuple[tuple[Reference, str | None], ...]
    """What it refers to, and which column of that."""
    owner: str
    ours: bool
    """Whether this session's role may change it."""
    of_extension: bool
    has_type: bool
    """Whether a row type that is referred to is part of its own columns or signature, so that it
    cannot be replaced in its place.
    """
    makes_rows: bool
    """Whether its definition gives values for all columns of a row type that is referred to."""
    unparsed: bool
    """Whether it is a function whose body is text: Postgres does not know what that refers to."""

    @property
    def reference(self) -> Reference:
        """As what others would refer to it."""
        return ("pg_proc" if self.kind == "function" else "pg_class", self.oid)


def references(connection: psycopg.Connection, relation: int) -> list[Reference]:
    """As what others can refer to a relation: itself, its row type, and the array of that."""
    types = connection.execute(_SQL["types"], {"oid": relation}).fetchall()
    return [("pg_class", relation), *(("pg_type", row[0]) for row in types)]


def dependants(
    connection: psycopg.Connection, moved: Iterable[Reference], roots: Sequence[int]
) -> list[Dependant]:
    """What refers directly to any of these, each object once.

    What belongs to one of the relations `roots` is not listed. Names are qualified if the search
    path is empty (`qualified_names`).
    """
    pairs = list(moved)
    parameters = {
        "classes": [each for each, _ in pairs],
        "oids": [oid for _, oid in pairs],
        "roots": list(roots),
        "replaced": REPLACED,
    }
    any_found = connection.execute(_SQL["any_dependants"], parameters).fetchone()
    if any_found is None or not any_found[0]:
        return []
    rows = connection.execute(_SQL["dependants"], parameters).fetchall()
    found: dict[Reference, Dependant] = {}
    for kind, catalogue, oid, name, relation, relation_name, is_view, column, uses, *rest in rows:
        used = _uses(uses)
        known = found.get((kind, oid))
        # A view appears twice where it has a column of the row type: once for each of both.
        if known is not None:
            rest[-3] = rest[-3] or known.has_type
            used += known.uses
        found[kind, oid] = Dependant(
            kind,
            catalogue,
            oid,
            name,
            relation,
            relation_name,
            is_view,
            column,
            tuple(dict.fromkeys(used)),
            *rest,
        )
    return list(found.values())


def drop_replaced(connection: psycopg.Connection, *, wait: bool = False) -> None:
    """Drop the functions that a switch has replaced, in a transaction.

    `wait`: first until the transactions of now are over, for two seconds at most.
    """
    statements = connection.execute(_SQL["replaced"], {"replaced": REPLACED}).fetchall()
    if not statements:
        return
    deadline = time.monotonic() + _CALLS.total_seconds()
    running: list[str] | None = None
    while wait and running != [] and time.monotonic() < deadline:
        running = [row[0] for row in connection.execute(_SQL["running"], {"of": running})]
        time.sleep(0.02)
    with connection.transaction():
        for (statement,) in statements:
            connection.execute(statement.encode())


@contextmanager
def qualified_names(connection: psycopg.Connection) -> Iterator[None]:
    """While this lasts, Postgres writes every name with its schema."""
    with connection.transaction(force_rollback=True):
        connection.execute("SELECT set_config('search_path', '', true)")
        yield


def _uses(found: Any) -> tuple[tuple[Reference, str | None], ...]:
    return tuple(((str(kind), int(oid)), column) for kind, oid, column in found)
