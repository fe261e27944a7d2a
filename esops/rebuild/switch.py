"""The switch: one transaction that points the name that readers use at another version, forwards or
back.

What readers are promised: no error, no missing table, and time never moves back. For the last, the
version that serves is held still (its checkpoint's row is locked, which holds no table), the other
version is brought to its position or past it, and only then the name is pointed at it. The lock on
the name itself is requested with a short timeout and retried, so that a long reader makes only the
switch wait, and not everybody behind it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

import psycopg
import structlog
from psycopg import sql

from esops.errors import Refused
from esops.events import Position
from esops.postgres import catalog, publications
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified, translated
from esops.postgres.grants import Change, change_statements, for_green, rights
from esops.postgres.held import end_if_still, wait_briefly
from esops.readmodel import object_names, properties, registry, served, serving_view
from esops.readmodel.dependants import drop_replaced
from esops.readmodel.names import ReadModelName, physical_name
from esops.readmodel.registry import Version
from esops.readmodel.triggers import MovedTriggers, moved
from esops.rebuild import carried, moved_aside, reading_roles, stale, unchanged
from esops.rebuild.blockers import Blocked, Blocker, blockers, sessions
from esops.rebuild.carried import Prepared
from esops.rebuild.hooks import MoveReaders
from esops.rebuild.left_behind import Root
from esops.rebuild.snapshots import (
    DEFAULT_PATIENCE,
    OlderSnapshots,
    SnapshotPatience,
    SnapshotWait,
)

log = structlog.get_logger("esops.switch")

Mode = Literal["view", "rename", "hook"]
_PATIENCE = timedelta(seconds=60)
_BRINGING = timedelta(seconds=60)
"""How long the target may take to get to blue's position while blue's checkpoint is held."""


@dataclass(frozen=True, slots=True)
class Switch:
    """What is switched: the names that readers use, from the version that serves to another one.

    `forced` serves the target even where it is behind. `apart`: the two are of two logs, whose
    positions cannot be compared.
    `move_readers` runs the program of mode `hook` for the target as it is then.
    """

    names: Sequence[ReadModelName]
    mode: Mode
    source: Version | None
    target: Version
    forced: bool = False
    move_readers: MoveReaders | None = None
    grant_select_to: Sequence[str] = ()
    apart: bool = False

    def __str__(self) -> str:
        return ", ".join(map(str, self.names))


def prepare(connection: psycopg.Connection, what: Switch) -> Prepared:
    """The statements of a switch, in order, as the catalogue is now.

    Raises Refused where a table does not exist, where something refers to a name in a way that the
    switch would leave behind, or where a table is published that gets another name.
    """
    pairs = pairs_of(connection, what)
    for name, current, _ in pairs:
        if current is not None:
            serving_view.check_owner(connection, name, current)
    changing, done = roots(what, pairs), list[str]()
    goes_with = carried.carry(connection, changing)
    for name, current, target in pairs:
        blue = _blue(connection, what, name)
        if current is not None:
            served.check(connection, name, current, blue)
        own = MovedTriggers([], [])
        if what.mode == "rename" and current is not None and current.kind in "rp":
            own = moved(connection, current, target, name.identifier.as_string(connection))
            done += own.before
        published: tuple[list[str], list[str]] = [], []
        if current is not None and current.kind in "rp":
            if what.mode == "rename":
                serving = name.identifier.as_string(connection)
                published = publications.moved(connection, current.oid, target.oid, serving)
            done += published[0]
            assert what.source is not None
            done.append(moved_aside.rename(connection, what.source, name, current))
        elif current is not None and not _stays(what, current, target):
            done.append(goes_with.away(name))
        point = _rename_to if what.mode == "rename" else _point_view_at
        pointed = point(connection, what, name, current, target)
        if what.mode == "rename":
            pointed = _with_names(connection, what, name, pointed, target)
        if what.mode == "rename" and current is not None and current.kind in "rp":
            serving = name.identifier.as_string(connection)
            pointed += properties.same_row_security(connection, current, target, serving)
        done += [*_same_rights(connection, what, current, blue, target), *pointed]
        done += [*own.after, *published[1]]
        done += reading_roles.grants(connection, name, current, what.grant_select_to)
    done += moved_aside.statements(connection, what.source, what.names, what.mode)
    return Prepared([*goes_with.before, *done, *goes_with.after], goes_with, changing)


def roots(what: Switch, pairs: Sequence[tuple[ReadModelName, Table | None, Table]]) -> list[Root]:
    """Those names that will stand for another relation than now."""
    return [
        Root(name, current, target, what.mode == "view")
        for name, current, target in pairs
        if current is not None and not _stays(what, current, target)
    ]


def left_stale(connection: psycopg.Connection, what: Switch) -> list[str]:
    """The materialised views that would keep the rows of the version that serves now, in words.

    Raises as `prepare`.
    """
    if what.mode == "hook":
        return []
    there = [catalog.find_table(connection, name.schema, name.name) for name in what.names]
    found = stale.reading(connection, [each.oid for each in there if each is not None])
    if not found:
        return []
    return stale.left_stale(found, prepare(connection, what).carried.relations)


def _with_names(
    connection: psycopg.Connection,
    what: Switch,
    name: ReadModelName,
    renames: list[str],
    target: Table,
) -> list[str]:
    """The renames of a table with those of what belongs to it, so that what serves bears the names
    that it had.
    """
    blue = _blue(connection, what, name)
    source = None
    if blue is not None and what.source is not None:
        source = object_names.Side(blue, name.name, what.source.version)
    here = object_names.Side(target, name.name, what.target.version)
    done = [*renames, *object_names.exchange(connection, source, here)]
    if blue is None:
        return done
    serving = name.identifier.as_string(connection)
    return [
        *object_names.advance_identities(connection, blue.oid, target.oid),
        *done,
        *object_names.own_sequences(connection, blue.oid, target.oid, serving),
    ]


def _blue(connection: psycopg.Connection, what: Switch, name: ReadModelName) -> Table | None:
    """The table of the version that serves."""
    physical = what.source.tables.get(name.name) if what.source is not None else None
    return catalog.find_table(connection, *physical) if physical is not None else None


def _same_rights(
    connection: psycopg.Connection,
    what: Switch,
    current: Table | None,
    blue: Table | None,
    target: Table,
) -> list[str]:
    """The statements that give the target's table the rights that readers have now: they may have
    changed since green was made. Tables that the application makes have what it gave them.
    """
    serving = current if what.mode == "rename" else blue
    if serving is None or what.target.checkpoint is not None:
        return []
    wanted = rights(connection, serving.oid).where(target.has)
    wanted = for_green(connection, wanted, shown=what.mode == "view")
    table = qualified(target.schema, target.name).as_string(connection)
    return change_statements(connection, Change(table, rights(connection, target.oid), wanted))


def pairs_of(
    connection: psycopg.Connection, what: Switch
) -> list[tuple[ReadModelName, Table | None, Table]]:
    """Of each name, what has it now, and the target's table. Raises Refused without that."""
    found: list[tuple[ReadModelName, Table | None, Table]] = []
    for name in what.names if what.mode != "hook" else ():
        if name.name not in what.target.tables:
            raise Refused(f"v{what.target.version} of {what.target.projection} has no table {name}")
        schema, physical = what.target.tables[name.name]
        table = catalog.find_table(connection, schema, physical)
        if table is None:
            raise Refused(
                f"the table {schema}.{physical} of v{what.target.version} does not exist any more"
            )
        found.append((name, catalog.find_table(connection, name.schema, name.name), table))
    return found


def _stays(what: Switch, current: Table, target: Table) -> bool:
    """Whether the relation under the name stays, and only its definition is replaced.

    Postgres allows that for a view with the same columns; owner, grants, comment and whatever
    refers to it stay as well.
    """
    return what.mode == "view" and current.kind == "v" and same_columns(current, target)


def _rename_to(
    connection: psycopg.Connection,
    _: Switch,
    name: ReadModelName,
    __: Table | None,
    target: Table,
) -> list[str]:
    publications.check_rename(connection, target, name.name)
    return [
        (
            f"ALTER TABLE {qualified(target.schema, target.name).as_string(connection)} "
            f"RENAME TO {sql.Identifier(name.name).as_string(connection)}"
        ),
    ]


def _point_view_at(
    connection: psycopg.Connection,
    what: Switch,
    name: ReadModelName,
    current: Table | None,
    target: Table,
) -> list[str]:
    # A table that had the name itself, in mode `rename`, has just got its suffix.
    physical = (
        target.name if target.name != name.name else physical_name(name.name, what.target.version)
    )
    stays = current is not None and _stays(what, current, target)
    return serving_view.show(connection, name, current, target, physical, stays=stays)


def same_columns(current: Table, target: Table) -> bool:
    """Whether two relations have the same columns: names, types, collations and order."""
    before, after = (
        [(c.name, c.type, c.collation) for c in each.columns] for each in (current, target)
    )
    return before == after


def perform(
    connection: psycopg.Connection,
    what: Switch,
    *,
    bring_to: Callable[[Position], None],
    record: Callable[[psycopg.Connection], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
    patience: SnapshotPatience = DEFAULT_PATIENCE,
) -> list[str]:
    """Point the names at the target, in one transaction. Returns the statements executed.

    `bring_to` brings the target's checkpoint to a position or past it, by other connections, or
    raises. `record` writes whatever belongs into the same transaction.

    Raises Unavailable when the lock cannot be had within a minute, and Refused where somebody
    keeps a snapshot for longer than `patience` in which the target is not up to date.
    """
    # Whoever forces it has chosen to serve older rows.
    older = SnapshotWait(
        connection,
        replace(patience, despite=patience.despite or what.forced),
        stop,
        say,
        lambda: sessions(_blockers(connection, what)),
    )
    blocked = Blocked(str(what), say)
    with translated():
        unchanged.check(connection, what.source, what.target, by_rename=what.mode == "rename")
        old_rows = left_stale(connection, what)
        older.wait()
    deadline, attempt = time.monotonic() + _PATIENCE.total_seconds(), 0
    while True:
        attempt += 1
        try:
            with translated():
                done = _attempt(connection, what, bring_to, record, older)
        except OlderSnapshots:
            with translated():
                older.wait()
            deadline = time.monotonic() + _PATIENCE.total_seconds()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            with translated():
                found = _blockers(connection, what)
            if stop() or time.monotonic() >= deadline:
                raise blocked.refusal(found, attempt, patience.again) from None
            blocked.report(found)
            # Random pauses that grow: others who wait for the same lock get their turn.
            time.sleep(random.uniform(0.05, min(0.1 * attempt, 1.0)))  # noqa: S311 - spreads tries, guards nothing
        else:
            log.info(
                "switched",
                projection=what.target.projection,
                to=what.target.version,
                attempt=attempt,
            )
            drop_replaced(connection, wait=True)
            for each in old_rows:
                say(each)
            return done


def _attempt(
    connection: psycopg.Connection,
    what: Switch,
    bring_to: Callable[[Position], None],
    record: Callable[[psycopg.Connection], None],
    older: SnapshotWait,
) -> list[str]:
    with connection.transaction():
        # Only the process that follows blue waits for this transaction until names are locked.
        end_if_still(connection, _BRINGING)
        wait_briefly(connection)
        # From here on blue's checkpoint cannot move, so "at or past blue" stays true to the commit.
        source = what.source and registry.hold(connection, what.source, ("active",))
        held = None if source is None or what.apart else source.position
        if held is not None:
            bring_to(held)
        # Both are read again under their locks: somebody may have switched since they were read.
        target = registry.hold(connection, what.target, ("building", "standby"))
        what = replace(what, source=source, target=target)
        reached = target.position
        if held is not None and not what.forced and (reached is None or reached < held):
            raise Refused(
                f"v{target.version} is at {reached or 'no position'}, behind "
                f"v{source.version if source else '?'} at {held}: readers would see older data"
            )
        older.check_under_lock()
        if what.mode == "rename":
            unchanged.hold(connection, source)
        unchanged.check(connection, source, target, by_rename=what.mode == "rename")
        note_names(connection, what)
        # Made only now: another session may have changed the catalogue since the plan.
        done = carried.execute(connection, lambda: prepare(connection, what))
        registry.set_active(
            connection, target.projection, target.version, source.version if source else None
        )
        record(connection)
        if what.move_readers is not None:
            # Last, for a program cannot be rolled back. Blue is held still and green is not behind:
            # readers are moved one by one, and none must see older rows. Others wait for nothing
            # but blue's next checkpoint.
            end_if_still(connection, what.move_readers.limit + _BRINGING)
            what.move_readers.run(target)
    return done


def note_names(connection: psycopg.Connection, what: Switch) -> None:
    """Keep in the registry what the renames will do, and what the tables have that will serve."""
    source, target = what.source, what.target
    if source is not None:
        unchanged.remember(connection, target, source)
        if what.mode != "hook":
            unchanged.note_aside(connection, source)
    if what.mode == "rename":
        tables = {name.name: (name.schema, name.name) for name in what.names}
        registry.set_tables(connection, target.projection, target.version, tables)


def _blockers(connection: psycopg.Connection, what: Switch) -> list[Blocker]:
    """Who holds a lock on the names, or on what is carried over."""
    aside = moved_aside.of_tables(what.source, what.names) if what.mode != "hook" else []
    names = [name.identifier.as_string(connection) for name in (*what.names, *aside)]
    return blockers(connection, [*names, *prepare(connection, what).carried.relations])
