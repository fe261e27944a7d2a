"""What is safe to read: why a tail reader loses events, and how esops does not.

A global sequence number is drawn before its transaction commits. So a reader that takes everything
up to the highest
number it sees will pass a lower number whose writer is still at work, and never come back for it.
Waiting for the
writers' locks on the events table does not help: between `nextval` and `INSERT` a writer holds
none.

The rules here give a *bound*: a position below which every event is visible to any snapshot taken
from now on, or will
never come. None of them takes a lock; no writer is delayed. They are incremental: `advance` returns
what is settled
within its patience and keeps what it is still waiting for. docs/explanation/settled-reads.md has
the measurements.

- `SequenceLockers`: `nextval` takes a RowExclusiveLock on the sequence's relation before it draws,
  and keeps it to the end
  of the transaction (nextval_internal and lock_and_open_sequence in PostgreSQL's
  src/backend/commands/sequence.c). So read the
  last value M, then the transactions that hold that lock; when none of them runs any more, every
  number <= M is settled.
- `NumbersInOrder` (missing.py): what is there up to the first missing number is settled, whoever is
  at work; a missing one may be
  passed by that rule and, where numbers may also be drawn outside of the writer's transaction, when
  it is old enough.
- `TransactionIds`: rows carry their transaction's id; what lies below every running one's is
  settled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import psycopg
from psycopg import sql

from esops.events import Position
from esops.stores.base import Holder

NEVER: Callable[[], bool] = lambda: False  # noqa: E731 - a constant that is a function

_LOCKERS = """
SELECT DISTINCT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND database = (SELECT oid FROM pg_database WHERE datname =
current_database())
  AND relation = ANY(%(relations)s) AND granted AND pid IS DISTINCT FROM pg_backend_pid()
  AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""

_WHO = """
SELECT l.virtualtransaction, l.pid, a.usename, a.application_name, a.state, a.xact_start,
       left(regexp_replace(a.query, '\\s+', ' ', 'g'), 120)
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'relation' AND l.relation = ANY(%(relations)s) AND l.virtualtransaction =
ANY(%(waited)s)
ORDER BY a.xact_start NULLS FIRST
"""


class SettleRule(Protocol):
    """A way to know what is settled."""

    def known_settled(self, position: Position) -> None:
        """Be told of a position that was settled before, so that nothing below it need be looked at
        again.
        """
        ...

    def advance(
        self, connection: psycopg.Connection, patience: timedelta, stop: Callable[[], bool] = NEVER
    ) -> Position | None:
        """The newest bound, waiting at most `patience`, and until `stop`, for all that was drawn
        before the call to settle.

        None: nothing is settled yet.
        """
        ...

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """Who kept the last advance from coming to all that was drawn before it; empty only where
        nobody did.
        """
        ...


@dataclass
class Waiting:
    """The transactions that held a lock when we looked, minus those that have ended since."""

    relations: Callable[[psycopg.Connection], list[int]]
    virtual: set[str] = field(default_factory=set)
    prepared: set[str] = field(default_factory=set)

    def look(self, connection: psycopg.Connection) -> None:
        """Begin anew, with those who hold such a lock now."""
        self.virtual = self._holders(connection)
        self.prepared = {holder for holder in self.virtual if _is_prepared(holder)}

    def over(self, connection: psycopg.Connection) -> bool:
        """Whether all of those have ended. Those who came later do not count."""
        if not self.virtual:
            return True
        now = self._holders(connection)
        prepared_now = {holder for holder in now if _is_prepared(holder)}
        gone = bool(self.virtual - now)
        # A transaction that was waited for may have been PREPAREd: it goes on under a new name. Any
        # new prepared one may be it.
        turned = prepared_now - self.prepared if gone else set()
        self.virtual = (self.virtual & now) | turned
        self.prepared |= prepared_now
        return not self.virtual

    def _holders(self, connection: psycopg.Connection) -> set[str]:
        rows = connection.execute(_LOCKERS, {"relations": self.relations(connection)}).fetchall()
        return {row[0] for row in rows}


class SequenceLockers:
    """Settled is what was drawn before all transactions ended that held the sequence's lock."""

    def __init__(self, sequence: sql.Identifier, sequence_oid: int) -> None:
        """Take the sequence's qualified name and its oid."""
        self.name = sequence.as_string(None)
        self._last_value = sql.SQL("SELECT last_value, is_called FROM {}").format(sequence)
        self._waiting = Waiting(lambda _: [sequence_oid])
        self._candidate: int | None = None
        self.bound: int | None = None
        self.complete = True
        """Whether the last advance came to all that was drawn before it."""

    def known_settled(self, position: Position) -> None:
        """Nothing to save: the bound is found without looking at rows."""

    def advance(
        self, connection: psycopg.Connection, patience: timedelta, stop: Callable[[], bool] = NEVER
    ) -> Position | None:
        """See SettleRule.

        Looks once more after an old candidate has settled, so that the bound is fresh.
        """
        deadline = time.monotonic() + patience.total_seconds()
        pause = 0.001
        self.complete = False
        while True:
            fresh = self._candidate is None
            if fresh:
                self._look(connection)
            if self._waiting.over(connection):
                self.bound, self._candidate = self._candidate, None
                if fresh:
                    self.complete = True
                    break
                continue
            if time.monotonic() >= deadline or stop():
                break
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        return None if self.bound is None else Position((self.bound,))

    def drawn(self, connection: psycopg.Connection) -> int | None:
        """The highest number that was drawn, settled or not; None where none ever was."""
        row = connection.execute(self._last_value).fetchone()
        assert row is not None
        # Not called, the value is the one that comes next, as after a restart of the sequence
        # behind an import.
        return row[0] if row[1] else row[0] - 1 or None

    def _look(self, connection: psycopg.Connection) -> None:
        # First the value, then the holders: whoever drew a number up to it is among them or has
        # ended.
        self._candidate = self.drawn(connection)
        self._waiting.look(connection)

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """The sessions whose transactions have drawn numbers and not ended."""
        return [] if self.complete else who(connection, self._waiting)


SETTLES = 0.25
"""Seconds for which a number must have been the newest before the bound rests: its transaction may
have no id yet when it is drawn.
"""
RESTS = 5.0
"""Seconds that a bound by transaction ids stays where it is while no number is drawn."""


class TransactionIds:
    """Settled is every row whose transaction id lies below that of each running transaction of the
    cluster.
    """

    def __init__(self, sequence: sql.Identifier) -> None:
        """Take the sequence that the second part of the position comes from."""
        self._query = sql.SQL(
            "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, last_value, "
            "is_called FROM {}"
        ).format(sequence)
        self._xmax = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        self._held = False
        self._quiet: tuple[int, Position, float] | None = None
        self._newest: tuple[int, float] = (0, 0.0)
        """The newest number that was seen, and since when it is the newest."""

    def known_settled(self, position: Position) -> None:
        """Nothing to save: the bound is found without looking at rows."""

    def advance(
        self, connection: psycopg.Connection, patience: timedelta, stop: Callable[[], bool] = NEVER
    ) -> Position | None:
        """See SettleRule.

        Waits until what ran at the call has ended; the bound is never below what is visible as
        settled.

        Every transaction of the cluster moves the bound, a follower's own checkpoints too. So when
        no number was drawn for `SETTLES` and
        nothing ran at a look, it stays where it was: two followers would else drive each other on
        for ever. It moves again after
        `RESTS`, for a number that was drawn so long ago by a transaction that had no id yet.
        """
        deadline = time.monotonic() + patience.total_seconds()
        target = connection.execute(self._xmax).fetchone()
        assert target is not None
        pause = 0.001
        while True:
            row = connection.execute(self._query).fetchone()
            assert row is not None
            xmin, last, called = row
            if not called:
                self._held = False
                return None
            if (
                self._quiet is not None
                and self._quiet[0] == last
                and time.monotonic() - self._quiet[2] < RESTS
            ):
                self._held = False
                return self._quiet[1]
            self._held = xmin < target[0]
            bound = Position((xmin - 1, last))
            if last != self._newest[0]:
                self._newest = (last, time.monotonic())
            if not self._held:
                if time.monotonic() - self._newest[1] > SETTLES:
                    self._quiet = (last, bound, time.monotonic())
                return bound
            if time.monotonic() >= deadline or stop():
                return bound
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """The oldest transactions of the cluster."""
        if not self._held:
            return []
        rows = connection.execute(
            "SELECT pid, usename, application_name, state, xact_start, left(regexp_replace(query, "
            "'\\s+', ' ', 'g'), 120) "
            "FROM pg_stat_activity WHERE backend_xid IS NOT NULL UNION ALL "
            "SELECT NULL, owner, gid, 'prepared', prepared, '' FROM pg_prepared_xacts ORDER BY "
            "5 LIMIT 5"
        ).fetchall()
        return [_holder(*row) for row in rows if row[0] != connection.info.backend_pid] or [
            JUST_ENDED
        ]


JUST_ENDED = Holder("a writer", "its transaction has just ended", None)


def who(connection: psycopg.Connection, waiting: Waiting) -> list[Holder]:
    """Those who are waited for, by what they do now; at least one, since they may have
    ended since.
    """
    parameters = {"relations": waiting.relations(connection), "waited": sorted(waiting.virtual)}
    return [_holder(*row[1:]) for row in connection.execute(_WHO, parameters).fetchall()] or [
        JUST_ENDED
    ]


def _holder(
    pid: int | None,
    user: str | None,
    application: str | None,
    state: str | None,
    since: datetime | None,
    query: str | None,
) -> Holder:
    if pid is None:
        return Holder(
            "a prepared transaction", "waits for COMMIT PREPARED or ROLLBACK PREPARED", since
        )
    return Holder(
        f"session {pid} of {user or '?'} ({application or 'no name'})",
        f"{state or '?'}: {query or '?'}",
        since,
    )


def _is_prepared(virtual_transaction: str) -> bool:
    return virtual_transaction.startswith("-1/")
