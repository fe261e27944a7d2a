"""What serves becomes a plain table under the plain name: the view goes, and the version's table
gets its name, in one short transaction, as in a switch. Readers wait for a moment, and see the same
rows before and after.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import psycopg
from psycopg import sql

from esops.config import Config
from esops.errors import Refused, Unavailable
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import translated
from esops.postgres.held import end_if_still, wait_briefly
from esops.postgres.statements import statements
from esops.readmodel import object_names, owners, registry, served
from esops.readmodel.dependants import drop_replaced
from esops.readmodel.names import ReadModelName
from esops.readmodel.registry import Version
from esops.rebuild import carried, switch
from esops.rebuild.blockers import Blocked, blockers, held_by, how_to_end
from esops.rebuild.carried import Prepared
from esops.wording import count

_SQL = statements(__package__, "uninstall")
_PATIENCE = timedelta(seconds=60)
_STANDS = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Serving:
    """What becomes of the names of a version that serves."""

    version: Version
    views: Sequence[ReadModelName] = ()
    """Names that are views: each becomes the version's table."""
    tables: Sequence[ReadModelName] = ()
    """Names that are the version's tables already."""
    left: Sequence[str] = ()
    """What stays as it is, and why, in words."""
    statements: Sequence[str] = ()
    """Those that are run for it."""
    carried: Sequence[str] = ()
    """What is carried over from a view to its table, in words."""

    @property
    def what(self) -> switch.Switch:
        """The names, as a switch to a version that has their tables."""
        return switch.Switch(self.views, "rename", None, self.version)


def look(config: Config, connection: psycopg.Connection, active: Version) -> Serving:
    """How the names of a version that serves are handed over, as the catalogue is now.

    Raises Refused where they cannot be: something else stands under a name, a table is gone, a role
    lacks a right, or something refers to a view that a table cannot have.
    """
    settings = config.projections.get(active.projection)
    if active.checkpoint is not None or (settings is not None and settings.switch == "hook"):
        whose = "the application writes it by this name"
        if active.checkpoint is None:
            whose = "readers are moved by a program, which knows it by this name"
        stays = [f"{'.'.join(table)}: {whose}" for table in active.tables.values()]
        return Serving(active, left=stays)
    owners.check_alone(connection, active.projection, active.version, active.tables)
    names = [ReadModelName(schema, name) for name, (schema, _) in active.tables.items()]
    views: list[ReadModelName] = []
    tables: list[ReadModelName] = []
    left: list[str] = []
    for name in names:
        table = catalog.find_table(connection, *active.tables[name.name])
        if table is None:
            raise Refused(
                f"the table {'.'.join(active.tables[name.name])} of {active.projection} "
                f"v{active.version}, which serves, does not exist any more",
                hint=f"`esops projection retire {active.projection} {active.version}` enters that "
                "in the registry; then run this again.",
            )
        current = catalog.find_table(connection, name.schema, name.name)
        if current is None:
            # A program moved the readers; whoever reads it does so by the name that it has.
            left.append(f"{table.schema}.{table.name}: nothing stands under the name {name}")
            continue
        served.check(connection, name, current, table)
        _check_owner(connection, table.oid, f"{table.schema}.{table.name}")
        (tables if current.oid == table.oid else views).append(name)
    found = Serving(active, views, tables, left)
    prepared = prepare(connection, found)
    moved = [*prepared.carried.names, *prepared.carried.lost]
    return replace(found, statements=prepared.statements, carried=moved)


def prepare(connection: psycopg.Connection, serving: Serving) -> Prepared:
    """The statements, in order, as the catalogue is now. Raises Refused as `look`."""
    made = switch.prepare(connection, serving.what)
    done: list[str] = []
    for name in (*serving.views, *serving.tables):
        view = catalog.find_table(connection, name.schema, name.name)
        table = catalog.find_table(connection, *serving.version.tables[name.name])
        assert table is not None
        if view is not None and view.oid != table.oid:
            done += _described(connection, name, view.oid, table.oid)
        done += _constraints(connection, serving.version, name, table)
    return replace(made, statements=[*made.statements, *done])


def _constraints(
    connection: psycopg.Connection, version: Version, name: ReadModelName, table: Table
) -> list[str]:
    """Constraints without an index lose the version in their names; a switch leaves it to them."""
    rows = connection.execute(_SQL["constraints"], {"table": table.oid}).fetchall()
    there = {each for (each,) in rows}
    side = object_names.Side(table, name.name, version.version)
    shown = name.identifier.as_string(connection)
    done: list[str] = []
    for each in sorted(there):
        plain = object_names.plain_name(each, side)
        if plain != each and plain not in there:
            there.add(plain)
            old, new = (sql.Identifier(one).as_string(connection) for one in (each, plain))
            done.append(f"ALTER TABLE {shown} RENAME CONSTRAINT {old} TO {new}")
    return done


def _described(
    connection: psycopg.Connection, name: ReadModelName, view: int, table: int
) -> list[str]:
    shown = name.identifier.as_string(connection)
    rows = connection.execute(_SQL["described"], {"view": view, "table": table}).fetchall()
    done: list[str] = []
    for _, column, text in rows:
        of = f"TABLE {shown}"
        if column is not None:
            of = f"COLUMN {shown}.{sql.Identifier(column).as_string(connection)}"
        done.append(f"COMMENT ON {of} IS {sql.Literal(text).as_string(connection)}")
    return done


def _check_owner(connection: psycopg.Connection, oid: int, name: str) -> None:
    row = connection.execute(_SQL["owner"], {"oid": oid}).fetchone()
    if row is not None:
        raise Refused(
            f"{name} belongs to role {row[0]}, of which this role is no member",
            hint=f"Run it as a member of {row[0]}.",
        )


def release(
    connection: psycopg.Connection,
    serving: Serving,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Make the tables of a version that serves what its names stand for; returns the statements.

    Raises Unavailable when the lock cannot be had within a minute, and Refused.
    """
    shown = ", ".join(map(str, (*serving.views, *serving.tables)))
    blocked = Blocked(shown, say)
    deadline, attempt = time.monotonic() + _PATIENCE.total_seconds(), 0
    names = [n.identifier.as_string(connection) for n in (*serving.views, *serving.tables)]
    while True:
        attempt += 1
        try:
            with translated():
                done = _attempt(connection, serving)
                drop_replaced(connection, wait=True)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            with translated():
                others = switch.prepare(connection, serving.what).carried.relations
                found = blockers(connection, [*names, *others])
            if stop() or time.monotonic() >= deadline:
                raise Unavailable(
                    f"{shown} could not be locked in {count(attempt, 'try', 'tries')}: "
                    f"{held_by(found)}",
                    hint="It serves as before. Once that has ended, run this again."
                    + how_to_end(found),
                ) from None
            blocked.report(found)
            time.sleep(random.uniform(0.05, min(0.1 * attempt, 1.0)))  # noqa: S311 - spreads tries, guards nothing
        else:
            return done


def _attempt(connection: psycopg.Connection, serving: Serving) -> list[str]:
    with connection.transaction():
        end_if_still(connection, _STANDS)
        wait_briefly(connection)
        # Under the lock: it serves still, by the tables that were looked at.
        now = registry.hold(connection, serving.version, ("active",))
        if now.tables != serving.version.tables:
            raise Refused(
                f"another command has changed {now.projection} since this one looked",
                hint="Run it again.",
            )
        done = carried.execute(connection, lambda: prepare(connection, serving))
        plain = {n.name: (n.schema, n.name) for n in (*serving.views, *serving.tables)}
        tables = {**now.tables, **plain}
        registry.set_tables(connection, now.projection, now.version, tables)
    return done
