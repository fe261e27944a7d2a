"""The process in which an application's function decodes events, one a core; `python_code` is its
other end.

It reads its task and then batches from standard input, each with its length before it, and writes
what goes wrong as it happens. In memory that both share stands which event it is at, so that its
end, or its silence, is that event's.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from esops.errors import EsopsError
from esops.events import RecordedEvent
from esops.projections.code_graph import CodeGraph
from esops.projections.definition import blame, load_function
from esops.schema.decode.batches import unpacked
from esops.schema.decode.code_files import INSTALLED, CodeFiles
from esops.schema.decode.comparing import RoundTripComparer
from esops.schema.decode.lazy_results import LazyResults
from esops.schema.decode.masking import masked
from esops.schema.decode.outcomes import DecodeStep, NotDecoded, NotTheSame

LENGTH = 8
"""Bytes of the length before each message."""
COUNTER = 16
"""Bytes of the shared memory: the place of the event, and a clock of the process."""
BETWEEN = 0xFFFFFFFFFFFFFFFF
"""In the place of an event: no event is at the code."""
_HERE = Path(__file__).parents[2]
_copies: list[int] = []
"""Not empty in a copy of the process that the code has made by a fork."""


class PythonTask(NamedTuple):
    """What the process does."""

    decode: str
    encode: str | None
    directory: Path
    ignored: Sequence[str]
    moments: bool = False
    """Whether two texts of one moment are the same."""


class _Decoding:
    def __init__(self, task: PythonTask, counter: memoryview, answer: int) -> None:
        self._counter, self._answer = counter, answer
        self._decode = load_function(task.decode, task.directory, "--python")
        self._encode: Callable[[Any], Any] | None = None
        references = [task.decode]
        if task.encode is not None:
            self._encode = load_function(task.encode, task.directory, "--encode")
            references.append(task.encode)
        self._comparer = RoundTripComparer.ignoring(task.ignored, moments=task.moments)
        self._directory = task.directory
        self._finished = LazyResults().finished
        self.fingerprint = ".".join(_hash(each, task.directory) for each in references)

    def batch(self, events: Sequence[RecordedEvent]) -> None:
        """Decode some events; what goes wrong is written at once."""
        decode, counter, finished = self._decode, self._counter, self._finished
        encode = self._encode
        for at, event in enumerate(events):
            counter[0] = at
            encodes = False
            try:
                value = finished(decode(event))
                if encode is not None:
                    encodes = True
                    found = self._comparer.compare(event.data, finished(encode(value)))
                    if found:
                        self._write(NotTheSame(at, found))
            except BaseException as error:  # noqa: BLE001 - sys.exit() of the code is a failure, too
                self._write(self._failure(at, error, event, "encode" if encodes else "decode"))
            if _copies:  # the code has forked, and its copy came back
                os._exit(0)
        counter[0] = BETWEEN

    def _write(self, message: NotDecoded | NotTheSame) -> None:
        if not _copies:
            write(self._answer, message)

    def _failure(
        self, at: int, error: BaseException, event: RecordedEvent, step: DecodeStep
    ) -> NotDecoded:
        name = type(error).__name__
        if type(error).__module__ not in {"builtins", "__main__"}:
            name = f"{type(error).__module__}.{type(error).__qualname__}"
        try:
            text = str(error)
        except BaseException:  # noqa: BLE001 - the code's own class
            text = ""
        # Halves of characters, as of an emoji that was cut, cannot be written.
        name, text, where = (
            each.encode(errors="backslashreplace").decode()
            for each in (name, text, raised_in(error, self._directory))
        )
        return NotDecoded(at, name, masked(text, event), text[:2_000], where, step=step)


def raised_in(error: BaseException, directory: Path) -> str:
    """Where the project's own code raised an error, or called what raised it; where none of it is
    in a folder, the innermost place.
    """
    frames = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not _ours(frame.f_code.co_filename)
    ]
    own = [each for each in frames if _of_project(each[0].co_filename, directory)]
    if not frames:
        return ""
    code, line = (own or frames)[-1]
    # A comprehension is a part of its function.
    name = code.co_qualname.partition(".<locals>.<")[0]
    return f"{name}, {code.co_filename}:{line}"


def _ours(file: str) -> bool:
    return Path(file).is_relative_to(_HERE)


def _of_project(file: str, directory: Path) -> bool:
    path = Path(file)
    return path.is_relative_to(directory) and not INSTALLED & set(path.parts)


def _hash(reference: str, directory: Path) -> str:
    module, _, name = reference.partition(":")
    graph = CodeGraph(module, directory)
    graph.add_name(module, name)
    graph.add(getattr(sys.modules[module], name))
    # The text alone: values may be others in each process, and the same code must be known again.
    return graph.hashes().text.hex()[:16]


def main() -> None:
    """Do the task that standard input begins with, until it ends."""
    # A terminal signals the whole process group. When to stop is for the run to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What the code or a library of its prints must not mix with the answers, and programs that it
    # starts must not read what is for us.
    answer, given = os.dup(1), os.dup(0)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.register_at_fork(after_in_child=lambda: _forked(answer, given))
    begun = read(given)
    if begun is None:
        return
    task, counter = pickle.loads(begun)  # noqa: S301 - who started it wrote it
    shared = memoryview(mmap.mmap(counter, COUNTER)).cast("Q")
    # The end of what writes to it, while the code is at an event: nobody wants the answer.
    batches: list[bytes | None] = []
    there = threading.Condition()
    threading.Thread(target=_listen, args=(given, batches, there), daemon=True).start()
    try:
        files = CodeFiles(task.directory, task.decode.partition(":")[0])
        decoding = _Decoding(task, shared, answer)
    except EsopsError as error:
        write(answer, (type(error).__name__, error.message, error.hint))
        return
    except Exception as error:  # noqa: BLE001 - of the code's own objects
        write(
            answer, ("UsageError", f"--python: {task.decode} cannot be used: {blame(error)}", None)
        )
        return
    write(answer, decoding.fingerprint)
    gc.freeze()
    while True:
        with there:
            there.wait_for(lambda: batches)
            content = batches.pop(0)
        if content is None:
            return
        decoding.batch(unpacked(content))
        write(answer, files.new())


def _forked(answer: int, given: int) -> None:
    """Of a copy of this process: it has no say in what was decoded."""
    _copies.append(os.getpid())
    for file in (answer, given):
        with contextlib.suppress(OSError):
            os.close(file)


def _listen(given: int, batches: list[bytes | None], there: threading.Condition) -> None:
    while True:
        content = read(given)
        with there:
            batches.append(content)
            there.notify()
        if content is None:
            # It may be in the middle of a batch, and for ever.
            time.sleep(1)
            os._exit(0)


def read(file: int) -> bytes | None:
    """The next message; None at the end."""
    length = _exactly(file, LENGTH)
    if len(length) < LENGTH:
        return None
    size = int.from_bytes(length, "big")
    content = _exactly(file, size)
    return bytes(content) if len(content) == size else None


def _exactly(file: int, size: int) -> bytearray:
    content = bytearray()
    while len(content) < size and (part := os.read(file, min(size - len(content), 1 << 20))):
        content += part
    return content


def write(file: int, message: object) -> None:
    """Write a message; at the end of whoever reads it, end as well."""
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    left = memoryview(len(content).to_bytes(LENGTH, "big") + content)
    try:
        while left:
            left = left[os.write(file, left) :]
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    # What is pickled has to be of the module as the other process knows it.
    from esops.schema.decode.child import main as entry

    entry()
