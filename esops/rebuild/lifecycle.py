"""The versions of a read model, from outside of a rebuild: show them, switch between them, roll
back, retire.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import psycopg
import structlog

from esops.config import Config
from esops.errors import Busy, Refused, UsageError
from esops.events import Position
from esops.postgres.connection import connect, translated
from esops.readmodel import locks, migrations, registry
from esops.readmodel.names import ReadModelName
from esops.readmodel.registry import Version
from esops.readmodel.tables import drop_tables
from esops.rebuild import journal, switch
from esops.rebuild.hooks import Hooks, told_of
from esops.rebuild.plan import names_of
from esops.rebuild.variants.external import check_left, reached
from esops.running.host import code_of, open_runner
from esops.settings import ProjectionSettings
from esops.stores import open_store
from esops.stores.base import LOOKING, EventStore

log = structlog.get_logger("esops.versions")
_BRING_PATIENCE = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class Shown:
    """A version with what is to be known of it at this moment."""

    version: Version
    lag_events: int | None
    followed_by: str | None


@dataclass(frozen=True, slots=True)
class Switched:
    """What a switch did."""

    projection: str
    from_version: int
    to_version: int
    position: Position | None
    statements: Sequence[str]


def described(config: Config, name: str, store: str | None = None) -> list[dict[str, Any]]:
    """All versions of a projection of any kind, under the documented field names."""
    if config.projection(name).kind == "server":
        from esops.rebuild.variants.server import versions

        return versions.show(config, name, store)
    return [as_dict(each) for each in show(config, name, store)]


def show(config: Config, name: str, store: str | None = None) -> list[Shown]:
    """All versions of a projection with their lag in events.

    Raises UsageError for an unknown projection.
    """
    settings = config.projection(name)
    with translated(), connect(config.readmodel_of(name).dsn, "show") as connection:
        found = registry.versions(connection, name)
        if not found:
            return []
        store_name, store_settings = config.store(store or settings.store)
        with open_store(store_name, store_settings) as events:
            head = events.head(LOOKING, _lowest(found)).position
            return [
                _shown(connection, events, head, _where_it_is(events, version)) for version in found
            ]


def _where_it_is(events: EventStore, version: Version) -> Version:
    """A version with the application's checkpoint, where that one keeps it."""
    if version.checkpoint is None or version.state not in {*registry.LIVE_STATES, "building"}:
        return version
    return replace(version, position=reached(events, version))


def switch_to(
    config: Config,
    name: str,
    number: int | None,
    *,
    allow_stale: bool = False,
    dry_run: bool = False,
) -> Switched:
    """Point a projection's name at another version: a given one, or the newest that stands by.

    Raises UsageError where there is no such version, Refused where it would serve old data, Busy
    during a rebuild.
    """
    config.projection(name)
    with translated(), connect(config.readmodel_of(name).dsn, f"switch {name}") as connection:
        known = registry.versions(connection, name)
        source = next((each for each in known if each.state == "active"), None)
        target = _target(name, known, number)
        if source is not None and target.version == source.version:
            raise UsageError(f"{name} v{target.version} serves already")
        _lock(connection, name)
        return _switch(config, connection, source, target, allow_stale=allow_stale, dry_run=dry_run)


def roll_back(
    config: Config, name: str, *, allow_stale: bool = False, dry_run: bool = False
) -> Switched:
    """Point a projection's name at the version that served before. Raises as switch_to does."""
    config.projection(name)
    with translated(), connect(config.readmodel_of(name).dsn, f"rollback {name}") as connection:
        known = registry.versions(connection, name)
        before = registry.previous(connection, name) if known else None
        source = next((each for each in known if each.state == "active"), None)
        if source is None or before is None:
            raise UsageError(
                f"{name} has no version that served before",
                hint=f"See `esops projection show {name}`.",
            )
        target = registry.version(connection, name, before)
        if target.state != "standby":
            raise UsageError(f"{name} v{before}, which served before, is {target.state}")
        _lock(connection, name)
        return _switch(
            config, connection, source, target, allow_stale=allow_stale, dry_run=dry_run, back=True
        )


def retirable(config: Config, name: str, number: int | None) -> list[Version]:
    """The versions that `retire` would drop: a given one, or all that stand by."""
    config.projection(name)
    with translated(), connect(config.readmodel_of(name).dsn, f"retire {name}") as connection:
        known = registry.versions(connection, name)
    if number is None:
        found = [each for each in known if each.state == "standby"]
        if not found:
            raise UsageError(
                f"{name} has no version that stands by", hint=f"See `esops projection show {name}`."
            )
        return found
    version = next((each for each in known if each.version == number), None)
    if version is None:
        raise UsageError(
            f"{name} has no version {number}",
            hint="Versions: " + ", ".join(str(v.version) for v in known),
        )
    if version.state == "active":
        raise Refused(f"{name} v{number} serves now", hint="Switch to another version first.")
    if version.state == "building":
        raise Refused(f"{name} v{number} is being built", hint="Give the rebuild up with --abort.")
    if version.state != "standby":
        raise UsageError(f"{name} v{number} is {version.state} already")
    return [version]


def retire_due(config: Config, names: Sequence[str]) -> list[Version]:
    """Drop the versions whose time by `--retire-after` is over; returns them."""
    done: list[Version] = []
    for name in names:
        with translated(), connect(config.readmodel_of(name).dsn, f"retire {name}") as connection:
            found = [
                registry.version(connection, name, number)
                for number in journal.due(connection, name)
            ]
        if found:
            retire(config, found)
            done += found
    return done


def retire(config: Config, versions: Sequence[Version]) -> list[str]:
    """Drop the tables of versions that stand by; returns the statements executed.

    Never with CASCADE.

    Raises Refused for one that the application still keeps fresh.
    """
    done: list[str] = []
    for version in versions:
        if version.checkpoint is not None:
            with _store_of(config, version) as events:
                check_left(events, version)
        with (
            translated(),
            connect(
                config.readmodel_of(version.projection).dsn, f"retire {version.projection}"
            ) as connection,
        ):
            _lock(connection, version.projection)
            _drop(connection, version, done)
    return done


def _store_of(config: Config, version: Version) -> EventStore:
    return open_store(*config.store(version.store))


def _drop(connection: psycopg.Connection, version: Version, done: list[str]) -> None:
    deadline = time.monotonic() + _BRING_PATIENCE.total_seconds()
    while True:
        try:
            with connection.transaction():
                # Its follower sees the new state at its next checkpoint, and lets go.
                connection.execute("SET LOCAL lock_timeout = '500ms'")
                registry.lock_checkpoint(connection, version.projection, version.version)
                statements = drop_tables(connection, version)
                registry.set_state(connection, version.projection, version.version, "retired")
                entry = journal.latest(connection, version.projection)
                if (
                    entry is not None
                    and entry.from_version == version.version
                    and entry.state == journal.SWITCHED
                ):
                    journal.enter(connection, entry.rebuild, journal.RETIRED, finished=True)
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() >= deadline:
                raise Busy(
                    f"the tables of {version.projection} v{version.version} are in use",
                    hint="Try again later.",
                ) from None
            time.sleep(0.2)
        except psycopg.errors.DependentObjectsStillExist as error:
            raise Refused(
                f"other objects depend on v{version.version} of {version.projection}: "
                f"{error.diag.message_detail}",
                hint="Drop them first.",
            ) from error
        else:
            done += statements
            return


def _target(name: str, known: Sequence[Version], number: int | None) -> Version:
    standing_by = [each for each in known if each.state == "standby"]
    if number is None:
        if not standing_by:
            raise UsageError(
                f"{name} has no version that stands by", hint=f"See `esops projection show {name}`."
            )
        return standing_by[-1]
    found = next((each for each in known if each.version == number), None)
    if found is None:
        raise UsageError(
            f"{name} has no version {number}",
            hint="Versions: " + (", ".join(str(v.version) for v in known) or "none"),
        )
    if found.state not in registry.LIVE_STATES:
        raise Refused(
            f"{name} v{number} is {found.state}",
            hint="Only a version that stands by can be switched to.",
        )
    return found


def _lock(connection: psycopg.Connection, name: str) -> None:
    lock = locks.rebuild_lock(name)
    if not locks.take(connection, lock, timedelta(seconds=1)):
        raise Busy(
            f"a rebuild of {name} is at work: "
            f"{locks.holder(connection, lock) or 'its session is just ending'}"
        )
    migrations.upgrade(connection)


def _switch(
    config: Config,
    connection: psycopg.Connection,
    source: Version | None,
    target: Version,
    *,
    allow_stale: bool,
    dry_run: bool,
    back: bool = False,
) -> Switched:
    settings = config.projection(target.projection)
    external = settings.kind == "external"
    names = [ReadModelName(schema, name) for name, (schema, _) in target.tables.items()]
    if external:
        names = names_of(config, target.projection, connection)
        _check_ahead(config, source, target, allow_stale=allow_stale)
    else:
        _check_fresh(settings, target, allow_stale=allow_stale)

    def bring_to(position: Position) -> None:
        if not allow_stale:
            _bring(config, target, position)

    if source is not None and source.position is not None and not allow_stale:
        bring_to(source.position)  # the long way before the lock, the short rest under it
    if dry_run:
        statements = switch.statements(connection, names, settings.switch, source, target)
        return Switched(
            target.projection,
            source.version if source else 0,
            target.version,
            target.position,
            statements,
        )

    def record(on: psycopg.Connection) -> None:
        if external:  # once more, since nobody reads on by the name from here on
            _check_ahead(config, source, target, allow_stale=allow_stale)
        entry = journal.latest(on, target.projection)
        if entry is not None and back and entry.to_version == (source.version if source else None):
            journal.enter(on, entry.rebuild, journal.ROLLED_BACK, finished=True)
        elif entry is not None and entry.to_version == target.version:
            journal.enter(on, entry.rebuild, journal.SWITCHED, finished=True)

    if settings.switch == "hook":
        told = told_of(
            target.projection, journal.SWITCHED, source.version if source else None, target
        )
        Hooks(settings.hooks, config.directory, log.info).run("switch", told)
    statements = switch.perform(
        connection,
        names,
        settings.switch,
        source,
        target,
        bring_to=bring_to,
        record=record,
        forced=allow_stale,
    )
    position = registry.read_position(connection, target.projection, target.version)
    return Switched(
        target.projection, source.version if source else 0, target.version, position, statements
    )


def _check_fresh(settings: ProjectionSettings, target: Version, *, allow_stale: bool) -> None:
    """Raises Refused where nobody could bring a version up to date."""
    if target.position is None and not allow_stale:
        raise Refused(
            f"{target.projection} v{target.version} has no checkpoint of esops: what it shows "
            "may be old",
            hint="Rebuild instead, or serve it as it is with --allow-stale.",
        )
    if settings.live == "app":
        raise Refused(
            f'the application keeps what serves of {target.projection} fresh (live = "app"), and '
            f"v{target.version} stands still since",
            hint="Rebuild: a new version is brought up to date, and handed over at its switch.",
        )


def _check_ahead(
    config: Config, source: Version | None, target: Version, *, allow_stale: bool
) -> None:
    """Raises Refused where readers would step back from one version that the application keeps to
    another.
    """
    if source is None or allow_stale:
        return
    with _store_of(config, target) as events:
        before, now = reached(events, source), reached(events, target)
    if now is None or (before is not None and now < before):
        raise Refused(
            f"v{target.version} stands at {now} by the application's checkpoint, and "
            f"v{source.version}, which serves, at {before}",
            hint="Let the application keep both, or serve it as it is with --allow-stale.",
        )


def _bring(config: Config, target: Version, position: Position) -> None:
    """See to it that a version reaches a position: wait for the process that follows it, or do it
    here.
    """
    name = locks.version_lock(target.projection, target.version)
    deadline = time.monotonic() + _BRING_PATIENCE.total_seconds()
    while True:
        with connect(config.readmodel_of(target.projection).dsn, "wait") as watching:
            reached = registry.read_position(watching, target.projection, target.version)
            followed = locks.holder(watching, name) is not None
        if reached is not None and reached >= position:
            return
        if not followed:
            with contextlib.suppress(Busy):  # one that has come to follow it meanwhile
                _catch_up_here(config, target, position)
                continue
        if time.monotonic() >= deadline:
            raise Refused(
                f"v{target.version} stands at {reached} and does not reach {position}, where the "
                "serving version is",
                hint="See why it is behind with `esops projection show`.",
            )
        time.sleep(0.02)


def _catch_up_here(config: Config, target: Version, position: Position) -> None:
    if not code_of(config, target)[1]:
        raise Refused(
            f"v{target.version} stands at {target.position}, behind the serving version, and the "
            "code that made it is gone: "
            "it would serve old data",
            hint="Name its code with "
            f"projections.{target.projection}.versions.{target.version}.python, or accept with "
            "--allow-stale.",
        )
    runner = open_runner(config, target, stop=lambda: False)
    try:
        runner.run_until(position)
    finally:
        runner.close()


def _shown(
    connection: psycopg.Connection, events: EventStore, head: Position | None, version: Version
) -> Shown:
    live = version.state in {*registry.LIVE_STATES, "building"}
    lag = (
        events.count_between(version.position, head)
        if live and (version.position or version.fingerprint)
        else None
    )
    holder = (
        locks.holder(connection, locks.version_lock(version.projection, version.version))
        if live
        else None
    )
    return Shown(version, lag, None if holder is None else holder.process)


def _lowest(versions: Sequence[Version]) -> Position | None:
    positions = [
        each.position
        for each in versions
        if each.state in registry.LIVE_STATES and each.position is not None
    ]
    return min(positions) if positions and len(positions) == len(versions) else None


def as_dict(shown: Shown) -> dict[str, Any]:
    """A version under the documented field names."""
    version = shown.version
    return {
        "version": version.version,
        "state": version.state,
        "position": None if version.position is None else str(version.position),
        "lag_events": shown.lag_events,
        "tables": {name: physical for name, (_, physical) in version.tables.items()},
        "rows": version.rows,
        "updated_at": version.updated_at,
        "events": version.events,
        "followed_by": shown.followed_by,
    }
