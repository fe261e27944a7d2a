"""What a runner reports of its progress while it works, and how much it does at once, so that it
can report that often.

Progress is what is applied. What is committed is in the registry, for everybody to see; a first
load commits rarely, and a line that moved only then would look like a hang.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from esops.events import Position
from esops.running.work import Progress

REPORT_EVERY = timedelta(milliseconds=100)
PIECE = timedelta(milliseconds=250)
"""So much work lies between two looks at what is asked of the runner."""
FIRST_PIECE, LEAST, MOST = 256, 16, 65_536
"""How many events a piece has."""


class ProgressReports:
    """Reports events that are applied, at most ten times a second."""

    def __init__(
        self,
        report: Callable[[Progress], None],
        *,
        buffered: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`buffered`: events are only collected until they are committed, and worked on then.

        `clock` gives seconds.
        """
        self._report, self._buffered, self._clock = report, buffered, clock
        self._reported_at = clock()
        self._last = Progress(0, None)
        self._most = FIRST_PIECE

    @property
    def most_at_once(self) -> int:
        """How many events to apply before the next look."""
        return sys.maxsize if self._buffered else self._most

    @property
    def most_buffered(self) -> int:
        """How many events to collect before they are committed: some second of work."""
        return self._most * 4 if self._buffered else sys.maxsize

    @contextmanager
    def applying(self, events: int) -> Iterator[None]:
        """This number of events is applied inside."""
        began = self._clock()
        yield
        if not self._buffered:
            self._measure(events, self._clock() - began)

    @contextmanager
    def writing(self, events: int) -> Iterator[None]:
        """The rows of this number of events are written inside."""
        began = self._clock()
        if not self._buffered:
            self.doing("writing rows")
        yield
        if self._buffered:
            self._measure(events, self._clock() - began)

    def applied(self, events: int, position: Position | None) -> None:
        """`events` in all are applied, up to a position; not all of it is committed."""
        now = self._clock()
        if not self._buffered and now - self._reported_at >= REPORT_EVERY.total_seconds():
            self._send(Progress(events, position))

    def committed(self, events: int, position: Position | None) -> None:
        """`events` in all are applied and committed; this is always reported."""
        self._send(Progress(events, position))

    def doing(self, what: str, *, paused: bool = False) -> None:
        """Something else than applying events begins; `paused`: its time counts for no rate."""
        self._report(Progress(self._last.events, self._last.position, what, paused))

    def _send(self, progress: Progress) -> None:
        self._reported_at, self._last = self._clock(), progress
        self._report(progress)

    def _measure(self, events: int, seconds: float) -> None:
        """The next piece takes as long as it should; at most twice as many events as this one."""
        if not events:
            return
        wanted = self._most * 2
        if seconds > 0:
            wanted = min(wanted, int(events * PIECE.total_seconds() / seconds))
        self._most = max(LEAST, min(MOST, wanted))
