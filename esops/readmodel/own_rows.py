"""Whether a version's rows are those of its checkpoint.

Both move in one transaction, and nothing but esops moves them. So whoever empties, replaces or
restores a table, or sets a checkpoint back by hand, makes the checkpoint untrue: what follows from
there would be wrong without a word. Three things tell that without a look at the rows: the event
that was applied last lies beyond the checkpoint; the registry counts rows, and there is none; the
tables are not those in which the version was built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from esops.errors import EsopsError, OtherRows
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.connection import translated
from esops.postgres.statements import statements
from esops.readmodel.registry import LIVE_STATES, Version
from esops.readmodel.tables import has_rows
from esops.wording import count

_SQL = statements(__package__, "own_rows")


def check(connection: psycopg.Connection, version: Version) -> None:
    """Raises OtherRows where a version's rows are not those of its checkpoint."""
    check_applied(version)
    oids = _oids(connection, version)
    _check_same_tables(connection, version, oids)
    _check_not_emptied(connection, version, oids)


def check_applied(version: Version) -> None:
    """Raises OtherRows where events beyond a version's checkpoint are in its rows already."""
    if version.position is None or version.applied is None:
        return
    last = Position.parse(version.applied["position"])
    if last > version.position:
        raise OtherRows(
            f"{_name(version)} has applied events up to position {last}, and its checkpoint was "
            f"set back to {version.position}: the events between would be applied twice",
            hint=f"{_remedy(version)}. If its rows were set back as well: "
            f"{_statement(version, 'applied')}",
        )


def look(connection: psycopg.Connection, version: Version) -> OtherRows | None:
    """What `check` would raise, for whoever only looks: nothing where a table is locked, or this
    role may not read it.
    """
    if version.state not in {*LIVE_STATES, "building"}:
        return None
    try:
        with translated(), connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '500ms'")
            check(connection, version)
    except OtherRows as found:
        return found
    except (EsopsError, psycopg.Error):
        return None  # that is said where the table is used
    return None


def note_tables(connection: psycopg.Connection, version: Version) -> None:
    """Keep which tables a version is in, where that is not known, or all was restored since."""
    now = _relations(connection, _oids(connection, version))
    if version.relations != now and not _comparable(version.relations, now):
        connection.execute(_SQL["noted"], (Jsonb(now), version.projection, version.version))


def _check_same_tables(
    connection: psycopg.Connection, version: Version, oids: Mapping[str, int]
) -> None:
    kept, now = version.relations, _relations(connection, oids)
    if kept is None or not _comparable(kept, now):
        return
    for name, oid in now["tables"].items():
        if kept["tables"].get(name, oid) != oid:
            table = ".".join(version.tables[name])
            raise OtherRows(
                f"the table {table} is not the one in which {_name(version)} was built: it was "
                "restored or made again, and its rows need not be those of the version's "
                f"checkpoint ({version.position or 'none'})",
                hint=f"{_remedy(version)}. If its rows are those: "
                f"{_statement(version, 'relations')}",
            )


def _check_not_emptied(
    connection: psycopg.Connection, version: Version, oids: Mapping[str, int]
) -> None:
    # While a rebuild replaces rows in place, the version that serves has no checkpoint.
    if not version.rows or (version.position is None and version.state != "building"):
        return
    # Only of a fold are rows counted with each checkpoint: other code may have deleted them all.
    if not version.value_types:
        return
    known = [oids[name] for name in version.tables if name in oids]
    unlogged = connection.execute(_SQL["unlogged"], (known,)).fetchone()
    readable = connection.execute(_SQL["may_read"], (known,)).fetchone()
    if len(known) < len(version.tables) or not (readable and readable[0]):
        return
    if any(has_rows(connection, table) for table in version.tables.values()):
        return
    tables = ", ".join(".".join(table) for table in version.tables.values())
    why = "a server empties an UNLOGGED table when it crashes" if unlogged and unlogged[0] else ""
    raise OtherRows(
        f"{_name(version)} had {count(version.rows, 'row')}, and {tables} is empty"
        + (f" ({why})" if why else ""),
        hint=f"{_remedy(version)}. If it is rightly empty: {_statement(version, 'rows', '0')}",
    )


def _oids(connection: psycopg.Connection, version: Version) -> dict[str, int]:
    found = {
        name: catalog.oid_of(connection, *physical) for name, physical in version.tables.items()
    }
    return {name: oid for name, oid in found.items() if oid is not None}


def _relations(connection: psycopg.Connection, oids: Mapping[str, int]) -> dict[str, Any]:
    row = connection.execute(_SQL["registry"]).fetchone()
    return {"registry": None if row is None else row[0], "tables": dict(oids)}


def _comparable(kept: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    return kept is not None and kept.get("registry") == now["registry"]


def _name(version: Version) -> str:
    return f"{version.projection} v{version.version}"


def _remedy(version: Version) -> str:
    rebuild = f"esops rebuild {version.projection} --blue-green"
    if version.state == "building":
        return f"Drop this rebuild with `{rebuild} --abort`, and start it again"
    if version.state == "standby":
        return f"Drop it with `esops projection retire {version.projection} {version.version}`"
    return f"Rebuild it with `{rebuild}`"


def _statement(version: Version, column: str, value: str = "NULL") -> str:
    name = sql.Literal(version.projection).as_string(None)
    return (
        f"UPDATE esops.versions SET {column} = {value} WHERE projection = {name} AND version = "
        f"{version.version};"
    )
