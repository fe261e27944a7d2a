"""Which process works on what: session-level advisory locks in the read model's database.

The server releases them when the session ends, however it ends; nothing has to be cleaned up.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from esops.errors import Busy
from esops.postgres.statements import statements

_SQL = statements(__package__, "locks")


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The session that holds a lock, from pg_stat_activity."""

    pid: int
    application: str
    client: str
    since: datetime | None

    @property
    def process(self) -> str:
        """`host:pid` where it is a process of esops; otherwise the process of the server."""
        words = self.application.split()
        return words[1] if len(words) > 1 and words[0] == "esops" else f"backend {self.pid}"

    def __str__(self) -> str:
        since = f", since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        return f"{self.application or 'a session'} (backend {self.pid}, from {self.client}{since})"


_WHOLE = "esops:uninstall"
"""Shared by all who hold another lock; `esops uninstall` has it alone."""


def rebuild_lock(projection: str) -> str:
    """The name of the lock that the one rebuild of a projection holds."""
    return f"esops:rebuild:{projection}"


def version_lock(projection: str, version: int) -> str:
    """The name of the lock that the one process that follows a version holds."""
    return f"esops:version:{projection}:{version}"


def take(connection: psycopg.Connection, name: str, patience: timedelta = timedelta(0)) -> bool:
    """Take a lock for this session; False where another session has held it all the time.

    `patience` is for a holder that has just died: its server process may not have noticed yet.
    Raises Busy while `esops uninstall` removes everything from the database.
    """
    # Asked again and again instead of waiting in the server, where a wait could not be interrupted.
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        row = connection.execute(_SQL["take"], {"lock": name, "whole": _WHOLE}).fetchone()
        assert row is not None
        taken, others = row
        if taken and not others:
            give_back(connection, name)
        if not others:
            raise Busy(
                "esops is being uninstalled from this database: "
                f"{holder(connection, _WHOLE) or 'its session is just ending'}",
                hint="Nothing was begun. Try again when that has ended.",
            )
        if taken:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)


def take_whole(connection: psycopg.Connection, patience: timedelta) -> bool:
    """Keep everybody from taking any lock in this database, as long as the session lasts; False
    where others have held one all the time.
    """
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        row = connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (_WHOLE,)
        ).fetchone()
        if row is not None and row[0]:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)


def take_until_commit(connection: psycopg.Connection, name: str) -> bool:
    """Take a lock until the transaction that the connection is in ends; False where another session
    holds it now.
    """
    row = connection.execute(
        "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (name,)
    ).fetchone()
    return row is not None and bool(row[0])


def give_back(connection: psycopg.Connection, name: str) -> None:
    """Release a lock that this session has taken once."""
    connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (name,))


def holder(connection: psycopg.Connection, name: str) -> LockHolder | None:
    """The session that holds a lock now; None where none does."""
    row = connection.execute(_SQL["holder"], (name,)).fetchone()
    return None if row is None else LockHolder(*row)


def is_held(connection: psycopg.Connection, name: str) -> bool:
    """Whether a session holds a lock now."""
    row = connection.execute(_SQL["held"], (name,)).fetchone()
    return row == (True,)


def deadlock_timeout(connection: psycopg.Connection) -> timedelta:
    """How long a session waits for a lock until the server looks for a deadlock. A lock_timeout
    below it makes esops the one that gives up, not an append of the application.
    """
    row = connection.execute(
        "SELECT setting::int FROM pg_settings WHERE name = 'deadlock_timeout'"
    ).fetchone()
    assert row is not None
    return timedelta(milliseconds=row[0])
