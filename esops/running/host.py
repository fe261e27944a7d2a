"""`esops run`: one process for each live version, so that each keeps the code that it was started
with.

When new code is deployed and a rebuild makes a new version, the process of the new version loads
the new code, while the process of the version before still runs the old code. So both stay fresh,
each by its own logic, and a rollback serves what blue would have been. After a restart only the
code on disk is left. A version that stands by and was built by different code is then left alone,
unless `versions.N.python` names where its code is now.
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

import psycopg
import structlog

from esops import term
from esops.config import Config
from esops.errors import ConnectionLost, EsopsError, UsageError
from esops.postgres.connection import connect, translated
from esops.readmodel import registry, renamed
from esops.readmodel.registry import Version
from esops.running.follower import LEFT_ALONE, follow_in_process, note_failure
from esops.wording import count

log = structlog.get_logger("esops.run")
LOOK_EVERY = timedelta(seconds=1)
_CHORE_EVERY = timedelta(seconds=10)
_RETRY_MOST = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Followed:
    """How one version's process ended.

    `exit_code` is 0 where it did its work, and where it left the version alone (`left`).
    """

    projection: str
    version: int
    exit_code: int
    left: bool = False


@dataclass
class _Child:
    """A version's process, and when it was started (monotonic seconds)."""

    process: SpawnProcess
    started: float


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How catching up ended, in numbers of versions."""

    done: int
    left_alone: int
    failed: int

    def __str__(self) -> str:
        parts = [f"{count(self.done, 'version')} caught up"]
        parts += [f"{self.left_alone} left alone"] if self.left_alone else []
        parts += [f"{self.failed} did not"] if self.failed else []
        return ", ".join(parts)


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
        self._children: dict[tuple[str, int], _Child] = {}
        self._not_before: dict[tuple[str, int], float] = {}
        self._failures: dict[tuple[str, int], int] = {}
        self._done: set[tuple[str, int]] = set()
        self._said: set[tuple[str, int, str]] = set()
        self.ended: list[Followed] = []
        self.unbuilt: set[str] = set()
        """The projections that have no version to follow."""
        self.renamed: dict[str, str] = {}
        """Of these, the ones that the registry knows by another name, with that name."""
        self._context = multiprocessing.get_context("spawn")

    def run(
        self, stop: threading.Event, chore: Callable[[Sequence[str]], None] = lambda _: None
    ) -> None:
        """Start what is missing and note what ended, until asked to stop, or until all have caught
        up.

        `chore` is called every ten seconds with the projections' names. Waits for a database that
        is unreachable; with `until_caught_up` it raises ConnectionLost instead.
        """
        chored, looked = time.monotonic(), False
        try:
            while not stop.is_set():
                self._reap()
                # Retiring is done here, not by a version's process: it would drop its own tables.
                if time.monotonic() - chored >= _CHORE_EVERY.total_seconds():
                    chored = time.monotonic()
                    self._do(chore)
                # With `until_caught_up`, those that are there at the beginning are all.
                if not (self._until_caught_up and looked):
                    for version in self._live():
                        self._start(version)
                    looked = True
                # All ended: with `until_caught_up` nothing is started twice.
                if self._until_caught_up and not self._children:
                    return
                stop.wait(0.05 if self._until_caught_up else LOOK_EVERY.total_seconds())
        finally:
            self._end()

    @property
    def names(self) -> list[str]:
        """The projections that it follows."""
        return self._names

    def caught_up(self) -> CaughtUp:
        """How `run` with `until_caught_up` ended."""
        failed = sum(each.exit_code != 0 for each in self.ended)
        left = sum(each.left for each in self.ended)
        return CaughtUp(len(self.ended) - failed - left, left, failed)

    @property
    def followed_any(self) -> bool:
        """Whether any of the projections has a version, whoever keeps it fresh."""
        return bool(set(self._names) - self.unbuilt)

    @property
    def exit_code(self) -> int:
        """The worst exit code of the processes that ended."""
        return max((each.exit_code for each in self.ended), default=0)

    def _do(self, chore: Callable[[Sequence[str]], None]) -> None:
        try:
            chore(self._names)
        except EsopsError as error:
            self._say_once(", ".join(self._names), 0, f"will be tried again: {error.message}")

    def _live(self) -> list[Version]:
        found: list[Version] = []
        for name in self._names:
            try:
                with (
                    translated(),
                    connect(self._config.readmodel_of(name).dsn, "run") as connection,
                ):
                    live = [
                        each
                        for each in registry.versions(connection, name)
                        if each.state in registry.LIVE_STATES
                    ]
                    if not live:
                        self._note_unbuilt(connection, name)
                found += live
                if live:
                    self.unbuilt.discard(name)
                    self.renamed.pop(name, None)
            except ConnectionLost as lost:
                if self._until_caught_up:
                    raise  # a cron job must not read that all is caught up
                self._say_once(name, 0, f"waiting for the database: {lost.message}")
        return found

    def _note_unbuilt(self, connection: psycopg.Connection, name: str) -> None:
        self.unbuilt.add(name)
        former = renamed.former_name(self._config, connection, name)
        if former is None:
            self.renamed.pop(name, None)
            self._say_once(name, 0, "no version is built yet")
        else:
            self.renamed[name] = former
            self._say_once(name, 0, f"not followed: {renamed.in_words(former, name)}")

    def _start(self, version: Version) -> None:
        key = (version.projection, version.version)
        if (
            key in self._children
            or key in self._done
            or time.monotonic() < self._not_before.get(key, 0)
        ):
            return
        settings = self._config.projection(version.projection)
        if settings.live == "inline":
            stands = "it does not advance before a rollback"
            written = "the application writes it with each append"
            serves = version.state == "active"
            self._say_once(*key, f"not followed: {written if serves else stands}")
            self._done.add(key)
            return
        # A version whose rows are of another history is refused by its process.
        adopted = version.position is None and version.fingerprint is None
        if adopted and version.lost is None:
            self._say_once(
                *key, "not followed: it was adopted from the application and has no checkpoint"
            )
            self._done.add(key)
            return
        if version.lost is not None and version.state == "standby":
            self._say_once(*key, "not followed: it was given up, and stands by until you retire it")
            self._done.add(key)
            return
        if settings.kind == "external" or (version.state == "active" and settings.live == "app"):
            self._say_once(*key, "not followed: the application keeps it fresh")
            self._done.add(key)
            return
        # Spawned, not forked: a new process must import the code that is on disk now.
        process = self._context.Process(
            target=follow_in_process,
            args=(
                self._config.path,
                version.projection,
                version.version,
                self._settings,
                self._until_caught_up,
                os.getpid(),
            ),
            name=f"{version.projection} v{version.version}",
            daemon=True,
        )
        process.start()
        self._children[key] = _Child(process, time.monotonic())
        log.info(
            "following",
            projection=version.projection,
            version=version.version,
            state=version.state,
            pid=process.pid,
        )

    def _reap(self) -> None:
        for key, child in list(self._children.items()):
            code = child.process.exitcode
            if code is None:
                continue
            del self._children[key]
            if code in {0, LEFT_ALONE} or self._until_caught_up:
                self._failures.pop(key, None)
                left = code == LEFT_ALONE
                self.ended.append(Followed(*key, exit_code=0 if left else code, left=left))
                if self._until_caught_up:
                    self._done.add(key)
                continue
            # One that ran for a while had no trouble starting: the next pause is short again.
            if time.monotonic() - child.started > _RETRY_MOST.total_seconds():
                self._failures.pop(key, None)
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            if code < 0:  # it could not note that itself
                killed = EsopsError(f"its process was ended by signal {-code}")
                note_failure(self._config.path, *key, killed, by=os.getpid())
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
        for child in self._children.values():
            child.process.terminate()
        for child in self._children.values():
            child.process.join(20)
            if child.process.exitcode is None:
                child.process.kill()
