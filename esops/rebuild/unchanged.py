"""Whether the version that serves is still as it was when the other one was made like it.

An index, a column or a check that it got since would be lost by the switch, and one that it lost
would be back. A program that writes the new column, or a value that the old check refuses, would
fail from then on.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.postgres import catalog
from esops.postgres.connection import qualified
from esops.readmodel import registry
from esops.readmodel.composition import TAKEN_WITH_NAME, Composition, changes, composition
from esops.readmodel.names import physical_name
from esops.readmodel.registry import Version
from esops.rebuild import journal
from esops.wording import count

_NAMED = 5


def of_version(connection: psycopg.Connection, version: Version) -> dict[str, Composition]:
    """What the tables of a version have, by the names that readers use."""
    found: dict[str, Composition] = {}
    for name, physical in version.tables.items():
        oid = catalog.oid_of(connection, *physical)
        if oid is not None:
            found[name] = composition(connection, oid)
    return found


def hold(connection: psycopg.Connection, source: Version | None) -> None:
    """Let nobody change the tables of a version until the transaction ends. Readers and writers do
    not wait for that.
    """
    if source is None:
        return
    tables = [qualified(*each) for each in source.tables.values()]
    statement = sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE")
    connection.execute(statement.format(sql.SQL(", ").join(tables)))


def check(
    connection: psycopg.Connection, source: Version | None, target: Version, *, by_rename: bool
) -> None:
    """Raises Refused where the tables that serve have changed since the target was made like them,
    or since they took its place, and the target has not got the same.
    """
    kept = {} if source is None else journal.kept_composition(connection, source, target)
    if source is None or not kept:
        return
    now = of_version(connection, source)
    if now == kept:
        return
    other = of_version(connection, target)
    without = TAKEN_WITH_NAME if by_rename else ()
    found = {
        name: changed
        for name, then in kept.items()
        if name in now
        and name in other
        and (changed := changes(then, now[name], other[name], without))
    }
    if not found:
        return
    said = [f"{name}: {_words(changed)}" for name, changed in found.items()]
    tables = ", ".join(".".join(target.tables[name]) for name in found)
    building = target.state == "building"
    since = "was made" if building else "was the one to switch to"
    or_else = (
        f"Or drop it and start again: esops rebuild {target.projection} --blue-green --abort, and "
        "rebuild"
        if building
        else f"Or make a new version: esops rebuild {target.projection} --blue-green"
    )
    raise Refused(
        f"v{source.version} has changed since v{target.version} {since}, and the switch would lose "
        f"that ({'; '.join(said)})",
        hint=f"Nothing was changed. Do the same to {tables}, and switch again. {or_else}",
    )


def note_aside(connection: psycopg.Connection, source: Version) -> None:
    """Keep in the registry that the tables with a name that readers use got their version's."""
    kept = {
        name: (schema, physical_name(name, source.version) if physical == name else physical)
        for name, (schema, physical) in source.tables.items()
    }
    # Nothing was renamed where the name was a view before.
    if kept != source.tables:
        registry.set_tables(connection, source.projection, source.version, kept)


def remember(connection: psycopg.Connection, serving: Version, before: Version) -> None:
    """Keep what the tables have that serve from now on, for the switch back."""
    entry = journal.latest(connection, serving.projection)
    if entry is not None:
        found = of_version(connection, serving)
        journal.keep_composition(
            connection, entry.rebuild, (serving.version, before.version), found
        )


def _words(changed: list[str]) -> str:
    more = len(changed) - _NAMED
    return ", ".join(changed[:_NAMED]) + (f" and {count(more, 'more')}" if more > 0 else "")
