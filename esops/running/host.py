"""`esops run`: one process for each live version, so that each goes on with the code that it was
started with.

When new code is deployed and a rebuild makes a new version, that one's process loads the new code,
while the process of the
version before still runs the old: so both stay fresh, each by its own logic, and a rollback serves
what blue would have
been. After a restart only the code on disk is left; a version that stands by and was made by other
code is then not
touched, unless `versions.N.python` names where its code has gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import SpawnProcess
from pathlib import Path

import structlog

from esops import stores, term
from esops.config import Config, load_config
from esops.errors import Busy, ConnectionLost, EsopsError, Stopped, UsageError
from esops.postgres.connection import connect, translated
from esops.projections.definition import Definition, fingerprint, load_definition
from esops.readmodel import locks, registry
from esops.readmodel.registry import Version
from esops.running.runner import Runner, Work

log = structlog.get_logger("esops.run")
LOOK_EVERY = timedelta(seconds=1)
_CHORE_EVERY = timedelta(seconds=10)
_RETRY_MOST = timedelta(seconds=60)
_LEFT = 100
"""The exit code of a process that left its version as it is: none of esops' own."""


@dataclass(frozen=True, slots=True)
class Followed:
    """How one version's process ended: 0 where it did what it was to do, or where the version was
    `left` as it is.
    """

    projection: str
    version: int
    exit_code: int
    left: bool = False


@dataclass
class _Child:
    process: SpawnProcess
    started: float


def code_of(config: Config, version: Version) -> tuple[Definition, bool]:
    """The code to keep a version fresh with, and whether it is the code that the version was made
    by.
    """
    settings = config.projection(version.projection)
    override = settings.versions.get(str(version.version))
    where = f"{config.path}: projections.{version.projection}"
    if override is not None:
        own = settings.model_copy(update=override.model_dump(exclude_none=True))
        return load_definition(own, config.directory, f"{where}.versions.{version.version}"), True
    definition = load_definition(settings, config.directory, where)
    return definition, version.fingerprint in {None, fingerprint(definition)}


def open_runner(
    config: Config, version: Version, *, stop: Callable[[], bool], store: str | None = None
) -> Runner:
    """A runner for a version, with its own store. Raises Busy if another process keeps it fresh."""
    settings = config.projection(version.projection)
    definition, _ = code_of(config, version)
    name, store_settings = config.store(store or version.store)
    work = Work.on(version.projection, version.version, definition, settings)
    dsn = config.readmodel_of(version.projection).dsn
    return Runner(
        stores.open_store(name, store_settings),
        dsn,
        work,
        stop=stop,
        lock_patience=timedelta(seconds=2),
    )


class Host:
    """Looks after the processes of all versions of some projections."""

    def __init__(
        self,
        config: Config,
        projections: Sequence[str],
        settings: term.GlobalOptions,
        until_caught_up: bool,
    ) -> None:
        """Take the projections' names (none: all of the configuration).

        Raises UsageError for one that is not there.
        """
        for name in projections:
            if config.projection(name).kind == "server":
                raise UsageError(
                    f"{name} runs inside its store: there is nothing for `esops run` to do"
                )
        self._config, self._settings, self._until_caught_up = config, settings, until_caught_up
        self._names = list(projections) or [
            name for name, each in config.projections.items() if each.kind != "server"
        ]
        self._children: dict[tuple[str, int], _Child] = {}
        self._not_before: dict[tuple[str, int], float] = {}
        self._failures: dict[tuple[str, int], int] = {}
        self._done: set[tuple[str, int]] = set()
        self._told: set[tuple[str, int, str]] = set()
        self.ended: list[Followed] = []
        self._context = multiprocessing.get_context("spawn")

    def run(
        self, stop: threading.Event, chore: Callable[[Sequence[str]], None] = lambda _: None
    ) -> None:
        """Start what is missing, note what ended, until asked to stop, or until all have caught up.

        `chore` is called every ten seconds with the projections' names.

        Waits for a database that is away; with `until_caught_up` raises ConnectionLost instead.
        """
        chored = time.monotonic()
        try:
            while not stop.is_set():
                self._reap()
                if time.monotonic() - chored >= _CHORE_EVERY.total_seconds():
                    chored = time.monotonic()
                    self._do(chore)
                for version in self._live():
                    self._start(version)
                if self._until_caught_up and not self._children:
                    return
                stop.wait(0.2 if self._until_caught_up else LOOK_EVERY.total_seconds())
        finally:
            self._end()

    def _do(self, chore: Callable[[Sequence[str]], None]) -> None:
        try:
            chore(self._names)
        except EsopsError as error:
            self._tell(", ".join(self._names), 0, f"put off: {error.message}")

    def _live(self) -> list[Version]:
        found: list[Version] = []
        for name in self._names:
            try:
                with (
                    translated(),
                    connect(self._config.readmodel_of(name).dsn, "run") as connection,
                ):
                    found += [
                        each
                        for each in registry.versions(connection, name)
                        if each.state in registry.LIVE_STATES
                    ]
            except ConnectionLost as lost:
                if self._until_caught_up:
                    raise  # a cron job must not be told that all is caught up
                self._tell(name, 0, f"waiting for the database: {lost.message}")
        return found

    def _start(self, version: Version) -> None:
        key = (version.projection, version.version)
        if (
            key in self._children
            or key in self._done
            or time.monotonic() < self._not_before.get(key, 0)
        ):
            return
        if version.position is None and version.events == 0 and version.fingerprint is None:
            self._tell(*key, "adopted as it was, without a checkpoint: not followed")
            self._done.add(key)
            return
        settings = self._config.projection(version.projection)
        if settings.kind == "external" or (version.state == "active" and settings.live == "app"):
            self._tell(*key, "the application keeps it fresh: not followed")
            self._done.add(key)
            return
        process = self._context.Process(
            target=_follow,
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
            if code in {0, _LEFT} or self._until_caught_up:
                self._failures.pop(key, None)
                left = code == _LEFT
                self.ended.append(Followed(*key, exit_code=0 if left else code, left=left))
                if self._until_caught_up:
                    self._done.add(key)
                continue
            if time.monotonic() - child.started > _RETRY_MOST.total_seconds():
                self._failures.pop(key, None)
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            pause = min(2.0**failures, _RETRY_MOST.total_seconds())
            self._not_before[key] = time.monotonic() + pause
            log.warning(
                "stopped", projection=key[0], version=key[1], exit_code=code, again_in_seconds=pause
            )

    def _tell(self, projection: str, version: int, text: str) -> None:
        if (projection, version, text) not in self._told:
            self._told.add((projection, version, text))
            log.info(text, projection=projection, version=version)

    def _end(self) -> None:
        for child in self._children.values():
            child.process.terminate()
        for child in self._children.values():
            child.process.join(20)
            if child.process.exitcode is None:
                child.process.kill()


def _follow(
    config_path: Path,
    projection: str,
    number: int,
    settings: term.GlobalOptions,
    until_caught_up: bool,
    parent: int,
) -> None:
    """One version's process.

    Exits with the code of what stopped it, and when its parent (a process id) is gone.
    """
    term.set_up_logging(settings)
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def stop() -> bool:
        return asked.is_set() or os.getppid() != parent

    try:
        _follow_version(
            load_config(config_path), projection, number, settings.store, stop, until_caught_up
        )
    except Stopped as stopped:
        if not until_caught_up:
            raise SystemExit(0) from None
        log.error(stopped.message, projection=projection, version=number, hint=stopped.hint)
        raise SystemExit(stopped.exit_code) from None
    except EsopsError as error:
        log.error(error.message, projection=projection, version=number, hint=error.hint)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        if settings.debug:
            raise
        log.error(
            "a defect in esops",
            projection=projection,
            version=number,
            error=f"{type(error).__name__}: {error}",
        )
        raise SystemExit(EsopsError.exit_code) from None


def _follow_version(
    config: Config,
    projection: str,
    number: int,
    store: str | None,
    stop: Callable[[], bool],
    until_caught_up: bool,
) -> None:
    with (
        translated(),
        connect(config.readmodel_of(projection).dsn, f"run {projection}") as connection,
    ):
        version = registry.version(connection, projection, number)
        lock = locks.version_lock(projection, number)
        holder = locks.holder(connection, lock)
        if holder is not None:
            time.sleep(1)
            holder = locks.holder(connection, lock)
        if holder is not None:
            raise Busy(f"{projection} v{number} is kept fresh by {holder}")
    same = code_of(config, version)[1]
    if not same and version.state == "standby":
        log.warning(
            "made by other code than there is now: left as it is",
            projection=projection,
            version=number,
            hint=f"name its code with projections.{projection}.versions.{number}.python, or "
            "retire it",
        )
        if until_caught_up:
            raise SystemExit(_LEFT)
        while not stop() and _state(config, projection, number) == "standby":
            time.sleep(1)
        return
    if not same:
        log.warning(
            "the code has changed since this version was made: old events keep their old rows",
            projection=projection,
            version=number,
        )
    runner = open_runner(config, version, stop=stop, store=store)
    try:
        if until_caught_up:
            runner.catch_up()
        else:
            runner.follow()
    finally:
        runner.close()


def _state(config: Config, projection: str, number: int) -> str:
    """A version's state; as it was for all we know, while the database is away."""
    try:
        with (
            translated(),
            connect(config.readmodel_of(projection).dsn, f"run {projection}") as connection,
        ):
            return registry.version(connection, projection, number).state
    except ConnectionLost:
        return "standby"
