"""The lines that a program writes, in a bounded amount of memory."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import IO

MOST_BYTES = 64 << 20
"""The longest line, and how much may wait until it is looked at."""


class TooLong(Exception):
    """A line has more than MOST_BYTES."""


class Lines:
    """What a thread reads from a program's output, until somebody takes it."""

    def __init__(self, output: IO[bytes]) -> None:
        """Begin to read; `output` is closed at its end."""
        self._lines: deque[bytes] = deque()
        self._bytes, self._closed, self._too_long = 0, False, False
        self._changed = threading.Condition()
        threading.Thread(
            target=self._read, args=(output,), name="esops-process", daemon=True
        ).start()

    def get(self, timeout: float) -> bytes:
        """The next line; empty at the end.

        Raises queue.Empty after `timeout` seconds without one, TooLong.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._lines:
                if self._too_long:
                    raise TooLong
                if self._closed:
                    return b""
                left = deadline - time.monotonic()
                if left <= 0:
                    raise queue.Empty
                self._changed.wait(left)
            line = self._lines.popleft()
            self._bytes -= len(line)
            self._changed.notify_all()
            return line

    def close(self) -> None:
        """Take nothing more: the thread ends with the program."""
        with self._changed:
            self._closed = True
            self._lines.clear()
            self._changed.notify_all()

    def _read(self, output: IO[bytes]) -> None:
        with output:
            while line := output.readline(MOST_BYTES + 1):
                with self._changed:
                    # At least one line is let in, however much waits.
                    self._changed.wait_for(
                        lambda: self._closed or not self._lines or self._bytes < MOST_BYTES
                    )
                    if self._closed:
                        return
                    if len(line) > MOST_BYTES:
                        self._too_long = True
                        self._changed.notify_all()
                        return
                    self._lines.append(line)
                    self._bytes += len(line)
                    self._changed.notify_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
