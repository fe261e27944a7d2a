"""Transactions that lock what the application uses: each try waits for a lock only for a moment,
since writers wait behind it, 0.1 s at first and later at most half a second; the pauses between
tries grow more.

A table with a foreign key is the usual case: to make it locks the table that it refers to against
writers, and to drop it against readers, too.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import psycopg

from esops.errors import Busy, Stopped
from esops.postgres import catalog
from esops.postgres.connection import qualified
from esops.postgres.held import LOCK_TIMEOUT, LONGEST_WAIT, STILL, end_if_still, wait_briefly
from esops.readmodel.foreign_keys import leaving, referred_to
from esops.readmodel.registry import Version
from esops.rebuild.blockers import Blocked, Blocker, blockers, held_by, how_to_end
from esops.wording import count, listed

T = TypeVar("T")

PATIENCE = timedelta(seconds=60)
LOOKING = timedelta(seconds=5)
"""The patience of what changes nothing: a plan can be asked for again."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 2.0
_READS = ("AccessShareLock", "RowShareLock")
_SHARED = (
    *_READS,
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
)


@dataclass(frozen=True, slots=True)
class LockedTable:
    """A table (quoted) that a try has to lock, with the locks of others that are not in its way."""

    name: str
    why: str = ""
    """The foreign key because of which, in words."""
    harmless: Sequence[str] = ()

    def __str__(self) -> str:
        return f"{self.name} ({self.why})" if self.why else self.name


Locks = Callable[[psycopg.Connection], Sequence[LockedTable]]


@dataclass(frozen=True, slots=True)
class Tries:
    """How a transaction is tried. `what` is done, such as "dropping orders__v2", and `locks` says
    which tables that needs.
    """

    what: str
    locks: Locks
    hint: str = "Nothing was changed. Once it has ended, run this again."
    patience: timedelta = field(default_factory=lambda: PATIENCE)
    still: timedelta = STILL
    """How long esops may do nothing between two statements until the server ends a try."""
    stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda _: None


def in_short_tries(
    connection: psycopg.Connection,
    attempt: Callable[[], T],
    tries: Tries,
    *,
    rolled_back: bool = False,
) -> T:
    """Call `attempt` in a transaction until it gets its locks; `rolled_back`: it is rolled back.

    The connection is in no transaction: what a try has locked is free between two of them. Raises
    Busy that names whoever holds a lock when the patience is over, and Stopped.
    """
    deadline, number = time.monotonic() + tries.patience.total_seconds(), 0
    blocked: Blocked | None = None
    while True:
        number += 1
        try:
            with connection.transaction(force_rollback=rolled_back):
                wait_briefly(connection, min(LOCK_TIMEOUT * (1 + number // 3), LONGEST_WAIT))
                end_if_still(connection, tries.still)
                return attempt()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            tables, found = _who_holds(connection, tries.locks)
            needed = f"a lock on {tables}" if tables else "its locks"
            if tries.stop():
                raise Stopped(f"asked to stop while {tries.what} waited for {needed}") from None
            if time.monotonic() >= deadline:
                raise Busy(
                    f"{tries.what} needs {needed}, and did not get it in "
                    f"{count(number, 'try', 'tries')}: {held_by(found)}",
                    hint=tries.hint + how_to_end(found),
                ) from None
            blocked = blocked or Blocked(tables, tries.say, f"{tries.what}: waiting for {needed}")
            blocked.report(found)
            # Random pauses that grow: whoever waited behind this try gets its turn.
            longest = min(_FIRST_PAUSE * number, _LONGEST_PAUSE)
            time.sleep(random.uniform(_FIRST_PAUSE / 2, longest))  # noqa: S311 - spreads tries, guards nothing


def to_drop(version: Version) -> Locks:
    """What the tables of a version lock when they are dropped."""

    def locks(connection: psycopg.Connection) -> list[LockedTable]:
        there = [catalog.find_table(connection, *each) for each in version.tables.values()]
        tables = [each for each in there if each is not None]
        return [
            *(LockedTable(_quoted(connection, (each.schema, each.name))) for each in tables),
            *(
                LockedTable(each.to, f"the foreign key {each.name} refers to it")
                for each in leaving(connection, [each.oid for each in tables])
            ),
        ]

    return locks


def to_make(made: Sequence[str], like: Sequence[tuple[str, str]] = ()) -> Locks:
    """What statements lock that make tables, some of them like other ones."""

    def locks(connection: psycopg.Connection) -> list[LockedTable]:
        return [
            *(
                LockedTable(each, "a foreign key of the DDL refers to it", _READS)
                for each in referred_to(connection, made)
            ),
            *(LockedTable(_quoted(connection, each), harmless=_SHARED) for each in like),
        ]

    return locks


def of_tables(tables: Sequence[tuple[str, str]]) -> Locks:
    """These tables, against everybody."""
    return lambda connection: [LockedTable(_quoted(connection, each)) for each in tables]


def _quoted(connection: psycopg.Connection, table: tuple[str, str]) -> str:
    return qualified(*table).as_string(connection)


def _who_holds(connection: psycopg.Connection, locks: Locks) -> tuple[str, list[Blocker]]:
    """The tables that somebody holds, in words, and who does. All of them where nobody does any
    more. Transactions that have begun since, such as short writes, were not in the way.
    """
    needed = locks(connection)
    row = connection.execute("SELECT clock_timestamp() - %s", (LOCK_TIMEOUT,)).fetchone()
    assert row is not None
    held = [
        (
            each,
            [
                who
                for who in blockers(connection, [each.name], each.harmless)
                if who.since is not None and who.since <= row[0]
            ],
        )
        for each in needed
    ]
    tables = [str(each) for each, found in held if found] or [str(each) for each in needed]
    return listed(tables) if tables else "", list(
        dict.fromkeys(who for _, found in held for who in found)
    )
