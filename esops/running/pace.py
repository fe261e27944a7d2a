"""How often a follower looks for new events: often while some come, seldom over an idle store."""

from __future__ import annotations

import time
from datetime import timedelta

OFTEN, SELDOM = timedelta(milliseconds=50), timedelta(milliseconds=500)
_BUSY = 2.0
"""Seconds after the last event for which a store counts as busy."""


class LookPace:
    """The pause before the next look, by when something came last."""

    def __init__(self) -> None:
        """As if something had come just now."""
        self._moved = time.monotonic()

    def pause(self, *, moved: bool) -> timedelta:
        """The next pause; `moved`: the last look found something."""
        now = time.monotonic()
        if moved:
            self._moved = now
        return OFTEN if now - self._moved < _BUSY else SELDOM
