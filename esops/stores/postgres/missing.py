"""Numbers that are missing between those of events: which may still come, and which are dead.

settle.py explains why this matters. Here is the rule for layouts that number their events from a
sequence.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg

from esops.events import Position
from esops.stores.base import Holder
from esops.stores.postgres.ages import Ages
from esops.stores.postgres.gaps import Gap, each_once
from esops.stores.postgres.in_advance import HeldInAdvance
from esops.stores.postgres.memory import Memory
from esops.stores.postgres.numbered_events import NumberedEvents
from esops.stores.postgres.passed import PassedNumbers
from esops.stores.postgres.sequence import SequenceState
from esops.stores.postgres.settle import (
    COMPARED_EVERY,
    JUST_ENDED,
    NEVER,
    RESTS,
    SequenceLockers,
    Waiting,
    who,
)

_FIRST_PIECE, _LARGEST_PIECE = 1_000, 100_000
"""Rows that one statement searches for a missing number: few at first, then as many as take some
50 ms; a long statement's snapshot would keep VACUUM from working.
"""
_IN_VAIN, _SEARCH_EVERY = 5.0, 3.0
"""Seconds after which numbers that nobody is writing will hardly come, and between two searches for
them from then on.
"""
_TURN = 0.25
"""Seconds to wait for writers before missing numbers are checked again."""


class NumbersInOrder:
    """Everything up to the first missing number that may still come is settled, whoever is writing.

    Where writers draw in their own transactions, a missing number is dead by the sequence lockers'
    rule. Where they may draw outside of them (`watched`), three things must hold: it was drawn
    longer ago than a threshold (ages.py says how that is known); all transactions have ended that
    held a write lock on the events table when that was known, or on one that writers lock before
    it; and a new snapshot still does not
    show it. Where somebody may hold numbers in advance (in_advance.py), it is watched in any case,
    and the threshold is what it takes until nobody holds it any more.
    """

    def __init__(self, events: NumberedEvents) -> None:
        """`events` says what the table is like."""
        self._events = events
        self._sequence = events.source()
        self._lockers = SequenceLockers(self._sequence, events.table)
        self._writers = Waiting(events.written)
        self._ages = Ages(events)
        self._held = HeldInAdvance(events)
        self.memory = Memory(events)
        self._passed = PassedNumbers(events, self.memory)
        self._recalled = False
        self._in_advance = False
        """Whether somebody may hold numbers in advance: the sequence says so, or has said so."""
        self._judged: int | None = None
        """An old number. What is missing up to it is dead when the writers that `_writers` waits
        for have ended.
        """
        self._through = 0
        """Every number up to this one is settled: visible, or dead."""
        self._missing: Gap | None = None
        """The first range that is missing after `_through`."""
        self._search = False
        """Whether the next number has to be searched for: nothing old lies before it."""
        self._barren = 0
        """There is no event between `_through` and this number, and none will come."""
        self._highest: int | None = None
        """The highest number in the table when it was last compared with the sequence."""
        self._compared: tuple[SequenceState, float] | None = None
        """What the sequence was then, and when."""
        self._seen: SequenceState | None = None
        """What the sequence was at the last look."""
        self._known = 0
        """The highest position that `known_settled` was told."""
        self._piece = _FIRST_PIECE
        self._complete = True
        self._drawn_at = self._searched_at = 0.0
        """When the sequence was seen to move, and when `advance` was last called."""

    @property
    def _watched(self) -> bool:
        return self._events.watched or self._in_advance

    def known_settled(self, position: Position) -> None:
        """Skip what lies below a position that was settled before (a checkpoint of ours)."""
        self._known = max(self._known, position[0])
        if self._through < position[0]:
            self._reach(position[0])

    def advance(
        self, connection: psycopg.Connection, patience: timedelta, stop: Callable[[], bool] = NEVER
    ) -> Position | None:
        """See SettleRule; `patience` also limits the wait for missing numbers."""
        self._searched_at = time.monotonic()
        deadline = self._searched_at + patience.total_seconds()
        state = self._look(connection)
        target = self._highest or 0
        self._complete = False
        while True:
            drawn = state.drawn or 0
            self._ages.see(state, self._through)
            # In short turns, so that the sequence is also watched while we wait for a writer.
            turn = timedelta(seconds=min(_TURN, max(0.0, deadline - time.monotonic())))
            settled = self._lockers.advance(connection, turn, stop, looked=state) or 0
            # All numbers were drawn inside transactions, and those have ended.
            if not self._watched and settled > max(self._through, self._barren):
                self._pass_settled(connection, settled)
            looking = self._look_for_missing(connection, max(settled, drawn))
            while self._watched and self._judge(connection, settled):
                looking = self._look_for_missing(connection, max(settled, drawn))
            # Without an index the newest number is not known; then the sequence's lock tells.
            self._complete = (
                self._through >= target
                if self._events.indexed or self._watched
                else self._lockers.complete
            )
            if self._complete or time.monotonic() >= deadline or stop():
                self.remember(connection)
                return Position((self._through,)) if self._through >= 1 else None
            if not looking:
                time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
            state = self._look(connection)

    def rests(self, connection: psycopg.Connection) -> bool:
        """See SettleRule: every number that was ever drawn is there, or is known to be dead."""
        before = self._seen
        if before is None or self.memory.pending:
            return False
        reached = self._through if self._watched else max(self._through, self._barren)
        if reached < (before.drawn or 0):
            return self._waits_in_vain(connection, before)
        state = self._look(connection)
        return state.oid == before.oid and state.drawn == before.drawn

    @property
    def settled(self) -> Position | None:
        """Up to the first missing number."""
        return Position((self._through,)) if self._through >= 1 else None

    def _waits_in_vain(self, connection: psycopg.Connection, before: SequenceState) -> bool:
        """Whether the numbers that are missing at the very end have been so for a while, with
        nobody at work on them: then it is enough to search now and then whether they are there.
        """
        now = time.monotonic()
        vain = (
            not self._in_advance
            and self._complete
            and self._lockers.complete
            and self._judged is None
            and now - self._drawn_at > _IN_VAIN
            and now - self._searched_at < _SEARCH_EVERY
        )
        return vain and self._look(connection).drawn == before.drawn

    def _look(self, connection: psycopg.Connection) -> SequenceState:
        """What the sequence is now. It is compared with the table at first, where it is another one
        or went back, and now and then.

        Raises ContradictedSequence where it is behind the table, or behind what was settled: then
        it does not say what was drawn.
        """
        state = self._lockers.look(connection)
        if self._seen is None or state.drawn != self._seen.drawn:
            self._drawn_at = time.monotonic()
        if self._seen is not None and state.begins_again_after(self._seen):
            # Numbers that were drawn long ago are drawn once more.
            self._ages, self._judged, self._compared = Ages(self._events), None, None
        self._seen = state
        if self._compared is None or self._worth_comparing(state, *self._compared):
            self._barren = 0
            # The table first: whoever inserted a number had drawn it before, so a sequence that is
            # read later cannot be behind the table.
            self._highest = self._sequence.highest(connection)
            state = self._lockers.look(connection)
            self._compared = (state, time.monotonic())
            self._sequence.check(self._highest, state)
            self._see_writers(connection, state)
        drawn = state.drawn or 0
        if max(self._known, self._through) > drawn:
            raise self._sequence.beyond(max(self._known, self._through), drawn)
        return state

    def _worth_comparing(self, state: SequenceState, before: SequenceState, at: float) -> bool:
        changed = (before.cache, before.increment) != (state.cache, state.increment)
        # While an idle store's sequence does not move, the table need not be asked each time.
        moved = (self._events.indexed or self._watched) and state.drawn != before.drawn
        rested = time.monotonic() - at > (RESTS if self._events.indexed else COMPARED_EVERY)
        return changed or moved or rested

    def _see_writers(self, connection: psycopg.Connection, state: SequenceState) -> None:
        """Find out whether somebody may hold numbers in advance."""
        if state.cache == 1 and state.increment > 1 and self._events.promised:
            # The promise is that nobody uses other numbers than the sequence's own.
            # The number after all that were drawn is one of its own.
            own = (state.drawn or 0) + 1
            found = self._events.ask(
                connection, "off_the_grid", own=own, increment=state.increment
            )[0]
            if found and self._events.dead_after is not None:
                self._in_advance = True
            elif found:
                raise self._held.unknowable(self._sequence.name, state, self._through + 1)
        elif state.in_advance:
            self._in_advance = True

    def _look_for_missing(self, connection: psycopg.Connection, until: int) -> bool:
        """Move `_through` to the first missing number, one piece at a time.

        Returns whether the next piece should be searched at once.
        """
        if (gap := self._missing) is not None:
            following = self._events.ask(connection, "next", after=self._through, until=until)[0]
            if following == gap.first:  # it has come, so the rest of the range is searched again
                self._reach(gap.first)
            else:
                gap.follows = following is not None
                gap.last = following - 1 if gap.follows else until
                return False
        if self._through >= until or not (self._watched or self._events.indexed):
            return False
        if self._watched and not self._search and self._through + _FIRST_PIECE < until:
            self._ask_events(connection, until)
            if self._judged is not None:
                return False  # everything old will soon be settled without a search
        rows, highest, before, after = self._events.ask(
            connection, "first_missing", after=self._through, until=until, rows=self._piece
        )
        more = rows == self._piece
        if before is not None:
            self._reach(before)
            self._miss(before + 1, after - 1, follows=True)
        elif highest is not None:
            self._reach(highest)
            self._piece = min(self._piece * 4, _LARGEST_PIECE)
        # Drawn, but no row has it yet: numbers may be missing at the very end as well.
        if self._missing is None and not more and self._through < until:
            self._miss(self._through + 1, until, follows=False)
        if self._missing is not None:
            if self._watched:
                self._ask_events(connection, until)
            return False
        return self._through < until

    def _reach(self, number: int) -> None:
        self._through, self._missing, self._search = number, None, False

    def _miss(self, first: int, last: int, *, follows: bool) -> None:
        self._missing, self._piece = Gap(first, last, follows, time.monotonic()), _FIRST_PIECE

    def _pass_settled(self, connection: psycopg.Connection, settled: int) -> None:
        """Pass what is missing up to a number up to which all writers have ended, except at the
        end: a sequence that is set back to the newest event gives these numbers once more.
        """
        last = self._events.ask(connection, "last", after=self._through, until=settled)[0]
        if last is None:
            self._barren = settled
        else:
            why = "all transactions that drew numbers have ended"
            self._passed.note(connection, self._through, last, why)
            self._reach(last)

    def _judge(self, connection: psycopg.Connection, until: int) -> bool:
        """Pass what is missing and old, once every transaction that could be writing it has ended.

        Returns whether `_through` has moved.
        """
        if self._judged is None:
            if self._missing is not None and not self._missing.follows:
                return False
            age = self._age(connection)
            if age is not None:
                self._ages.watched(age)
            if min(self._ages.old, until) <= self._before_next:
                return False
            self._judge_up_to_old(connection)
        if self._judged is not None and self._writers.over(connection):
            judged, self._judged = min(self._judged, until), None
            if judged > self._through and self._pass(connection, judged):
                return True
            self._search = True
        return False

    @property
    def _before_next(self) -> int:
        """The number that must be old before there is anything to pass: the last of what is
        missing, where that is known.
        """
        return self._through if self._missing is None else self._missing.last

    def _age(self, connection: psycopg.Connection) -> timedelta | None:
        """How long ago a number must have been drawn so that it cannot come any more.

        Raises UnknowableNumbers where no time is enough and events wait for the number.
        """
        if not self._in_advance:
            return self._events.threshold
        assert self._compared is not None
        state, low = self._compared[0], self._drawn_between()[0]
        age = self._held.age(connection, state, low)
        if age is None and self._missing is not None and self._missing.follows:
            waited = time.monotonic() - self._missing.since
            if waited >= self._events.threshold.total_seconds():
                raise self._held.unknowable(self._sequence.name, state, self._missing.first)
        return age

    def _drawn_between(self) -> tuple[float | None, float | None]:
        if self._missing is None:
            return None, None
        return self._ages.drawn_between(self._missing.first)

    def _judge_up_to_old(self, connection: psycopg.Connection) -> None:
        # The writers of now: one that drew an old number and has not inserted it yet takes the
        # lock on the table when it inserts. By the threshold it must have done so by now.
        self._judged = self._ages.old
        self._writers.look(connection)

    def _ask_events(self, connection: psycopg.Connection, until: int) -> None:
        """Find out, once, up to which number all were drawn long before this process started."""
        if not self._recalled and self._seen is not None:
            self._recalled = True
            self._ages.recall(*self.memory.recall(connection, self._seen))
        age = self._age(connection)
        if age is None:
            return
        oldest = self._held.oldest if self._in_advance else None
        self._ages.ask(connection, age, self._through, until, oldest)
        if self._ages.old > self._before_next and self._judged is None:
            self._judge_up_to_old(connection)

    def _pass(self, connection: psycopg.Connection, old: int) -> bool:
        """Pass everything that is missing before the newest event up to an old number. Returns
        whether there is such an event.
        """
        until = self._events.ask(connection, "last", after=self._through, until=old)[0]
        if until is None:
            return False
        self._passed.log(connection, self._through, until, self._ages.evidence)
        self._reach(until)
        return True

    def remember(self, connection: psycopg.Connection, *, now: bool = False) -> None:
        """Write down what a later process has to know, where the memory is kept; where the sequence
        is only as long as a missing number holds something back.
        """
        if self._seen is None:
            return
        self._passed.note_earlier(connection)
        waiting = self._missing is not None and self._missing.follows
        sightings = self._ages.sightings if waiting else []
        self.memory.write(connection, self._seen, sightings, self._through, now=now)

    def late(self, connection: psycopg.Connection) -> list[tuple[int, datetime, datetime | None]]:
        """See Memory.late."""
        return self.memory.late(connection, self._sequence.state(connection))

    def held_back_by(self, connection: psycopg.Connection) -> list[Holder]:
        """The sessions that the sequence lockers' rule waits for; or else the first missing number
        and the sessions that may be writing it, or may hold it.
        """
        if self._complete:
            return []
        holders = self._lockers.held_back_by(connection)
        if self._missing is not None and not holders:
            low, high = self._drawn_between()
            holders.append(self._missing.as_holder(high))
            if self._in_advance and self._compared is not None:
                holders += self._held.holders(low, high, self._compared[0].cache)
        if self._judged is not None:
            holders += who(connection, self._writers)
        # A session may hold numbers in advance and be writing as well.
        return each_once(holders) or [JUST_ENDED]
