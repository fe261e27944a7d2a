"""What happens when the reader of our output ends first, as in `esops events | head`.

Such a command ends quietly, with the exit code that a shell shows for the signal SIGPIPE (141), as
other tools do. The signal itself stays ignored: it would also end esops when a projection's program
or a connection goes away, which are errors with a message of their own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any, Self, TextIO

from esops.errors import Unavailable

EXIT_CODE = 128 + signal.SIGPIPE


class ClosedPipes:
    """Watches stdout and stderr while a command runs, for all its threads."""

    def __init__(self) -> None:
        """Neither stream is known to be closed yet."""
        self.closed = False
        self._streams = sys.stdout, sys.stderr

    def __enter__(self) -> Self:
        """Put both streams behind a guard."""
        sys.stdout = _Guarded(sys.stdout, self)
        sys.stderr = _Guarded(sys.stderr, self)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the streams back as they were."""
        sys.stdout, sys.stderr = self._streams

    def flush(self) -> None:
        """Write out what is left, while a closed pipe can still be noticed."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()

    def end(self, stream: TextIO) -> None:
        """End the command, since nobody reads this stream any more.

        Raises SystemExit in the main thread. Another thread cannot end the process; it asks the
        command to stop as SIGTERM does, so that `esops run` ends its work in order.
        """
        self._silence(stream)
        self.closed = True
        if threading.current_thread() is threading.main_thread():
            raise SystemExit(EXIT_CODE)
        if callable(signal.getsignal(signal.SIGTERM)):
            os.kill(os.getpid(), signal.SIGTERM)

    def full(self, stream: TextIO, error: OSError) -> Unavailable:
        """The error of a stream that cannot be written, for example to a full disk."""
        name = "stderr" if stream is self._streams[1] else "stdout"
        self._silence(stream)
        return Unavailable(
            f"{name} cannot be written: {error.strerror}",
            hint="What the command did before is done. Look with `esops status`.",
        )

    @staticmethod
    def _silence(stream: TextIO) -> None:
        # What is written from now on, also at the interpreter's own end, goes nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class _Guarded:
    """A stream that is asked like the one behind it."""

    def __init__(self, stream: TextIO, pipes: ClosedPipes) -> None:
        self._stream, self._pipes = stream, pipes

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._pipes.end(self._stream)
            return len(text)
        except OSError as error:
            raise self._pipes.full(self._stream, error) from None

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._pipes.end(self._stream)
        except OSError as error:
            raise self._pipes.full(self._stream, error) from None

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
