"""Green is created in a transaction that is rolled back, to see what Postgres makes of its
statements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg

from esops.errors import UsageError
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.readmodel import properties
from esops.readmodel.after_load import AfterLoad, foreign_keys_within, read_after_load
from esops.readmodel.left_out import take_over
from esops.readmodel.names import physical_tables, placeholders
from esops.readmodel.object_names import Side, aside, names_for_green
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
    notes: list[str] = field(default_factory=list)
    """What becomes of what blue has and the user's DDL leaves out."""


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
    made = Green([])
    back: list[str] = []
    others = [each.table for each in blue.values() if not _owns(connection, each.table)]
    if ddl is not None:
        away, back = aside(connection, list(blue.values()), "\n".join(create))
        _also(connection, made, away)
    _create(connection, made, create, ddl, others)
    renaming = target.settings.switch == "rename"
    sides: list[tuple[str, Side]] = []
    for mark, (name, (schema, physical)) in zip(
        placeholders(target.names), physical_tables(target.names, version).items(), strict=True
    ):
        green = catalog.find_table(connection, schema, physical)
        if green is None:
            raise UsageError(
                f"green's DDL does not create a table {physical}",
                hint=f"Write CREATE TABLE {mark} (…) in {ddl}.",
            )
        made.tables[name] = green
        properties.check_new_table(connection, green)
        here = Side(green, name, version)
        names = names_for_green(
            connection, blue.get(name), here, like=ddl is None, renaming=renaming
        )
        _also(connection, made, names)
        sides.append((mark, here))
    _also(connection, made, back)
    for mark, here in sides:
        if here.name in blue and renaming:
            _also(connection, made, properties.hide(connection, blue[here.name].table, here.table))
        of_ddl = mark if ddl is not None else None
        shown = target.settings.switch == "view"
        _like_blue(connection, made, (blue.get(here.name), here), of_ddl, shown=shown)
    tables = list(made.tables.values())
    later, first = foreign_keys_within(connection, tables, by_ddl=ddl is not None)
    # What is NOT VALID is among the constraints of its table already.
    known = {each.statement for each in made.after_load}
    made.after_load += [each for each in later if each.statement not in known]
    made.drop_now = [*first, *(each for each in made.drop_now if each not in first)]
    return made


def _owns(connection: psycopg.Connection, table: Table) -> bool:
    row = connection.execute("SELECT pg_has_role(%s, 'USAGE')", (table.owner,)).fetchone()
    return bool(row and row[0])


def _create(
    connection: psycopg.Connection,
    made: Green,
    create: Sequence[str],
    ddl: Path | None,
    others: Sequence[Table],
) -> None:
    """`others`: tables that serve and whose names this role cannot move aside."""
    try:
        for statement in create:
            connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        raise
    except (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject) as error:
        raise UsageError(
            f"green's DDL fails: {str(error).splitlines()[0]}",
            hint="Something else in the schema has that name already, and each version needs names "
            f"of its own. In {ddl}, leave the name out: Postgres chooses one."
            + (
                f" Or run this as a member of {others[0].owner}, which owns {others[0].name}: if "
                "that has the name, its owner can move it aside."
                if others
                else ""
            ),
        ) from error
    except psycopg.ProgrammingError as error:
        raise UsageError(
            f"green's DDL fails: {str(error).splitlines()[0]}", hint=f"See {ddl}."
        ) from error
    made.create += create


def _like_blue(
    connection: psycopg.Connection,
    made: Green,
    sides: tuple[Side | None, Side],
    mark: str | None,
    *,
    shown: bool,
) -> None:
    """Give green what blue has; `sides` are both. `mark` stands for the table in the user's DDL,
    where there is one. `shown`: a view will show green.
    """
    blue, green = sides
    taken: set[str] = set()
    later, now = read_after_load(connection, green.table)
    if blue is not None:
        if mark is not None:
            left_out = take_over(connection, blue, green, mark)
            made.create += left_out.statements
            lacks = [
                *(
                    f"{each}, which the DDL leaves out"
                    for each in properties.missing(connection, blue.table, green.table)
                ),
                *left_out.lacks,
            ]
            made.notes += [f"not carried over from blue: {each}" for each in lacks]
            made.notes += [
                f"taken over from blue, since the DDL leaves it out: {each}"
                for each in left_out.taken
            ]
            if left_out.statements:  # they are executed
                before = {each.what for each in later}
                later, now = read_after_load(connection, green.table)
                taken = {each.what for each in later} - before
        carried = properties.carry(connection, blue.table, green.table, shown=shown)
        _also(connection, made, carried)
        if carried:
            later, now = read_after_load(connection, green.table)
    by_ddl = mark is not None
    made.after_load += [replace(each, by_ddl=by_ddl and each.what not in taken) for each in later]
    made.drop_now += now


def _also(connection: psycopg.Connection, made: Green, statements: Sequence[str]) -> None:
    """What green takes over is tried out as well: a grant may fail, or a storage parameter."""
    for statement in statements:
        connection.execute(statement.encode())
    made.create += statements
