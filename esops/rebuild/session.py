"""A rebuild's session: its connection to the read model's database, and the lock that makes it the
only one of its projection.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import psycopg

from esops.errors import Busy, ConnectionLost
from esops.postgres.connection import connect, process_name, rename, translated
from esops.readmodel import locks, migrations
from esops.readmodel.registry import Version
from esops.rebuild import journal
from esops.stores.outage import Outage

T = TypeVar("T")


class Session:
    """Holds a projection's rebuild lock. What is done through it survives a restart of the
    database.
    """

    def __init__(
        self,
        dsn: str,
        projection: str,
        stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda _: None,
        connection: psycopg.Connection | None = None,
    ) -> None:
        """Take the lock, on a connection that is open or on a new one; it is this session's from
        now on. Raises Busy that says who has the lock.
        """
        self._dsn, self._projection, self._stop, self._say = dsn, projection, stop, say
        self.connection = _taken_over(connection, dsn, f"rebuild {projection}")
        try:
            self._take_lock(timedelta(0))
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        """Close the connection, which gives the lock back."""
        self.connection.close()

    def followed(self, version: Version) -> bool:
        """Whether a process keeps a version fresh at this moment."""
        name = locks.version_lock(version.projection, version.version)
        return self.do(lambda on: locks.is_held(on, name))

    def do(self, do: Callable[[psycopg.Connection], T]) -> T:
        """Call `do` with the connection; if that is lost, wait for the database, take the lock
        again, and call it again. So `do` must be idempotent.

        Raises Stopped when asked to stop in the meantime, Unavailable after ten minutes, Busy if
        another process took the lock.
        """
        outage = Outage("the database", self._say, self._stop)
        while True:
            try:
                with translated():
                    # The lock went with the connection: somebody else may have taken it since.
                    if self.connection.closed:
                        self.connection = connect(self._dsn, f"rebuild {self._projection}")
                        self._take_lock(timedelta(seconds=5))
                    return do(self.connection)
            except ConnectionLost as lost:
                self.connection.close()
                outage.wait(lost)

    def _take_lock(self, patience: timedelta) -> None:
        name = locks.rebuild_lock(self._projection)
        with translated():
            if locks.take(self.connection, name, patience):
                migrations.upgrade(self.connection)
                return
            # A process that has just died may have left its session behind.
            holder = locks.holder(self.connection, name)
            entry = journal.latest(self.connection, self._projection)
            if holder is not None and entry is not None and _dead(entry, holder):
                # The process that began it is gone, but the server still works on its last, long
                # statement and holds the lock until that ends.
                self.connection.execute("SELECT pg_terminate_backend(%s)", (holder.pid,))
                if locks.take(self.connection, name, timedelta(seconds=10)):
                    migrations.upgrade(self.connection)
                    return
            if locks.take(self.connection, name, timedelta(seconds=1)):
                migrations.upgrade(self.connection)
                return
        raise Busy(
            f"another rebuild of {self._projection} is running: "
            f"{holder or 'its session is just ending'}",
            hint="Wait for it, or stop it; you can resume it later.",
        )


def _dead(entry: journal.JournalEntry, holder: locks.LockHolder) -> bool:
    """Whether a lock's holder is the session of an unfinished rebuild whose process ran on this
    host and is gone.
    """
    if entry.finished_at is not None or not holder.application.startswith(
        process_name(entry.host, entry.pid) + " "
    ):
        return False
    # Whether a process of another machine is alive cannot be known from here.
    if entry.host != socket.gethostname() or entry.pid == os.getpid():
        return False
    try:
        # Signal 0 is not sent; it only asks whether the process exists.
        os.kill(entry.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _taken_over(given: psycopg.Connection | None, dsn: str, purpose: str) -> psycopg.Connection:
    """The connection that was given, under the name of another purpose; a new one where there is
    none, or it was lost: a plan may have waited for its answer for hours.
    """
    if given is not None:
        try:
            with translated():
                rename(given, purpose)
        except ConnectionLost:
            given.close()
        else:
            return given
    return connect(dsn, purpose)
