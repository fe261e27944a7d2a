"""Sees to it that a version which is to serve is at least as fresh as the one that serves now."""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta

import psycopg

from esops.config import Config
from esops.errors import AnotherLog, Busy, Refused
from esops.events import Position
from esops.postgres.connection import connect
from esops.readmodel import inline, locks, marks, registry
from esops.readmodel.names import names_of
from esops.readmodel.read_as import as_read
from esops.readmodel.registry import Version
from esops.rebuild import guards
from esops.rebuild.options import SETTLING
from esops.rebuild.variants.external.checkpoint import reached
from esops.running.code import code_of
from esops.running.follower import open_runner
from esops.settings import ProjectionSettings
from esops.stores import open_store

BRING_PATIENCE = timedelta(seconds=20)
"""How long to wait for the process that keeps a version fresh."""

_CODE = {"sql": "statement", "process": "command"}
"""What names the code of a version in esops.toml, by kind; `python` for all others."""


def check_logs(config: Config, connection: psycopg.Connection, *versions: Version | None) -> None:
    """Raises AnotherLog where a version was made from another history of its store than the one
    that the store has now: positions of two histories cannot be compared.
    """
    for version in versions:
        if version is not None and version.position is not None:
            with open_store(*config.store(version.store)) as store:
                guards.check_log(connection, store, version)


def is_apart(
    config: Config, connection: psycopg.Connection, source: Version | None, target: Version
) -> bool:
    """Whether two versions were made of two logs, so that their positions cannot be compared."""
    if source is None or source.position is None or source.store == target.store:
        return False
    with open_store(*config.store(target.store)) as store:
        return not marks.same_log(connection, store, source)


def newest(config: Config, target: Version) -> Position | None:
    """The settled head of a version's own store."""
    with open_store(*config.store(target.store)) as store:
        return store.head(SETTLING).position


def check_not_given_up(target: Version) -> None:
    """Raises AnotherLog for a version that was given up: it has rows of events that the store has
    lost, and nothing can bring it up to date.
    """
    if target.lost is not None:
        raise AnotherLog(
            f"{target.projection} v{target.version} was given up, and has rows of events that "
            f"store {target.store} has lost: {target.lost}",
            hint=f"Rebuild: esops rebuild {target.projection} --blue-green. Drop this one: esops "
            f"projection retire {target.projection} {target.version}",
        )


def check_not_inline(config: Config, connection: psycopg.Connection, target: Version) -> None:
    """Raises Refused where the application itself writes what a version would be read as."""
    settings = config.projection(target.projection)
    if settings.live != "esops" or settings.kind == "external" or target.store not in config.stores:
        return
    with open_store(*config.store(target.store)) as store:
        names = as_read(names_of(config, target.projection, connection), target)
        inline.check(connection, store, names, registry.versions(connection, target.projection))


def check_can_advance(settings: ProjectionSettings, target: Version, *, allow_stale: bool) -> None:
    """Raises Refused where nobody could bring a version up to date."""
    if settings.live != "esops":
        raise Refused(
            f"the application keeps only the version of {target.projection} fresh that serves "
            f'(live = "{settings.live}"), so v{target.version} has been standing still',
            hint="The way back is a rebuild with the code before: esops rebuild "
            f"{target.projection} --blue-green",
        )
    if target.position is None and not allow_stale:
        raise Refused(
            f"{target.projection} v{target.version} has no checkpoint of esops, so its rows may be "
            "old",
            hint="Rebuild it, or serve it as it is with --allow-stale.",
        )


def check_application_ahead(
    config: Config, source: Version | None, target: Version, *, allow_stale: bool
) -> None:
    """Raises Refused where readers would see older data, of two versions that the application keeps
    fresh.
    """
    if source is None or allow_stale:
        return
    with open_store(*config.store(target.store)) as events:
        before, now = reached(events, source), reached(events, target)
    if now is None or (before is not None and now < before):
        raise Refused(
            f"the application's checkpoint of v{target.version} is at {now or 'no position'}, "
            f"behind that of v{source.version}, which serves (at {before})",
            hint="Let the application keep both fresh, or serve it as it is with --allow-stale.",
        )


def bring_to(config: Config, target: Version, position: Position) -> None:
    """Let a version reach a position: wait for the process that follows it, or apply the events
    here.

    Raises Refused where it does not get there.
    """
    name = locks.version_lock(target.projection, target.version)
    deadline = time.monotonic() + BRING_PATIENCE.total_seconds()
    while True:
        # A connection for each look: the caller's own is in a transaction and would see old rows.
        with connect(config.readmodel_of(target.projection).dsn, "wait") as watching:
            now = registry.read_position(watching, target.projection, target.version)
            followed = locks.holder(watching, name) is not None
        if now is not None and now >= position:
            return
        if not followed:
            # Busy: a process has started to follow it since we looked. Then wait for that one.
            with contextlib.suppress(Busy):
                _catch_up_here(config, target, position)
                continue
        if time.monotonic() >= deadline:
            raise Refused(
                f"v{target.version} is at {now or 'no position'} and does not reach {position}, "
                "where the version that serves is",
                hint=f"See why it is behind: esops projection show {target.projection}",
            )
        time.sleep(0.02)


def _events_up_to(config: Config, target: Version, position: Position) -> bool:
    """Whether any event lies between a version's checkpoint and a settled position."""
    with open_store(*config.store(target.store)) as store:
        return store.counts.between(target.position, position) > 0


def _catch_up_here(config: Config, target: Version, position: Position) -> None:
    # Emmett's positions advance without an event: where none came, no code is needed.
    if not code_of(config, target)[1] and _events_up_to(config, target, position):
        key = _CODE.get(config.projection(target.projection).kind, "python")
        raise Refused(
            f"v{target.version} is at {target.position}, behind the version that serves, and the "
            "code that built it is not there any more: it would serve old data",
            hint="Name its code with "
            f"projections.{target.projection}.versions.{target.version}.{key}, or accept old "
            "data with --allow-stale.",
        )
    runner = open_runner(config, target, stop=lambda: False)
    try:
        runner.run_until(position)
    finally:
        runner.close()
