"""An event that signals set."""

from __future__ import annotations

import queue
import threading


class SignalledEvent(threading.Event):
    """An event that a signal's handler may set at any moment.

    A plain one takes a lock to be set. A handler that runs while the main thread holds that lock,
    or in the middle of another handler, would wait for it for ever: `timeout`, for one, sends its
    signal to the process and then to the process's group.
    """

    def __init__(self) -> None:
        """Not set."""
        super().__init__()
        self._asked = False
        # Its put() may interrupt any other call of it.
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._asked

    def set(self) -> None:
        """Wake whoever waits."""
        self._asked = True
        self._tokens.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or for `timeout` seconds; returns whether it is set."""
        if not self._asked:
            try:
                self._tokens.get(timeout=None if timeout is None else max(0.0, timeout))
            except queue.Empty:
                return self._asked
            # For the next one who waits.
            self._tokens.put(None)
        return True
