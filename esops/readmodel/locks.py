"""Who works on what: session-level advisory locks in the read model's database, given back by the
server when we die.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The session that holds a lock, as pg_stat_activity shows it."""

    pid: int
    application: str
    client: str
    since: datetime | None

    @property
    def process(self) -> str:
        """`host:pid` of a process of esops; else the server's own process."""
        words = self.application.split()
        return words[1] if len(words) > 1 and words[0] == "esops" else f"backend {self.pid}"

    def __str__(self) -> str:
        since = f", since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        return f"{self.application or 'a session'} (backend {self.pid}, from {self.client}{since})"


def rebuild_lock(projection: str) -> str:
    """The lock of the one rebuild of a projection."""
    return f"esops:rebuild:{projection}"


def version_lock(projection: str, version: int) -> str:
    """The lock of the one process that keeps a version fresh."""
    return f"esops:version:{projection}:{version}"


def take(connection: psycopg.Connection, name: str, patience: timedelta = timedelta(0)) -> bool:
    """Take a lock for this session.

    `patience` covers a holder that has just died and whose server process has not noticed.
    """
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        row = connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,)
        ).fetchone()
        if row is not None and row[0]:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)


def holder(connection: psycopg.Connection, name: str) -> LockHolder | None:
    """Who holds a lock now; None where nobody does."""
    row = connection.execute(
        "WITH k AS (SELECT hashtextextended(%s, 0) AS key) "
        "SELECT l.pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'a local "
        "socket'), a.backend_start "
        "FROM k, pg_locks l LEFT JOIN pg_stat_activity a USING (pid) "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
        "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND l.classid::bigint = ((k.key >> 32) & 4294967295) AND l.objid::bigint = (k.key & "
        "4294967295)",
        (name,),
    ).fetchone()
    return None if row is None else LockHolder(*row)
