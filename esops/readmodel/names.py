"""The names of a read model: what the application reads, and the tables behind it.

The application reads a name without a version (`cart_summary`). Behind it stand tables with a
version suffix (`cart_summary__v3`), of which a view, or a renamed table, shows the one that serves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from esops.config import Config
from esops.errors import UsageError
from esops.escaping import visible
from esops.postgres import catalog
from esops.postgres.connection import qualified, translated

_OURS = "esops"
"""The schema of esops' own tables."""
_LONGEST_NAME = 63
"""Bytes that Postgres keeps of a name; it cuts the rest off without an error."""


@dataclass(frozen=True, slots=True)
class ReadModelName:
    """A name that the application reads, with its schema."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """Quoted, for SQL."""
        return qualified(self.schema, self.name)


def parse_name(text: str, default_schema: str) -> ReadModelName:
    """Read `name`, `schema.name` or `"a schema"."a name"`. Raises UsageError for anything else."""
    schema, name = catalog.parse_name(text)
    return ReadModelName(default_schema if schema is None else schema, name)


def default_schema(connection: psycopg.Connection, configured: str | None) -> str:
    """The schema of names that come without one: as configured, or else the role's current one."""
    if configured is not None:
        return configured
    row = connection.execute("SELECT coalesce(current_schema(), 'public')").fetchone()
    assert row is not None
    return str(row[0])


def resolved(
    connection: psycopg.Connection, tables: Sequence[str], configured: str | None
) -> list[ReadModelName]:
    """The tables of a projection, each with its schema.

    Raises UsageError where a name without a schema would mean esops' own.
    """
    default = default_schema(connection, configured)
    if configured is None:
        bare = [each for each in tables if catalog.parse_name(each)[0] is None]
        if bare and _ours_is_first(connection, default):
            raise UsageError(
                f"{visible(bare[0])} has no schema, and this role's search_path puts esops' own "
                "schema first",
                hint=f"Write {visible(f'public.{bare[0]}')} in `tables`, or set `schema = …` in "
                "the section [readmodels.NAME].",
            )
    return [parse_name(each, default) for each in tables]


def names_of(config: Config, name: str, connection: psycopg.Connection) -> list[ReadModelName]:
    """The names by which readers know a projection's tables."""
    with translated():
        settings = config.readmodel_of(name)
        return resolved(connection, config.projection(name).tables, settings.db_schema)


def _ours_is_first(connection: psycopg.Connection, current: str) -> bool:
    """Whether esops' own schema is the first of the search path, or will be once it is made.

    The first rebuild makes it, and the tables of the second one would be sought there: a role
    named esops has it in its path, which begins with "$user" by default.
    """
    row = connection.execute("SELECT current_setting('search_path'), current_user").fetchone()
    assert row is not None
    path, role = row
    parts = [each.strip().strip('"') for each in path.split(",")]
    sought = [role if each == "$user" else each for each in parts]
    # A schema that does not exist, or that the role may not use, does not count.
    before = sought[: sought.index(current)] if current in sought else sought
    return current == _OURS or _OURS in before


def physical_name(name: str, version: int) -> str:
    """The name of a version's table: `name__v3`, or shortened with a hash where that is too long
    for Postgres.
    """
    return shortened(name, f"__v{version}")


def shortened(name: str, suffix: str) -> str:
    """A name with a suffix, shortened with a hash where that is too long for Postgres."""
    if len((name + suffix).encode()) <= _LONGEST_NAME:
        return name + suffix
    # Postgres would cut the suffix off, and all versions would have one name. The hash keeps apart
    # long names with the same beginning.
    tail = "_" + hashlib.sha256(name.encode()).hexdigest()[:8] + suffix
    return name.encode()[: _LONGEST_NAME - len(tail)].decode(errors="ignore") + tail


def physical_tables(names: Sequence[ReadModelName], version: int) -> dict[str, tuple[str, str]]:
    """Schema and physical name of each table of a version, by the name that the application
    reads.
    """
    return {each.name: (each.schema, physical_name(each.name, version)) for each in names}


def placeholders(names: Sequence[ReadModelName]) -> list[str]:
    """What stands for each table in a user's SQL: {table}, or its own name in braces where there
    are several.
    """
    return ["{table}"] if len(names) == 1 else [f"{{{each.name}}}" for each in names]


def with_names(text: str, tables: Mapping[str, tuple[str, str]], *, doubled: bool = False) -> str:
    """A user's SQL with the quoted physical names in place of the placeholders.

    `doubled`: for a statement that is executed with values, where each percent sign is two.
    """
    names = {name: qualified(*table).as_string(None) for name, table in tables.items()}
    names["table"] = names.get("table") or next(iter(names.values()))
    if doubled:
        names = {name: quoted.replace("%", "%%") for name, quoted in names.items()}
    # In one pass: what looks like a placeholder inside a name is part of the name.
    pattern = "|".join(re.escape(f"{{{name}}}") for name in names)
    return re.sub(pattern, lambda found: names[found[0][1:-1]], text)
