"""How the tables that a rebuild would make differ from those that serve, without making any.

They are created in a transaction that is rolled back, as for a rebuild's plan, and compared part by
part. So it is the same for versions of any age, and whatever was done by hand to what serves
counts: an index that somebody has built since is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.readmodel.composition import Composition, TablePart, composition
from esops.readmodel.object_names import Side
from esops.readmodel.registry import Version
from esops.readmodel.tables import create_statements, rolled_back
from esops.rebuild.green import create_green
from esops.rebuild.planning import side_of
from esops.rebuild.target import Target

_COMPARED = {"column", "index", "check", "foreign key", "statistics", "storage option", "comment"}
"""Kinds of parts that the DDL decides about; the others are taken over from what serves."""
_NAMED = 5
LOCK_WAIT = "300ms"
"""Each pull request asks, and writers of a table that a DDL refers to wait behind it."""


@dataclass(frozen=True)
class TableChanges:
    """What differs, in words; where that is only indexes, the statements that would be enough."""

    said: Sequence[str] = ()
    statements: Sequence[str] = ()
    only_indexes: bool = False


@dataclass
class _Compared:
    said: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    only_indexes: bool = True


def of_tables(
    connection: psycopg.Connection, target: Target, source: Version, to_version: int
) -> TableChanges:
    """Compare what serves with what the DDL makes now. Without DDL, a version is made like the one
    that serves, and nothing differs.

    Raises UsageError or Refused where the DDL does not make the tables.
    """
    if target.settings.ddl is None:
        return TableChanges()
    ddl = target.directory / target.settings.ddl
    blue: dict[str, Table] = {}
    for name, physical in source.tables.items():
        table = catalog.find_table(connection, *physical)
        if table is not None:
            blue[name] = table
    has, gets = _both(connection, target, source, blue, (to_version, ddl))
    compared = _Compared()
    for name, table in blue.items():
        if name in gets:
            _compare(compared, table, has[name], gets[name])
    more = len(compared.said) - _NAMED
    said = compared.said[:_NAMED] + ([f"{more} more"] if more > 0 else [])
    only = bool(compared.said) and compared.only_indexes
    return TableChanges(said, compared.statements if only else (), only)


def try_out(connection: psycopg.Connection, target: Target, number: int) -> None:
    """Make the tables of a projection that was never built, and roll that back.

    Raises UsageError or Refused where they cannot be made.
    """
    ddl = None if target.settings.ddl is None else target.directory / target.settings.ddl
    sides: dict[str, Side] = {}
    for each in target.names:
        table = catalog.find_table(connection, each.schema, each.name)
        if table is not None and table.kind in "rp":
            sides[each.name] = Side(table, each.name, 0)
    create = create_statements(connection, target.names, number, sides, ddl)
    with rolled_back(connection, LOCK_WAIT):
        create_green(connection, target, number, create, sides, ddl)


def _both(
    connection: psycopg.Connection,
    target: Target,
    source: Version,
    blue: Mapping[str, Table],
    new: tuple[int, Path],
) -> tuple[dict[str, Composition], dict[str, Composition]]:
    """What the tables have that serve, and what the DDL would give them."""
    number, ddl = new
    sides = {name: side_of(source, name, table) for name, table in blue.items()}
    create = create_statements(connection, target.names, number, sides, ddl)
    with rolled_back(connection, LOCK_WAIT):
        has: dict[str, Composition] = {
            name: composition(connection, table.oid) for name, table in blue.items()
        }
        made = create_green(connection, target, number, create, sides, ddl)
        gets: dict[str, Composition] = {
            name: composition(connection, table.oid) for name, table in made.tables.items()
        }
    return has, gets


def _compare(into: _Compared, table: Table, has: Composition, gets: Composition) -> None:
    was = {(each.kind, each.text) for each in has if each.kind in _COMPARED}
    will = {(each.kind, each.text) for each in gets if each.kind in _COMPARED}
    came = [each for each in gets if (each.kind, each.text) in will - was]
    went = [each for each in has if (each.kind, each.text) in was - will]
    for each in came:
        _note(into, each, f"new {each.kind}: {_about(each)}", _build(table, each))
    for each in went:
        _note(into, each, f"gone {each.kind}: {_about(each)}", _drop(table, each))


def _note(into: _Compared, part: TablePart, said: str, statement: str | None) -> None:
    into.said.append(said)
    if part.kind == "comment" and part.name.startswith("on index"):
        return  # with its index
    if statement is None:
        into.only_indexes = False
    else:
        into.statements.append(statement)


def _about(part: TablePart) -> str:
    return part.text if part.kind in ("column", "check", "foreign key") else _without_using(part)


def _without_using(part: TablePart) -> str:
    text = part.text.strip()
    return text if part.kind == "index" else f"{part.name}: {text}"


def _build(table: Table, part: TablePart) -> str | None:
    """The statement that gives what serves a new index; None where that is not enough."""
    if not _is_plain_index(part):
        return None
    unique, text = part.text.startswith("UNIQUE "), part.text.removeprefix("UNIQUE ").strip()
    # Only one by one, and not of a partitioned table, can it be built beside the writers.
    beside = "" if table.kind == "p" else "CONCURRENTLY "
    name = qualified(table.schema, table.name).as_string(None)
    return f"CREATE {'UNIQUE ' if unique else ''}INDEX {beside}ON {name} {text}"


def _drop(table: Table, part: TablePart) -> str | None:
    if not _is_plain_index(part):
        return None
    beside = "" if table.kind == "p" else "CONCURRENTLY "
    schema = sql.Identifier(table.schema).as_string(None)
    return f"DROP INDEX {beside}{schema}.{part.name}"


def _is_plain_index(part: TablePart) -> bool:
    """Whether it is an index that no constraint stands behind, in the place that tables have."""
    text = part.text.upper()
    out = (" PRIMARY KEY", " UNIQUE (", " EXCLUDE ", " TABLESPACE ", " INVALID", " CLUSTER")
    return part.kind == "index" and not any(each in text for each in out)
