"""A program that reads JSON documents from its standard input and writes such to its standard
output, one a line.

Whoever drives it decides what its faults mean: each is an exception of its own here.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from esops.projections.kinds.lines import MOST_BYTES, Lines, TooLong

_PATIENCE_TO_END = 5.0
_SHOWN = 200


class ProgramFault(Exception):
    """What a program did wrong. Its text continues "the program 'node' …"."""


class NotStarted(ProgramFault):
    """It cannot be started."""


class ProgramSilent(ProgramFault):
    """It has written nothing, or read nothing, for the time that it has."""


class ProgramEnded(ProgramFault):
    """It is gone."""


class ProtocolBroken(ProgramFault):
    """It wrote what the protocol does not have."""

    def __init__(self, what: str, wrote: str = "") -> None:
        """`wrote`: the beginning of what it wrote, which may hold content of events."""
        super().__init__(what)
        self.wrote = wrote


class Program:
    """One program, from its start to its end."""

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        timeout: float,
        *,
        own_group: bool = False,
    ) -> None:
        """Start it in a folder; `timeout` (seconds) is how long it may be silent.

        `own_group`: Ctrl-C at a terminal does not reach it, so that its end is never that of an
        event. Raises NotStarted.
        """
        self.timeout, self._own_group = timeout, own_group
        self.received = 0
        """Bytes of the last message."""
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the operator's own program
                list(command),
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                process_group=0 if own_group else None,
            )
        except OSError as error:
            raise NotStarted(f"cannot be started: {error.strerror}") from None
        assert self._process.stdin is not None
        # See write: a program that reads nothing must not block us.
        os.set_blocking(self._process.stdin.fileno(), False)
        # New for each program, so that nothing is left in it from the last one. A thread reads, for
        # the program may write while we still send it events.
        assert self._process.stdout is not None
        output: Any = self._process.stdout
        self._lines = Lines(io.BufferedReader(output, 1 << 20))

    def send(self, document: Mapping[str, Any]) -> None:
        """Write a document. Raises as `write` does."""
        self.write(orjson.dumps(document, default=str) + b"\n")

    def write(self, line: bytes) -> None:
        """Write a line. Raises ProgramSilent where it reads nothing until the timeout, and
        ProgramEnded.
        """
        assert self._process.stdin is not None
        pipe, left = self._process.stdin.fileno(), memoryview(line)
        deadline = time.monotonic() + self.timeout
        while left:
            # The pipe is full while the program does not read; a plain write would wait for ever.
            _, ready, _ = select.select([], [pipe], [], 0.5)
            if not ready and time.monotonic() >= deadline:
                raise ProgramSilent(f"has not read its input for {self.timeout:g} s")
            try:
                written = os.write(pipe, left) if ready else 0
            except BlockingIOError:
                written = 0
            except OSError:
                raise self.ended() from None
            if written:
                left, deadline = left[written:], time.monotonic() + self.timeout

    def receive(self) -> Mapping[str, Any]:
        """The next document that it writes. Raises ProgramFault."""
        try:
            line = self._lines.get(self.timeout)
        except queue.Empty:
            raise ProgramSilent(f"has written nothing for {self.timeout:g} s") from None
        except TooLong:
            raise ProtocolBroken(
                f"wrote more than {MOST_BYTES >> 20} MB without a line break"
            ) from None
        self.received = len(line)
        if not line:
            raise self.ended()
        wrote = repr(line[:_SHOWN].decode(errors="replace"))
        try:
            message = orjson.loads(line)
        except orjson.JSONDecodeError:
            if not line.endswith(b"\n"):  # it ended in the middle of one
                raise self.ended() from None
            raise ProtocolBroken("wrote a line that is no JSON", wrote) from None
        if not isinstance(message, dict):
            raise ProtocolBroken("wrote a line that is no JSON object", wrote)
        return message

    def ended(self) -> ProgramEnded:
        """The fault of a program whose output or input is closed."""
        # The pipe closes a moment before the exit code is there.
        try:
            code = self._process.wait(_PATIENCE_TO_END)
        except subprocess.TimeoutExpired:
            return ProgramEnded("closed its input or output before it was done")
        how = "signal" if code < 0 else "code"
        return ProgramEnded(f"ended with {how} {abs(code)} before it was done")

    def close(self, patience: float | None = None) -> None:
        """Close the program's input, which tells it to end; kill it where it does not within
        `patience` (seconds).
        """
        self._lines.close()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it may be gone already
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_TO_END if patience is None else patience)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        if self._own_group:  # what it has left behind
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End it at once, with all that it has started in its group. For another thread, too: who
        reads from it sees its end.
        """
        if self._own_group and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()


def shown(message: Mapping[str, Any]) -> str:
    """A message of the program's as an error shows it."""
    return orjson.dumps(message).decode()[:_SHOWN]
