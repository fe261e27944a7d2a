"""Waiting for a store or a database that cannot be reached: in ever longer pauses, for so long as
whoever works with it wants to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from esops.errors import Stopped, Unavailable

PATIENCE = timedelta(minutes=10)
"""How long an outage is waited for where nothing else limits the work."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class Outage:
    """Waits from one look to the next, while an outage lasts. One is made for each outage."""

    def __init__(
        self,
        what: str,
        say: Callable[[str], None],
        stop: Callable[[], bool] = lambda: False,
        patience: timedelta | None = PATIENCE,
    ) -> None:
        """`what` is waited for ("the store"); without a `patience` until `stop`, which may raise
        what ends the wait.
        """
        self._what, self._say, self._stop = what, say, stop
        self._patience, self._began, self._pause = patience, time.monotonic(), _FIRST_PAUSE

    def wait(self, lost: Unavailable) -> None:
        """Wait before the next look.

        Raises Stopped when asked to stop, and Unavailable where it has lasted too long.
        """
        waited = time.monotonic() - self._began
        if self._stop():
            raise Stopped(f"stopped while waiting for {self._what}") from None
        if self._patience is not None and waited >= self._patience.total_seconds():
            minutes = round(self._patience.total_seconds() / 60)
            raise Unavailable(
                f"{self._what} was unreachable for {minutes} minutes: {lost.message}"
            ) from lost
        self._say(f"waiting for {self._what}: {lost.message}")
        time.sleep(self._pause)
        self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)
