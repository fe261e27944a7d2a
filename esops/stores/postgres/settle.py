"""What is safe to read: why a tail reader loses events, and how esops does not.

A global sequence number is drawn before its transaction commits. So a reader that takes everything
up to the highest number it sees passes a lower number whose writer has not committed yet, and never
comes back for it. Waiting for the writers' locks on the events table does not help: between
`nextval` and `INSERT` a writer holds none.

The rules here give a *bound*: a position below which every event is visible to any snapshot taken
from now on, or will never come. None of them takes a lock, and no writer is delayed. They are
incremental: `advance` returns what is settled within its patience, and keeps what it still waits
for. docs/explanation/settled-reads.md has the measurements.

- `SequenceLockers`: `nextval` takes a RowExclusiveLock on the sequence's relation before it draws,
  and keeps it to the end of the transaction (nextval_internal and lock_and_open_sequence in
  PostgreSQL's src/backend/commands/sequence.c). So read the last value M, then the transactions
  that hold that lock. When none of them runs any more, every number <= M is settled.
- `NumbersInOrder` (missing.py): what is there up to the first missing number is settled, whoever
  is still writing. A missing number is passed by the rule above and, where numbers may also be
  drawn outside of the writer's transaction, when it is old enough.
- `TransactionIds`: rows carry the id of their transaction; those below every running transaction's
  are settled.
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
from esops.postgres.statements import statements
from esops.stores.base import Holder

NEVER: Callable[[], bool] = lambda: False  # noqa: E731 - a constant that is a function

_SQL = statements(__package__, "settle")


class SettleRule(Protocol):
    """How to know what is settled; each reader has a rule of its own, which remembers."""

    def known_settled(self, position: Position) -> None:
        """Record a position that was settled before: nothing below it has to be checked again."""
        ...

    def advance(
        self, connection: psycopg.Connection, patience: timedelta, stop: Callable[[], bool] = NEVER
    ) -> Position | None:
        """The newest bound; None where nothing is settled yet.

        Waits for everything that was drawn before the call, but not longer than `patience`, and not
        after `stop` returns true.
        """
        ...

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """Who kept the last `advance` from reaching everything that was drawn before it; empty only
        where nobody did.
        """
        ...


@dataclass
class Waiting:
    """The transactions that held a lock at one moment, without those that have ended since."""

    relations: Callable[[psycopg.Connection], list[int]]
    virtual: set[str] = field(default_factory=set)
    prepared: set[str] = field(default_factory=set)

    def look(self, connection: psycopg.Connection) -> None:
        """Start again with the transactions that hold the lock now."""
        self.virtual = self._holders(connection)
        self.prepared = {holder for holder in self.virtual if _is_prepared(holder)}

    def over(self, connection: psycopg.Connection) -> bool:
        """Whether all of them have ended. Transactions that took the lock later do not count."""
        if not self.virtual:
            return True
        now = self._holders(connection)
        prepared_now = {holder for holder in now if _is_prepared(holder)}
        gone = bool(self.virtual - now)
        # One that we wait for may have been PREPAREd: it continues under another name, which does
        # not tell from which transaction it comes. So any new prepared one may be it.
        turned = prepared_now - self.prepared if gone else set()
        self.virtual = (self.virtual & now) | turned
        self.prepared |= prepared_now
        return not self.virtual

    def _holders(self, connection: psycopg.Connection) -> set[str]:
        rows = connection.execute(
            _SQL["lockers"], {"relations": self.relations(connection)}
        ).fetchall()
        return {row[0] for row in rows}


class SequenceLockers:
    """A number is settled when all transactions have ended that held the sequence's lock at one
    moment after it was drawn.
    """

    def __init__(self, sequence: sql.Identifier, sequence_oid: int) -> None:
        """`sequence` is its qualified name."""
        self.name = sequence.as_string(None)
        self._last_value = sql.SQL("SELECT last_value, is_called FROM {}").format(sequence)
        self._waiting = Waiting(lambda _: [sequence_oid])
        self._candidate: int | None = None
        self.bound: int | None = None
        self.complete = True
        """Whether the last `advance` reached everything that was drawn before it."""

    def known_settled(self, position: Position) -> None:
        """This rule looks at no rows, so there is nothing that it could skip."""

    def advance(
        self, connection: psycopg.Connection, patience: timedelta, stop: Callable[[], bool] = NEVER
    ) -> Position | None:
        """See SettleRule.

        A candidate may be left over from the last call. When it has settled, a new one is taken, so
        that the bound covers what was drawn before this call.
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
        # While is_called is false, last_value is the number that comes next, as after ALTER
        # SEQUENCE … RESTART behind an import.
        return row[0] if row[1] else row[0] - 1 or None

    def _look(self, connection: psycopg.Connection) -> None:
        # The order matters. Whoever drew a number up to the value had the lock before that, so it
        # is among the holders or has ended. The other way round, a writer could take the lock and
        # draw between the two looks.
        self._candidate = self.drawn(connection)
        self._waiting.look(connection)

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """The sessions whose transactions have drawn numbers and not ended."""
        return [] if self.complete else who(connection, self._waiting)


SETTLES = 0.25
"""Seconds for which a number must have been the newest before the bound stays put: when it was
drawn, its transaction may not have had an id yet.
"""
RESTS = 5.0
"""Seconds for which a bound by transaction ids stays put while no number is drawn."""


class TransactionIds:
    """A row is settled when its transaction id lies below that of every transaction that runs in
    the cluster.
    """

    def __init__(self, sequence: sql.Identifier) -> None:
        """`sequence` gives the second part of a position."""
        self._query = sql.SQL(
            "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, last_value, "
            "is_called FROM {}"
        ).format(sequence)
        self._xmax = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        self._held = False
        self._quiet: tuple[int, Position, float] | None = None
        self._newest: tuple[int, float] = (0, 0.0)
        """The newest number that was seen, and since when it has been the newest."""

    def known_settled(self, position: Position) -> None:
        """This rule looks at no rows, so there is nothing that it could skip."""

    def advance(
        self, connection: psycopg.Connection, patience: timedelta, stop: Callable[[], bool] = NEVER
    ) -> Position | None:
        """See SettleRule.

        Waits until the transactions that ran at the call have ended.

        Every transaction of the cluster moves the bound, also a follower's own checkpoints: two
        followers would drive each other forward for ever. So the bound stays put when no number was
        drawn for `SETTLES` and no transaction ran. After `RESTS` it is computed again, in case a
        transaction drew a number long ago and got its id only later.
        """
        deadline = time.monotonic() + patience.total_seconds()
        target = connection.execute(self._xmax).fetchone()
        assert target is not None
        pause = 0.001
        while True:
            row = connection.execute(self._query).fetchone()
            assert row is not None
            xmin, last, called = row
            if not called:  # no event was ever written
                self._held = False
                return None
            if (
                self._quiet is not None
                and self._quiet[0] == last
                and time.monotonic() - self._quiet[2] < RESTS
            ):
                self._held = False
                return self._quiet[1]
            # Until xmin passes what ran at the call, one of those transactions is still running.
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
        """The oldest transactions of the cluster, which keep the bound where it is."""
        if not self._held:
            return []
        rows = connection.execute(_SQL["oldest_transactions"]).fetchall()
        return [_holder(*row) for row in rows if row[0] != connection.info.backend_pid] or [
            JUST_ENDED
        ]


JUST_ENDED = Holder("a writer", "its transaction has just ended", None)


def who(connection: psycopg.Connection, waiting: Waiting) -> list[Holder]:
    """The sessions that are waited for, with what they are doing now.

    At least one, for they may have ended since: that they held something back stays true.
    """
    parameters = {"relations": waiting.relations(connection), "waited": sorted(waiting.virtual)}
    return [
        _holder(*row[1:]) for row in connection.execute(_SQL["who"], parameters).fetchall()
    ] or [JUST_ENDED]


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
    # A prepared transaction has no session; pg_locks shows its backend number as -1.
    return virtual_transaction.startswith("-1/")
