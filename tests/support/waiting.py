"""Waiting for what another process does, and ending processes.

A test waits for a fact, with one generous deadline: on a machine that is busy with other things it
takes longer, and passes all the same. No test sleeps to let something happen.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 150.0
"""Seconds after which what has not come is taken for never to come: half of a test's timeout."""


def until(holds: Callable[[], T], seconds: float = DEADLINE, *, every: float = 0.02) -> T:
    """Wait until `holds()` is true, and return what it gave. Fails after `seconds`.

    It asks each `every` seconds at first, and less often what takes longer, down to twenty times a
    second: on a busy machine the asking keeps from their work those that are waited for.
    """
    began = time.monotonic()
    while not (found := holds()):
        waited = time.monotonic() - began
        assert waited < seconds, f"still not so after {seconds:g} s"
        time.sleep(max(every, min(0.05, waited / 20)))
    return found


def stays(holds: Callable[[], bool], seconds: float) -> None:
    """Assert that something holds all the time for so long: that what must not happen does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert holds()
        time.sleep(0.02)


def kill(process: subprocess.Popen) -> bool:
    """`kill -9`, and wait for the end; whether it was still there to be killed."""
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def end(process: subprocess.Popen, seconds: float = DEADLINE) -> tuple[str, str]:
    """Ask it to end with SIGTERM, as a service manager does; what it printed."""
    process.terminate()
    return finish(process, seconds)


def finish(process: subprocess.Popen, seconds: float = DEADLINE) -> tuple[str, str]:
    """Wait for its end; what it printed. Kills it after `seconds`, and fails."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"not ended after {seconds:g} s\n{out}\n{err}") from None


def heard(process: subprocess.Popen, words: str) -> str:
    """Read what it says on stderr until these words come; all of that. Fails where it ends before,
    or does not say it in time.
    """
    late = threading.Timer(DEADLINE, process.kill)
    late.start()
    seen = ""
    try:
        while words not in seen:
            line = process.stderr.readline()
            assert line, f"it ended, and never said {words!r}: {seen}"
            seen += line
    finally:
        late.cancel()
    return seen
