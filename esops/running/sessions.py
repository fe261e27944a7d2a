"""The sessions in which versions are advanced: each has its lock and its transactions in the same
one, so whoever writes holds the lock. If the session ends, so do the locks, and each version
notices at its next statement.
"""

from __future__ import annotations

from typing import Protocol

import psycopg
from psycopg.pq import TransactionStatus

from esops.postgres.connection import connect, translated
from esops.readmodel import fence, locks

_LOCK_TIMEOUT = b"SET lock_timeout = '500ms'"


class RunnerSession(Protocol):
    """Where a runner gets its connection to the read model from, and gives it back."""

    def open(self, purpose: str) -> psycopg.Connection:
        """A connection that can be used. Raises as `connect`."""
        ...

    def leave(self, connection: psycopg.Connection, lock: str | None) -> None:
        """Give a connection back, with the lock that was taken in it; that may be broken."""
        ...


class OwnSession:
    """A session for one runner alone, which ends with it."""

    def __init__(self, dsn: str) -> None:
        """Nothing is opened yet."""
        self._dsn = dsn

    def open(self, purpose: str) -> psycopg.Connection:
        """A new one."""
        return _fenced(connect(self._dsn, purpose))

    def leave(self, connection: psycopg.Connection, lock: str | None) -> None:  # noqa: ARG002
        """End it, which gives the lock back."""
        connection.close()


class SharedSession:
    """A session for several runners, which one thread drives in turn."""

    def __init__(self, dsn: str) -> None:
        """Nothing is opened yet."""
        self._dsn = dsn
        self._connection: psycopg.Connection | None = None

    def open(self, purpose: str = "run") -> psycopg.Connection:  # noqa: ARG002 - of all of them
        """The one that is open, or a new one where that was lost."""
        if self._connection is None or self._connection.closed:
            self._connection = _fenced(connect(self._dsn, "run"))
            # Who waits for a lock holds up the other versions of the session.
            self._connection.execute(_LOCK_TIMEOUT)
        return self._connection

    def leave(self, connection: psycopg.Connection, lock: str | None) -> None:
        """Give the lock back; the session stays open for the others."""
        if connection.closed:
            return
        if connection.info.transaction_status != TransactionStatus.IDLE:
            # Nobody knows what it is in the middle of: the others open another one.
            connection.close()
        elif lock is not None:
            try:
                locks.give_back(connection, lock)
            except psycopg.Error:
                connection.close()

    def close(self) -> None:
        """End it, with all locks that are still held in it."""
        if self._connection is not None:
            self._connection.close()


def _fenced(connection: psycopg.Connection) -> psycopg.Connection:
    """A session in which a runner compares the fence, and says so."""
    with translated():
        fence.say_fenced(connection)
    return connection
