"""How long ago numbers were drawn: what proves it, and what proves nothing.

No list of missing numbers is needed. Numbers are drawn in order, so everything below a number that
was drawn long ago was drawn long ago too. There are three kinds of evidence for that:

- The sequence was watched: by this process, or by an earlier one that wrote down what it saw
  (memory.py).
- At first sight, the age of some events at or above the number: their transactions had ended when
  the server's last checkpoint began, or they committed long ago by the server's own commit
  timestamps. One event alone is no evidence, for it may have been written above the sequence.
  Times in the tables prove nothing: Marten's rich append leaves mt_streams.timestamp as it was, a
  long transaction has the time of its start, and an import has whatever times it brings.
- The library's own reader has passed it (Marten's high-water mark).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import psycopg
import structlog

from esops.postgres.statements import statements
from esops.stores.postgres.numbered_events import NumberedEvents
from esops.stores.postgres.sequence import SequenceState

log = structlog.get_logger("esops.settle")

_SAMPLES = 20
"""Into how many parts the threshold is divided: so finely it is known when a number was drawn."""
_MOST_SIGHTINGS = 128
_LOOKED_AT = 100
"""Events that one query for old events looks at."""
_NTH = 5
"""Which of the old events, from the highest number down, counts. An event that was written with an
explicit number above the sequence says nothing of the numbers below it, which are drawn later; of
five events one at least has its number from the sequence.
"""
_ROUNDING = timedelta(seconds=1)
"""The server gives the time of a checkpoint in whole seconds."""
_STEP = 1.0
"""Seconds by which the server's clock must go back before it counts."""
_SQL = statements(__package__, "missing")


@dataclass(slots=True)
class Sighting:
    """The sequence was seen at `number`, by the server's clock (seconds since 1970): first at
    `first`, last at `last`.
    """

    number: int
    first: float
    last: float
    seen: float = 0.0
    """`first` by this process's monotonic clock."""


class Ages:
    """Up to which number all were drawn longer ago than an age that is asked for."""

    def __init__(self, events: NumberedEvents) -> None:
        """Nothing is known yet."""
        self._events = events
        self.sightings: list[Sighting] = []
        """Oldest first. The first one may lie below what is missing: then it tells since when."""
        self.old = 0
        """All numbers up to this one were drawn long enough ago."""
        self.evidence = ""
        self._asked = False
        self._asked_with: object = None

    def see(self, state: SequenceState, through: int) -> None:
        """Remember that the sequence was at a number by now, not more finely than the threshold
        needs. `through`: everything up to it is settled.
        """
        if state.drawn is None:
            return
        seen = self.sightings
        if seen and state.at < seen[-1].last - _STEP:
            seen.clear()  # The server's clock went back, so its times put nothing in order.
        if seen and state.drawn <= seen[-1].number:
            if state.drawn == seen[-1].number:
                seen[-1].last = state.at
            return
        now = time.monotonic()
        finely = self._events.threshold.total_seconds() / _SAMPLES
        # The last two are close together: the later one alone is enough.
        if len(seen) > 2 and now - seen[-2].seen < finely:
            seen.pop()
        seen.append(Sighting(state.drawn, state.at, state.at, now))
        while len(seen) > 1 and seen[1].number <= through:
            seen.pop(0)
        if len(seen) > _MOST_SIGHTINGS:
            del seen[2:-2:2]

    def recall(self, earlier: Sequence[Sighting], now: float) -> None:
        """Add what earlier processes saw; `now` is the server's clock."""
        if any(each.last > now + _STEP for each in earlier):
            return  # The server's clock went back.
        offset = time.monotonic() - now
        for each in earlier:
            each.seen = each.first + offset
        oldest = self.sightings[0].number if self.sightings else None
        before = [each for each in earlier if oldest is None or each.number < oldest]
        same = next((each for each in earlier if each.number == oldest), None)
        if same is not None:
            self.sightings[0].first, self.sightings[0].seen = same.first, same.seen
        self.sightings[:0] = before

    def drawn_between(self, number: int) -> tuple[float | None, float | None]:
        """The times of the server's clock between which a number was drawn, as far as known."""
        low = [each.last for each in self.sightings if each.number < number]
        high = [each.first for each in self.sightings if each.number >= number]
        return (low[-1] if low else None, high[0] if high else None)

    def watched(self, age: timedelta) -> None:
        """Look whether the watch alone proves that more numbers are old."""
        long_ago = time.monotonic() - age.total_seconds()
        for each in reversed(self.sightings):
            if each.seen <= long_ago:
                self._be_old(each.number, "the sequence was seen there longer ago than needed")
                return

    def ask(
        self,
        connection: psycopg.Connection,
        age: timedelta,
        after: int,
        until: int,
        oldest: float | None = None,
    ) -> None:
        """Find out up to which number all were drawn long before this process started.

        Asked once, for later the watch tells; and again where the age depends on the `oldest`
        session and that is another one. Then the library's own reader, which does not know of
        sessions, proves nothing. The cheapest evidence comes first.
        """
        if self._asked and oldest == self._asked_with:
            return
        self._asked, self._asked_with = True, oldest
        passed = self._events.passed_by_library(connection) if oldest is None else None
        if passed is not None and passed <= until:
            self._be_old(passed, "skipped by the library's own reader")
        if self.old < until:
            self._ask_checkpoint(connection, age, after, until)
        if self.old < until:
            self._ask_commits(connection, age, after, until)

    def _be_old(self, number: int, evidence: str) -> None:
        if number > self.old:
            self.old, self.evidence = number, evidence

    def _ask_checkpoint(
        self, connection: psycopg.Connection, age: timedelta, after: int, until: int
    ) -> None:
        with _denied():
            row = connection.execute(_SQL["checkpoint"], {"threshold": age + _ROUNDING}).fetchone()
            if row is not None and row[0] is not None:
                found = self._newest_old(
                    connection, "old_by_checkpoint", after, until, horizon=row[0]
                )
                self._be_old(
                    found, "events above it were committed before the server's last checkpoint"
                )

    def _ask_commits(
        self, connection: psycopg.Connection, age: timedelta, after: int, until: int
    ) -> None:
        with _denied():
            kept = connection.execute("SELECT current_setting('track_commit_timestamp')").fetchone()
            if kept is not None and kept[0] == "on":
                found = self._newest_old(
                    connection, "old_by_commit_timestamp", after, until, threshold=age
                )
                self._be_old(
                    found,
                    "events above it were committed long ago, by the server's commit timestamps",
                )

    def _newest_old(
        self,
        connection: psycopg.Connection,
        query: str,
        after: int,
        until: int,
        **values: object,
    ) -> int:
        """The highest number that a query for old events finds; 0 where it finds none.

        Looks at some of the newest events, then at some that are 1,000 numbers older, 10,000 older,
        and so on: the exact number is not worth a scan.
        """
        step = 0
        while until - step > after:
            parameters = {"after": after, "until": until - step, "rows": _LOOKED_AT, **values}
            found = self._events.ask(connection, query, nth=_NTH, **parameters)[0]
            if found is not None:
                return int(found)
            step = max(1_000, step * 10)
        return 0


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
