"""The life of a version after its rebuild: switch to it, roll back to it, retire it.

    switch_to(config, "cart_summary", 3)
    roll_back(config, "cart_summary")
    retire(config, "cart_summary")

All three work for projections of any kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from esops.rebuild.freshness import (
    BRING_PATIENCE,
    bring_to,
    check_application_ahead,
    check_can_advance,
    check_logs,
    check_not_given_up,
)
from esops.rebuild.hooks import Hooks, facts_of
from esops.rebuild.target import names_of
from esops.rebuild.variants.external.checkpoint import check_unused
from esops.stores import open_store

log = structlog.get_logger("esops.versions")


@dataclass(frozen=True, slots=True)
class Switched:
    """What a switch did, or would do.

    `inside` names both projections (before, after) where they run inside the store; then there is
    no position.
    """

    projection: str
    from_version: int
    to_version: int
    position: Position | None
    statements: Sequence[str]
    inside: tuple[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "projection": self.projection,
            "from_version": self.from_version,
            "to_version": self.to_version,
            "position": None if self.position is None else str(self.position),
            "statements": list(self.statements),
        }


@dataclass(frozen=True, slots=True)
class Retirement:
    """What is dropped: versions of a projection, with their tables, or their projections inside the
    store.
    """

    projection: str
    versions: Sequence[int]
    what: Sequence[str]
    run: Callable[[], list[str]]
    """Drops it; raises as `retire` does."""
    in_store: bool = False


def switch_to(
    config: Config,
    name: str,
    number: int | None = None,
    *,
    allow_stale: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Switched:
    """Point a projection's name at another version: a given one, or the newest that stands by.

    Raises UsageError where there is no such version, Refused where it would serve old data, Busy
    during a rebuild.
    """
    if config.projection(name).kind == "server":
        return _move_in_server(config, name, number, back=False, dry_run=dry_run, say=say)
    with translated(), connect(config.readmodel_of(name).dsn, f"switch {name}") as connection:
        known = registry.versions(connection, name)
        source = next((each for each in known if each.state == "active"), None)
        target = _target(name, known, number)
        if source is not None and target.version == source.version:
            raise UsageError(f"{name} v{target.version} serves already")
        _lock(connection, name)
        what = _what(config, connection, source, target, forced=allow_stale)
        return _switch(config, connection, what, dry_run=dry_run)


def roll_back(
    config: Config,
    name: str,
    *,
    allow_stale: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Switched:
    """Point a projection's name at the version that served before. Raises as switch_to does."""
    if config.projection(name).kind == "server":
        return _move_in_server(config, name, None, back=True, dry_run=dry_run, say=say)
    with translated(), connect(config.readmodel_of(name).dsn, f"rollback {name}") as connection:
        known = registry.versions(connection, name)
        # Not simply the newest that stands by: after several switches they differ.
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
        what = _what(config, connection, source, target, forced=allow_stale)
        return _switch(config, connection, what, dry_run=dry_run, back=True)


def retirable(config: Config, name: str, number: int | None = None) -> Retirement:
    """What retiring would drop: a given version, or all that stand by.

    Raises UsageError where there is no such version, Refused for one that is in use.
    """
    if config.projection(name).kind == "server":
        return _retirable_in_server(config, name, number)
    with translated(), connect(config.readmodel_of(name).dsn, f"retire {name}") as connection:
        found = _standing_by(name, registry.versions(connection, name), number)
    return Retirement(
        name,
        [each.version for each in found],
        [".".join(table) for each in found for table in each.tables.values()],
        lambda: _retire_versions(config, found),
    )


def retire(config: Config, name: str, number: int | None = None) -> list[str]:
    """Drop a given version, or all that stand by; returns the statements executed.

    Never drops with CASCADE. Raises as `retirable` does; Refused for a version that the application
    still keeps fresh, and for one that other objects depend on; Busy where its tables are in use.
    """
    return retirable(config, name, number).run()


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
            _retire_versions(config, found)
            done += found
    return done


# -- inside the store


def _move_in_server(
    config: Config,
    name: str,
    number: int | None,
    *,
    back: bool,
    dry_run: bool,
    say: Callable[[str], None],
) -> Switched:
    from esops.rebuild.variants.server import versions

    old, new, run = versions.move(config, name, number, back=back, dry_run=dry_run, say=say)
    return Switched(name, old.version, new.version, None, run, inside=(old.name, new.name))


def _retirable_in_server(config: Config, name: str, number: int | None) -> Retirement:
    from esops.rebuild.variants.server import versions

    found = versions.retirable(config, name, number)
    return Retirement(
        name,
        [each.version for each in found],
        [f"projection {each.name}" for each in found],
        lambda: versions.retire(config, name, found),
        in_store=True,
    )


# -- which versions


def _target(name: str, known: Sequence[Version], number: int | None) -> Version:
    standing_by = [each for each in known if each.state == "standby"]
    if number is None:
        if not standing_by:
            raise UsageError(
                f"{name} has no version that stands by", hint=f"See `esops projection show {name}`."
            )
        return standing_by[-1]
    found = _numbered(name, known, number)
    if found.state not in registry.LIVE_STATES:
        raise Refused(
            f"{name} v{number} is {found.state}",
            hint="Only a version that stands by can be switched to.",
        )
    return found


def _standing_by(name: str, known: Sequence[Version], number: int | None) -> list[Version]:
    if number is None:
        found = [each for each in known if each.state == "standby"]
        if not found:
            raise UsageError(
                f"{name} has no version that stands by", hint=f"See `esops projection show {name}`."
            )
        return found
    version = _numbered(name, known, number)
    if version.state == "active":
        raise Refused(f"{name} v{number} serves now", hint="Switch to another version first.")
    if version.state == "building":
        raise Refused(
            f"{name} v{number} is being built",
            hint=f"Drop it with: esops rebuild {name} --blue-green --abort",
        )
    if version.state != "standby":
        raise UsageError(f"{name} v{number} is {version.state} already")
    return [version]


def _numbered(name: str, known: Sequence[Version], number: int) -> Version:
    found = next((each for each in known if each.version == number), None)
    if found is None:
        raise UsageError(
            f"{name} has no version {number}",
            hint="Versions: " + (", ".join(str(each.version) for each in known) or "none"),
        )
    return found


def _lock(connection: psycopg.Connection, name: str) -> None:
    lock = locks.rebuild_lock(name)
    if not locks.take(connection, lock, timedelta(seconds=1)):
        raise Busy(
            f"a rebuild of {name} is running: "
            f"{locks.holder(connection, lock) or 'its session is just ending'}",
            hint="Wait for it, or stop it; you can resume it later.",
        )
    migrations.upgrade(connection)


# -- the switch


def _what(
    config: Config,
    connection: psycopg.Connection,
    source: Version | None,
    target: Version,
    *,
    forced: bool,
) -> switch.Switch:
    settings = config.projection(target.projection)
    if settings.kind == "external":
        names = names_of(config, target.projection, connection)
    else:
        names = [ReadModelName(schema, name) for name, (schema, _) in target.tables.items()]
    return switch.Switch(names, settings.switch, source, target, forced)


def _switch(
    config: Config,
    connection: psycopg.Connection,
    what: switch.Switch,
    *,
    dry_run: bool,
    back: bool = False,
) -> Switched:
    source, target, allow_stale = what.source, what.target, what.forced
    before = source.version if source else 0
    settings = config.projection(target.projection)
    external = settings.kind == "external"
    check_not_given_up(target)
    if not allow_stale:
        check_logs(config, connection, source, target)
    if external:
        check_application_ahead(config, source, target, allow_stale=allow_stale)
    else:
        check_can_advance(settings, target, allow_stale=allow_stale)

    def bring(position: Position) -> None:
        if not allow_stale:
            bring_to(config, target, position)

    # Under the lock only a moment's worth of events is left, so readers hardly wait.
    if source is not None and source.position is not None:
        bring(source.position)  # most of the way before the lock, the short rest under it
    if dry_run:
        statements = switch.statements(connection, what)
        return Switched(target.projection, before, target.version, target.position, statements)

    def record(on: psycopg.Connection) -> None:
        if external:  # again, under the lock: from here on nobody reads blue by the name
            check_application_ahead(config, source, target, allow_stale=allow_stale)
        entry = journal.latest(on, target.projection)
        if entry is not None and back and entry.to_version == (source.version if source else None):
            journal.enter(on, entry.rebuild, journal.ROLLED_BACK, finished=True)
        # A rebuild that ended with --no-switch is finished by this switch.
        elif entry is not None and entry.to_version == target.version:
            journal.enter(on, entry.rebuild, journal.SWITCHED, finished=True)

    if settings.switch == "hook":
        facts = facts_of(
            target.projection, journal.SWITCHED, source.version if source else None, target
        )
        Hooks(settings.hooks, config.directory, log.info).run("switch", facts)
    statements = switch.perform(connection, what, bring_to=bring, record=record)
    position = registry.read_position(connection, target.projection, target.version)
    return Switched(target.projection, before, target.version, position, statements)


# -- retiring


def _retire_versions(config: Config, versions: Sequence[Version]) -> list[str]:
    done: list[str] = []
    for version in versions:
        if version.checkpoint is not None:
            with open_store(*config.store(version.store)) as events:
                check_unused(events, version)
        with (
            translated(),
            connect(
                config.readmodel_of(version.projection).dsn, f"retire {version.projection}"
            ) as connection,
        ):
            _lock(connection, version.projection)
            done += _drop(connection, version)
    return done


def _drop(connection: psycopg.Connection, version: Version) -> list[str]:
    """Drop a version's tables, as soon as the process that follows it has let go of them."""
    deadline = time.monotonic() + BRING_PATIENCE.total_seconds()
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
            return statements
