"""The process in which an application's function decodes events, one a core; `python_code` is its
other end.

It reads its task and then batches from standard input, each with its length before it, and writes
what goes wrong as it happens. In memory that both share stands which event it is at, so that its
end, or its silence, is that event's.
"""

from __future__ import annotations

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
from esops.schema.decode.comparing import RoundTripComparer
from esops.schema.decode.masking import masked
from esops.schema.decode.outcomes import NotDecoded, NotTheSame

LENGTH = 8
"""Bytes of the length before each message."""
COUNTER = 16
"""Bytes of the shared memory: the place of the event, and a clock of the process."""
BETWEEN = 0xFFFFFFFFFFFFFFFF
"""In the place of an event: no event is at the code."""


class PythonTask(NamedTuple):
    """What the process does."""

    decode: str
    encode: str | None
    directory: Path
    ignored: Sequence[str]


class _Decoding:
    def __init__(self, task: PythonTask, counter: memoryview, answer: int) -> None:
        self._counter, self._answer = counter, answer
        self._decode = load_function(task.decode, task.directory, "--python")
        self._encode: Callable[[Any], Any] | None = None
        references = [task.decode]
        if task.encode is not None:
            self._encode = load_function(task.encode, task.directory, "--encode")
            references.append(task.encode)
        self._comparer = RoundTripComparer.ignoring(task.ignored)
        self.fingerprint = ".".join(_hash(each, task.directory) for each in references)

    def batch(self, events: Sequence[RecordedEvent]) -> None:
        """Decode some events; what goes wrong is written at once."""
        decode, counter = self._decode, self._counter
        encode = self._encode
        for at, event in enumerate(events):
            counter[0] = at
            try:
                value = decode(event)
                if encode is not None:
                    found = self._comparer.compare(event.data, encode(value))
                    if found:
                        write(self._answer, NotTheSame(at, found))
            except BaseException as error:  # noqa: BLE001 - sys.exit() of the code is a failure, too
                write(self._answer, _failure(at, error, event))
        counter[0] = BETWEEN


def _failure(at: int, error: BaseException, event: RecordedEvent) -> NotDecoded:
    name = type(error).__name__
    if type(error).__module__ not in {"builtins", "__main__"}:
        name = f"{type(error).__module__}.{type(error).__qualname__}"
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the code's own class
        text = ""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    where = f"{frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return NotDecoded(at, name, masked(text, event), text[:2_000], where)


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
    # What the code or a library of its prints must not mix with the answers.
    answer = os.dup(1)
    os.dup2(2, 1)
    begun = read(0)
    if begun is None:
        return
    task, counter = pickle.loads(begun)  # noqa: S301 - who started it wrote it
    shared = memoryview(mmap.mmap(counter, COUNTER)).cast("Q")
    # The end of what writes to it, while the code is at an event: nobody wants the answer.
    batches: list[bytes | None] = []
    there = threading.Condition()
    threading.Thread(target=_listen, args=(batches, there), daemon=True).start()
    try:
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
        write(answer, None)


def _listen(batches: list[bytes | None], there: threading.Condition) -> None:
    while True:
        content = read(0)
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
    """Write a message; at the end of who reads it, end as well."""
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
