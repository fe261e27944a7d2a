"""One version's process under `esops run`: which code it runs, and how it follows.

The process exits with the code of what stopped it, and stops when its parent is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import structlog

from esops import stores, term
from esops.config import Config, load_config
from esops.errors import (
    AbsentArchive,
    AnotherLog,
    Busy,
    ConnectionLost,
    EsopsError,
    OtherRows,
    Refused,
    Stopped,
    UsageError,
)
from esops.postgres.connection import connect, translated
from esops.readmodel import conduct, inline, locks, owners, registry
from esops.readmodel.dead_letters import count_dead_letters
from esops.readmodel.names import names_of
from esops.readmodel.read_as import as_read
from esops.readmodel.registry import Version
from esops.running.code import code_of, has_same_text, note_anew, note_code
from esops.running.compactions import Compactions
from esops.running.gone import check_tables
from esops.running.runner import Runner
from esops.running.work import RunControl, Work
from esops.signalled import SignalledEvent
from esops.stores.archive.archived_away import join_with, removed_from
from esops.stores.base import EventStore
from esops.stores.filters import check_filter

log = structlog.get_logger("esops.run")
LEFT_ALONE = 100
"""The exit code of a process that left its version alone; none of esops' own codes."""
DONE = 101
"""That of one that did its work. It is not 0, with which a version's own code could end it."""
UNSAID = 102
"""What stands for the exit code of one that ended with 0, without a word."""


def open_runner(
    config: Config, version: Version, *, stop: Callable[[], bool], store: str | None = None
) -> Runner:
    """A runner for a version, with its own store.

    Raises Busy if another process keeps the version fresh.
    """
    settings = config.projection(version.projection)
    definition, _ = code_of(config, version)
    name, store_settings = config.store(store or version.store)
    work = Work.on(version.projection, version.version, definition, settings)
    dsn = config.readmodel_of(version.projection).dsn
    opened = stores.open_store(name, store_settings)
    compactions = Compactions(opened, version, settings)
    control = RunControl(stop=stop, look=compactions.check)
    return Runner(opened, dsn, work, control, lock_patience=timedelta(seconds=2))


def follow_in_process(
    config_path: Path,
    projection: str,
    number: int,
    settings: term.GlobalOptions,
    until_caught_up: bool,
    parent: int,
    may_begin: Any,
) -> None:
    """What one version's process does.

    Exits with the code of what stopped it. Stops when its parent (a process id) is gone. The value
    of `may_begin`, which the parent sees, is 0 where only the code that built the version may begin
    to follow it; once one has begun, it is 1.
    """
    # What a projection prints is no result.
    sys.stdout = sys.stderr
    term.set_up_logging(settings)
    asked = SignalledEvent()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    # Ctrl-C reaches the whole group; the parent then sends SIGTERM to each.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def stop() -> bool:
        return asked.is_set() or os.getppid() != parent

    def failed(error: EsopsError) -> NoReturn:
        log_error(error, projection, number)
        note_failure(config_path, projection, number, error, by=parent)
        raise SystemExit(error.exit_code) from None

    control = _Control(stop, until_caught_up, may_begin)
    try:
        _follow_version(load_config(config_path), projection, number, settings.store, control)
    except Stopped as stopped:
        if not until_caught_up:
            raise SystemExit(DONE) from None
        log_error(stopped, projection, number)
        raise SystemExit(stopped.exit_code) from None
    except EsopsError as error:
        failed(error)
    except Exception as error:
        if settings.debug:
            raise
        failed(EsopsError(f"a defect in esops: {type(error).__name__}: {error}"))
    raise SystemExit(DONE)


def note_failure(
    config_path: Path, projection: str, number: int, error: EsopsError, *, by: int
) -> None:
    """Note why a version's process ended, where `status` and the like find it; `by` is the id of
    the process that starts another one.

    Where that is no failure, or cannot be noted, nothing happens: it is in the log.
    """
    # Somebody else follows it; the others show anyway.
    if isinstance(error, (Busy, AnotherLog, OtherRows)):
        return
    with suppress(EsopsError, psycopg.Error):
        config = load_config(config_path)
        with (
            translated(),
            connect(config.readmodel_of(projection).dsn, f"run {projection}") as connection,
        ):
            version = registry.version(connection, projection, number)
            if version.state in registry.LIVE_STATES:
                conduct.note_failure(connection, version, error, by)


def log_error(error: EsopsError, projection: str, number: int) -> None:
    """Say why a version is not advanced any more."""
    hint = {"hint": error.hint} if error.hint else {}
    log.error(error.message, projection=projection, version=number, **hint)


def log_following(version: Version) -> None:
    """Say that this process advances a version: it has looked at the code, and holds its lock."""
    log.info(
        "following",
        projection=version.projection,
        version=version.version,
        state=version.state,
        pid=os.getpid(),
    )


@dataclass(frozen=True, slots=True)
class _Control:
    stop: Callable[[], bool]
    until_caught_up: bool
    may_begin: Any


def _follow_version(
    config: Config, projection: str, number: int, store: str | None, control: _Control
) -> None:
    stop, until_caught_up = control.stop, control.until_caught_up
    dsn = config.readmodel_of(projection).dsn
    with translated(), connect(dsn, f"run {projection}") as connection:
        version = free_version(config, connection, projection, number)
    # Asked in this process, which imports the code that is on disk now.
    same = code_of(config, version)[1]
    if left_alone(version, same=same):
        _note_left_alone(config, version)
        if until_caught_up:
            raise SystemExit(LEFT_ALONE)
        # Waits instead of ending, so that the parent does not start it again and again.
        while not stop() and _state(config, projection, number) == "standby":
            time.sleep(1)
        return
    if not control.may_begin.value:
        check_newer(config, version, same=same)
    note_anew(config, version)
    runner = open_runner(config, version, stop=stop, store=store)
    try:
        check_opened(config, version, runner, same=same)
        log_following(version)
        control.may_begin.value = 1
        if until_caught_up:
            runner.catch_up()
            with translated():
                conduct.note_fixed(runner.connection, version)
                _check_complete(runner.connection, projection, number)
        else:
            with suppress(Stopped):
                runner.step()
            with translated():
                conduct.note_fixed(runner.connection, version)
            runner.follow()
    except psycopg.errors.UndefinedTable:
        with translated(), connect(dsn, f"run {projection}") as connection:
            live = check_tables(config, connection, version)
        if live:
            raise
    finally:
        runner.close()
        # Closing writes down what settling has to remember.
        runner.store.close()


def left_alone(version: Version, *, same: bool) -> bool:
    """Whether a version is left alone: it stands by, and other code built it than there is now."""
    if same or version.state != "standby":
        return False
    log.warning(
        "this version was built by different code than there is now; esops leaves it alone",
        projection=version.projection,
        version=version.version,
        hint=f"Name its code with projections.{version.projection}.versions.{version.version}"
        f".python, or retire it: esops projection retire {version.projection} {version.version}",
    )
    return True


def check_newer(config: Config, version: Version, *, same: bool) -> None:
    """Refuse a version that was built while `esops run` was there, and not by the code that a new
    process finds: that is an older release, or one that came after.
    """
    if same:
        return
    name = version.projection
    values = (
        "No text of the code differs, but a value that it has when it is loaded, such as one of "
        "the environment: call `esops rebuild` with the environment of `esops run`. Else: put"
        if has_same_text(config, version)
        else "Put"
    )
    raise Refused(
        f"{name} v{version.version} was built while `esops run` was there, and by other code than "
        f"is in {config.directory}, so it is not followed",
        hint=f"{values} the code that built it there, or start `esops run` again: it then takes "
        "the code that it finds. Where a link leads to the newest release, name that: --config "
        "LINK/esops.toml.",
    )


def check_opened(config: Config, version: Version, runner: Runner, *, same: bool) -> None:
    """Look, under the version's lock, whether it can be advanced from where it is, and note by
    which code it is. Raises Refused and UsageError.
    """
    _check_inline(config, runner.connection, version, runner.store)
    _check_archived(config, version, runner.store)
    # Under the version's lock: nobody else advances it from here.
    with translated():
        at = replace(version, position=runner.position)
        note_code(config, runner.connection, at, same=same)
    _check_names(config, version, runner.store)


def free_version(
    config: Config, connection: psycopg.Connection, projection: str, number: int
) -> Version:
    """The version, which nobody else keeps fresh. Raises Busy or Refused where it cannot be."""
    version = registry.version(connection, projection, number)
    owners.check_alone(connection, projection, number, version.tables)
    lock = locks.version_lock(projection, number)
    holder = locks.holder(connection, lock)
    if holder is not None:
        time.sleep(1)  # a process that was just killed holds its lock a moment longer
        holder = locks.holder(connection, lock)
    if holder is not None:
        raise Busy(
            f"{projection} v{number} is kept fresh by {holder}",
            hint="While that process runs, nothing is left to do here. To run here, end that one.",
        )
    check_tables(config, connection, version)
    return version


def _note_left_alone(config: Config, version: Version) -> None:
    dsn = config.readmodel_of(version.projection).dsn
    with translated(), connect(dsn, f"run {version.projection}") as connection:
        conduct.note_left_alone(connection, version)


def _check_inline(
    config: Config, connection: psycopg.Connection, version: Version, store: EventStore
) -> None:
    """Raises Refused where the application writes the version that serves itself."""
    if version.state == "active":
        with translated():
            names = as_read(names_of(config, version.projection, connection), version)
            versions = registry.versions(connection, version.projection)
            inline.check(connection, store, names, versions)


_CLOCKS = timedelta(days=1)
"""How far the clocks of archive runs and of a read model may be apart."""


def _check_archived(config: Config, version: Version, store: EventStore) -> None:
    """Raises Refused where events that a version has not read were archived and removed, as after
    its read model was restored to an earlier time.

    `archive run` removes only what all versions have read, so older runs need no look.
    """
    settings = config.projection(version.projection)
    if version.position is None or version.updated_at is None:
        return
    if version.store not in config.stores:
        return
    try:
        since = version.updated_at - _CLOCKS
        found = removed_from(config, store, settings.filter, since, version.position)
    except AbsentArchive:
        return  # before its first run there is none; doctor says so
    except EsopsError as error:
        log.warning(
            "it is not known whether events that this version needs were archived and removed",
            projection=version.projection,
            version=version.version,
            reason=error.message,
        )
        return
    for away in found:
        raise Refused(
            f"{away}, up to position {away.last_position}, and {version.projection} "
            f"v{version.version} has read the store up to {version.position} only: it would "
            "miss some of them",
            hint="Was the read model restored to an earlier time? "
            + join_with(config, version.store, away),
        )


def _check_complete(connection: psycopg.Connection, projection: str, number: int) -> None:
    """Exits with 1 where a version is caught up, but events are missing from its rows."""
    dead = count_dead_letters(connection, projection).get(number, 0)
    if dead:
        log.warning(
            "events became dead letters and are missing from its rows",
            projection=projection,
            version=number,
            events=dead,
            hint=f"See them: esops projection dead-letters {projection}",
        )
        raise SystemExit(1)


def _check_names(config: Config, version: Version, store: EventStore) -> None:
    """Warn of names in a projection's filter that no event of the store has.

    Raises UsageError with the nearest name where no event passes the filter and the version was
    made of some: it would pass over all that comes, and count them as read.
    """
    settings = config.projection(version.projection)
    if settings.kind == "sql":
        return  # a statement names its events itself
    of = {"projection": version.projection, "version": version.version}
    try:
        notes = check_filter(store, settings.filter, f"projections.{version.projection}: ")
    except UsageError as error:
        # Those that it was made of may have been archived away since.
        if version.events and not removed_from(config, store, settings.filter):
            error.hint = " ".join(
                filter(None, [error.hint, f"v{version.version} was made of other events."])
            )
            raise
        notes = [error.message]
    for note in notes:
        log.warning(note, **of, hint="Correct the name, if no such event will come.")


def _state(config: Config, projection: str, number: int) -> str:
    """A version's state; while the database is unreachable, what it was when we looked last."""
    try:
        with (
            translated(),
            connect(config.readmodel_of(projection).dsn, f"run {projection}") as connection,
        ):
            return registry.version(connection, projection, number).state
    except ConnectionLost:
        return "standby"
