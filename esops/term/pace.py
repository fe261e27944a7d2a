"""How fast a long job is, and how long the rest of it takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

WINDOW = timedelta(seconds=10)
"""The rate is that of this much work: a job that becomes faster or slower shows it soon."""
_SAMPLE_SECONDS = 0.1


class Pace:
    """The rate of a job that reports how much is done.

    Three kinds of time are kept apart. While something is done, the rate is that of the last ten
    seconds. What recurs beside it (writing what was made so far) is shared out over the whole job:
    a rate that broke down at each time would make the time left jump. Pauses do not count.
    """

    def __init__(self, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`done` was done before, and does not count for the rate. `clock` gives seconds.

        The time until more is done does not count either: it is that of the start.
        """
        self._clock = clock
        self._last = clock()
        self._worked = self._beside = self._updated = 0.0
        self._kind, self._begun = "pause", False
        self._done = done
        self._samples: deque[tuple[float, int]] = deque([(0.0, done)])

    def update(self, done: int) -> None:
        """So much is done; something is being done again from here on."""
        if not self._begun and done == self._done:
            return
        self._pass("work")
        if not self._begun:
            # How long the first piece took, nobody knows.
            self._begun, self._done = True, done
            self._samples = deque([(self._worked, done)])
        # Less where work since the last checkpoint was lost: then the rate begins again.
        if done < self._done:
            self._samples = deque([(self._worked, done)])
        elif self._worked - self._samples[-1][0] >= _SAMPLE_SECONDS:
            self._samples.append((self._worked, done))
            while len(self._samples) > 2 and self._worked - self._samples[1][0] >= (
                WINDOW.total_seconds()
            ):
                self._samples.popleft()
        self._done, self._updated = done, self._worked

    def beside(self) -> None:
        """From here on until the next update, something else is worked on that belongs to it."""
        self._pass("beside" if self._begun else "pause")

    def pause(self) -> None:
        """From here on until the next update, nothing is worked on."""
        self._pass("pause")

    @property
    def rate(self) -> float:
        """How much is done a second; 0 while that is not known."""
        worked, _, beside = self._now()
        since, before = self._samples[0]
        # Between two updates it stays as it is, unless the next one is late.
        longest = max((b[0] - a[0] for a, b in pairwise(self._samples)), default=0.0)
        until = max(self._updated, worked - longest)
        if until - since < _SAMPLE_SECONDS:
            return 0.0
        return (self._done - before) / (until - since) * worked / (worked + beside)

    def left(self, total: int | None) -> float | None:
        """Seconds until `total` is done; None while that is not known."""
        rate = self.rate
        if total is None or rate <= 0:
            return None
        return max(0, total - self._done) / rate

    def _now(self) -> tuple[float, float, float]:
        """The time now, the seconds of work, and those of work beside it."""
        now = self._clock()
        passed = now - self._last
        worked = self._worked + (passed if self._kind == "work" else 0)
        return worked, now, self._beside + (passed if self._kind == "beside" else 0)

    def _pass(self, kind: str) -> None:
        self._worked, self._last, self._beside = self._now()
        self._kind = kind
