"""What to do where a store is not the log any more that a read model was made from.

    found = plan(config, "cart_summary")
    if found.needed:
        recover(config, found)

A version's rows are made of all events up to its checkpoint. So its checkpoint may be set back to
the last position that both histories share where it is proven that no event after that position
was applied, as where a projection takes few types of events. Anything else needs a rebuild: which
rows the lost events have changed, nobody can say any more. Such a version is given up: it serves
as it is, nothing follows it, and nothing compares positions with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import psycopg

from esops.config import Config
from esops.errors import AnotherLog, Busy, Refused
from esops.events import Position
from esops.postgres.connection import connect, translated
from esops.readmodel import checkpoints, locks, marks, migrations, registry
from esops.readmodel.registry import Version
from esops.readmodel.tables import drop_tables
from esops.rebuild import journal
from esops.rebuild.short_tries import Tries, in_short_tries, to_drop
from esops.rebuild.variants.external.checkpoint import reached
from esops.stores import open_store
from esops.stores.base import LOOKING, EventStore
from esops.stores.parts import Mark

RecoveryOutcome = Literal["fine", "kept", "set back", "rebuild", "abort", "application"]
_CHANGED = ("kept", "set back", "rebuild")


@dataclass(frozen=True, slots=True)
class VersionRecovery:
    """What becomes of a version.

    fine: it is of the store's log. kept: all of its events are in both histories; only its marks
    are renewed. set back: nothing was applied after the position `to`, where it continues. rebuild:
    it is given up. abort: it is being built, and has to be begun again. application: the
    application keeps it.
    """

    version: Version
    outcome: RecoveryOutcome
    reason: str | None = None
    shared: Position | None = None
    """The last position that both histories are known to share."""
    to: Position | None = None
    command: str | None = None
    """What the operator has to do afterwards."""

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        version = self.version
        return {
            "version": version.version,
            "state": version.state,
            "position": None if version.position is None else str(version.position),
            "outcome": self.outcome,
            "reason": self.reason,
            "shared": None if self.shared is None else str(self.shared),
            "to": None if self.to is None else str(self.to),
            "command": self.command,
        }


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """What becomes of the live versions of a projection."""

    projection: str
    store: str
    head: Position | None
    versions: Sequence[VersionRecovery]

    @property
    def needed(self) -> bool:
        """Whether anything has to be changed."""
        return any(each.outcome in _CHANGED and each.version.lost is None for each in self.versions)

    @property
    def commands(self) -> list[str]:
        """What the operator has to do afterwards."""
        return list(dict.fromkeys(each.command for each in self.versions if each.command))

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "projection": self.projection,
            "store": self.store,
            "head": None if self.head is None else str(self.head),
            "versions": [each.as_dict() for each in self.versions],
        }


def plan(
    config: Config, name: str, store: str | None = None, *, removed: bool = False
) -> RecoveryPlan:
    """Find out what becomes of each live version; changes nothing.

    `removed`: the operator vouches that events which are gone were deleted. Raises
    Refused where the store cannot tell logs apart.
    """
    settings = config.projection(name)
    if settings.kind == "server":
        raise Refused(f"{name} runs inside its store, which has one history only")
    store_name, store_settings = config.store(store or settings.store)
    with (
        translated(),
        connect(config.readmodel_of(name).dsn, f"recover {name}") as connection,
        open_store(store_name, store_settings) as events,
    ):
        if events.identity is None:
            raise Refused(f"store {store_name} cannot tell one log from another")
        live = [
            each
            for each in registry.versions(connection, name)
            if each.state in (*registry.LIVE_STATES, "building") and each.store == store_name
        ]
        found = [_look(connection, events, each, removed) for each in live]
        return RecoveryPlan(name, store_name, events.head(LOOKING).position, found)


def recover(config: Config, found: RecoveryPlan) -> None:
    """Do what a plan says. Raises Busy where a process works on the projection, or has moved a
    checkpoint since.
    """
    name = found.projection
    with (
        translated(),
        connect(config.readmodel_of(name).dsn, f"recover {name}") as connection,
        open_store(*config.store(found.store)) as events,
    ):
        if not locks.take(connection, locks.rebuild_lock(name), timedelta(seconds=2)):
            raise Busy(
                f"a rebuild of {name} is running: "
                f"{locks.holder(connection, locks.rebuild_lock(name))}",
                hint="Stop it first.",
            )
        migrations.upgrade(connection)
        for each in found.versions:
            if each.outcome in _CHANGED and each.version.lost is None:
                _change(connection, events, each)


# -- what becomes of a version


def _look(
    connection: psycopg.Connection, store: EventStore, version: Version, removed: bool
) -> VersionRecovery:
    rebuild = f"esops rebuild {version.projection} --blue-green"
    if version.state == "standby":
        rebuild = f"esops projection retire {version.projection} {version.version}"
    if version.lost is not None:
        return VersionRecovery(version, "rebuild", version.lost, command=rebuild)
    where = version if version.checkpoint is None else None
    try:
        if where is None:  # the application keeps its checkpoint
            at = reached(store, version)
            if at is not None and store.identity is not None:
                store.identity.check_reach(at)
        else:
            marks.check(connection, store, version)
    except AnotherLog as error:
        reason = error.message
    else:
        return VersionRecovery(version, "fine")
    if version.state == "building":
        return VersionRecovery(version, "abort", reason, command=f"{rebuild} --abort")
    if where is None:
        return VersionRecovery(version, "application", reason, command=rebuild)
    shared, applied = (
        _shared(connection, store, version, removed),
        _applied(store, version, removed),
    )
    to = _exact(version, shared, applied)
    if to is None:
        return VersionRecovery(version, "rebuild", reason, shared, command=rebuild)
    outcome: RecoveryOutcome = "kept" if to == version.position else "set back"
    return VersionRecovery(version, outcome, reason, shared, to)


def _shared(
    connection: psycopg.Connection, store: EventStore, version: Version, removed: bool
) -> Position | None:
    """The last position of a mark that the store recognises."""
    return next(
        (
            position
            for position, mark in marks.all_marks(connection, version)
            if _recognised(store, position, mark, removed)
        ),
        None,
    )


def _applied(store: EventStore, version: Version, removed: bool) -> Position | None:
    """The position of the last event that was applied, where the store has it still."""
    known = version.applied
    if known is None or known.get("mark") is None:
        return None
    position = Position.parse(known["position"])
    return position if _recognised(store, position, known["mark"], removed) else None


def _exact(version: Version, shared: Position | None, applied: Position | None) -> Position | None:
    """Where a version's rows are exactly those of the shared history; None where that is not
    known.
    """
    at = version.position
    if at is None:
        return None  # its rows are replaced in place, range by range
    if shared is not None and shared >= at:
        return at
    if version.applied is None:
        # It comes with the first event that is applied; an older esops did not note it.
        return None if version.events else shared
    last = Position.parse(version.applied["position"])
    candidates = [each for each in (shared, applied) if each is not None and last <= each]
    return min(max(candidates), at) if candidates else None


def _recognised(store: EventStore, position: Position, mark: Mark, removed: bool) -> bool:
    assert store.identity is not None
    try:
        store.identity.recognise(position, mark, removed=removed)
    except AnotherLog:
        return False
    return True


# -- changing it


def _change(connection: psycopg.Connection, store: EventStore, what: VersionRecovery) -> None:
    version = what.version
    lock = locks.version_lock(version.projection, version.version)
    if not locks.take(connection, lock, timedelta(seconds=5)):
        raise Busy(
            f"{version.projection} v{version.version} is kept fresh by "
            f"{locks.holder(connection, lock)}",
            hint="Stop that process first.",
        )
    mark = None if what.to is None else marks.mark_at(store, what.to)

    def change() -> None:
        now = registry.lock_checkpoint(connection, version.projection, version.version)
        if now != version.position:
            raise Busy(f"{version.projection} v{version.version} was changed since the plan")
        if what.to is None:
            _end_rebuild_in_place(connection, version)
            checkpoints.clear_checkpoint(connection, version, what.reason or "its history is lost")
        else:
            checkpoints.set_back(connection, version, what.to)
            if mark is not None:
                marks.keep_mark(connection, version, what.to, mark)

    this = f"recovering v{version.version} of {version.projection}"
    in_short_tries(connection, change, Tries(this, to_drop(version)))


def _end_rebuild_in_place(connection: psycopg.Connection, version: Version) -> None:
    """A rebuild in place cannot be undone, and must be begun again."""
    entry = journal.latest(connection, version.projection)
    if entry is None or entry.finished_at is not None or not entry.options.get("in_place"):
        return
    scratch = entry.options.get("scratch")
    for each in registry.versions(connection, version.projection):
        if each.version == scratch:
            drop_tables(connection, each)
            registry.delete(connection, version.projection, each.version)
    registry.drop_shards(connection, version)
    journal.enter(connection, entry.rebuild, journal.ABORTED, finished=True)
