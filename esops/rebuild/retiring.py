"""Dropping versions that serve nobody any more, checked again under the lock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import psycopg

from esops.config import Config
from esops.errors import Busy, Refused
from esops.postgres.connection import connect, translated
from esops.postgres.held import WHOLE, end_if_still, wait_briefly
from esops.readmodel import locks, migrations, owners, registry
from esops.readmodel.registry import Version
from esops.readmodel.tables import drop_tables, missing_tables
from esops.rebuild import journal
from esops.rebuild.freshness import BRING_PATIENCE
from esops.rebuild.short_tries import Tries, in_short_tries, to_drop
from esops.rebuild.variants.external.checkpoint import check_unused
from esops.stores import open_store

_ROW_TIMEOUT = timedelta(milliseconds=500)


def take_lock(connection: psycopg.Connection, name: str, *, upgrade: bool = True) -> None:
    """Take the lock that a rebuild of a projection holds. Raises Busy that says who has it.

    What is acted on is read under it: who had it before may have switched or retired versions.
    """
    lock = locks.rebuild_lock(name)
    if not locks.take(connection, lock, timedelta(seconds=1)):
        raise Busy(
            f"a rebuild of {name} is running: "
            f"{locks.holder(connection, lock) or 'its session is just ending'}",
            hint="Wait for it, or stop it; you can resume it later.",
        )
    if upgrade:
        migrations.upgrade(connection)


def is_gone(connection: psycopg.Connection, version: Version) -> bool:
    """Whether somebody has dropped all tables of a version that is noted as serving."""
    missing = missing_tables(connection, version)
    return version.state == "active" and len(missing) == len(version.tables)


def retire_versions(config: Config, versions: Sequence[Version], *, due: bool = False) -> list[str]:
    """Drop versions that were read before; `due`: only while their time by `--retire-after` is
    over.
    """
    done: list[str] = []
    for version in versions:
        if version.checkpoint is not None:
            with open_store(*config.store(version.store)) as events:
                check_unused(events, version)
        with (
            translated(),
            connect(
                config.readmodel_of(version.projection).dsn, f"retire {version.projection}"
            ) as connection,
        ):
            take_lock(connection, version.projection)
            this = (version.projection, version.version)
            if due and this not in journal.due(connection, [version.projection]):
                continue
            done += drop_version(connection, version)
    return done


def drop_version(connection: psycopg.Connection, version: Version) -> list[str]:
    """Drop a version's tables, as soon as the process that follows it has let go of them.

    The session holds the projection's lock. Raises Busy, and Refused where others depend on them.
    """

    def drop() -> list[str]:
        # Its follower sees the new state at its next checkpoint, and lets go. This is a row of
        # esops' own, for which nobody else waits.
        wait_briefly(connection, _ROW_TIMEOUT)
        end_if_still(connection, whole=WHOLE)
        states = ("standby", "active") if is_gone(connection, version) else ("standby",)
        now = registry.hold(connection, version, states)
        owners.check_alone(connection, now.projection, now.version, now.tables)
        registry.set_retired(connection, now)
        entry = journal.latest(connection, version.projection)
        if (
            entry is not None
            and entry.from_version == version.version
            and entry.state == journal.SWITCHED
        ):
            journal.enter(connection, entry.rebuild, journal.RETIRED, finished=True)
        return drop_tables(connection, now)  # last, for others wait from there on

    this = f"retiring v{version.version} of {version.projection}"
    try:
        return in_short_tries(
            connection, drop, Tries(this, to_drop(version), patience=BRING_PATIENCE)
        )
    except psycopg.errors.DependentObjectsStillExist as error:
        raise Refused(
            f"other objects depend on v{version.version} of {version.projection}: "
            f"{error.diag.message_detail}",
            hint="Drop them first.",
        ) from error
