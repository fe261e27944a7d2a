"""One share of a version's first load, made by a process of its own.

The process is `python -m esops.rebuild.load.worker`. It gets its task as a line of JSON on its
input, and writes on its output how far it is, and why it gave up. When its input ends, it stops
after its next checkpoint; this also happens when the process that started it is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from esops import errors, stores
from esops.config import load_config
from esops.errors import EsopsError, Refused
from esops.events import Position
from esops.projections.definition import load_definition
from esops.projections.fingerprint import Code
from esops.running.runner import Runner
from esops.running.throttle import Limits, Throttle
from esops.running.work import Progress, RunControl, Work
from esops.signalled import SignalledEvent

_PATIENCE = timedelta(seconds=15)
_LOOK_EVERY_SECONDS = 0.05


class Died(Exception):
    """A process died while it loaded a shard."""


@dataclass(frozen=True)
class Task:
    """One shard's work, as it is handed to a process."""

    config: Path
    projection: str
    version: int
    store: str
    shard: int
    of: int
    until: str
    batch_size: int | None
    limits: Limits
    fingerprint: str
    """Of the code that makes the version: a machine with other code must not write to it."""
    names: dict[str, str]
    """`Code.names` of that code, to tell what is different."""
    owner: int | None
    """The rebuild's session (a backend's pid) in the read model's database, for a process that
    does not notice otherwise when the rebuild dies.
    """

    def as_line(self) -> str:
        """The task as a line of JSON, for the process's input."""
        return json.dumps({**asdict(self), "config": str(self.config)})

    @classmethod
    def from_line(cls, line: str) -> Task:
        """Read what `as_line` wrote."""
        fields = json.loads(line)
        return cls(
            **{
                **fields,
                "config": Path(fields["config"]),
                "limits": Limits(**fields["limits"]),
            }
        )


@dataclass(frozen=True)
class Failure:
    """Why a process gave up: an error of esops by its class's name, since exceptions do not
    survive the way between processes.
    """

    error: str
    message: str
    hint: str | None

    def raised(self) -> EsopsError:
        """The error, to be raised here."""
        kind = getattr(errors, self.error, EsopsError)
        error: EsopsError = kind(self.message, hint=self.hint)
        return error


def load_shard(
    task: Task,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda _: None,
) -> Failure | None:
    """Load a shard from its checkpoint to the end of its share.

    `report` gets how many events were applied from there on. Returns None where it got to the end,
    or why it did not.
    """
    try:
        config = load_config(task.config)
        settings = config.projection(task.projection)
        definition = load_definition(settings, config.directory, f"projections.{task.projection}")
        share = (task.shard, task.of)
        _check_code(Code(definition, settings, config.directory), task)
        work = Work.on(task.projection, task.version, definition, settings, task.batch_size, share)
        name, store_settings = config.store(task.store)
        dsn = config.readmodel_of(task.projection).dsn
        throttle = Throttle(dsn, task.projection, task.limits, stop=stop, share=1 / task.of)
        with stores.open_store(name, store_settings) as store:
            control = RunControl(stop=stop, report=report, throttle=throttle)
            runner = Runner(store, dsn, work, control, lock_patience=_PATIENCE)
            try:
                runner.run_until(Position.parse(task.until))
            finally:
                runner.close()
    except EsopsError as error:
        return Failure(type(error).__name__, error.message, error.hint)
    return None


def _check_code(code: Code, task: Task) -> None:
    if code.made(task.fingerprint):
        return
    names = code.others(task.names)
    what = f"; what differs: {', '.join(names[:5])}" if names else ""
    raise Refused(
        f"the code of {task.projection} on {socket.gethostname()} is not the code that the "
        f"rebuild began with{what}",
        hint="Deploy the same code, with the same files and environment, in the same place, to "
        "every machine.",
    )


def in_process(
    task: Task, stop: Callable[[], bool], report: Callable[[Progress], None] = lambda _: None
) -> Failure | None:
    """Load a shard in a process of its own.

    Returns as load_shard does. Raises Died where the process died.
    """
    answer = ""

    def read(lines: IO[str]) -> None:
        nonlocal answer
        for line in lines:
            # Anything else is what a library of the projection's prints past Python, or half a
            # line of a process that was killed.
            with contextlib.suppress(ValueError, KeyError, TypeError):
                found = json.loads(line)
                if "error" in found:
                    answer = line
                else:
                    report(_progress(found))

    # -P: a module of the project named like one of ours must not be imported instead.
    command = [sys.executable, "-P", "-m", "esops.rebuild.load.worker"]
    with subprocess.Popen(  # noqa: S603 - our own module, by this interpreter
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        reading = threading.Thread(target=read, args=(process.stdout,), daemon=True)
        reading.start()
        try:
            process.stdin.write(task.as_line() + "\n")
            process.stdin.flush()
            # Polled, and not waited for, so that a stop is passed on within moments.
            while process.poll() is None:
                # The end of its input tells the process to stop after its next checkpoint.
                if stop():
                    process.stdin.close()
                    process.wait()
                time.sleep(_LOOK_EVERY_SECONDS)
        except BrokenPipeError:
            process.wait()
        except BaseException:
            process.kill()
            raise
        reading.join()
        # An error of esops comes as an answer with code 0; any other code is a death.
        if process.returncode:
            raise Died
    return Failure(**json.loads(answer)) if answer else None


def _progress(found: dict[str, Any]) -> Progress:
    at = found["position"]
    position = None if at is None else Position.parse(at)
    return Progress(found["events"], position, found["doing"], found["paused"])


def main() -> None:
    """Do what the line of JSON on standard input says."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    answer, sys.stdout = (
        sys.stdout,
        sys.stderr,
    )  # what a projection prints must not mix with the answer
    line, over = sys.stdin.readline(), SignalledEvent()
    if not line.endswith("\n"):
        return  # the rebuild was killed before it had given the task
    task = Task.from_line(line)
    # A terminal signals the whole process group. When to stop is for the rebuild to say, or for a
    # service manager, which sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: over.set())

    def watch() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    last = Progress(0, None)

    def report(progress: Progress) -> None:
        nonlocal last
        if progress != last:
            last = progress
            where = None if progress.position is None else str(progress.position)
            said = {"events": progress.events, "position": where}
            said |= {"doing": progress.doing, "paused": progress.paused}
            _say(answer, json.dumps(said))

    failure = load_shard(task, over.is_set, report)
    if failure is not None and not _say(answer, json.dumps(asdict(failure))):
        sys.exit(1)


def _say(answer: IO[str], line: str) -> bool:
    """Write a line to the rebuild; False where it was killed, and so nobody reads."""
    try:
        print(line, file=answer, flush=True)
    except BrokenPipeError:
        # Python would try again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), answer.fileno())
        return False
    return True


if __name__ == "__main__":
    main()
