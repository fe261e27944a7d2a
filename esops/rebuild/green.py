"""Green is created in a transaction that is rolled back, to see what Postgres makes of its
statements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from esops.errors import UsageError
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.readmodel import properties
from esops.readmodel.after_load import AfterLoad, read_after_load
from esops.readmodel.names import physical_tables, placeholders
from esops.readmodel.object_names import Side, names_for_green
from esops.rebuild.target import Target


@dataclass(slots=True)
class Green:
    """What was created: the statements and the tables, by the names that the application reads."""

    create: list[str]
    tables: dict[str, Table] = field(default_factory=dict)
    after_load: list[AfterLoad] = field(default_factory=list)
    """What is built after the load."""
    drop_now: list[str] = field(default_factory=list)
    """The statements that drop it for the load."""
    lacks: list[str] = field(default_factory=list)
    """What blue has and the user's DDL leaves out, in words."""


def create_green(
    connection: psycopg.Connection,
    target: Target,
    version: int,
    create: Sequence[str],
    blue: Mapping[str, Side],
    ddl: Path | None,
) -> Green:
    """Create green, the version of that number, with these statements and what it takes over from
    blue.

    Raises UsageError where the statements do not make its tables, and Refused where a publication
    would publish them.
    """
    made = Green(list(create))
    tables = physical_tables(target.names, version)
    try:
        for statement in create:
            connection.execute(statement.encode())
    except (
        psycopg.errors.SyntaxError,
        psycopg.errors.UndefinedObject,
        psycopg.errors.DuplicateTable,
    ) as error:
        raise UsageError(
            f"green's DDL fails: {str(error).splitlines()[0]}", hint=f"See {ddl}."
        ) from error
    for mark, (name, (schema, physical)) in zip(
        placeholders(target.names), tables.items(), strict=True
    ):
        green = catalog.find_table(connection, schema, physical)
        if green is None:
            raise UsageError(
                f"green's DDL does not create a table {physical}",
                hint=f"Write CREATE TABLE {mark} (…) in {ddl}.",
            )
        made.tables[name] = green
        properties.check_published(connection, [(schema, physical)])
        side = blue.get(name)
        renaming = target.settings.switch == "rename"
        if renaming:
            here = Side(green, name, version)
            _also(connection, made, names_for_green(connection, side, here, like=ddl is None))
        if side is not None:
            made.lacks += properties.missing(connection, side.table, green)
            hidden = properties.hide(connection, side.table, green) if renaming else []
            _also(connection, made, [*hidden, *properties.carry(connection, side.table, green)])
        later, now = read_after_load(connection, green)
        made.after_load += later
        made.drop_now += now
    return made


def _also(connection: psycopg.Connection, made: Green, statements: Sequence[str]) -> None:
    """What green takes over is tried out as well: a grant may fail, or a storage parameter."""
    for statement in statements:
        connection.execute(statement.encode())
    made.create += statements
