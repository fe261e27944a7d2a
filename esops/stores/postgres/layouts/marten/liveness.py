"""Whether a daemon of Marten lives: by its locks, by the rows that it touches while it idles, and
by sessions that look for new events.

A daemon in hot/cold mode holds an advisory lock; one in solo mode, or under Wolverine, holds none.
What an idle daemon touches differs: 9.58 touches its high-water mark and its fence, 9.29 its fence
alone, and with numbers of each tenant's own nothing (seen with the real ones).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.postgres.statements import statements

DAEMON_LOCK = 4444
"""Marten's DaemonLockId, unless the application sets another."""
TOUCHED = timedelta(seconds=30)
_LOOKED = timedelta(seconds=10)
_IDLES = ("HighWaterMark", "HighWaterAllocationFence")
_SQL = statements(__package__, "liveness")
_STOP = "Stop the application's projector first."
_LATER = (
    "Stop the application's projector, and resume a minute later. Where you know that no daemon is "
    "left, continue with --resume --processor-stopped."
)


def locks_of(schema: str, name: str) -> list[int]:
    """The advisory locks that stand for a shard: with numbers of each tenant's own it is that of
    the shard without the tenant.
    """
    parts = name.split(":")
    # A tenant's own name may have colons in it.
    names = [":".join(parts[:end]) for end in range(len(parts), 1, -1)] or [name]
    return [DAEMON_LOCK, *(shard_lock(schema, each) for each in names)]


def held(connection: psycopg.Connection, locks: Iterable[int]) -> list[int]:
    """Those of some locks that another session has."""
    rows = connection.execute(_SQL["held_locks"].encode(), {"locks": [*locks]}).fetchall()
    return [int(row[0]) for row in rows]


def refuse_if_alive(
    connection: psycopg.Connection, schema: str, name: str, *, stopped: bool = False
) -> None:
    """Take a shard's locks until the transaction's end, which keeps a hot/cold daemon out.

    `stopped`: the operator says that no daemon lives; only a lock that is held proves the contrary.
    Raises Refused where a daemon lives, or may live.
    """
    for lock in locks_of(schema, name):
        taken = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (lock,)).fetchone()
        if not (taken and taken[0]):
            raise Refused(f"Marten's daemon is running: it holds its lock {lock}", hint=_STOP)
    if stopped:
        return
    # Only now: who holds the locks keeps a hot/cold daemon out, so these are signs of another one.
    touched = connection.execute(
        sql.SQL(_SQL["touched"]).format(progression=sql.Identifier(schema, "mt_event_progression")),
        {"name": name, "idles": [*_IDLES], "within": TOUCHED},
    ).fetchone()
    if touched is not None:
        raise Refused(
            f"Marten's daemon may be running: {touched[0]} was updated {touched[1]:.0f} s ago",
            hint=_LATER,
        )
    # Postgres shows the sessions as they were when the transaction first asked for them.
    connection.execute("SELECT pg_stat_clear_snapshot()")
    values = {"within": _LOOKED, "own": _own(schema), "unquoted": _own(schema, "")}
    session = connection.execute(_SQL["sessions"].encode(), values).fetchone()
    if session is None:
        return
    pid, user, program, seen, idle = session
    who = f"session {pid} of {user}" + (f" ({program})" if program else "")
    if seen:
        ago = f"less than {_LOOKED.total_seconds():.0f} s ago"
        when = ago if idle else "in a statement or transaction that has not ended"
        raise Refused(
            f"Marten's daemon may be running: {who} looked for new events {when}", hint=_LATER
        )
    raise Refused(
        f"it is not known whether Marten's daemon is running: what {who} does may not be seen",
        hint="GRANT pg_read_all_stats to the role of esops, or stop the application. Where you "
        "know that no daemon is left, continue with --resume --processor-stopped.",
    )


def signs(connection: psycopg.Connection, schema: str, name: str) -> str:
    """Why a shard's progress may not be set now, which says that a daemon may live; else empty."""
    # The locks that this takes are only tried.
    with connection.transaction(force_rollback=True):
        try:
            refuse_if_alive(connection, schema, name)
        except Refused as refused:
            return refused.message
    return ""


def _own(schema: str, quote: str = '"?') -> str:
    """What stands before a name of a schema's in a statement, as a regular expression: that schema,
    or none. Marten always names the schema.
    """
    escaped = "".join(each if each.isalnum() else f"\\{each}" for each in schema)
    return rf'(^|[^\w$."])({quote}{escaped}{quote}\s*\.\s*)?{quote}'


def shard_lock(schema: str, identity: str) -> int:
    """The advisory lock of a shard's leader.

    It is Marten's deterministic string hash, over the lock id of daemons.
    """
    # Two characters at a time and with 32 bits that wrap, as .NET does it: any other value would be
    # another lock.
    text = f"{schema}:{identity}"
    first = second = _signed((5381 << 16) + 5381)
    for at in range(0, len(text), 2):
        first = _signed(_signed((first << 5) + first) ^ ord(text[at]))
        if at + 1 < len(text):
            second = _signed(_signed((second << 5) + second) ^ ord(text[at + 1]))
    return abs(_signed(first + second * 1566083941)) + DAEMON_LOCK


def _signed(value: int) -> int:
    """As a 32-bit integer that wraps."""
    return (value + 2**31) % 2**32 - 2**31
