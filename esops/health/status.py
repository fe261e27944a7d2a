"""What `esops status` shows: stores and what holds them back, the application's own processors,
versions of read models, rebuilds and archive runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from esops.check import checks
from esops.config import Config
from esops.errors import AbsentArchive, EsopsError, Unavailable, UsageError
from esops.events import Checkpoint, Position
from esops.health import schema_checks
from esops.health.heads import seen_by_followers
from esops.health.lag import Lag, seconds_behind
from esops.health.late import missed
from esops.health.stalls import Stall, look_at_processors, of_shown
from esops.postgres.connection import connect, translated
from esops.readmodel import locks, renamed
from esops.rebuild import journal, under_way
from esops.rebuild.overview import describe_versions, former_name
from esops.settings import ArchiveSettings, StoreSettings
from esops.stores import open_store
from esops.stores.base import EventStore, Head

_UNKNOWN = (EsopsError, ValueError)
"""What a figure is left out for: the rest is shown all the same."""


@dataclass
class Status:
    """Everything that the configuration names, as it was at one moment."""

    stores: list[dict[str, Any]] = field(default_factory=list)
    processors: list[dict[str, Any]] = field(default_factory=list)
    projections: list[dict[str, Any]] = field(default_factory=list)
    rebuilds: list[dict[str, Any]] = field(default_factory=list)
    archives: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    """The last finished check of each projection."""
    schema_checks: list[dict[str, Any]] = field(default_factory=list)
    """What the last schema check of each store has found."""
    reached: bool = True
    """False where a store, a read model or an archive could not be reached."""

    @property
    def ok(self) -> bool:
        """Whether everything could be read, no store warns of anything, no processor of the
        application's is stalled, each version is of its store's log, without dead letters and not
        stalled, no rebuild in place has left a part of
        the rows in the tables that serve, and no hook after a switch is left to run.
        """
        troubled = ("unknown", "damaged", "failed")
        return (
            self.reached
            and all(each["ok"] for each in self.stores)
            and all(each["state"] not in troubled for each in (*self.projections, *self.archives))
            and all(each.get("ok", True) for each in (*self.projections, *self.rebuilds))
            and not any(each.get("dead_letters") for each in self.projections)
            and not any(each.get("stalled") for each in (*self.projections, *self.processors))
        )

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "stores": self.stores,
            "processors": self.processors,
            "projections": self.projections,
            "rebuilds": self.rebuilds,
            "archives": self.archives,
            "checks": self.checks,
            "schema_checks": self.schema_checks,
        }


class _Opened(NamedTuple):
    store: EventStore
    head: Head


def look(config: Config, store: str | None = None) -> Status:
    """Ask for everything that the configuration names, or for what belongs to one store.

    Raises UsageError for an unknown store.
    """
    if not config.stores:
        raise UsageError(
            f"{config.path}: the configuration names no store, so there is nothing to look at",
            hint=f"Add a section [stores.NAME] to {config.path.name}: esops docs configuration",
        )
    status = Status()
    names = [config.store(store)[0]] if store is not None else list(config.stores)
    with ExitStack() as stack:
        opened = {
            name: found
            for name in names
            if (found := _look_at_store(config, name, status, stack)) is not None
        }
        for name, settings in config.projections.items():
            if store is None or (settings.store or config.store(settings.store)[0]) == store:
                _look_at_projection(config, name, status, opened)
    for name, archive in config.archives.items():
        _look_at_archive(name, archive, store, status)
    return status


def _look_at_store(config: Config, name: str, status: Status, stack: ExitStack) -> _Opened | None:
    """Add a store and its processors to the status.

    Returns the store, open until the stack ends, with its head; None where it cannot be reached.
    """
    settings = config.stores[name]
    shown: dict[str, Any] = {
        "store": name,
        "backend": settings.backend,
        "layout": settings.expected_layout,
        "head": None,
        "ok": False,
    }
    # Added first, and filled in as far as it goes: a store that fails is shown with the reason.
    status.stores.append(shown)
    try:
        store = stack.enter_context(open_store(name, settings))
        info = store.ping()
        shown["layout"] = info.layout
        head = seen_by_followers(config, store)
        shown["head"] = None if head.position is None else str(head.position)
        held = head.held_back_by
        shown["held_back_by"] = [
            {"who": each.who, "what": each.what, "since": each.since} for each in held
        ]
        shown["version"] = info.version
        # Two of those that hold it back are enough to see what is going on; doctor names all.
        late = missed(config, name, store)
        shown["late_events"] = [
            {
                "position": str(each.event.position),
                "id": each.event.id,
                "stream": each.event.stream,
                "version": each.event.version,
                "type": each.event.type,
                "passed_at": each.event.passed_at,
                "versions": [f"{name} v{version}" for name, version in each.versions],
            }
            for each in late
        ]
        shown["detail"] = "; ".join(
            [
                *info.warnings,
                *(each.in_words() for each in late[:2]),
                *(f"held back by {each.who}: {each.what}" for each in held[:2]),
                *([info.detail["note"]] if "note" in info.detail else []),
            ]
        )
        shown["ok"] = not info.warnings and not late
        status.processors += _processors(name, store, head, info.clock)
        _add_schema_check(store, settings, status, shown)
    except EsopsError as error:
        shown["detail"] = error.message
        # A store that refuses, or wrong settings, were reached: that is exit code 1, not 3.
        status.reached &= not isinstance(error, Unavailable)
        return None
    return _Opened(store, head)


def _add_schema_check(
    store: EventStore, settings: StoreSettings, status: Status, shown: dict[str, Any]
) -> None:
    """What the last schema check found, or in the store's detail why nobody can say."""
    try:
        checked = schema_checks.of_store(store, settings)
    except EsopsError as error:
        shown["detail"] = "; ".join(filter(None, [shown["detail"], error.message]))
        return
    status.schema_checks += [] if checked is None else [checked]


def _processors(name: str, store: EventStore, head: Head, clock: datetime) -> list[dict[str, Any]]:
    looks = look_at_processors(store, store.checkpoints(), head, clock, _UNKNOWN)
    return [_processor(name, *each) for each in looks]


def _processor(name: str, checkpoint: Checkpoint, lag: Lag, stall: Stall | None) -> dict[str, Any]:
    place = checkpoint.place
    return {
        "store": name,
        "name": checkpoint.name,
        "kind": checkpoint.kind,
        "position": None if place is None else str(place),
        "lag_events": lag.events,
        "lag_seconds": lag.seconds,
        "state": checkpoint.state,
        "alive": checkpoint.alive,
        "evidence": checkpoint.evidence,
        "tenant": checkpoint.tenant,
        "category": checkpoint.category,
        "updated_at": checkpoint.updated_at,
        "stalled": None if stall is None else stall.as_dict(),
        **({"detail": dict(checkpoint.detail)} if checkpoint.detail else {}),
    }


def _quietly(ask: Callable[[], Any]) -> Any:
    """Ask for a figure; None where there is none, as for the position of a log that is gone."""
    try:
        return ask()
    except _UNKNOWN:
        return None


def _look_at_projection(
    config: Config, name: str, status: Status, opened: Mapping[str, _Opened]
) -> None:
    settings = config.projections[name]
    try:
        store = settings.store or config.store(settings.store)[0]
        found = describe_versions(config, name)
        asked = under_way.look(config, name)
    except EsopsError as error:
        status.projections.append(
            {"projection": name, "kind": settings.kind, "state": "unknown", "detail": error.message}
        )
        status.reached &= not isinstance(error, Unavailable)
        return
    active = next((each["version"] for each in found if each["state"] == "active"), None)
    head = {
        "projection": name,
        "store": store,
        "kind": settings.kind,
        "active": active,
        **{key: asked[key] for key in ("paused", "limits")},
    }
    # Retired and aborted versions are history, which `projection versions` shows.
    shown = [each for each in found if each["state"] in ("active", "standby", "building")]
    if settings.kind != "server":
        for each in shown:
            # It may be of another store than the one that the projection names now.
            if each["store"] not in opened:
                each["lag_seconds"] = None
                continue
            at = opened[each["store"]]
            _add_age(at, each)
            stall = _quietly(partial(of_shown, config, name, *at, each))
            each["stalled"] = None if stall is None else stall.as_dict()
            _add_troubles(status, each["store"], [each])
    status.projections += [{**head, **each} for each in shown] or [_unbuilt(config, name, head)]
    if settings.kind != "server":
        _look_at_rebuild(config, name, status)


def _unbuilt(config: Config, name: str, head: Mapping[str, Any]) -> dict[str, Any]:
    former = former_name(config, name)
    if former is None:
        return {**head, "version": None, "state": "never built"}
    detail = renamed.in_words(former, name)
    return {**head, "version": None, "state": "renamed", "ok": False, "detail": detail}


def _add_troubles(status: Status, store: str, shown: list[dict[str, Any]]) -> None:
    """Say of a store as well that it is not the log that a version was made from."""
    troubles = [
        each["detail"] for each in shown if not each.get("ok", True) and not each["same_log"]
    ]
    for each in status.stores if troubles else ():
        if each["store"] == store:
            each["ok"] = False
            each["detail"] = "; ".join(filter(None, [each["detail"], *troubles[:2]]))


def _add_age(opened: _Opened, shown: dict[str, Any]) -> None:
    # Where the application writes a version, nobody knows here how far it is.
    if not shown["same_log"] or shown["lag_events"] is None:
        shown["lag_seconds"] = None
        return
    position = Position.parse(shown["position"]) if shown["position"] else None
    shown["lag_seconds"] = _quietly(partial(seconds_behind, opened.store, position, opened.head))


def _look_at_archive(
    name: str, settings: ArchiveSettings, store: str | None, status: Status
) -> None:
    """Add the last run of each policy of an archive to the status."""
    # Only where there is an archive: importing this takes a tenth of a second.
    from esops.archive.catalog_view import last_of_each_policy
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Catalog

    try:
        last = last_of_each_policy(Catalog(Repository(settings)))
    except AbsentArchive as error:
        # Before the first run that is as it should be; a store that reads it says more.
        status.archives.append(
            {"archive": name, "run": None, "state": "absent", "detail": error.message}
        )
        return
    except EsopsError as error:
        status.archives.append(
            {"archive": name, "run": None, "state": "unknown", "detail": error.message}
        )
        status.reached &= not isinstance(error, Unavailable)
        return
    status.archives += [
        {"archive": name, **run} for run in last if store is None or run.get("store") == store
    ]


def _look_at_rebuild(config: Config, name: str, status: Status) -> None:
    with translated(), connect(config.readmodel_of(name).dsn, "status") as connection:
        entry = journal.latest(connection, name)
        checked = checks.latest(connection, name)
        partly = entry is not None and _changes_what_serves(entry)
        stopped = locks.holder(connection, locks.rebuild_lock(name)) is None
        owed = stopped and entry is not None and journal.owes_hook(connection, entry.rebuild)
    if checked is not None:
        status.checks.append(checked)
    if entry is not None:
        detail = f"v{entry.to_version} serves a part of its rows: "
        if owed:
            detail = (
                "the hook after the switch has not ended well: run it again with "
                f"`esops rebuild {name} --blue-green --resume`"
            )
        elif stopped:
            detail += f"finish this rebuild with `esops rebuild {name} --resume`"
        else:
            detail += "it is being rebuilt in place"
        status.rebuilds.append(
            {
                "rebuild": entry.rebuild,
                "projection": name,
                "state": entry.state,
                "from_version": entry.from_version,
                "to_version": entry.to_version,
                "reason": entry.reason,
                "unfinished": under_way.unfinished(entry, works=not stopped),
                "seconds": round(entry.seconds, 3),
                "started_at": entry.started_at,
                "updated_at": entry.updated_at,
                "finished_at": entry.finished_at,
                "ok": not (partly or owed),
                **({"detail": detail} if partly or owed else {}),
            }
        )


def _changes_what_serves(entry: journal.JournalEntry) -> bool:
    """Whether a rebuild in place has begun to change the tables that serve, and is not finished."""
    if entry.finished_at is not None or not entry.options.get("in_place"):
        return False
    return journal.PLANNED not in (entry.state, entry.resume_state)
