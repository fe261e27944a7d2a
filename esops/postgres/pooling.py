"""Is there a pooler between esops and the server, and does it give each client a session?

In transaction mode a pooler hands every transaction to whichever server process is free. Settings
and advisory locks would then stay behind in sessions of the application, and esops would not have
its own. So this is found out before anything is set.

A direct server tells the client at login the number of the process that then answers. A pooler
tells a number of its own. What mode it has it does not say, so it is tried: a session that is idle
keeps its process, whatever a second one does.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg

from esops.errors import PooledSession, Unavailable

_ROUNDS = 3
_PATIENCE_SECONDS = 10.0
_ASK = "SELECT pg_catalog.pg_backend_pid()"


def session_of(connection: psycopg.Connection, another: Callable[[], psycopg.Connection]) -> int:
    """The process that belongs to this connection, behind a pooler in session mode.

    `another` opens a second connection to the same address. Raises PooledSession where the
    connection has no process of its own, and Unavailable where the pooler gives no second one.
    """
    mine = _ask(connection)
    for _ in range(_ROUNDS):
        # A pooler that takes turns gives another process even where nobody else is there.
        if _ask(connection) != mine:
            raise _pooled()
        with _limited(another) as second:
            second.execute("BEGIN")
            # One that gives the process used last gives mine to the second; and while that one
            # holds a process, I get another.
            if _ask(second) == mine or _ask(connection) != mine:
                raise _pooled()
    return mine


def same_session(connection: psycopg.Connection) -> int:
    """The process behind a pooler of which `session_of` has found that it keeps sessions."""
    return _ask(connection)


def _ask(connection: psycopg.Connection) -> int:
    # Not prepared after some times: a statement that is prepared belongs to one process.
    row = connection.execute(_ASK, prepare=False).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def _limited(another: Callable[[], psycopg.Connection]) -> Iterator[psycopg.Connection]:
    """A second connection, cut off where the pooler lets it wait for a server process."""
    with another() as second:
        cut = threading.Event()

        def end() -> None:
            cut.set()
            with suppress(OSError), socket.socket(fileno=os.dup(second.fileno())) as handle:
                handle.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(_PATIENCE_SECONDS, end)
        timer.start()
        try:
            yield second
        except psycopg.OperationalError as error:
            if "statement pooling" in str(error):
                raise _pooled() from None
            if cut.is_set() or "timeout" in str(error):
                raise Unavailable(
                    "the pooler before the database gives this role no second connection",
                    hint="esops needs several sessions at once. Raise the pool's size, or name the "
                    "database's own port.",
                ) from None
            raise
        finally:
            timer.cancel()


def _pooled() -> PooledSession:
    return PooledSession(
        "the address is that of a pooler in transaction mode, where esops has no session of its "
        "own: its settings and locks would stay behind in the application's sessions",
        hint="Name the database's own port in the address, or a pool with session pooling "
        "(pgbouncer: pool_mode = session).",
    )
