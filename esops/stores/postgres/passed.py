"""Missing numbers that were passed as dead: logged, and kept for the memory (memory.py).

An event that comes at such a number all the same is late, and is found by what is kept here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psycopg
import structlog

from esops.stores.postgres.memory import MOST_PASSED, Memory
from esops.stores.postgres.numbered_events import NumberedEvents

log = structlog.get_logger("esops.settle")

_MOST_LOGGED = 10
"""Ranges of missing numbers that one line of the log names."""
_LOGGED_EVERY = 60.0
"""Seconds between two lines; those between are for debugging."""
_MOST_NOT_NOTED = 100
_ROWS = 100_000
"""Newest events between which the numbers that are passed now are looked for."""
_ROWS_NOTED_LATER = 200
"""The same for those that were passed before the memory was kept."""


class PassedNumbers:
    """The numbers of one sequence that were passed."""

    def __init__(self, events: NumberedEvents, memory: Memory) -> None:
        """`memory` gets them, as soon as it keeps anything."""
        self._events, self._memory = events, memory
        self._not_noted: list[tuple[int, int, str]] = []
        """Between which numbers those that are missing were passed, and why, as long as that is not
        in the memory.
        """
        self._said: float | None = None
        self._times = 0
        """How often numbers were passed since that was last said; the line says it."""

    def log(self, connection: psycopg.Connection, after: int, until: int, evidence: str) -> None:
        """Log some of what is missing between two numbers, if anything is, and note all of it."""
        ranges = self._events.ask_all(
            connection, "missing", after=after, until=until, rows=_ROWS, ranges=_MOST_LOGGED
        )
        if ranges:
            self._say(ranges, until, evidence)
            self.note(connection, after, until, evidence)

    def _say(self, ranges: Sequence[tuple[Any, ...]], until: int, evidence: str) -> None:
        """Where writers often roll back, numbers are passed several times a second."""
        self._times += 1
        now = time.monotonic()
        seldom = self._said is None or now - self._said >= _LOGGED_EVERY
        (log.info if seldom else log.debug)(
            "missing numbers passed",
            ranges=[f"{first}-{last}" for first, last in ranges],
            up_to=until,
            times=self._times,
            evidence=f"{evidence}; all writers of that moment have ended; not in a new snapshot",
        )
        if seldom:
            self._said, self._times = now, 0

    def note(self, connection: psycopg.Connection, after: int, until: int, evidence: str) -> None:
        """Note what is missing between two numbers, and why it is dead."""
        self._not_noted = [*self._not_noted[-_MOST_NOT_NOTED:], (after, until, evidence)]
        if self._memory.keeps:
            self._give(connection, _ROWS)

    def note_earlier(self, connection: psycopg.Connection) -> None:
        """Note what was passed before the memory kept anything, where it does now."""
        if self._memory.keeps:
            # A rebuild is planned before it keeps anything. What is late is mostly young.
            self._give(connection, _ROWS_NOTED_LATER)

    def _give(self, connection: psycopg.Connection, rows: int) -> None:
        for after, until, evidence in self._not_noted:
            ranges = self._events.ask_all(
                connection,
                "newest_missing",
                after=after,
                until=until,
                rows=rows,
                ranges=MOST_PASSED,
            )
            self._memory.note_passed([(first, last) for first, last in ranges], evidence)
        self._not_noted = []
