"""Tables under the names that readers use, which get their version's suffix when another version
serves.

Those that the other version has as well make room for it. One that it lacks moves aside all the
same, with `switch = "rename"`: its version stays whole, and no reader takes rows for fresh that
nobody keeps so. A view on such a table stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.postgres import catalog, publications
from esops.postgres.catalog import Table
from esops.readmodel import object_names, serving_view
from esops.readmodel.names import ReadModelName, physical_name
from esops.readmodel.registry import Version


def lacking(source: Version | None, names: Sequence[ReadModelName]) -> list[ReadModelName]:
    """The names of the version that serves that are not among those of the other one."""
    kept = {each.name for each in names}
    tables = {} if source is None else source.tables
    return [ReadModelName(schema, name) for name, (schema, _) in tables.items() if name not in kept]


def of_tables(source: Version | None, names: Sequence[ReadModelName]) -> list[ReadModelName]:
    """Those of them that are the tables themselves."""
    found = lacking(source, names)
    return [e for e in found if source and source.tables[e.name] == (e.schema, e.name)]


def statements(
    connection: psycopg.Connection,
    source: Version | None,
    names: Sequence[ReadModelName],
    mode: str,
) -> list[str]:
    """The statements that move aside what the other version lacks.

    Raises Refused where a view has the place of tables by now, or where one is published.
    """
    done: list[str] = []
    for name in of_tables(source, names) if mode != "hook" else ():
        table = catalog.find_table(connection, name.schema, name.name)
        if source is None or table is None:
            continue
        if mode == "view":
            raise Refused(
                f"{name} is a table of v{source.version} of {source.projection} itself, and the "
                "version to switch to lacks it: no view could show it",
                hint='Nothing was changed. With switch = "rename" it moves aside.',
            )
        serving_view.check_owner(connection, name, table)
        done.append(rename(connection, source, name, table))
        side = object_names.Side(table, name.name, source.version)
        done += object_names.away(connection, side)
    return done


def rename(
    connection: psycopg.Connection, source: Version, name: ReadModelName, current: Table
) -> str:
    """A table that has the name itself gets its version's suffix."""
    moved = physical_name(name.name, source.version)
    publications.check_rename(connection, current, moved)
    return (
        f"ALTER TABLE {name.identifier.as_string(connection)} RENAME TO "
        f"{sql.Identifier(moved).as_string(connection)}"
    )


def notes(source: Version | None, names: Sequence[ReadModelName], to: int, mode: str) -> list[str]:
    """What becomes of the names that the version of that number lacks, in words."""
    if source is None or mode == "hook":
        return []
    moved = of_tables(source, names)
    return [
        f"v{to} has no {each}: v{source.version}'s becomes "
        f"{physical_name(each.name, source.version)}, and who still reads it gets an error"
        if each in moved
        else f"v{to} has no {each}: it stays as v{source.version}'s, and is fresh only as long as "
        f"something keeps v{source.version} fresh"
        for each in lacking(source, names)
    ]


def check_written(source: Version | None, names: Sequence[ReadModelName]) -> None:
    """Raises Refused where the application writes a table with each append that the other version
    lacks.
    """
    for each in lacking(source, names):
        raise Refused(
            f"{each} is none of the tables of the version to switch to, and the application writes "
            "it with each append",
            hint="Nothing was changed. Keep it in `tables`, or let the application write it no "
            "more and name another `live`.",
        )
