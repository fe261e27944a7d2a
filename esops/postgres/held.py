"""Transactions that hold locks which make others wait, or wait for such locks themselves: they wait
only for a moment, and the server ends them if esops is stopped.

A process that is stopped (SIGSTOP, a paused virtual machine, a frozen disk) keeps its locks all
that time, and an ACCESS EXCLUSIVE lock keeps every reader out.
"""

from __future__ import annotations

from datetime import timedelta

import psycopg

LONGEST_WAIT = timedelta(milliseconds=500)
"""For a lock, after some tries: short transactions that follow each other leave no gap at once."""
LOCK_TIMEOUT = timedelta(milliseconds=100)
"""How long one statement may wait for a lock: the application's writers wait behind it."""
STILL = timedelta(seconds=1)
"""How long esops may do nothing between two statements while readers wait."""
WHOLE = timedelta(seconds=30)
"""How long such a transaction may take from here on, on servers that can limit it (17)."""
_LIMITS_TRANSACTIONS = 170000


def end_if_still(
    connection: psycopg.Connection, still: timedelta = STILL, whole: timedelta | None = None
) -> None:
    """Let the server end the transaction that the connection is in, if esops does nothing in it for
    `still`, or if it takes longer than `whole` from now on.
    """
    _set_local(connection, "idle_in_transaction_session_timeout", still)
    if whole is not None and connection.info.server_version >= _LIMITS_TRANSACTIONS:
        _set_local(connection, "transaction_timeout", whole)


def wait_briefly(connection: psycopg.Connection, wait: timedelta = LOCK_TIMEOUT) -> None:
    """Let each statement of the transaction that the connection is in wait for a lock no longer."""
    _set_local(connection, "lock_timeout", wait)


def _set_local(connection: psycopg.Connection, name: str, value: timedelta) -> None:
    milliseconds = int(value.total_seconds() * 1000)
    connection.execute(f"SET LOCAL {name} = {milliseconds}".encode())
