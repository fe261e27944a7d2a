"""What is left of esops in one database, and its removal.

Everything is looked at before anything is changed. What is done is done in transactions of their
own, each of which leaves a state that serves and from which the next run continues: older versions
go first, since they have the names of indexes that the one that serves gets; then each name gets
its table; the registry goes last, all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import psycopg
from psycopg import sql

from esops.config import Config
from esops.errors import Busy, Refused
from esops.postgres import catalog
from esops.postgres.connection import (
    connect,
    database_of,
    qualified,
    translated,
)
from esops.postgres.statements import statements
from esops.readmodel import locks, migrations, object_names, registry
from esops.readmodel.registry import Version
from esops.readmodel.tables import drop_tables, missing_tables
from esops.rebuild.retiring import drop_version, take_lock
from esops.rebuild.short_tries import LOOKING, Tries, in_short_tries, to_drop
from esops.uninstall import serving
from esops.uninstall.leftover import Leftover, UninstallOptions
from esops.uninstall.obstacles import (
    check_erasures,
    check_finished,
    check_memory,
    check_named,
    check_nobody,
    check_schema,
)

_SQL = statements(__package__, "uninstall")
_LEAVING = timedelta(seconds=3)
_AGAIN = "What serves is a plain table already. Run this again to remove the rest."


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
    check_schema(connection, left, row)
    check_nobody(connection)
    if not migrations.installed(connection):  # the events' database, with settling's memory alone
        check_memory(connection, left, options)
        left.statements += drop_statements(left.tables)
        return left
    versions = registry.versions(connection)
    check_named(config, versions, options)
    check_finished(config, connection, versions)
    check_erasures(connection)
    for each in versions:
        if each.state in ("standby", "building"):
            _add_older(left, each, options)
    try:
        left = _tried(config, connection, left, versions)
    except psycopg.errors.DependentObjectsStillExist as error:
        raise Refused(
            f"other objects depend on older versions in {left.database}: "
            f"{error.diag.message_detail or error.diag.message_primary}",
            hint="Drop these first, or keep the older versions as tables: --keep-older.",
        ) from error
    if migrations.has(connection, "spills"):
        rows = connection.execute(_SQL["spills"]).fetchall()
        left.spills = [f"{host}:{directory}" for host, directory in rows]
    left.statements += drop_statements(left.tables)
    return left


def _tried(
    config: Config, connection: psycopg.Connection, left: Leftover, versions: Sequence[Version]
) -> Leftover:
    """Drop the older versions, for the names of their indexes are free without these; and roll that
    back.
    """

    def attempt() -> Leftover:
        found = replace(
            left, statements=[*left.statements], serving=[*left.serving], kept=[*left.kept]
        )
        for each in found.older:
            found.statements += _sequences(connection, each, versions)
            found.statements += drop_tables(connection, each)
        _add_serving(config, connection, found, versions)
        return found

    tries = Tries(
        "trying to drop older versions",
        lambda on: [table for each in left.older for table in to_drop(each)(on)],
        patience=LOOKING,
    )
    return in_short_tries(connection, attempt, tries, rolled_back=True)


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


def _sequences(
    connection: psycopg.Connection, older: Version, versions: Sequence[Version]
) -> list[str]:
    """Give the table that serves the sequences of an older one that its serial columns draw from;
    returns the statements executed.
    """
    done: list[str] = []
    for active in versions:
        if active.projection != older.projection or active.state != "active":
            continue
        for name, place in older.tables.items():
            old = catalog.find_table(connection, *place)
            new = catalog.find_table(connection, *active.tables.get(name, place))
            if old is not None and new is not None and new.oid != old.oid:
                shown = qualified(new.schema, new.name).as_string(connection)
                done += object_names.own_sequences(connection, old.oid, new.oid, shown)
    for statement in done:
        connection.execute(statement.encode())
    return done


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
    names = ", ".join(map(_own, tables))
    return [*([f"DROP TABLE {names}"] if tables else []), "DROP SCHEMA esops"]


def _own(table: str) -> str:
    return f"esops.{sql.Identifier(table).as_string(None)}"


# --- doing it


@contextmanager
def held(
    config: Config, found: Leftover, options: UninstallOptions
) -> Iterator[tuple[psycopg.Connection, Leftover]]:
    """A session that keeps all other commands of esops out of the database, and what is there.

    Raises as `look`, and Busy where that is no longer what was found.
    """
    with translated(), connect(found.dsn, "uninstall") as connection:
        if not locks.take_whole(connection, _LEAVING):
            check_nobody(connection)
            raise Busy(
                f"a session of esops in {found.database} is just ending", hint="Run it again."
            )
        _take_locks(connection)
        now = _look(config, connection, Leftover(found.database, found.dsn, found.of), options)
        if not now.nothing and now.as_found != found.as_found:
            raise Busy(
                f"what esops has in {found.database} has changed since this command looked",
                hint="Nothing was changed. Run it again, and look at the new plan.",
            )
        yield connection, now


def remove(
    config: Config,
    connection: psycopg.Connection,
    now: Leftover,
    say: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Do it, in a session of `held`. Raises Refused, Busy, and Unavailable where a lock cannot be
    had.
    """
    if now.nothing:
        return
    for version in now.older:
        _sequences(connection, version, registry.versions(connection))
        drop_version(connection, version)
        say(f"dropped {version.projection} v{version.version}")
    for each in now.serving:
        if each.statements:
            serving.release(connection, each, stop, say)
            names = ", ".join(map(str, (*each.views, *each.tables)))
            say(f"{names}: a plain table, the rows of v{each.version.version}")
    _drop_schema(config, connection, now)
    say(f"dropped the schema esops of {now.database}")


def _take_locks(connection: psycopg.Connection) -> None:
    """Keep out rebuilds and followers of an older esops too, which take no part in the lock of the
    whole database. Raises Busy.
    """
    if not migrations.installed(connection):
        return
    for name in sorted({each.projection for each in registry.versions(connection)}):
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


def _drop_schema(config: Config, connection: psycopg.Connection, now: Leftover) -> None:
    try:
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '5s'")
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('esops:install', 0))")
            tables = ", ".join(_own(each) for each in now.tables)
            if tables:
                connection.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE".encode())
            _check_nothing_new(config, connection, now)
            for statement in drop_statements(now.tables):
                connection.execute(statement.encode())
    except psycopg.errors.LockNotAvailable:
        raise Busy(
            f"another session holds esops' own tables in {now.database}", hint=_AGAIN
        ) from None
    except psycopg.errors.DependentObjectsStillExist as error:
        raise Refused(
            f"other objects depend on esops' own tables in {now.database}: "
            f"{error.diag.message_detail or error.diag.message_primary}",
            hint="What serves is a plain table already. Drop these, and run this again.",
        ) from error


def _check_nothing_new(config: Config, connection: psycopg.Connection, now: Leftover) -> None:
    """Raises Busy and Refused where a command has begun something that this one has not seen, of
    those that take no lock of a projection. The session holds esops' tables by now.
    """
    # Without waiting: whoever is here may wait for these tables.
    check_nobody(connection, leaving=timedelta(0), hint=_AGAIN)
    if not migrations.installed(connection):
        return
    versions = registry.versions(connection)
    check_finished(config, connection, versions)
    check_erasures(connection)
    before = {(each.version.projection, each.version.version) for each in now.serving}
    new = [
        f"{each.projection} v{each.version}"
        for each in versions
        if each.state == "active"
        and (each.projection, each.version) not in before
        and len(missing_tables(connection, each)) < len(each.tables)
    ]
    if new:
        raise Busy(f"{', '.join(new)} came up since this command looked", hint=_AGAIN)
