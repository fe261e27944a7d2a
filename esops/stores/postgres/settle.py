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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, LiteralString, Protocol

import psycopg

from esops.errors import Refused
from esops.events import Position
from esops.postgres.activity import without_values
from esops.postgres.statements import statements
from esops.stores.base import Holder
from esops.stores.postgres.sequence import NumberSequence, SequenceState

if TYPE_CHECKING:
    from esops.stores.postgres.memory import Memory

NEVER: Callable[[], bool] = lambda: False  # noqa: E731 - a constant that is a function

_SQL = statements(__package__, "settle")
_LOCKERS, _WHO = (_SQL["written"] + "\n" + _SQL[name] for name in ("lockers", "who"))


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

    def rests(self, connection: psycopg.Connection) -> bool:
        """Whether nothing can have settled since the last `advance`: by one statement, mostly. Then
        `settled` is still the newest bound.
        """
        ...

    @property
    def settled(self) -> Position | None:
        """The newest bound that is known; None where nothing is settled yet."""
        ...

    @property
    def memory(self) -> Memory | None:
        """What is remembered of missing numbers; None where none are passed."""
        ...

    def remember(self, connection: psycopg.Connection, *, now: bool = False) -> None:
        """Write down what a later process has to know, where that is kept."""
        ...

    def late(self, connection: psycopg.Connection) -> list[tuple[int, datetime, datetime | None]]:
        """The numbers of events that came after they had been passed as dead, newest first; when
        they were passed, and when that was found.
        """
        ...

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """Who kept the last `advance` from reaching everything that was drawn before it; empty only
        where nobody did.
        """
        ...


@dataclass
class Waiting:
    """The transactions that held a write lock at one moment, on the table of the events or on their
    sequence, or waited for one, without those that have ended since.
    """

    tables: Sequence[str]
    """Quoted and qualified. Partitions count as well, and whatever bears these names now."""
    sequence: int | None = None
    """The oid of a sequence whose lock counts as well."""
    virtual: set[str] = field(default_factory=set)
    prepared: set[str] = field(default_factory=set)

    def look(self, connection: psycopg.Connection) -> None:
        """Start again with the transactions that hold the lock now."""
        self.virtual = self._holders(connection)
        self.prepared = {holder for holder in self.virtual if _is_prepared(holder)}

    def forget(self) -> None:
        """Wait for nobody any more."""
        self.virtual, self.prepared = set(), set()

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
        return {row[0] for row in connection.execute(_LOCKERS, self.parameters).fetchall()}

    @property
    def parameters(self) -> dict[str, object]:
        """For the statements that look at locks."""
        return {"tables": list(self.tables), "sequence": self.sequence}


class SequenceLockers:
    """A number is settled when all transactions have ended that held the sequence's lock at one
    moment after it was drawn; and those that held a lock on the table, for an import writes numbers
    that it has not drawn.
    """

    def __init__(self, sequence: NumberSequence, table: str) -> None:
        """`sequence` gives the numbers of the `table`, which is quoted and qualified."""
        self._sequence = sequence
        self._waiting = Waiting([table])
        self._candidate: int | None = None
        self.state: SequenceState | None = None
        """What the sequence was at the last look."""
        self.bound: int | None = None
        self.complete = True
        """Whether the last `advance` reached everything that was drawn before it."""

    def advance(
        self,
        connection: psycopg.Connection,
        patience: timedelta,
        stop: Callable[[], bool] = NEVER,
        *,
        looked: SequenceState | None = None,
    ) -> int | None:
        """The number up to which all are settled; None where none is. `looked`: what the last
        `look` said, where the caller has looked just now.

        Waits as SettleRule says. A candidate may be left over from the last call. When it has
        settled, a new one is taken, so that the bound covers what was drawn before this call.
        """
        deadline = time.monotonic() + patience.total_seconds()
        pause = 0.001
        self.complete = False
        while True:
            fresh = self._candidate is None
            if fresh:
                # The order matters. Whoever drew a number up to the value had the lock before that,
                # so it is among the holders or has ended. The other way round, a writer could take
                # the lock and draw between the two looks.
                state = looked or self.look(connection)
                looked = None
                self._candidate, self._waiting.sequence = state.drawn, state.oid
                self._waiting.look(connection)
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
        return self.bound

    def look(self, connection: psycopg.Connection) -> SequenceState:
        """What the sequence is at now."""
        state = self._sequence.state(connection)
        if self.state is not None and state.begins_again_after(self.state):
            # The same numbers are given once more, so what was settled says nothing.
            self._candidate = self.bound = None
            self._waiting.forget()
        self.state = state
        return state

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """The sessions whose transactions have drawn numbers and not ended."""
        return [] if self.complete else who(connection, self._waiting)


SETTLES = 0.25
"""Seconds for which a number must have been the newest before the bound stays put: when it was
drawn, its transaction may not have had an id yet.
"""
RESTS = 5.0
"""Seconds for which a bound by transaction ids stays put while no number is drawn."""
COMPARED_EVERY = 60.0
"""Seconds after which the table is compared with its sequence again."""
_XMIN = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
_XMAX = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"


class TransactionIds:
    """A row is settled when its transaction id lies below that of every transaction that runs in
    the cluster.
    """

    memory = None

    def remember(self, connection: psycopg.Connection, *, now: bool = False) -> None:
        """Nothing: this rule passes no numbers."""

    def late(
        self,
        connection: psycopg.Connection,  # noqa: ARG002 - as the others
    ) -> list[tuple[int, datetime, datetime | None]]:
        """None ever is."""
        return []

    def __init__(
        self,
        sequence: NumberSequence,
        hidden: Callable[[psycopg.Connection], Sequence[str]] = lambda _: (),
    ) -> None:
        """`sequence` gives the second part of a position.

        `hidden` says in sentences which events this rule never reads.
        """
        self._sequence, self._hidden = sequence, hidden
        self._state: SequenceState | None = None
        """What the sequence was when it was last compared with the table, or later."""
        self._compared = 0.0
        self._held = False
        self._quiet: tuple[int, Position, float] | None = None
        self._newest: tuple[int, float] = (0, 0.0)
        """The newest number that was seen, and since when it has been the newest."""

    def known_settled(self, position: Position) -> None:
        """This rule looks at no rows, so there is nothing that it could skip."""

    def rests(self, connection: psycopg.Connection) -> bool:
        """See SettleRule: as long as the bound stays put anyway."""
        quiet = self._quiet
        if quiet is None or self._resting(quiet) is None:
            return False
        return self._look(connection).drawn == quiet[0]

    @property
    def settled(self) -> Position | None:
        """Where the bound stays put."""
        return None if self._quiet is None else self._quiet[1]

    def _resting(self, quiet: tuple[int, Position, float]) -> Position | None:
        return quiet[1] if time.monotonic() - quiet[2] < RESTS else None

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
        target = _number(connection, _XMAX)
        pause = 0.001
        while True:
            # The oldest transaction before the sequence: whatever is visible below it has drawn.
            xmin = _number(connection, _XMIN)
            last = self._look(connection).drawn
            if last is None:  # no event was ever written
                self._held = False
                return None
            quiet = self._quiet
            if quiet is not None and quiet[0] == last and self._resting(quiet) is not None:
                self._held = False
                return quiet[1]
            # Until xmin passes what ran at the call, one of those transactions is still running.
            self._held = xmin < target
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

    def _look(self, connection: psycopg.Connection) -> SequenceState:
        """What the sequence is at, compared with the table at first, where it went back or is
        another one, and now and then.

        Raises Refused where there are events that would never be read.
        """
        state, before = self._sequence.state(connection), self._state
        if (
            before is None
            or state.begins_again_after(before)
            or time.monotonic() - self._compared > COMPARED_EVERY
        ):
            state = self._sequence.compare(connection)
            self._compared = time.monotonic()
            for why in self._hidden(connection):
                raise Refused(why)
        self._state = state
        return state

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """The oldest transactions of the cluster, which keep the bound where it is."""
        if not self._held:
            return []
        rows = connection.execute(_SQL["oldest_transactions"]).fetchall()
        return [_holder(*row) for row in rows if row[0] != connection.info.backend_pid] or [
            JUST_ENDED
        ]


JUST_ENDED = Holder(
    "a writer", "its transaction has just ended", None, "Nothing has to be done. Look again."
)


def who(connection: psycopg.Connection, waiting: Waiting) -> list[Holder]:
    """The sessions that are waited for, with what they are doing now.

    At least one, for they may have ended since: that they held something back stays true.
    """
    parameters = {**waiting.parameters, "waited": sorted(waiting.virtual)}
    rows = connection.execute(_WHO, parameters).fetchall()
    return [_holder(*row[1:]) for row in rows] or [JUST_ENDED]


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
            "a prepared transaction",
            "waits for COMMIT PREPARED or ROLLBACK PREPARED",
            since,
            "Find it in pg_prepared_xacts; then COMMIT PREPARED or ROLLBACK PREPARED.",
        )
    return Holder(
        f"session {pid} of {user or '?'} ({application or 'no name'})",
        f"{state or '?'}: {without_values(query or '?')}",
        since,
    )


def _number(connection: psycopg.Connection, question: LiteralString) -> int:
    row = connection.execute(question).fetchone()
    assert row is not None
    return int(row[0])


def _is_prepared(virtual_transaction: str) -> bool:
    # A prepared transaction has no session; pg_locks shows its backend number as -1.
    return virtual_transaction.startswith("-1/")
