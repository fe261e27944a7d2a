"""Numbers that are missing between those of events: which may still come, and which are dead.

settle.py explains why this matters. Here is the rule for layouts that number their events from a
sequence.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import structlog
from psycopg import sql

from esops.errors import ContradictedSequence
from esops.events import Position
from esops.postgres.statements import statements
from esops.stores.base import Holder
from esops.stores.postgres.settle import JUST_ENDED, NEVER, SequenceLockers, Waiting, who

log = structlog.get_logger("esops.settle")

_FIRST_PIECE, _LARGEST_PIECE = 1_000, 100_000
"""Rows that one statement searches for a missing number: few at first, then as many as take some
50 ms; a long statement's snapshot would keep VACUUM from working.
"""
_MOST_LOGGED = 10
"""Ranges of missing numbers that one line of the log names."""
_COUNTED = 1_000_000
"""Beyond this many numbers, the log does not say how many of them are missing."""
_TURN = 0.25
"""Seconds to wait for writers before missing numbers are checked again."""
_SAMPLES = 20
"""Into how many parts the threshold is divided: so finely it is known when a number was drawn."""
_LOOKED_AT = 100
"""Events that one query for old events looks at."""
_ROUNDING = timedelta(seconds=1)
"""The server gives the time of a checkpoint in whole seconds."""
_SQL = statements(__package__, "missing")


class NumbersInOrder:
    """Everything up to the first missing number that may still come is settled, whoever is writing.

    Where writers draw in their own transactions, a missing number is dead by the sequence lockers'
    rule. Where they may draw outside of them (`watched`), three things must hold: it was drawn
    longer ago than a threshold; all transactions have ended that held a write lock on the events
    table when that was known; and a new snapshot still does not show it.

    No list of missing numbers is needed. Numbers are drawn in order, so everything below a number
    that was drawn long ago was drawn long ago too. There are three kinds of evidence for that:

    - This process has watched: it keeps what the sequence was at, and when.
    - At first sight, the age of an event at or above the number: its transaction had ended when the
      server's last checkpoint began, or it committed long ago by the server's own commit
      timestamps. Times in the tables prove nothing: Marten's rich append leaves
      mt_streams.timestamp as it was, a long transaction has the time of its start, and an import
      has whatever times it brings.
    - The library's own reader has passed it (Marten's high-water mark).
    """

    def __init__(
        self,
        lockers: SequenceLockers,
        events: sql.Identifier,
        number: sql.Identifier,
        relations: Callable[[psycopg.Connection], list[int]],
        threshold: timedelta,
        numbered: sql.Composable,
        passed_by_library: Callable[[psycopg.Connection], int | None] = lambda _: None,
        *,
        watched: bool = True,
    ) -> None:
        """`relations` finds the oids of the events table and its partitions.

        `numbered` is the condition for rows that get their number from this sequence.
        `passed_by_library` finds the number up to which the library's own reader has passed all.
        `watched`: numbers may be drawn outside of the writers' transactions.
        """
        self._watched = watched
        self._lockers = lockers
        self._queries = {
            name: sql.SQL(text).format(events=events, number=number, numbered=numbered)
            for name, text in _SQL.items()
            if name != "checkpoint"
        }
        self._threshold = threshold
        self._passed_by_library = passed_by_library
        self._writers = Waiting(relations)
        self._drawn: deque[tuple[float, int]] = deque()
        """At which time the sequence was at which number, oldest first."""
        self._old = 0
        """All numbers up to this one were drawn longer ago than the threshold."""
        self._evidence = ""
        self._asked_events = False
        self._judged: int | None = None
        """An old number. What is missing up to it is dead when the writers that `_writers` waits
        for have ended.
        """
        self._through = 0
        """Every number up to this one is settled: visible, or dead."""
        self._missing: tuple[int, int, float] | None = None
        """The first range that is missing after `_through`, and since when that is known."""
        self._highest: int | None = None
        """The highest number in the table when the sequence was at `_highest_at`: while an idle
        store's sequence does not move, the table is not asked again.
        """
        self._highest_at: int | None = None
        self._known = 0
        """The highest position that `known_settled` was told."""
        self._piece = _FIRST_PIECE
        self._complete = True

    def known_settled(self, position: Position) -> None:
        """Skip what lies below a position that was settled before (a checkpoint of ours)."""
        self._known = max(self._known, position[0])
        if self._through < position[0]:
            self._reach(position[0])

    def advance(
        self, connection: psycopg.Connection, patience: timedelta, stop: Callable[[], bool] = NEVER
    ) -> Position | None:
        """See SettleRule; `patience` also limits the wait for missing numbers."""
        deadline = time.monotonic() + patience.total_seconds()
        drawn = self._lockers.drawn(connection)
        if drawn != self._highest_at or self._highest_at is None:
            # The table first: whoever inserted a number had drawn it before, so a sequence that is
            # read later cannot be behind the table.
            self._highest = self._ask(connection, "highest")[0]
            drawn = self._highest_at = self._lockers.drawn(connection)
        self._check_sequence(self._highest, drawn)
        target = self._highest
        self._complete = False
        while True:
            if drawn is not None:
                self._keep_drawn(drawn)
            # In short turns, so that the sequence is also watched while we wait for a writer.
            turn = timedelta(seconds=min(_TURN, max(0.0, deadline - time.monotonic())))
            by_lock = self._lockers.advance(connection, turn, stop)
            settled = by_lock[0] if by_lock is not None else 0
            # All numbers were drawn inside transactions, and those have ended.
            if not self._watched and settled > self._through:
                self._reach(settled)
            looking = self._look_for_missing(connection, max(settled, drawn or 0))
            while self._watched and self._judge(connection, settled):
                looking = self._look_for_missing(connection, max(settled, drawn or 0))
            self._complete = self._through >= (target or 0)
            if self._complete or time.monotonic() >= deadline or stop():
                return Position((self._through,)) if self._through >= 1 else None
            if not looking:
                time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
            drawn = self._lockers.drawn(connection)

    def _check_sequence(self, highest: int | None, drawn: int | None) -> None:
        """Raises ContradictedSequence where the sequence is behind the table, or behind a position
        that is known to be settled: then it does not say what was drawn.
        """
        if highest is not None and highest > (drawn or 0):
            raise ContradictedSequence(
                f"the sequence {self._lockers.name} is at {drawn or 0}, behind the newest event, "
                f"{highest}: writers will fail with "
                "duplicate keys, and esops cannot tell which events are settled",
                hint="Run this in the database, as is usual after an import or the promotion of a "
                "logical replica: "
                f"SELECT setval('{self._lockers.name}', {highest});",
            )
        if self._known > (drawn or 0):
            raise ContradictedSequence(
                f"position {self._known} lies beyond what the sequence {self._lockers.name} has "
                f"ever given out ({drawn or 0})",
                hint="The store was restored to an earlier time, emptied or replaced. Name the "
                "right "
                "store. If this is the right one, rebuild its read models.",
            )

    def _keep_drawn(self, number: int) -> None:
        """Remember that `number` was drawn by now, not more finely than the threshold needs."""
        if self._drawn and number <= self._drawn[-1][1]:
            return
        now = time.monotonic()
        if (
            len(self._drawn) > 1
            and now - self._drawn[-2][0] < self._threshold.total_seconds() / _SAMPLES
        ):
            # The last two are close together: the later one alone is enough.
            self._drawn.pop()
        self._drawn.append((now, number))

    def _look_for_missing(self, connection: psycopg.Connection, until: int) -> bool:
        """Move `_through` to the first missing number, one piece at a time.

        Returns whether the next piece should be searched at once.
        """
        if self._missing is not None:
            first, _, since = self._missing
            following = self._ask(connection, "next", after=self._through, until=until)[0]
            if following == first:  # it has come, so the rest of the range is searched again
                self._reach(first)
            else:
                self._missing = (first, until if following is None else following - 1, since)
                return False
        if self._through >= until:
            return False
        if self._watched and self._through + _FIRST_PIECE < until:
            self._ask_events(connection, until)
            if self._judged is not None:
                return False  # everything old will soon be settled without a search
        rows, highest, before, after = self._ask(
            connection, "first_missing", after=self._through, until=until, rows=self._piece
        )
        more = rows == self._piece
        if before is not None:
            self._reach(before)
            self._miss(before + 1, after - 1)
        elif highest is not None:
            self._reach(highest)
            self._piece = min(self._piece * 4, _LARGEST_PIECE)
        # Drawn, but no row has it yet: numbers may be missing at the very end as well.
        if self._missing is None and not more and self._through < until:
            self._miss(self._through + 1, until)
        if self._missing is not None:
            if self._watched:
                self._ask_events(connection, until)
            return False
        return self._through < until

    def _reach(self, number: int) -> None:
        self._through, self._missing = number, None

    def _miss(self, first: int, last: int) -> None:
        self._missing, self._piece = (first, last, time.monotonic()), _FIRST_PIECE

    def _judge(self, connection: psycopg.Connection, until: int) -> bool:
        """Pass what is missing and old, once every transaction that could be writing it has ended.

        Returns whether `_through` has moved.
        """
        long_ago = time.monotonic() - self._threshold.total_seconds()
        while self._drawn and self._drawn[0][0] <= long_ago:
            self._be_old(
                self._drawn.popleft()[1],
                "drawn longer ago than the threshold, by this process's own watch",
            )
        if self._judged is None:
            if min(self._old, until) <= self._through:
                return False
            self._judge_up_to_old(connection)
        if self._judged is not None and self._writers.over(connection):
            judged, self._judged = min(self._judged, until), None
            if judged > self._through:
                self._pass(connection, judged)
                return True
        return False

    def _judge_up_to_old(self, connection: psycopg.Connection) -> None:
        # The writers of now: one that drew an old number and has not inserted it yet takes the
        # lock on the table when it inserts. By the threshold it must have done so by now.
        self._judged = self._old
        self._writers.look(connection)

    def _be_old(self, number: int, evidence: str) -> None:
        if number > self._old:
            self._old, self._evidence = number, evidence

    def _ask_events(self, connection: psycopg.Connection, until: int) -> None:
        """Find out, once, up to which number all were drawn long before this process started.

        Later its own watch tells. The cheapest evidence is asked first.
        """
        if self._asked_events:
            return
        self._asked_events = True
        passed = self._passed_by_library(connection)
        if passed is not None and passed <= until:
            self._be_old(passed, "skipped by the library's own reader")
        if self._old < until:
            self._ask_checkpoint(connection, until)
        if self._old < until:
            self._ask_commits(connection, until)
        if self._old > self._through and self._judged is None:
            self._judge_up_to_old(connection)

    def _ask_checkpoint(self, connection: psycopg.Connection, until: int) -> None:
        with _denied():
            row = connection.execute(
                _SQL["checkpoint"], {"threshold": self._threshold + _ROUNDING}
            ).fetchone()
            if row is not None and row[0] is not None:
                found = self._newest_old(connection, "old_by_checkpoint", until, horizon=row[0])
                self._be_old(
                    found, "an event above it was committed before the server's last checkpoint"
                )

    def _ask_commits(self, connection: psycopg.Connection, until: int) -> None:
        with _denied():
            kept = connection.execute("SELECT current_setting('track_commit_timestamp')").fetchone()
            if kept is not None and kept[0] == "on":
                found = self._newest_old(
                    connection, "old_by_commit_timestamp", until, threshold=self._threshold
                )
                self._be_old(
                    found,
                    "an event above it was committed long ago, by the server's commit timestamps",
                )

    def _newest_old(
        self, connection: psycopg.Connection, query: str, until: int, **values: object
    ) -> int:
        """The highest number that a query for old events finds; 0 where it finds none.

        Looks at some of the newest events, then at some that are 1,000 numbers older, 10,000 older,
        and so on: the exact number is not worth a scan.
        """
        step = 0
        while until - step > self._through:
            parameters = {
                "after": self._through,
                "until": until - step,
                "rows": _LOOKED_AT,
                **values,
            }
            found = self._ask(connection, query, **parameters)[0]
            if found is not None:
                return int(found)
            step = max(1_000, step * 10)
        return 0

    def _pass(self, connection: psycopg.Connection, until: int) -> None:
        """Pass everything that is missing up to an old number, and log some of it with the
        evidence.
        """
        parameters = {"after": self._through, "until": until}
        ranges = connection.execute(
            self._queries["missing"], {**parameters, "rows": _LARGEST_PIECE, "ranges": _MOST_LOGGED}
        ).fetchall()
        following = self._ask(connection, "next", **parameters)[0]
        if following is None:
            ranges = [(self._through + 1, until)]
        if ranges:
            log.info(
                "missing numbers passed",
                ranges=[f"{first}-{last}" for first, last in ranges],
                up_to=until,
                evidence=f"{self._evidence}; all writers of that moment have ended; not in a new "
                "snapshot",
            )
        self._reach(until)

    def _ask(self, connection: psycopg.Connection, query: str, **values: object) -> tuple[Any, ...]:
        row = connection.execute(self._queries[query], values).fetchone()
        assert row is not None
        return row

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """The sessions that the sequence lockers' rule waits for; or else the first missing number
        and the sessions that may be writing it.
        """
        if self._complete:
            return []
        holders = self._lockers.held_back_by(connection)
        if self._missing is not None and not holders:
            first, last, seen = self._missing
            since = datetime.now(UTC) - timedelta(seconds=time.monotonic() - seen)
            name = str(first) if first == last else f"{first}-{last}"
            holders.append(
                Holder(
                    f"missing number {name}", "it may have been reserved and not written yet", since
                )
            )
        if self._judged is not None:
            holders += who(connection, self._writers)
        return holders or [JUST_ENDED]


@contextlib.contextmanager
def _denied() -> Iterator[None]:
    """Do without evidence that this role may not read or this server does not have."""
    try:
        yield
    except (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.UndefinedFunction,
        psycopg.errors.FeatureNotSupported,
    ) as error:
        log.debug("no evidence of age", error=str(error).strip())
