"""The process in which `esops run` follows the folds: many versions, a few threads and connections.

It knows what to follow from the process that started it, and says what it does not follow any more.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any

import structlog

from esops import stores, term
from esops.config import Config, load_config
from esops.errors import EsopsError
from esops.running.followed_version import Key
from esops.running.follower import log_error, note_failure
from esops.running.heads import HeadWatch
from esops.running.loaded import LoadedFiles
from esops.running.shared import Says, Shared
from esops.running.turns import Turns
from esops.signalled import SignalledEvent

log = structlog.get_logger("esops.run")
THREADS = 2
_LOOK_SECONDS = 0.25
_TO_END = 15.0
_SWITCH_SECONDS = 0.0005


@dataclass(frozen=True, slots=True)
class Follow:
    """From the starter: what to follow, by the number that `marks` names it with; `late`: only
    where the code that a new process would load is the one that was loaded here; `newer`: only with
    the code that built it.
    """

    key: Key
    number: int
    late: bool
    newer: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """To the starter: a version is not followed any more, with the exit code of what ended it."""

    key: Key
    exit_code: int


@dataclass(frozen=True, slots=True)
class Began:
    """To the starter: a version is followed."""

    key: Key


@dataclass(frozen=True, slots=True)
class Declined:
    """To the starter: another process has to follow this version, which loads its code again."""

    key: Key


def follow_together(
    config_path: Path, settings: term.GlobalOptions, parent: int, link: Connection, marks: Any
) -> None:
    """What the process does, until it is asked to stop or its parent (a process id) is gone.

    `marks` has two numbers for each thread, in memory that the parent sees: until when its turn may
    last (monotonic seconds; 0: it has none), and the number of the version whose turn it is.
    """
    # What a projection prints is no result.
    sys.stdout = sys.stderr
    term.set_up_logging(settings)
    stop = SignalledEvent()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # Ctrl-C reaches the whole group; the parent then sends SIGTERM to each.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        config = load_config(config_path)
    except EsopsError as error:
        log.error(error.message, **({"hint": error.hint} if error.hint else {}))
        raise SystemExit(error.exit_code) from None
    # Threads wait for answers of the database most of the time: who has one must not wait long for
    # another's computing.
    sys.setswitchinterval(_SWITCH_SECONDS)
    group = _Group(config, settings.store, parent, link, marks, stop)
    if not group.run():
        raise SystemExit(1)


class _Group:
    def __init__(
        self,
        config: Config,
        store: str | None,
        parent: int,
        link: Connection,
        marks: Any,
        stop: threading.Event,
    ) -> None:
        self._config, self._parent, self._link, self._stop = config, parent, link, stop
        self._files = LoadedFiles(config)
        self._files.watch()
        self._marks, self._numbers = marks, dict[Key, int]()
        self._says = threading.Lock()
        self._heads: dict[str, HeadWatch] = {}
        self._makes_heads = threading.Lock()
        says = Says(self._ended, self._declined, self._began, self._files.note)
        shared = Shared(config, store, stop, self._head, says)
        self._threads = [Turns(shared, self._marker(number)) for number in range(THREADS)]

    def run(self) -> bool:
        """Do as the starter says, until stopped; returns whether all threads lived so long."""
        alive = True
        while alive and not self._stop.is_set() and os.getppid() == self._parent:
            try:
                if self._link.poll(_LOOK_SECONDS):
                    self._follow(self._link.recv())
            except (EOFError, OSError):
                break
            alive = all(each.is_alive() for each in self._started)
        self._stop.set()
        for each in self._started:
            each.wake.set()
        for each in self._started:
            each.join(_TO_END)
        for head in self._heads.values():
            head.join(_TO_END)
        return alive

    @property
    def _started(self) -> Sequence[Turns]:
        return [each for each in self._threads if each.ident is not None]

    def _follow(self, asked: Follow) -> None:
        if asked.late and self._files.changed():
            self._declined(asked.key)
            return
        self._numbers[asked.key] = asked.number
        thread = min(self._threads, key=lambda each: each.load)
        thread.give(asked.key, late=asked.late, newer=asked.newer)
        if thread.ident is None:
            thread.start()

    def _head(self, name: str) -> HeadWatch:
        with self._makes_heads:
            if name not in self._heads:
                _, settings = self._config.store(name)
                self._heads[name] = HeadWatch(
                    lambda: stores.open_store(name, settings), self._stop, self._wake
                )
            return self._heads[name]

    def _wake(self) -> None:
        for each in self._threads:
            each.wake.set()

    def _marker(self, number: int) -> Any:
        def mark(key: Key | None, seconds: float) -> None:
            # The deadline last: it says that the number is the right one.
            self._marks[2 * number] = 0.0
            if key is not None:
                self._marks[2 * number + 1] = float(self._numbers[key])
                self._marks[2 * number] = monotonic() + seconds

        return mark

    def _ended(self, key: Key, error: EsopsError | None) -> None:
        if error is not None:
            log_error(error, *key)
            note_failure(self._config.named, *key, error, by=self._parent)
        self._say(Ended(key, 0 if error is None else error.exit_code))

    def _declined(self, key: Key) -> None:
        self._say(Declined(key))

    def _began(self, key: Key) -> None:
        self._say(Began(key))

    def _say(self, message: Began | Ended | Declined) -> None:
        with self._says:
            try:
                self._link.send(message)
            except OSError:
                self._stop.set()  # whoever started it is gone
