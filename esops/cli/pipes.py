"""What happens when the reader of our output ends first, as in `esops events | head`.

Such a command ends quietly, with the exit code that a shell shows for the signal SIGPIPE (141),
as other tools do. A stream that cannot be written for another reason, such as a full disk, is an
error. The signal itself stays ignored: it would also end esops when a projection's program or a
connection goes away, which are errors with a message of their own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import Any, Self, TextIO

from esops.errors import Unavailable, unwritten

EXIT_CODE = 128 + signal.SIGPIPE


class ClosedPipes:
    """Watches stdout and stderr while a command runs, for all its threads."""

    def __init__(self) -> None:
        """Both streams are taken to be open."""
        self.exit_code: int | None = None
        """The code that the command ends with, where a stream could not be written."""
        self._streams = sys.stdout, sys.stderr
        self._guarded: tuple[_Guarded, ...] = ()

    def __enter__(self) -> Self:
        """Put both streams behind a guard."""
        sys.stdout = stdout = _Guarded(sys.stdout, self)
        sys.stderr = stderr = _Guarded(sys.stderr, self)
        self._guarded = stdout, stderr
        return self

    def __exit__(self, *_: object) -> None:
        """Put the streams back as they were."""
        sys.stdout, sys.stderr = self._streams

    def flush(self) -> None:
        """Write out what is left, while a closed pipe can still be noticed."""
        for stream in self._guarded:
            stream.flush()

    def end(self, stream: TextIO, error: OSError) -> None:
        """End the command, since this stream cannot be written any more.

        Raises SystemExit in the main thread: what is caught on the way, as Typer catches what a
        first attempt to write raises, does not stop it. Another thread cannot end the process; it
        asks the command to stop as SIGTERM does, so that `esops run` ends its work in order.
        """
        # What is written from now on, also at the interpreter's own end, goes nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        if isinstance(error, BrokenPipeError):
            self.exit_code = EXIT_CODE
        else:
            self._say(stream, error)
            self.exit_code = Unavailable.exit_code
        if threading.current_thread() is threading.main_thread():
            raise SystemExit(self.exit_code)
        # Without a handler, the signal would end the process at once instead of asking it to stop.
        if callable(signal.getsignal(signal.SIGTERM)):
            os.kill(os.getpid(), signal.SIGTERM)

    def _say(self, stream: TextIO, error: OSError) -> None:
        stdout, stderr = self._streams
        # When stderr itself is full there is nowhere left to say it.
        if stream is stdout:
            said = unwritten("stdout", error)
            with contextlib.suppress(OSError):
                stderr.write(f"error: {said.message}\nhint: {said.hint}\n")
                stderr.flush()


class _Guarded:
    """A stream that is asked like the one behind it."""

    def __init__(self, stream: TextIO, pipes: ClosedPipes) -> None:
        self._stream, self._pipes = stream, pipes

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._pipes.end(self._stream, error)
            # As if it had been written: who writes must not try again.
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._pipes.end(self._stream, error)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
