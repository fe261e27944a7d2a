"""What is left of esops in one database, and its removal.

Everything is looked at before anything is changed. What is done is done in transactions of their
own, each of which leaves a state that serves and from which the next run continues: older versions
go first, since they have the names of indexes that the one that serves gets; then each name gets
its table; the registry goes last, all at once.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from esops.config import Config
from esops.errors import Busy, Refused
from esops.postgres.connection import connect, database_of, process_name, translated
from esops.postgres.statements import statements
from esops.readmodel import locks, migrations, registry
from esops.readmodel.registry import Version
from esops.readmodel.tables import drop_tables, missing_tables, rolled_back
from esops.rebuild import journal
from esops.rebuild.retiring import drop_version, take_lock
from esops.uninstall import serving
from esops.uninstall.serving import Serving

_SQL = statements(__package__, "uninstall")
_LEAVING_SECONDS = 3.0
"""How long a short command that is just ending may take to leave."""
_KINDS = {"r": "table", "p": "table", "v": "view", "m": "materialised view", "S": "sequence"}


@dataclass(frozen=True, slots=True)
class UninstallOptions:
    """What was asked for."""

    keep_older: bool = False
    """Leave the tables of older versions, under the names that they have."""
    unnamed: bool = False
    """Also of projections that esops.toml does not name."""


@dataclass(slots=True)
class Leftover:
    """What is left of esops in one database."""

    database: str
    """Its name, with the server's where that is known."""
    dsn: str
    of: list[str]
    """What of esops.toml is in it: read models and stores."""
    identity: str = ""
    tables: list[str] = field(default_factory=list)
    """esops' own, in the schema esops."""
    schema: bool = False
    size: int = 0
    serving: list[Serving] = field(default_factory=list)
    older: list[Version] = field(default_factory=list)
    """Versions that nobody reads, and whose tables are there."""
    kept: list[str] = field(default_factory=list)
    """What stays as it is, in words."""
    spills: list[str] = field(default_factory=list)
    """Directories with files of loads, as `host:path`."""
    statements: list[str] = field(default_factory=list)
    """All that are run, in order."""

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not self.schema

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "database": self.database,
            "of": self.of,
            "schema": self.schema,
            "tables": self.tables,
            "bytes": self.size,
            "serving": [
                {
                    "projection": each.version.projection,
                    "version": each.version.version,
                    "becomes_table": [str(name) for name in each.views],
                    "is_table": [str(name) for name in each.tables],
                }
                for each in self.serving
            ],
            "dropped": [
                {
                    "projection": each.projection,
                    "version": each.version,
                    "state": each.state,
                    "tables": [".".join(table) for table in each.tables.values()],
                }
                for each in self.older
            ],
            "kept": self.kept,
            "files": self.spills,
            "statements": self.statements,
        }


def look(config: Config, dsn: str, of: Sequence[str], options: UninstallOptions) -> Leftover:
    """What there is in a database, and what would be done. Changes nothing.

    Raises Refused and Busy where it cannot be done, Unavailable.
    """
    with translated(), connect(dsn, "uninstall") as connection:
        return _look(config, connection, Leftover(connection.info.dbname, dsn, [*of]), options)


def _look(
    config: Config, connection: psycopg.Connection, left: Leftover, options: UninstallOptions
) -> Leftover:
    left.identity = database_of(connection)
    row = connection.execute(_SQL["schema"]).fetchone()
    if row is None:
        return left
    left.schema = True
    _check_schema(connection, left, row)
    _check_nobody(connection)
    if not migrations.installed(connection):  # the events' database, with settling's memory alone
        left.statements += drop_statements(left.tables)
        return left
    versions = registry.versions(connection)
    _check_named(config, versions, options)
    _check_finished(config, connection, versions)
    _check_erasures(connection)
    for each in versions:
        if each.state in ("standby", "building"):
            _add_older(left, each, options)
    # The names of indexes that older versions have are free without these.
    try:
        with rolled_back(connection):
            for each in left.older:
                left.statements += drop_tables(connection, each)
            _add_serving(config, connection, left, versions)
    except psycopg.errors.DependentObjectsStillExist as error:
        raise Refused(
            f"other objects depend on older versions in {left.database}: "
            f"{error.diag.message_detail or error.diag.message_primary}",
            hint="Drop these first, or keep the older versions as tables: --keep-older.",
        ) from error
    except psycopg.errors.LockNotAvailable:
        raise Busy(
            f"another session reads or writes older versions in {left.database}",
            hint="Try again when it has ended. Nothing was changed.",
        ) from None
    if migrations.has(connection, "spills"):
        rows = connection.execute(_SQL["spills"]).fetchall()
        left.spills = [f"{host}:{directory}" for host, directory in rows]
    left.statements += drop_statements(left.tables)
    return left


def _add_serving(
    config: Config, connection: psycopg.Connection, left: Leftover, versions: Sequence[Version]
) -> None:
    for each in versions:
        if each.state != "active":
            continue
        if len(missing_tables(connection, each)) == len(each.tables):
            left.kept.append(f"nothing of {each.projection}: its tables were dropped by hand")
            continue
        one = serving.look(config, connection, each)
        left.serving.append(one)
        left.kept += one.left
        left.statements += one.statements


def _add_older(left: Leftover, version: Version, options: UninstallOptions) -> None:
    name = f"{version.projection} v{version.version}"
    tables = ", ".join(".".join(table) for table in version.tables.values())
    if version.checkpoint is not None:
        left.kept.append(f"{tables}: {name}, which the application keeps")
    elif options.keep_older:
        left.kept.append(f"{tables}: {name}, kept as asked; nothing keeps it fresh any more")
    else:
        left.older.append(version)


def drop_statements(tables: Sequence[str]) -> list[str]:
    """The statements that drop the schema with its tables, never with CASCADE."""
    names = ", ".join(f"esops.{sql.Identifier(each).as_string(None)}" for each in tables)
    return [*([f"DROP TABLE {names}"] if tables else []), "DROP SCHEMA esops"]


# --- what stands against it


def _check_schema(
    connection: psycopg.Connection, left: Leftover, row: tuple[str, bool, str, bool]
) -> None:
    owner, may, role, replica = row
    if replica:
        raise Refused(
            f"the database {left.database} is a replica, in which nothing can be removed",
            hint="Give the address of the primary.",
        )
    found = connection.execute(_SQL["relations"]).fetchall()
    strange = [
        f"{_KINDS.get(kind, 'relation')} esops.{name}"
        for name, kind, *_ in found
        if kind != "r" or name not in migrations.own_tables()
    ]
    strange += [each for (each,) in connection.execute(_SQL["functions"]).fetchall()]
    if strange:
        raise Refused(
            f"the schema esops of {left.database} has what esops did not make: "
            f"{', '.join(strange[:5])}",
            hint="Move it to another schema, or drop it; then run this again.",
        )
    denied = [f"table esops.{name} of {whose}" for name, _, whose, mine, _ in found if not mine]
    denied += [] if may else [f"the schema esops of {owner}"]
    if denied:
        raise Refused(
            f"role {role} may not remove {', '.join(denied[:3])} in {left.database}",
            hint=f"Run it as {owner}, or as a member of that role.",
        )
    left.tables = [name for name, *_ in found]
    left.size = sum(each[-1] for each in found)


def _check_nobody(connection: psycopg.Connection) -> None:
    """Raises Busy while another process of esops works here."""
    deadline = time.monotonic() + _LEAVING_SECONDS
    ours = process_name(socket.gethostname(), os.getpid()) + " "
    while rows := connection.execute(_SQL["sessions"], {"ours": ours}).fetchall():
        if time.monotonic() >= deadline:
            who = ", ".join(f"{name!r} (backend {pid})" for pid, name in rows[:5])
            raise Busy(
                f"esops is at work in this database: {who}",
                hint="Stop `esops run`, rebuilds and timers; then run this again. Nothing was "
                "changed.",
            )
        time.sleep(0.1)


def _check_named(config: Config, versions: Sequence[Version], options: UninstallOptions) -> None:
    live = ("active", "standby", "building")
    others = sorted(
        {each.projection for each in versions if each.state in live} - set(config.projections)
    )
    if others and not options.unnamed:
        raise Refused(
            f"esops' tables also have {', '.join(others)}, which {config.path.name} does not name: "
            "somebody else may use them",
            hint="If nobody does, add --unnamed.",
        )


def _check_finished(
    config: Config, connection: psycopg.Connection, versions: Sequence[Version]
) -> None:
    for rebuild, name, state, open_ in connection.execute(_SQL["unfinished"]).fetchall():
        if open_:
            raise Refused(
                f"rebuild {rebuild} of {name} is not finished ({state})",
                hint=f"Finish it with `esops rebuild {name} --blue-green --resume`, or drop it "
                "with --abort; then run this again.",
            )
        if journal.owes_hook(connection, rebuild):
            raise Refused(
                f"the hook after the switch of {name} has not ended well",
                hint=f"Run it: esops rebuild {name} --blue-green --resume",
            )
    for each in versions:
        if each.state != "active":
            continue
        inline = (settings := config.projections.get(each.projection)) and settings.live == "inline"
        if inline and journal.unhealed(connection, each.projection, each.version) is not None:
            raise Refused(
                f"rows of {each.projection} may be of the old code still, and only esops knows "
                "which",
                hint=f"When the last instance with the old code has ended: esops projection finish "
                f"{each.projection}",
            )


def _check_erasures(connection: psycopg.Connection) -> None:
    if not migrations.has(connection, "erasures"):
        return
    rows = connection.execute(_SQL["erasures"]).fetchall()
    if rows:
        named = ", ".join(
            f"{number} (store {store}, {left} places)" for number, store, left in rows
        )
        raise Refused(
            f"erasures of personal data are not cleared: {named}; what is left of them is known "
            "to esops' tables alone",
            hint="`esops erase --done N` says that the places are cleared.",
        )


# --- doing it


def remove(
    config: Config,
    found: Leftover,
    options: UninstallOptions,
    say: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Leftover:
    """Do it; returns what was there. Raises as `look`, Unavailable where a lock cannot be had."""
    with translated(), connect(found.dsn, "uninstall") as connection:
        held = _take_locks(connection)
        now = _look(config, connection, Leftover(found.database, found.dsn, found.of), options)
        new = [name for name in _projections(connection) if name not in held]
        if new:
            raise Busy(f"{', '.join(new)} came up since this command looked", hint="Run it again.")
        if now.nothing:
            return now
        for version in now.older:
            drop_version(connection, version)
            say(f"dropped {version.projection} v{version.version}")
        for each in now.serving:
            if each.statements:
                serving.release(connection, each, stop, say)
                names = ", ".join(map(str, (*each.views, *each.tables)))
                say(f"{names}: a plain table, the rows of v{each.version.version}")
        _drop_schema(connection, now)
        say(f"dropped the schema esops of {now.database}")
    return now


def _projections(connection: psycopg.Connection) -> list[str]:
    if not migrations.installed(connection):
        return []
    return sorted({each.projection for each in registry.versions(connection)})


def _take_locks(connection: psycopg.Connection) -> list[str]:
    """Keep rebuilds and followers out, as long as the session lasts. Raises Busy."""
    names = _projections(connection)
    for name in names:
        take_lock(connection, name)
        for each in registry.versions(connection, name):
            if each.state not in registry.LIVE_STATES:
                continue
            lock = locks.version_lock(name, each.version)
            if not locks.take(connection, lock):
                raise Busy(
                    f"{name} v{each.version} is kept fresh by {locks.holder(connection, lock)}",
                    hint="Stop `esops run`; then run this again.",
                )
    return names


def _drop_schema(connection: psycopg.Connection, now: Leftover) -> None:
    try:
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '5s'")
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('esops:install', 0))")
            for statement in drop_statements(now.tables):
                connection.execute(statement.encode())
    except psycopg.errors.LockNotAvailable:
        raise Busy(
            f"another session holds esops' own tables in {now.database}",
            hint="What serves is a plain table already. Run this again to remove the rest.",
        ) from None
    except psycopg.errors.DependentObjectsStillExist as error:
        raise Refused(
            f"other objects depend on esops' own tables in {now.database}: "
            f"{error.diag.message_detail or error.diag.message_primary}",
            hint="What serves is a plain table already. Drop these, and run this again.",
        ) from error
