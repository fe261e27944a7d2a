"""The starter's side of a process that follows many versions (group.py)."""

from __future__ import annotations

import os
import time
from multiprocessing.context import SpawnContext
from pathlib import Path

from esops import term
from esops.running.followed_version import Key
from esops.running.follower import UNSAID
from esops.running.group import THREADS, Began, Declined, Ended, Follow, follow_together


class Together:
    """A process, and the versions that it follows, with the moment when each was given to it."""

    def __init__(
        self, context: SpawnContext, config_path: Path, settings: term.GlobalOptions
    ) -> None:
        """Start it."""
        self._link, theirs = context.Pipe()
        self._marks = context.RawArray("d", 2 * THREADS)
        self.process = context.Process(
            target=follow_together,
            args=(config_path, settings, os.getpid(), theirs, self._marks),
            name="versions together",
            daemon=True,
        )
        self.process.start()
        # Only the process itself keeps its end: then the end of one is seen by the other.
        theirs.close()
        self._numbers: dict[Key, int] = {}
        self.started: dict[Key, float] = {}
        self.began: set[Key] = set()
        """The versions that it has begun to follow."""
        self.stuck: Key | None = None
        """The version whose code did not come back, for which the process was ended."""
        self.empty_since = time.monotonic()

    def follow(self, key: Key, *, late: bool, newer: bool) -> None:
        """Give it a version; `late`: it may decline; `newer`: it refuses where other code built the
        version.
        """
        self._numbers[key] = len(self._numbers) + 1
        self.started[key] = time.monotonic()
        try:
            self._link.send(Follow(key, self._numbers[key], late, newer))
        except OSError:
            return  # it has ended; with it, so has the version

    def heard(self) -> list[tuple[Key, float, int | None]]:
        """The versions that it does not follow any more: since when it did, and the exit code; None
        where it declined to begin.
        """
        found: list[tuple[Key, float, int | None]] = []
        try:
            while self._link.poll(0):
                message: Began | Ended | Declined = self._link.recv()
                if isinstance(message, Began):
                    self.began.add(message.key)
                    continue
                code = message.exit_code if isinstance(message, Ended) else None
                found.append((message.key, self.started.pop(message.key), code))
        except (EOFError, OSError):
            pass
        code = self.process.exitcode
        if code is not None:
            # A process that did its work said so of each version.
            found += [(key, at, code or UNSAID) for key, at in self.started.items()]
            self.started = {}
        if self.started:
            self.empty_since = time.monotonic()
        return found

    def end_if_stuck(self) -> Key | None:
        """End the process where the code of a version holds up others; returns that version."""
        for thread in range(THREADS):
            until, number = self._marks[2 * thread], self._marks[2 * thread + 1]
            if until and time.monotonic() > until and self.stuck is None:
                named = (key for key, each in self._numbers.items() if each == number)
                self.stuck = next(named, None)
                self.process.kill()
        return self.stuck
