"""How the tables that a rebuild would make differ from those that serve, without making any.

They are created in a transaction that is rolled back, as for a rebuild's plan, and compared part by
part. So it is the same for versions of any age, and whatever was done by hand to what serves
counts: an index that somebody has built since is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.postgres.statements import statements
from esops.readmodel.composition import TablePart, composition
from esops.readmodel.names import physical_name
from esops.readmodel.object_names import Side
from esops.readmodel.registry import Version
from esops.readmodel.tables import create_statements
from esops.rebuild.blue import side_of
from esops.rebuild.green import create_green
from esops.rebuild.short_tries import LOOKING, Tries, in_short_tries, to_make
from esops.rebuild.target import Target

_COMPARED = {"column", "index", "check", "foreign key", "statistics", "storage option", "comment"}
"""Kinds of parts that the DDL decides about; the others are taken over from what serves."""
_ADDED = {"trigger", "rule", "row security", "policy", "storage", "partition"}
"""Kinds of which the DDL may add some to those of what serves. Whether it has lost one, nobody can
say: what serves may have it from somebody else.
"""
_UNLOGGED = ("storage", "UNLOGGED")
_SQL = statements(__package__, "table_changes")
_NAMED = 5


@dataclass(frozen=True)
class TableChanges:
    """What differs, in words; where that is only indexes, the statements that would be enough."""

    said: Sequence[str] = ()
    statements: Sequence[str] = ()
    only_indexes: bool = False


@dataclass(frozen=True)
class _Has:
    """The parts of a table, by kind and by text without any version, and its columns in order."""

    parts: Mapping[tuple[str, str], TablePart]
    columns: Sequence[str]


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
    compared = _Compared()
    for name, (has, gets) in _both(connection, target, source, blue, (to_version, ddl)).items():
        _compare(compared, blue[name], has, gets)
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
    in_short_tries(
        connection,
        lambda: create_green(connection, target, number, create, sides, ddl),
        _looking(create, sides),
        rolled_back=True,
    )


def _both(
    connection: psycopg.Connection,
    target: Target,
    source: Version,
    blue: Mapping[str, Table],
    new: tuple[int, Path],
) -> dict[str, tuple[_Has, _Has]]:
    """What the tables have that serve, and what the DDL would give them."""
    number, ddl = new
    sides = {name: side_of(source, name, table) for name, table in blue.items()}
    create = create_statements(connection, target.names, number, sides, ddl)
    plain = _Plain(list(blue), (source.version, number))

    def both() -> dict[str, tuple[_Has, _Has]]:
        has = {name: _read(connection, table, plain) for name, table in blue.items()}
        made = create_green(connection, target, number, create, sides, ddl)
        return {
            name: (has[name], _read(connection, table, plain))
            for name, table in made.tables.items()
            if name in has
        }

    return in_short_tries(connection, both, _looking(create, sides), rolled_back=True)


def _looking(create: Sequence[str], sides: Mapping[str, Side]) -> Tries:
    like = [(each.table.schema, each.table.name) for each in sides.values()]
    return Tries("making the tables for a look", to_make(create, like), patience=LOOKING)


class _Plain:
    """Texts without what only says which version a table is of."""

    def __init__(self, names: Sequence[str], versions: Sequence[int]) -> None:
        known = {physical_name(name, number): name for name in names for number in versions}
        self._names = known
        words = "|".join(re.escape(each) for each in sorted(known, key=len, reverse=True))
        numbers = "|".join(map(str, versions))
        self._pattern = re.compile(rf"({words})(?!\d)|__v(?:{numbers})(?!\d)")

    def __call__(self, text: str, sequences: Mapping[str, str]) -> str:
        """A text; the table owns these sequences, each for a column."""
        for sequence, column in sequences.items():
            text = text.replace(f"nextval('{sequence}'", f"nextval('of {column}'")
        return self._pattern.sub(lambda found: self._names.get(found[1] or "", ""), text)


def _read(connection: psycopg.Connection, table: Table, plain: _Plain) -> _Has:
    owned: dict[str, str] = dict(connection.execute(_SQL["own_sequences"], (table.oid,)).fetchall())
    parts = composition(connection, table.oid)
    return _Has(
        {(each.kind, plain(each.text, owned)): each for each in parts},
        [column.name for column in table.columns],
    )


def _compare(into: _Compared, table: Table, has: _Has, gets: _Has) -> None:
    for key, part in gets.parts.items():
        if key not in has.parts and part.kind in _COMPARED | _ADDED:
            _note(into, part, f"new {part.kind}: {_about(part)}", _build(table, part))
    for key, part in has.parts.items():
        if key not in gets.parts and (part.kind in _COMPARED or key == _UNLOGGED):
            _note(into, part, f"gone {part.kind}: {_about(part)}", _drop(table, part))
    if has.columns != gets.columns and sorted(has.columns) == sorted(gets.columns):
        into.said.append(f"another order of columns: {', '.join(gets.columns)}")
        into.only_indexes = False


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
