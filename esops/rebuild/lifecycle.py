"""The life of a version after its rebuild: switch to it, roll back to it, retire it.

switch_to(config, "cart_summary", 3)
roll_back(config, "cart_summary")
retire(config, "cart_summary")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import psycopg
import structlog

from esops.config import Config, by_address
from esops.errors import Refused
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.connection import connect, translated
from esops.readmodel import own_rows, read_as, registry
from esops.readmodel.names import names_of
from esops.readmodel.read_as import names_of_version
from esops.readmodel.registry import Version
from esops.rebuild import guards, journal, moved_aside, switch, unchanged
from esops.rebuild.choosing import before, by_number, standing_by
from esops.rebuild.freshness import (
    bring_to,
    check_application_ahead,
    check_can_advance,
    check_logs,
    check_not_given_up,
    check_not_inline,
    is_apart,
    newest,
)
from esops.rebuild.hooks import Hooks, facts_of, move_readers
from esops.rebuild.inline_move import InlineMove
from esops.rebuild.retiring import is_gone, retire_versions, take_lock
from esops.rebuild.snapshots import DEFAULT_PATIENCE, SnapshotPatience
from esops.rebuild.switched import NOTHING_ACCEPTED, Accepted, Switched

log = structlog.get_logger("esops.versions")


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
    accepted: Accepted = NOTHING_ACCEPTED,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    patience: SnapshotPatience = DEFAULT_PATIENCE,
) -> Switched:
    """Point a projection's name at another version: a given one, or the newest that stands by.

    Raises UsageError where there is no such version, Refused for what is not `accepted`, Busy
    during a rebuild.
    """
    if config.projection(name).kind == "server":
        return _move_in_server(config, name, number, back=False, dry_run=dry_run, say=say)
    if config.projection(name).live == "inline":
        moving = InlineMove(config, name, accepted, patience, stop, say)
        return moving.run(lambda on: by_number(on, name, number), back=False, dry_run=dry_run)
    with translated(), connect(config.readmodel_of(name).dsn, f"switch {name}") as connection:
        # Read under the lock: who switched or retired a version while we waited has changed them.
        take_lock(connection, name, upgrade=not dry_run)
        source, target = by_number(connection, name, number)
        guards.check_dead_letters(connection, target, accepted.dead_letters)
        if not accepted.code:
            guards.check_one_code(connection, target)
        what = _what(config, connection, source, target, forced=accepted.stale)
        steps = _Steps(config, connection, what, say, patience)
        return _switch(steps, dry_run=dry_run)


def roll_back(
    config: Config,
    name: str,
    *,
    accepted: Accepted = NOTHING_ACCEPTED,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    patience: SnapshotPatience = DEFAULT_PATIENCE,
) -> Switched:
    """Point a projection's name at the version that served before. Raises as switch_to does, and
    Refused where a rollback was the last thing that changed which version serves.
    """
    if config.projection(name).kind == "server":
        return _move_in_server(config, name, None, back=True, dry_run=dry_run, say=say)
    if config.projection(name).live == "inline":
        moving = InlineMove(config, name, accepted, patience, stop, say)
        return moving.run(lambda on: before(on, name), back=True, dry_run=dry_run)
    with translated(), connect(config.readmodel_of(name).dsn, f"rollback {name}") as connection:
        take_lock(connection, name, upgrade=not dry_run)
        source, target = before(connection, name)
        if not accepted.code:
            guards.check_one_code(connection, target)
        what = _what(config, connection, source, target, forced=accepted.stale)
        steps = _Steps(config, connection, what, say, patience)
        return _switch(steps, dry_run=dry_run, back=True)


def retirable(config: Config, name: str, number: int | None = None) -> Retirement:
    """What retiring would drop: a given version, or all that stand by.

    Raises UsageError where there is no such version, Refused for one that is in use.
    """
    if config.projection(name).kind == "server":
        return _retirable_in_server(config, name, number)
    with translated(), connect(config.readmodel_of(name).dsn, f"retire {name}") as connection:
        known = registry.versions(connection, name)
        # One that serves by name only, since somebody dropped its tables, can go as well.
        serving = next((each for each in known if each.version == number), None)
        if serving is not None and is_gone(connection, serving):
            found = [serving]
        else:
            found = standing_by(name, known, number)
        what = [
            ".".join(table) + ("" if catalog.has_table(connection, *table) else " (gone already)")
            for each in found
            for table in each.tables.values()
        ]
    return Retirement(
        name,
        [each.version for each in found],
        what,
        lambda: retire_versions(config, found),
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
    for dsn, here in by_address(config, names).items():
        with translated(), connect(dsn, "retire") as connection:
            found = [
                registry.version(connection, name, number)
                for name, number in journal.due(connection, here)
            ]
        # Each is checked again under the lock: a switch may have made it serve since.
        done += [each for each in found if retire_versions(config, [each], due=True)]
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
    names = names_of_version(target)
    if settings.kind == "external":
        # Its tables may be in any schema.
        known = names_of(config, target.projection, connection)
        names = [each for each in known if each.name in target.tables]
        unknown = set(target.tables) - {each.name for each in names}
        if unknown:
            raise Refused(
                f"v{target.version} of {target.projection} is also read as "
                f"{', '.join(sorted(unknown))}, which esops.toml does not name",
                hint=f"Name it in projections.{target.projection}.tables.",
            )
    roles = settings.grant_select_to
    apart = not forced and is_apart(config, connection, source, target)
    return switch.Switch(
        names, settings.switch, source, target, forced, grant_select_to=roles, apart=apart
    )


@dataclass(frozen=True)
class _Steps:
    """What a switch of versions that exist works with."""

    config: Config
    connection: psycopg.Connection
    what: switch.Switch
    say: Callable[[str], None]
    patience: SnapshotPatience


def _check(steps: _Steps) -> None:
    """Raises what stands against a switch and shows before anything is changed."""
    config, what = steps.config, steps.what
    source, target, allow_stale = what.source, what.target, what.forced
    settings = config.projection(target.projection)
    check_not_given_up(target)
    own_rows.check(steps.connection, target)
    check_not_inline(config, steps.connection, target)
    if source is not None and what.mode != "hook":
        read_as.check_together(steps.connection, source, target)
    unchanged.check(steps.connection, source, target, by_rename=what.mode == "rename")
    if not allow_stale:
        check_logs(config, steps.connection, source, target)
    if settings.kind == "external":
        check_application_ahead(config, source, target, allow_stale=allow_stale)
    else:
        check_can_advance(settings, target, allow_stale=allow_stale)


def _switch(steps: _Steps, *, dry_run: bool, back: bool = False) -> Switched:
    config, connection, what = steps.config, steps.connection, steps.what
    source, target, allow_stale = what.source, what.target, what.forced
    before = source.version if source else 0
    settings = config.projection(target.projection)
    external = settings.kind == "external"
    if source is not None:
        steps.say(f"{target.projection}: from v{before}, which serves now, to v{target.version}")
    _check(steps)
    aside = moved_aside.notes(source, what.names, target.version, what.mode)

    def bring(position: Position) -> None:
        if not allow_stale:
            bring_to(config, target, position)

    # Under the lock only a moment's worth of events is left, so readers hardly wait.
    if what.apart:
        head = newest(config, target)
        if head is not None:
            bring(head)
    elif source is not None and source.position is not None:
        bring(source.position)  # most of the way before the lock, the short rest under it
    if dry_run:
        prepared = switch.prepare(connection, what)
        return Switched(
            target.projection,
            before,
            target.version,
            target.position,
            prepared.statements,
            notes=[*aside, *prepared.carried.notes(), *switch.left_stale(connection, what)],
        )
    for each in aside:
        steps.say(each)

    def record(on: psycopg.Connection) -> None:
        if external:  # again, under the lock: from here on nobody reads blue by the name
            check_application_ahead(config, source, target, allow_stale=allow_stale)
        journal.moved(on, target, source.version if source else None, back=back)

    if settings.switch == "hook":
        what = _with_program(config, what)
    statements = switch.perform(
        connection,
        what,
        bring_to=bring,
        record=record,
        say=steps.say,
        patience=steps.patience,
    )
    position = registry.read_position(connection, target.projection, target.version)
    return Switched(target.projection, before, target.version, position, statements)


def _with_program(config: Config, what: switch.Switch) -> switch.Switch:
    """The switch with the program that moves the readers."""
    settings, source, target = config.projection(what.target.projection), what.source, what.target
    before = source.version if source is not None else None
    hooks = Hooks(settings.hooks, config.directory, log.info)
    facts = facts_of(target.projection, journal.SWITCHED, before, target)
    return replace(what, move_readers=move_readers(hooks, facts))
