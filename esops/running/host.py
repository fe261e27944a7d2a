"""`esops run`: starts and watches the processes that follow the live versions, so that each version
keeps the code that it was started with.

Folds share a process (group.py). When new code is deployed and a rebuild makes a new version, a new
process loads the new code and follows the new version, while the process of the versions before
still runs the old code. So all stay fresh, each by its own logic, and a rollback serves what blue
would have been. After a restart only the code on disk is left. A version that stands by and was
built by different code is then left alone, unless `versions.N.python` names where its code is now.

Other kinds run SQL or a program of the user, and have a process for each version; so has a
projection with `isolate = true`, and a version that held up others for too long.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

import structlog

from esops import term
from esops.config import Config
from esops.errors import EsopsError, Refused, Stopped, UsageError
from esops.readmodel.registry import Version
from esops.running.asking import Asking
from esops.running.ended import CaughtUp, Followed, unsaid
from esops.running.followed_version import Key
from esops.running.follower import (
    DONE,
    LEFT_ALONE,
    UNSAID,
    follow_in_process,
    log_error,
    note_failure,
)
from esops.running.import_path import ImportPath
from esops.running.live_versions import LiveVersions
from esops.running.never_followed import never_followed
from esops.running.together import Together

log = structlog.get_logger("esops.run")
T = TypeVar("T")
LOOK_EVERY = timedelta(seconds=2)
"""How often it looks for versions that are not followed yet."""
_STEP = timedelta(milliseconds=250)
"""How often it looks at its processes."""
_TROUBLES = (
    "the code of a version did not come back, or changed how decimals are calculated with when it "
    "was imported"
)
_LINGERS = 5.0
"""Seconds after which a process ends that follows nothing any more."""
_CHORE_EVERY = timedelta(seconds=20)
_RETRY_MOST = timedelta(seconds=60)


@dataclass
class _Child:
    """A version's process, and when it was started (monotonic seconds)."""

    process: SpawnProcess
    started: float
    may_begin: Any
    """A number that both see: whether code may follow that did not build the version."""


class Host:
    """Starts and watches a process for each live version of some projections."""

    def __init__(
        self,
        config: Config,
        projections: Sequence[str],
        settings: term.GlobalOptions,
        until_caught_up: bool,
    ) -> None:
        """`projections` are names; none means all of the configuration.

        Raises UsageError for an unknown one, or one that runs inside its store.
        """
        for name in projections:
            if config.projection(name).kind == "server":
                raise UsageError(
                    f"{name} runs inside its store, which keeps it fresh without `esops run`"
                )
        self._config, self._settings, self._until_caught_up = config, settings, until_caught_up
        self._names = list(projections) or [
            name for name, each in config.projections.items() if each.kind != "server"
        ]
        self._children: dict[Key, _Child] = {}
        self._not_before: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._done: set[Key] = set()
        self._said: set[tuple[str, int, str]] = set()
        self.ended: list[Followed] = []
        self.live = LiveVersions(config, self._names, self._say_once)
        self._context = multiprocessing.get_context("spawn")
        # With `until_caught_up` all are started at once, right after this process itself.
        self._import_path = None if until_caught_up else ImportPath(config.directory)
        self._together: list[Together] = []
        """The last one has loaded the newest code."""
        self._declined: set[Key] = set()
        """Versions for which the newest code has to be loaded again."""
        self._alone: set[str] = set()
        """Projections that get processes of their own, since their code troubled others."""
        self._looked = float("-inf")
        self._asking, self._stop = Asking(), threading.Event()
        self.turned = time.monotonic()
        """When the loop began its last turn (monotonic seconds)."""

    def run(
        self,
        stop: threading.Event,
        chore: Callable[[Sequence[str]], None] = lambda _: None,
        began: Callable[[], None] = lambda: None,
    ) -> None:
        """Start what is missing and note what ended, until asked to stop, or until all have caught
        up.

        `chore` is called every twenty seconds with the projections' names, and `began` when it
        first follows something. Waits for a database that is unreachable; with `until_caught_up` it
        raises ConnectionLost instead.
        """
        self._stop = stop
        try:
            self._loop(chore, began)
        except Stopped:
            # By _ask alone, while a database hangs: whoever follows is ended all the same.
            self.live.abandon()
        finally:
            self._end()

    def _loop(self, chore: Callable[[Sequence[str]], None], began: Callable[[], None]) -> None:
        chored, looked, follows = time.monotonic(), False, False
        while not self._stop.is_set():
            self._turn()
            self._reap()
            # Retiring is done here, not by a version's process: it would drop its own tables.
            if time.monotonic() - chored >= _CHORE_EVERY.total_seconds():
                chored = time.monotonic()
                self._do(chore)
            # With `until_caught_up`, those that are there at the beginning are all.
            if not (self._until_caught_up and looked) and self._has_to_look():
                self._start_all(self._ask(self._find_live))
                looked = True
            # All ended: with `until_caught_up` nothing is started twice.
            if self._until_caught_up and not self._children:
                return
            if not follows and (self._children or self._together):
                follows = True
                self._ask(began)
            self._stop.wait(0.05 if self._until_caught_up else _STEP.total_seconds())

    def _turn(self) -> None:
        self.turned = time.monotonic()

    def _ask(self, call: Callable[[], T]) -> T:
        return self._asking.of(call, self._stop, self._turn)

    @property
    def gave_up(self) -> bool:
        """Whether it was ended while a database did not answer."""
        return self._asking.gave_up

    def _has_to_look(self) -> bool:
        """Whether it is time to look for versions again: at once where one has to begin again."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY.total_seconds() and not self._declined:
            return False
        self._looked = now
        return True

    @property
    def names(self) -> list[str]:
        """The projections that it follows."""
        return self._names

    def caught_up(self) -> CaughtUp:
        """How `run` with `until_caught_up` ended."""
        return CaughtUp.of(self.ended)

    @property
    def followed_any(self) -> bool:
        """Whether any of the projections has a version, whoever keeps it fresh."""
        return bool(set(self._names) - self.live.unbuilt)

    @property
    def exit_code(self) -> int:
        """The worst exit code of the processes that ended."""
        return max((each.exit_code for each in self.ended), default=0)

    def _do(self, chore: Callable[[Sequence[str]], None]) -> None:
        self.live.disconnect()  # chores have connections of their own: one at a time is enough
        try:
            self._ask(lambda: chore(self._names))
        except Stopped:
            raise
        except EsopsError as error:
            self._say_once(", ".join(self._names), 0, f"will be tried again: {error.message}")

    def _find_live(self) -> list[Version]:
        # A cron job must not read that all is caught up where a database is unreachable.
        return self.live.find(waits=not self._until_caught_up)

    def _start_all(self, versions: Sequence[Version]) -> None:
        """Start what has to be followed and is not."""
        together: list[Version] = []
        for version in versions:
            if self._is_ours(version):
                if self._shares(version):
                    together.append(version)
                else:
                    self._start(version)
        self._start_together(together)

    def _is_ours(self, version: Version) -> bool:
        """Whether a process has to be started for a version now."""
        key = (version.projection, version.version)
        if (
            key in self._children
            or any(key in each.started for each in self._together)
            or key in self._done
            or time.monotonic() < self._not_before.get(key, 0)
        ):
            return False
        if (unfinished := self.live.unfinished.get(key)) is not None:
            self._leave(key, unfinished)
            return False
        if (why := never_followed(self._config, version)) is not None:
            self._say_once(*key, f"not followed: {why}")
            self._done.add(key)
        return why is None

    def _leave(self, key: Key, error: EsopsError) -> None:
        """Leave a version to the rebuild that replaces its rows; the next look checks again."""
        if self._until_caught_up:
            log_error(error, *key)
            self.ended.append(Followed(*key, exit_code=error.exit_code))
            self._done.add(key)
        else:
            hint = error.hint if isinstance(error, Refused) else ""
            self._say_once(*key, f"not followed: {error.message}. {hint}".rstrip())

    def _shares(self, version: Version) -> bool:
        settings = self._config.projection(version.projection)
        return (
            not self._until_caught_up
            and settings.kind == "fold"
            and not settings.isolate
            and version.projection not in self._alone
        )

    def _start_together(self, versions: Sequence[Version]) -> None:
        """Have them followed by the process that loaded code last, if it would load the same now;
        those that failed, or for which it would not, by a new one.
        """
        anew: list[Version] = []
        for version in versions:
            key = (version.projection, version.version)
            last = self._together[-1] if self._together else None
            fails = key in self._failures or key in self._declined
            if last is None or fails or last.process.exitcode is not None:
                anew.append(version)
            else:
                self._give(last, version, late=True)
        if anew:
            self._renew_path()
            self._together.append(Together(self._context, self._config.named, self._settings))
            for version in anew:
                self._give(self._together[-1], version, late=False)

    def _renew_path(self) -> None:
        if self._import_path is not None:
            self._import_path.renew()

    def _give(self, process: Together, version: Version, *, late: bool) -> None:
        key = (version.projection, version.version)
        self._declined.discard(key)
        process.follow(key, late=late, newer=key in self.live.newer)

    def _start(self, version: Version) -> None:
        key = (version.projection, version.version)
        self._renew_path()
        may_begin = self._context.RawValue("b", key not in self.live.newer)
        # Spawned, not forked: a new process must import the code that is on disk now.
        process = self._context.Process(
            target=follow_in_process,
            args=(
                *(self._config.named, *key, self._settings, self._until_caught_up),
                *(os.getpid(), may_begin),
            ),
            name=f"{version.projection} v{version.version}",
            daemon=True,
        )
        process.start()
        self._children[key] = _Child(process, time.monotonic(), may_begin)

    def _reap(self) -> None:
        for key, child in list(self._children.items()):
            if child.may_begin.value:
                self.live.newer.discard(key)
            code = child.process.exitcode
            if code is not None:
                del self._children[key]
                self._note_end(key, 0 if code == DONE else code or UNSAID, child.started)
        for each in list(self._together):
            stuck, heard = each.end_if_stuck(), each.heard()
            self.live.newer -= each.began
            for key, started, code in heard:
                if code is None:
                    self._decline(key)
                elif stuck is None:
                    self._note_end(key, code, started)
            if stuck is not None and each.process.exitcode is not None:
                self._set_apart(stuck)
            if each.process.exitcode is not None:
                self._together.remove(each)
            elif time.monotonic() - each.empty_since > _LINGERS:
                each.process.terminate()

    def _decline(self, key: Key) -> None:
        self._declined.add(key)
        log.info(
            "a new process loads the code that is in this folder now for this version, since the "
            "code has changed",
            folder=str(self._config.named.parent),
            projection=key[0],
            version=key[1],
        )

    def _set_apart(self, key: Key) -> None:
        """Give a projection whose code troubles others processes of its own; all begin again at
        once.
        """
        self._alone.add(key[0])
        self._looked = float("-inf")
        error = EsopsError(_TROUBLES)
        self._note_failure(key, error)
        log.warning(
            "a projection gets processes of its own, and all versions are started again",
            reason=_TROUBLES,
            projection=key[0],
            version=key[1],
            hint=f"Set isolate = true for projections.{key[0]}.",
        )

    def _note_failure(self, key: Key, error: EsopsError) -> None:
        self._ask(lambda: note_failure(self._config.named, *key, error, by=os.getpid()))

    def _note_end(self, key: Key, code: int, started: float) -> None:
        if code < 0 or code == UNSAID:  # it could not note that itself
            error = unsaid(code)
            log_error(error, *key)
            self._note_failure(key, error)
            code = error.exit_code
        if code in {0, LEFT_ALONE} or self._until_caught_up:
            self._failures.pop(key, None)
            left = code == LEFT_ALONE
            self.ended.append(Followed(*key, exit_code=0 if left else code, left=left))
            if self._until_caught_up:
                self._done.add(key)
            return
        # One that ran for a while had no trouble starting: the next pause is short again.
        if time.monotonic() - started > _RETRY_MOST.total_seconds():
            self._failures.pop(key, None)
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        # Ever longer, so that a version that cannot start does not keep the machine busy.
        pause = min(2.0**failures, _RETRY_MOST.total_seconds())
        self._not_before[key] = time.monotonic() + pause
        log.warning(
            "a version's process ended; it is started again",
            projection=key[0],
            version=key[1],
            exit_code=code,
            in_seconds=pause,
        )

    def _say_once(self, projection: str, version: int, text: str) -> None:
        if (projection, version, text) not in self._said:
            self._said.add((projection, version, text))
            log.info(text, projection=projection, version=version)

    def _end(self) -> None:
        processes = [child.process for child in self._children.values()]
        processes += [each.process for each in self._together]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + 20
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
        self.live.disconnect()
