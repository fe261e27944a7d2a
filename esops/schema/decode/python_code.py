"""The application's function, in a process of its own: it may end, hang or fill its memory, and the
event that did it is known.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from esops import errors
from esops.errors import EsopsError, Unavailable, UsageError
from esops.events import RecordedEvent
from esops.schema.decode.batches import packed
from esops.schema.decode.child import BETWEEN, COUNTER, LENGTH, PythonTask
from esops.schema.decode.fatal import FatalEvents
from esops.schema.decode.outcomes import (
    MOST_LONE_ENDS,
    DecodeOutcome,
    NotDecoded,
    NotTheSame,
    not_tried,
)

_LOOK_EVERY_SECONDS = 0.5
_PATIENCE_SECONDS = 5.0
_PREPARES_SECONDS = 120.0
"""How long the code may take to be imported."""


class _ProcessEnd(NamedTuple):
    """How the process ended: the place of the event that it was at, and what happened."""

    at: int
    error: str
    message: str


class PythonDecoder:
    """One process."""

    def __init__(
        self, task: PythonTask, timeout: float, fatal: FatalEvents, files: dict[str, str]
    ) -> None:
        """Start it, and wait until it is ready. `timeout`: seconds that one event may take. The
        files that the code uses go into `files`, with their digests. Raises UsageError where the
        code cannot be loaded.
        """
        self._task, self._timeout, self._fatal, self._files = task, timeout, fatal, files
        self._closed = False
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the decoder
        self._file.write(b"\0" * COUNTER)
        self._file.flush()
        self._shared = memoryview(mmap.mmap(self._file.fileno(), COUNTER)).cast("Q")
        self._process: subprocess.Popen[bytes] | None = None
        self.fingerprint = self._start()

    def decode(self, events: Sequence[RecordedEvent]) -> DecodeOutcome:
        """See EventDecoder."""
        outcome = DecodeOutcome()
        left_out = self._fatal.left_out(events)
        outcome.failures += map(not_tried, left_out)
        places = [at for at in range(len(events)) if at not in left_out]
        while places:
            end = self._run(events, places, outcome)
            if end is None:
                break
            if end.at == BETWEEN:
                self._no_event(end, outcome)
                _forget(outcome, places)
                self._start()
                continue
            at, rest = places[end.at], places[end.at + 1 :]
            self._start()
            if end.error == "ProcessEnded":
                # The system may have ended it, or what came before: only what ends a new one is
                # to blame.
                _forget(outcome, [at])
                again = self._run(events, [at], outcome)
                if again is None:
                    self._no_event(end, outcome)
                    places = rest
                    continue
                self._start()
                if again.at == BETWEEN:
                    self._no_event(again, outcome)
                    places = [at, *rest]
                    continue
                end = again
            _forget(outcome, [at])
            self._fatal.ended(events[at])
            outcome.failures.append(NotDecoded(at, end.error, end.message, end.message, fatal=True))
            # What came before it was answered for.
            left_out = self._fatal.left_out(events)
            outcome.failures += [not_tried(at) for at in rest if at in left_out]
            places = [at for at in rest if at not in left_out]
        outcome.failures.sort()
        return outcome

    def _no_event(self, end: _ProcessEnd, outcome: DecodeOutcome) -> None:
        """Count an end of the process that is no event's."""
        outcome.lone_ends += 1
        if outcome.lone_ends > MOST_LONE_ENDS:
            raise Unavailable(
                f"the process of {self._task.decode} ended again and again, and no event by itself "
                f"ends it: {end.message}",
                hint="The system may have ended it for its memory, or a thread of the code. What "
                "it wrote to stderr is above.",
            )

    def stop(self) -> None:
        """See EventDecoder."""
        self._closed = True
        # Its pipes stay open: their numbers must not become those of others.
        process = self._process
        if process is not None and process.returncode is None:
            _end_group(process)

    def close(self) -> None:
        """See EventDecoder."""
        self._closed = True
        self._kill()
        self._file.close()

    def _run(
        self, events: Sequence[RecordedEvent], places: Sequence[int], outcome: DecodeOutcome
    ) -> _ProcessEnd | None:
        """Decode the events at some places; None where all were, or how the process ended."""
        self._shared[0] = BETWEEN
        process = self._process
        assert process is not None
        assert process.stdin is not None
        content = packed([events[at] for at in places])
        try:
            process.stdin.write(len(content).to_bytes(LENGTH, "big") + content)
            process.stdin.flush()
        except OSError:
            return self._end(process)
        while True:
            message = self._receive(process)
            if isinstance(message, _ProcessEnd):
                return message
            if isinstance(message, dict):
                for file, digest in message.items():
                    # A file that changed during the run is never the same again.
                    if self._files.setdefault(file, digest) != digest:
                        self._files[file] = "changed"
                return None
            moved = message._replace(at=places[message.at])
            if isinstance(moved, NotTheSame):
                outcome.differences.append(moved)
            else:
                outcome.failures.append(moved)

    def _receive(self, process: subprocess.Popen[bytes], patience: float | None = None) -> Any:
        """The next message, or how the process ended."""
        assert process.stdout is not None
        output = process.stdout.fileno()
        limit = self._timeout if patience is None else patience
        content, size = bytearray(), LENGTH
        since, at = time.monotonic(), self._shared[0]
        header = True
        while len(content) < size:
            if select.select([output], [], [], min(_LOOK_EVERY_SECONDS, limit))[0]:
                part = os.read(output, min(size - len(content), 1 << 20))
                if not part:
                    return self._end(process)
                content += part
                if header and len(content) == size:
                    header, size = False, int.from_bytes(content, "big")
                    content.clear()
                continue
            if self._shared[0] != at:
                since, at = time.monotonic(), self._shared[0]
            elif time.monotonic() - since >= limit:
                self._kill()
                return _ProcessEnd(
                    at, "Timeout", f"not decoded within {limit:g} s; its process was ended"
                )
        return pickle.loads(content)  # noqa: S301 - from our own process

    def _end(self, process: subprocess.Popen[bytes]) -> _ProcessEnd:
        try:
            code = process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            code = process.wait()
        _end_group(process)
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return _ProcessEnd(self._shared[0], "ProcessEnded", f"its process ended with {how}")

    def _start(self) -> str:
        self._kill()
        if self._closed:
            raise errors.Stopped
        # -P: a module of the project named like one of ours must not be imported instead.
        command = [sys.executable, "-P", "-m", "esops.schema.decode.child"]
        process = self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._file.fileno()],
            # With what the code starts, and leaves behind.
            process_group=0,
        )
        if self._closed:  # by another thread, since it began
            self._kill()
            raise errors.Stopped
        assert process.stdin is not None
        content = pickle.dumps((self._task, self._file.fileno()))
        with contextlib.suppress(OSError):  # then its end says more
            process.stdin.write(len(content).to_bytes(LENGTH, "big") + content)
            process.stdin.flush()
        self._shared[0] = BETWEEN
        found = self._receive(process, _PREPARES_SECONDS)
        if isinstance(found, _ProcessEnd):
            raise UsageError(
                f"--python: {self._task.decode} cannot be loaded: {found.message}",
                hint="What it wrote to stderr is above.",
            )
        if isinstance(found, tuple):
            name, message, hint = found
            kind: type[EsopsError] = getattr(errors, name, EsopsError)
            raise kind(message, hint=hint)
        assert isinstance(found, str)
        return found

    def _kill(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            _end_group(process)
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process at once, with all that it has started and left in its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _forget(outcome: DecodeOutcome, places: Sequence[int]) -> None:
    """What was found of events that are to be decoded once more."""
    again = set(places)
    outcome.failures = [each for each in outcome.failures if each.at not in again]
    outcome.differences = [each for each in outcome.differences if each.at not in again]
