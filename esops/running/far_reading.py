"""Leave to read a store for a version that is far behind what the threads of a process share.

One thread at a time has it, for some seconds, since it reads over a connection that the others do
without.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from esops.stores.base import EventStore

_LASTS = 5.0
"""Seconds for which a thread may read for itself."""
_LET_BE_FIRST = 0.04
"""Seconds that it waits afterwards, so that another thread has its turn."""


class FarReading:
    """Whether this thread has leave now, and how it gives that back."""

    def __init__(self, one_at_a_time: threading.Lock, stop: threading.Event) -> None:
        """The lock is that of all threads; `stop` ends the process."""
        self._lock, self._stop = one_at_a_time, stop
        self._until: float | None = None
        """Until when this thread may read for itself (monotonic seconds); None: it may not."""
        self.needed = False
        """Whether a version still has to read for itself; set to False before each round."""

    def begin(self) -> bool:
        """Take leave, unless another thread has it. Returns whether this one has it now."""
        if self._until is None:
            if not self._lock.acquire(blocking=False):
                return False
            self._until = time.monotonic() + _LASTS
        return True

    def note(self, *, needed: bool) -> None:
        """Note whether the version that had its turn still has to read for itself."""
        self.needed |= self._until is not None and needed

    def end(self, stores: Iterable[EventStore], *, now: bool = False) -> None:
        """Let the other threads read for themselves, when nobody here has to, or for long enough,
        or `now`. The stores give back the connections over which was read.
        """
        if self._until is None:
            return
        over = now or time.monotonic() > self._until
        if over or not self.needed:
            for store in stores:
                store.rest()
            self._until = None
            self._lock.release()
            if over:
                self._stop.wait(_LET_BE_FIRST)
