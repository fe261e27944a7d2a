"""Whether readers read the version that serves: what stands under the names that they use.

Somebody may have put a table there by hand, or pointed the view at something else. Then esops keeps
a version fresh that nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from esops.config import Config
from esops.errors import Refused
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.readmodel import read_as, registry, serving_view
from esops.readmodel.names import ReadModelName, names_of, shortened
from esops.readmodel.registry import Version

_BRIEFLY = "SET LOCAL lock_timeout = '1s'"
_KINDS = {"r": "table", "p": "table", "m": "materialised view", "f": "foreign table", "v": "view"}
_IN_SQL = {"m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE"}


@dataclass(frozen=True, slots=True)
class SomethingElse:
    """A name that does not stand for the version that serves: why, and the statement for it."""

    projection: str
    version: int
    message: str
    fix: str

    def __str__(self) -> str:
        return f"v{self.version} serves, and readers do not read it: {self.message}"


def look(
    config: Config, connection: psycopg.Connection, projection: str, *, strictly: bool = False
) -> list[SomethingElse]:
    """The names of a projection that are there and do not stand for the version that serves.

    Of one whose table a session holds against readers nothing is found: who asks what is wrong
    must not wait for that session as well. `strictly`: that is raised (LockNotAvailable).
    """
    if config.projection(projection).switch == "hook":
        return []  # its readers are moved by a program, and read what they read
    while (active := registry.active(connection, projection)) is not None:
        names = read_as.as_read(names_of(config, projection, connection), active)
        found = []
        try:
            with connection.transaction():
                # Postgres locks a view's tables before it prints the view.
                connection.execute(_BRIEFLY)
                found = [each for n in names if (each := _look(connection, n, active)) is not None]
        except psycopg.errors.LockNotAvailable:
            if strictly:
                raise
            return []
        now = registry.active(connection, projection)
        # Somebody may have switched between the looks.
        if not found or (now is not None and now.version == active.version):
            return found
    return []


def check(
    connection: psycopg.Connection, name: ReadModelName, current: Table, blue: Table | None
) -> None:
    """Raises Refused where `current`, which has the name, is not the version whose table is
    `blue`.
    """
    if current.kind == "v":
        serving_view.check_unchanged(connection, name, current, blue)
    elif blue is None or current.oid != blue.oid:
        raise Refused(
            f"{_there(name, current)}, and nothing keeps its rows fresh",
            hint=f"Move it away, and put the view back: {_moved_away(connection, name, current)}"
            + (f"; {_view(connection, name, blue)}" if blue is not None else ""),
        )


def check_all(
    connection: psycopg.Connection, names: Sequence[ReadModelName], active: Version
) -> None:
    """`check` for each name of a version that serves."""
    for name in names:
        current = catalog.find_table(connection, name.schema, name.name)
        if current is not None and name.name in active.tables:
            check(
                connection, name, current, catalog.find_table(connection, *active.tables[name.name])
            )


def view(connection: psycopg.Connection, name: ReadModelName, active: Version) -> str:
    """The statement by which a name stands for a version whose tables are there."""
    table = catalog.find_table(connection, *active.tables[name.name])
    assert table is not None
    return _view(connection, name, table)


def _look(
    connection: psycopg.Connection, name: ReadModelName, active: Version
) -> SomethingElse | None:
    current = catalog.find_table(connection, name.schema, name.name)
    if current is None or name.name not in active.tables:
        return None
    blue = catalog.find_table(connection, *active.tables[name.name])
    if blue is None:
        return None  # said by those who look for missing tables
    if current.kind != "v":
        if current.oid == blue.oid:
            return None
        message = _there(name, current)
        fix = f"{_moved_away(connection, name, current)}; {_view(connection, name, blue)};"
    elif serving_view.shows(connection, current, blue):
        return None
    else:
        message = f"the view {name} does not show {blue.schema}.{blue.name} as it is"
        fix = serving_view.set_back(connection, name, current, blue) + ";"
    return SomethingElse(active.projection, active.version, message, fix)


def _there(name: ReadModelName, current: Table) -> str:
    kind = _KINDS.get(current.kind, "relation")
    return f"{name} is a {kind} that esops did not put there"


def _moved_away(connection: psycopg.Connection, name: ReadModelName, current: Table) -> str:
    to = sql.Identifier(shortened(name.name, "__by_hand")).as_string(connection)
    kind = _IN_SQL.get(current.kind, "TABLE")
    return f"ALTER {kind} {name.identifier.as_string(connection)} RENAME TO {to}"


def _view(connection: psycopg.Connection, name: ReadModelName, blue: Table) -> str:
    columns = sql.SQL(", ").join(sql.Identifier(each.name) for each in blue.columns)
    return (
        sql.SQL("CREATE VIEW {} AS SELECT {} FROM {}")
        .format(name.identifier, columns, qualified(blue.schema, blue.name))
        .as_string(connection)
    )
