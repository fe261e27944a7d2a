"""What is safe to read: why a tail reader loses events, and how esops does not.

A global sequence number is drawn before its transaction commits. So a reader that takes everything up to the highest
number it sees will pass a lower number whose writer is still at work, and never come back for it. Waiting for the
writers' locks on the events table does not help: between `nextval` and `INSERT` a writer holds none.

The rules here give a *bound*: a position below which every event is visible to any snapshot taken from now on, or will
never come. None of them takes a lock; no writer is delayed. They are incremental: `advance` returns what is settled
within its patience and keeps what it is still waiting for. docs/explanation/settled-reads.md has the measurements.

- `SequenceLockers`: `nextval` takes a RowExclusiveLock on the sequence's relation before it draws, and keeps it to the end
  of the transaction (nextval_internal and lock_and_open_sequence in PostgreSQL's src/backend/commands/sequence.c). So read the
  last value M, then the transactions that hold that lock; when none of them runs any more, every number <= M is settled.
- `HolesWatched`: where numbers may also be drawn outside of the writer's transaction, missing numbers are watched too.
- `TransactionIds`: rows carry their transaction's id; what lies below every running one's is settled.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import psycopg
import structlog
from psycopg import sql

from esops.backends.base import Holder
from esops.events import Position

log = structlog.get_logger("esops.settle")

_SIGHT = 1_000_000
"""How many numbers one statement looks through for holes: some 100 ms, so that no snapshot of ours lives long."""
_MOST_LOGGED = 10
_MOST_HOLES = 100_000
"""How many ranges of missing numbers are watched at a time; the bound waits before the next."""

_LOCKERS = """
SELECT DISTINCT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND relation = ANY(%(relations)s) AND granted AND pid IS DISTINCT FROM pg_backend_pid()
  AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""

_WHO = """
SELECT l.virtualtransaction, l.pid, a.usename, a.application_name, a.state, a.xact_start,
       left(regexp_replace(a.query, '\\s+', ' ', 'g'), 120)
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'relation' AND l.relation = ANY(%(relations)s) AND l.virtualtransaction = ANY(%(waited)s)
ORDER BY a.xact_start NULLS FIRST
"""

_HOLES = """
WITH numbers AS (
    SELECT {number} AS number, lag({number}, 1, %(after)s::bigint) OVER (ORDER BY {number}) AS previous
    FROM {events} WHERE {numbered} AND {number} > %(after)s AND {number} <= %(until)s
)
SELECT previous + 1, number - 1 FROM numbers WHERE number - previous > 1
UNION ALL
SELECT coalesce(max(number), %(after)s::bigint) + 1, %(until)s::bigint FROM numbers
HAVING coalesce(max(number), %(after)s::bigint) < %(until)s::bigint
ORDER BY 1
"""

_FILLED = """
SELECT e.{number} FROM unnest(%(first)s::bigint[], %(last)s::bigint[]) AS hole(first, last)
JOIN (SELECT {number} FROM {events} WHERE {numbered}) AS e ON e.{number} BETWEEN hole.first AND hole.last ORDER BY 1
"""


class SettleRule(Protocol):
    """A way to know what is settled."""

    def known_settled(self, position: Position) -> None:
        """Be told of a position that was settled before, so that nothing below it need be looked at again."""
        ...

    def advance(self, connection: psycopg.Connection, patience: timedelta) -> Position | None:
        """The newest bound, waiting at most `patience` for writers under way. None: nothing is settled yet."""
        ...

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """Who keeps the bound from moving, as of the last advance."""
        ...


@dataclass
class _Waiting:
    """The transactions that held a lock when we looked, minus those that have ended since."""

    relations: Callable[[psycopg.Connection], list[int]]
    virtual: set[str] = field(default_factory=set)
    prepared: set[str] = field(default_factory=set)

    def look(self, connection: psycopg.Connection) -> None:
        self.virtual = self._holders(connection)
        self.prepared = {holder for holder in self.virtual if _is_prepared(holder)}

    def over(self, connection: psycopg.Connection) -> bool:
        if not self.virtual:
            return True
        now = self._holders(connection)
        prepared_now = {holder for holder in now if _is_prepared(holder)}
        gone = bool(self.virtual - now)
        # A transaction that was waited for may have been PREPAREd: it goes on under a new name. Any new prepared one may be it.
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
        self._last_value = sql.SQL("SELECT last_value, is_called FROM {}").format(sequence)
        self._waiting = _Waiting(lambda _: [sequence_oid])
        self._candidate: int | None = None
        self.bound: int | None = None

    def known_settled(self, position: Position) -> None:
        """Nothing to save: the bound is found without looking at rows."""

    def advance(self, connection: psycopg.Connection, patience: timedelta) -> Position | None:
        """See SettleRule. Looks once more after an old candidate has settled, so that the bound is fresh."""
        deadline = time.monotonic() + patience.total_seconds()
        pause = 0.001
        while True:
            fresh = self._candidate is None
            if fresh:
                self._look(connection)
            if self._waiting.over(connection):
                self.bound, self._candidate = self._candidate, None
                if fresh:
                    break
                continue
            if time.monotonic() >= deadline:
                break
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        return None if self.bound is None else Position((self.bound,))

    def _look(self, connection: psycopg.Connection) -> None:
        # First the value, then the holders: whoever drew a number up to it is among them or has ended.
        row = connection.execute(self._last_value).fetchone()
        assert row is not None
        self._candidate = row[0] if row[1] else None
        self._waiting.look(connection)

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """The sessions whose transactions have drawn numbers and not ended."""
        return _who(connection, self._waiting)


@dataclass(slots=True)
class _Hole:
    first: int
    last: int
    seen: float


class HolesWatched:
    """The sequence lockers' bound, stopped before the oldest missing number that may still come.

    For numbers drawn outside of the writer's transaction. A hole older than the threshold is dead when, after all those
    who then held a write lock on the events table have ended, a new snapshot still does not show it.
    """

    def __init__(
        self,
        lockers: SequenceLockers,
        events: sql.Identifier,
        number: sql.Identifier,
        relations: Callable[[psycopg.Connection], list[int]],
        threshold: timedelta,
        numbered: sql.Composable,
    ) -> None:
        """Take the inner rule and where to look for numbers.

        `relations` finds the oids of the events table and its partitions; `numbered` is the condition for rows that are
        numbered from this sequence.
        """
        self._lockers = lockers
        self._holes_query = sql.SQL(_HOLES).format(events=events, number=number, numbered=numbered)
        self._filled_query = sql.SQL(_FILLED).format(events=events, number=number, numbered=numbered)
        self._threshold = threshold.total_seconds()
        self._writers = _Waiting(relations)
        self._judged: list[_Hole] = []
        self._holes: list[_Hole] = []
        self._sighted = 0
        self.dead = 0

    def known_settled(self, position: Position) -> None:
        """Do not look below a position that was settled before (a checkpoint of ours)."""
        if self._sighted < position[0] and not self._holes:
            self._sighted = position[0]

    def advance(self, connection: psycopg.Connection, patience: timedelta) -> Position | None:
        """See SettleRule; `patience` covers the holes too."""
        deadline = time.monotonic() + patience.total_seconds()
        while True:
            left = timedelta(seconds=max(0.0, deadline - time.monotonic()))
            inner = self._lockers.advance(connection, left)
            if inner is None:
                return None
            self._sight(connection, inner[0])
            self._look_again(connection)
            complete = not self._holes and self._sighted >= inner[0]
            if complete or time.monotonic() >= deadline:
                return self._bound()
            time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))

    def _bound(self) -> Position | None:
        bound = self._holes[0].first - 1 if self._holes else self._sighted
        return Position((bound,)) if bound >= 1 else None

    def _sight(self, connection: psycopg.Connection, until: int) -> None:
        while self._sighted < until and len(self._holes) < _MOST_HOLES:
            end = min(self._sighted + _SIGHT, until)
            rows = connection.execute(self._holes_query, {"after": self._sighted, "until": end}).fetchall()
            now = time.monotonic()
            self._holes.extend(_Hole(first, last, now) for first, last in rows)
            self._sighted = end

    def _look_again(self, connection: psycopg.Connection) -> None:
        now = time.monotonic()
        if self._judged:
            if self._writers.over(connection):
                self._forget_filled(connection)
                self._bury()
            return
        if len(self._holes) <= 1000:
            self._forget_filled(connection)
        old = [hole for hole in self._holes if now - hole.seen >= self._threshold]
        if old:
            self._judged = old
            self._writers.look(connection)

    def _forget_filled(self, connection: psycopg.Connection) -> None:
        if not self._holes:
            return
        parameters = {"first": [h.first for h in self._holes], "last": [h.last for h in self._holes]}
        filled = [row[0] for row in connection.execute(self._filled_query, parameters).fetchall()]
        if filled:
            judged = {id(hole) for hole in self._judged}
            pieces = [(id(hole) in judged, _split(hole, filled)) for hole in self._holes]
            self._holes = [piece for _, split in pieces for piece in split]
            self._judged = [piece for was_judged, split in pieces if was_judged for piece in split]

    def _bury(self) -> None:
        dead = {id(hole) for hole in self._judged}
        self._holes = [hole for hole in self._holes if id(hole) not in dead]
        numbers = sum(hole.last - hole.first + 1 for hole in self._judged)
        oldest = min(hole.seen for hole in self._judged)
        log.info(
            "holes passed",
            numbers=numbers,
            ranges=[f"{hole.first}-{hole.last}" for hole in self._judged[:_MOST_LOGGED]],
            more=max(0, len(self._judged) - _MOST_LOGGED),
            missing_for_seconds=round(time.monotonic() - oldest, 1),
            evidence="older than the threshold; all writers of that moment have ended; not in a new snapshot",
        )
        self.dead += numbers
        self._judged = []

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """The sessions that the inner rule waits for, and the oldest hole."""
        holders = self._lockers.held_back_by(connection)
        if self._holes:
            hole = self._holes[0]
            since = datetime.now(UTC) - timedelta(seconds=time.monotonic() - hole.seen)
            name = str(hole.first) if hole.first == hole.last else f"{hole.first}-{hole.last}"
            holders.append(Holder(f"missing number {name}", "it may have been reserved and not written yet", since))
        return holders


SETTLES = 0.25
"""Seconds for which a number must have been the newest before the bound rests: its transaction may have no id yet when it is drawn."""
RESTS = 5.0
"""Seconds that a bound by transaction ids stays where it is while no number is drawn."""


class TransactionIds:
    """Settled is every row whose transaction id lies below that of each running transaction of the cluster."""

    def __init__(self, sequence: sql.Identifier) -> None:
        """Take the sequence that the second part of the position comes from."""
        self._query = sql.SQL(
            "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, last_value, is_called FROM {}"
        ).format(sequence)
        self._xmax = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        self._held = False
        self._quiet: tuple[int, Position, float] | None = None
        self._newest: tuple[int, float] = (0, 0.0)
        """The newest number that was seen, and since when it is the newest."""

    def known_settled(self, position: Position) -> None:
        """Nothing to save: the bound is found without looking at rows."""

    def advance(self, connection: psycopg.Connection, patience: timedelta) -> Position | None:
        """See SettleRule. Waits until what ran at the call has ended; the bound is never below what is visible as settled.

        Every transaction of the cluster moves the bound, a follower's own checkpoints too. So when no number was drawn for `SETTLES` and
        nothing ran at a look, it stays where it was: two followers would else drive each other on for ever. It moves again after
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
                return None
            if self._quiet is not None and self._quiet[0] == last and time.monotonic() - self._quiet[2] < RESTS:
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
            if time.monotonic() >= deadline:
                return bound
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """The oldest transactions of the cluster."""
        if not self._held:
            return []
        rows = connection.execute(
            "SELECT pid, usename, application_name, state, xact_start, left(regexp_replace(query, '\\s+', ' ', 'g'), 120) "
            "FROM pg_stat_activity WHERE backend_xid IS NOT NULL UNION ALL "
            "SELECT NULL, owner, gid, 'prepared', prepared, '' FROM pg_prepared_xacts ORDER BY 5 LIMIT 5"
        ).fetchall()
        return [_holder(*row) for row in rows if row[0] != connection.info.backend_pid]


def _who(connection: psycopg.Connection, waiting: _Waiting) -> list[Holder]:
    if not waiting.virtual:
        return []
    parameters = {"relations": waiting.relations(connection), "waited": sorted(waiting.virtual)}
    return [_holder(*row[1:]) for row in connection.execute(_WHO, parameters).fetchall()]


def _holder(
    pid: int | None, user: str | None, application: str | None, state: str | None, since: datetime | None, query: str | None
) -> Holder:
    if pid is None:
        return Holder("a prepared transaction", "waits for COMMIT PREPARED or ROLLBACK PREPARED", since)
    return Holder(f"session {pid} of {user or '?'} ({application or 'no name'})", f"{state or '?'}: {query or '?'}", since)


def _is_prepared(virtual_transaction: str) -> bool:
    return virtual_transaction.startswith("-1/")


def _split(hole: _Hole, filled: Sequence[int]) -> list[_Hole]:
    """What is left of a hole when some of its numbers have turned up; `filled` is sorted."""
    pieces: list[_Hole] = []
    first = hole.first
    start, end = bisect.bisect_left(filled, hole.first), bisect.bisect_right(filled, hole.last)
    for number in filled[start:end]:
        if number > first:
            pieces.append(_Hole(first, number - 1, hole.seen))
        first = number + 1
    if first == hole.first:
        return [hole]
    if first <= hole.last:
        pieces.append(_Hole(first, hole.last, hole.seen))
    return pieces
