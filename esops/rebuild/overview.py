"""What there is of a read model: its versions, how far each is, and who keeps it fresh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import psycopg

from esops.config import Config
from esops.errors import AnotherLog, OtherRows, Unavailable
from esops.events import Position
from esops.postgres.connection import connect, translated
from esops.readmodel import conduct, locks, own_rows, registry, renamed, served
from esops.readmodel.dead_letters import count_dead_letters
from esops.readmodel.marks import check
from esops.readmodel.registry import Version
from esops.readmodel.served import SomethingElse
from esops.readmodel.tables import missing_tables
from esops.rebuild import journal, under_way
from esops.rebuild.variants.external.checkpoint import reached
from esops.stores import open_store
from esops.stores.base import LOOKING, EventStore


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """A version with what is known of it at this moment.

    `lag_events` is None for a version that nobody keeps fresh any more, or that is of another log;
    `followed_by` is the process that keeps it fresh.
    """

    version: Version
    lag_events: int | None
    followed_by: str | None
    trouble: AnotherLog | None = None
    """Why the store's log is not the one that the version was made from."""
    dead_letters: int = 0
    """How many events could not be projected and are missing from its rows."""
    accepted_code: Sequence[Mapping[str, Any]] = ()
    """Where the operator vouched for other code while it was built, as the journal has it."""
    other_rows: OtherRows | None = None
    """Why its rows are not those of its checkpoint."""
    missing: Sequence[str] = ()
    """Tables of a version that serves or stands by, and that do not exist."""
    by_hand: Sequence[SomethingElse] = ()
    """Names that readers use, and that do not stand for this version, although it serves."""
    other_code: conduct.OtherCode | None = None
    """Where code that did not build it began to advance it."""
    failure: conduct.FollowFailure | None = None
    """Why no process keeps it fresh, where one tried."""
    kept_by: Literal["esops", "application"] = "esops"
    """Who keeps the projection fresh, as esops.toml says."""
    mixed_since: datetime | None = None
    """Since when the application's old code may have written rows of it (live = "inline")."""
    back_from: int | None = None
    """The version whose code that is, where the switch was back from it."""
    left_alone: bool = False
    """Whether it stands by and nothing keeps it fresh, since other code built it."""

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        version = self.version
        return {
            "version": version.version,
            "store": version.store,
            "state": version.state,
            "position": None if version.position is None else str(version.position),
            "lag_events": self.lag_events,
            "tables": {name: physical for name, (_, physical) in version.tables.items()},
            "rows": version.rows,
            "updated_at": version.updated_at,
            "events": version.events,
            "followed_by": self.followed_by,
            "kept_by": self.kept_by,
            "ok": not (
                self.trouble or self.other_rows or self.missing or self.by_hand or self.failure
            ),
            "detail": self._detail(),
            "same_log": self.trouble is None and version.lost is None,
            "dead_letters": self.dead_letters,
            "accepted_code": list(self.accepted_code),
            "other_code": None if self.other_code is None else self.other_code.as_dict(),
            "mixed_since": self.mixed_since,
            "failure": None if self.failure is None else self.failure.as_dict(),
        }

    def _detail(self) -> str | None:
        if self.missing:
            return f"dropped by somebody: {', '.join(self.missing)}. `esops doctor` says what to do"
        if self.by_hand:
            found = "; ".join(each.message for each in self.by_hand)
            return f"readers do not read it: {found}. `esops doctor` says what to do"
        if self.trouble is not None:
            return self.trouble.message
        if self.other_rows is not None:
            return f"{self.other_rows.message}. {self.other_rows.hint}"
        if self.failure is not None:
            return str(self.failure)
        if self.mixed_since is not None:
            logic, code = "the old logic", "the old code"
            if self.back_from is not None:
                logic, code = f"the logic of v{self.back_from}", "its code"
            return (
                f"rows may be of {logic} or of both. When the last instance with {code} "
                f"has ended: esops projection finish {self.version.projection}"
            )
        if self.left_alone:
            return (
                "other code built it than there is now, so nothing keeps it fresh, and a rollback "
                f"needs that code: set projections.{self.version.projection}.versions."
                f"{self.version.version}.python"
            )
        return None if self.version.lost is None else f"it was given up: {self.version.lost}"


def overview(config: Config, store: str | None = None) -> list[dict[str, Any]]:
    """Each projection of the configuration, with the version that serves and its lag."""
    return [_summary(config, name, store) for name in config.projections]


def describe(config: Config, name: str, store: str | None = None) -> dict[str, Any]:
    """A projection of any kind with all its versions, under the documented field names.

    Raises UsageError for an unknown projection.
    """
    settings = config.projection(name)
    versions = describe_versions(config, name, store)
    return {
        "projection": name,
        "store": config.store(store or settings.store)[0],
        "kind": settings.kind,
        "active": next((each["version"] for each in versions if each["state"] == "active"), None),
        "versions": versions,
        "former_name": None if versions else former_name(config, name),
        **under_way.look(config, name),
    }


def former_name(config: Config, name: str) -> str | None:
    """The name by which the registry knows a projection, where esops.toml has renamed it."""
    if config.projection(name).kind == "server":
        return None
    with translated(), connect(config.readmodel_of(name).dsn, "show") as connection:
        return renamed.former_name(config, connection, name)


def describe_versions(config: Config, name: str, store: str | None = None) -> list[dict[str, Any]]:
    """All versions of a projection of any kind, under the documented field names."""
    if config.projection(name).kind == "server":
        from esops.rebuild.variants.server import versions

        return versions.show(config, name, store)
    return [each.as_dict() for each in show(config, name, store)]


def show(config: Config, name: str, store: str | None = None) -> list[VersionStatus]:
    """All versions of a projection that esops or the application keeps in a database.

    Raises UsageError for an unknown projection.
    """
    settings = config.projection(name)
    with translated(), connect(config.readmodel_of(name).dsn, "show") as connection:
        found = registry.versions(connection, name)
        if not found:
            return []
        by_hand = served.look(config, connection, name)
        by: Literal["esops", "application"] = "esops"
        if settings.live != "esops" or settings.kind == "external":
            by = "application"
        # A position of one store says nothing in another one: a projection may have moved.
        default, by_store = config.store(store or settings.store)[0], dict[str, list[Version]]()
        for each in found:
            moved = store is None and each.store in config.stores
            moved &= each.state in {*registry.LIVE_STATES, "building"}
            by_store.setdefault(each.store if moved else default, []).append(each)
        shown: list[VersionStatus] = []
        for of, versions in by_store.items():
            try:
                shown += _of_store(config, connection, of, versions, by_hand)
            except Unavailable:
                if of == default:
                    raise
                # A store that the projection has left need not be there any more.
                shown += [_status(connection, None, None, each, None, by_hand) for each in versions]
        ordered = sorted(shown, key=lambda each: each.version.version)
        return [replace(each, kept_by=by) for each in ordered]


def _of_store(
    config: Config,
    connection: psycopg.Connection,
    store: str,
    versions: Sequence[Version],
    by_hand: Sequence[SomethingElse],
) -> list[VersionStatus]:
    with open_store(*config.store(store)) as events:
        there = [_where_it_is(events, version) for version in versions]
        troubles = [_trouble(connection, events, each) for each in there]
        # Below the lowest position nothing has to be judged: everybody is past it.
        known = [
            each
            for each, trouble in zip(there, troubles, strict=True)
            if not trouble and each.lost is None
        ]
        head = events.head(LOOKING, _lowest(known)).position
        return [
            _status(connection, events, head, version, trouble, by_hand)
            for version, trouble in zip(there, troubles, strict=True)
        ]


def troubles(
    connection: psycopg.Connection, events: EventStore, versions: Sequence[Version]
) -> list[tuple[Version, AnotherLog]]:
    """The live versions that were made from another log than a store's, each with the reason."""
    found = ((each, _trouble(connection, events, each)) for each in versions)
    return [(version, trouble) for version, trouble in found if trouble is not None]


def trouble_of(
    connection: psycopg.Connection, events: EventStore, version: Version
) -> AnotherLog | None:
    """Why a version is not of a store's log, wherever its checkpoint is kept; None where it is."""
    return _trouble(connection, events, _where_it_is(events, version))


def _trouble(
    connection: psycopg.Connection, events: EventStore, version: Version
) -> AnotherLog | None:
    if version.state not in {*registry.LIVE_STATES, "building"} or version.store != events.name:
        return None
    if version.lost is not None and version.state == "standby":
        return None  # given up, and nobody is served by it
    try:
        check(connection, events, version)
    except AnotherLog as error:
        return error
    return None


def _summary(config: Config, name: str, store: str | None) -> dict[str, Any]:
    described = describe(config, name, store)
    versions = described.pop("versions")
    active = next((each for each in versions if each["state"] == "active"), None)
    return {
        **described,
        "lag_events": active["lag_events"] if active else None,
        "versions": sum(each["state"] in {"active", "standby", "building"} for each in versions),
    }


def _where_it_is(events: EventStore, version: Version) -> Version:
    """The version, with the application's checkpoint where the application keeps it fresh."""
    if version.checkpoint is None or version.state not in {*registry.LIVE_STATES, "building"}:
        return version
    return replace(version, position=reached(events, version))


def _status(
    connection: psycopg.Connection,
    events: EventStore | None,
    head: Position | None,
    version: Version,
    trouble: AnotherLog | None,
    by_hand: Sequence[SomethingElse],
) -> VersionStatus:
    live = version.state in {*registry.LIVE_STATES, "building"}
    of_log = not trouble and version.lost is None
    lag = (
        events.counts.between(version.position, head)
        # Without both, an application keeps it fresh, or it was adopted: nobody knows its lag.
        if events is not None and live and of_log and (version.position or version.fingerprint)
        else None
    )
    holder = (
        locks.holder(connection, locks.version_lock(version.projection, version.version))
        if live
        else None
    )
    accepted = journal.accepted_code(connection, version.projection, version.version)
    missing = missing_tables(connection, version) if version.state in registry.LIVE_STATES else ()
    followed_by = None if holder is None else holder.process
    dead = count_dead_letters(connection, version.projection).get(version.version, 0)
    other = conduct.other_code(connection, version) if live else None
    failure = conduct.failure(connection, version) if live else None
    begun = None
    if version.state == "active":
        begun = journal.unhealed(connection, version.projection, version.version)
    from_version = (begun and begun.from_version) or 0
    return VersionStatus(
        version,
        lag,
        followed_by,
        trouble,
        dead,
        accepted,
        None if trouble else own_rows.look(connection, version),
        missing,
        [each for each in by_hand if each.version == version.version],
        other,
        failure,
        mixed_since=None if begun is None else begun.since,
        back_from=from_version if from_version > version.version else None,
        left_alone=holder is None and conduct.left_alone(connection, version),
    )


def _lowest(versions: Sequence[Version]) -> Position | None:
    """The lowest position of all live versions; None where one of them has not begun."""
    positions = [
        each.position
        for each in versions
        if each.state in registry.LIVE_STATES and each.position is not None
    ]
    return min(positions) if positions and len(positions) == len(versions) else None
