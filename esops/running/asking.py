"""Calls that ask a database, beside the loop of `esops run`: one that hangs holds up the loop, and
keeps it from nothing else. It turns on, and ends when it is asked to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from esops.errors import Stopped

T = TypeVar("T")
_GRACE = 2.0
"""Seconds that a call may still take when the loop is asked to end."""


class Asking:
    """Makes calls, one at a time, each in a thread of its own."""

    def __init__(self) -> None:
        """Nothing is asked yet."""
        self.gave_up = False
        """Whether a call was left alone: what it uses must not be used any more."""

    def of(self, call: Callable[[], T], stop: threading.Event, turns: Callable[[], None]) -> T:
        """What a call returns, or raises; `turns` is called while it is waited for.

        Raises Stopped where the loop is asked to end and the call does not come back.
        """
        done: list[T] = []
        failed: list[BaseException] = []

        def ask() -> None:
            try:
                done.append(call())
            except BaseException as error:  # noqa: BLE001 - raised again by who waits
                failed.append(error)

        # A daemon: the process ends without it.
        thread = threading.Thread(target=ask, name="esops-asking", daemon=True)
        thread.start()
        asked_to_end: float | None = None
        while thread.is_alive():
            thread.join(0.05)
            turns()
            if stop.is_set():
                asked_to_end = asked_to_end or time.monotonic()
                if thread.is_alive() and time.monotonic() - asked_to_end > _GRACE:
                    self.gave_up = True
                    raise Stopped("stopped while a database did not answer")
        if failed:
            raise failed[0]
        return done[0]
