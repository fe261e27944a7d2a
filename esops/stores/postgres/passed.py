"""Missing numbers that were passed as dead: logged, and kept for the memory (memory.py).

An event that comes at such a number all the same is late, and is found by what is kept here.
"""

from __future__ import annotations

import psycopg
import structlog

from esops.stores.postgres.memory import MOST_PASSED, Memory
from esops.stores.postgres.numbered_events import NumberedEvents

log = structlog.get_logger("esops.settle")

_MOST_LOGGED = 10
"""Ranges of missing numbers that one line of the log names."""
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

    def log(self, connection: psycopg.Connection, after: int, until: int, evidence: str) -> None:
        """Log some of what is missing between two numbers, if anything is, and note all of it."""
        ranges = self._events.ask_all(
            connection, "missing", after=after, until=until, rows=_ROWS, ranges=_MOST_LOGGED
        )
        if ranges:
            log.info(
                "missing numbers passed",
                ranges=[f"{first}-{last}" for first, last in ranges],
                up_to=until,
                evidence=f"{evidence}; all writers of that moment have ended; "
                "not in a new snapshot",
            )
            self.note(connection, after, until, evidence)

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
