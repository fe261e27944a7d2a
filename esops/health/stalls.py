"""Stalls: a version, or a processor of the application's, that has not advanced for a minute while
events wait that it wants to read.

A checkpoint has the time when it last moved, and the oldest event that waits has one as well: where
both are older than a minute, nothing has moved although it could. Neither is a stall alone: an idle
store moves nobody, and who catches up after an outage has old events before it, and moves. All ages
are by the clock of the database that keeps the times.

An import or a restore may bring old times into an idle store at this moment. So where nothing is
known that keeps it where it is, a second look is taken, a second later: who works moves in that
time. The same tells where a library keeps no time with its checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
import structlog

from esops.config import Config, by_address
from esops.events import Checkpoint, Position
from esops.health.lag import UNKNOWN, Lag, lag_of, seconds_behind
from esops.moments import between
from esops.postgres.connection import connect, translated
from esops.postgres.statements import statements
from esops.readmodel import conduct, locks, migrations, registry
from esops.readmodel.registry import Version
from esops.rebuild import not_advancing
from esops.rebuild.overview import troubles
from esops.settings import ProjectionSettings
from esops.stores import open_store
from esops.stores.base import EventStore, Head
from esops.term import duration

log = structlog.get_logger("esops.run")
AFTER = 60.0
"""Seconds after which it is one."""
_APART = 1.0
_NO_REASONS = ("unknown", "tracked", "recorded", "running", "active")
"""States of processors that do not say why one does not advance."""
_SQL = statements(__package__, "stalls")


@dataclass(frozen=True, slots=True)
class Stall:
    """For how many seconds something has not advanced while events waited, and why, in words."""

    seconds: float
    reasons: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {"seconds": round(self.seconds, 1), "reasons": list(self.reasons)}

    def __str__(self) -> str:
        why = "; ".join(self.reasons)
        return f"has not advanced for {duration(self.seconds)} while events wait" + (
            f": {why}" if why else ""
        )


# --- the application's processors


class ProcessorLook(NamedTuple):
    """One of the application's processors, how far behind it is, and whether it is stalled."""

    reader: Checkpoint
    lag: Lag
    stall: Stall | None


def look_at_processors(
    store: EventStore,
    readers: Sequence[Checkpoint],
    head: Head,
    clock: datetime,
    unknown: tuple[type[Exception], ...] = (ValueError,),
) -> list[ProcessorLook]:
    """Look at the application's processors of a store; `head` is the store's, `clock` its time.

    `unknown`: the errors for which a lag is not known, as for the position of a log that is gone.
    Raises EsopsError where the store cannot be asked.
    """
    lags = [_lag(store, each, head, clock, unknown) for each in readers]
    stalls = of_processors(store, readers, lags, head, clock)
    return [ProcessorLook(*each) for each in zip(readers, lags, stalls, strict=True)]


def of_processors(
    store: EventStore,
    readers: Sequence[Checkpoint],
    lags: Sequence[Lag],
    head: Head,
    clock: datetime,
) -> list[Stall | None]:
    """Which of the application's processors are stalled; `lags` are theirs, and `clock` is the
    store's time. Raises EsopsError where the store cannot be asked.
    """
    found = [
        _of_processor(reader, _waits(store, reader, lag, head, clock), clock)
        for reader, lag in zip(readers, lags, strict=True)
    ]
    # Who does not run moves no more.
    perhaps = [
        reader
        for reader, stall in zip(readers, found, strict=True)
        if stall is not None and reader.alive != "no"
    ]
    moved = _moved(store, perhaps) if perhaps else set()
    return [
        None if reader.names in moved else stall
        for reader, stall in zip(readers, found, strict=True)
    ]


def stalled_processors(store: EventStore, head: Head) -> Iterator[tuple[Checkpoint, Stall]]:
    """The application's processors of a store that are stalled; `head` is the store's.

    Raises EsopsError where the store cannot be asked.
    """
    readers = store.checkpoints()
    if not any(each.kind == "processor" for each in readers):
        return
    for each in look_at_processors(store, readers, head, store.ping().clock):
        if each.stall is not None:
            yield each.reader, each.stall


def _lag(
    store: EventStore,
    reader: Checkpoint,
    head: Head,
    clock: datetime,
    unknown: tuple[type[Exception], ...],
) -> Lag:
    try:
        return lag_of(store, reader, head, clock)
    except unknown:
        return UNKNOWN


def _waits(
    store: EventStore, reader: Checkpoint, lag: Lag, head: Head, clock: datetime
) -> float | None:
    """For how many seconds settled events have waited for it; None where they have not for long."""
    if reader.kind != "processor" or not lag.events or not lag.seconds or lag.seconds < AFTER:
        return None
    if head.held_back_by:
        # What nobody may read yet waits for a writer, and not for the processor.
        try:
            lag = lag_of(store, reader, Head(head.position), clock)
        except ValueError:
            return None
    if (lag.events or 0) < reader.noted_every:
        return None  # it may have read these, too
    return lag.seconds if lag.seconds is not None and lag.seconds >= AFTER else None


def _moved(store: EventStore, readers: Sequence[Checkpoint]) -> set[tuple[str, ...]]:
    before = {each.names: each.place for each in readers}
    time.sleep(_APART)
    now = {each.names: each.place for each in store.checkpoints()}
    return {names for names, place in before.items() if now.get(names) != place}


def _of_processor(reader: Checkpoint, waits: float | None, clock: datetime) -> Stall | None:
    if waits is None:
        return None
    if reader.updated_at is not None:
        stands = between(reader.updated_at, clock)
        if stands is None or stands.total_seconds() < AFTER:
            return None
        waits = min(waits, stands.total_seconds())
    dead = reader.detail.get("dead letters")
    reasons = [
        *([f"its state is {reader.state}"] if reader.state not in _NO_REASONS else []),
        *([reader.evidence] if reader.evidence else []),
        *([f"{dead} dead letters"] if dead else []),
    ]
    return Stall(waits, reasons)


# --- versions that esops keeps fresh


def of_version(
    connection: psycopg.Connection,
    settings: ProjectionSettings,
    version: Version,
    stands: float,
    at: tuple[EventStore, Head],
) -> Stall | None:
    """Whether a version that esops keeps fresh is stalled, whose checkpoint has been where it is
    for `stands` seconds; `connection` is to its read model, and `at` is its store with its head.
    """
    store, head = at
    caught_up = version.position is not None and head.position == version.position
    if not _is_ours(settings, version) or (caught_up and not head.held_back_by):
        return None
    if troubles(connection, store, [version]):
        return None  # of another log: that is said elsewhere
    waits = seconds_behind(store, version.position, head, settings.filter)
    if waits is None or waits < AFTER:
        return None
    holder = locks.holder(connection, locks.version_lock(version.projection, version.version))
    # One that stands by and is left alone was built by other code, and is not meant to advance.
    failed = conduct.failure(connection, version) is not None
    if version.state != "active" and holder is None and not failed:
        return None
    reasons = not_advancing.of_version(connection, version)
    if head.held_back_by and (
        head.position is None
        or (version.position is not None and version.position >= head.position)
    ):
        reasons += [f"the events are held back by {each.in_words()}" for each in head.held_back_by]
    elif not reasons and _has_moved(connection, version):
        return None
    elif not reasons and holder is not None:
        there = f"its process {holder.process} is there and waits for no lock"
        reasons = [f"{there}: its code is at work, or waits for something else"]
    return Stall(min(stands, waits), reasons[:4])


def _has_moved(connection: psycopg.Connection, version: Version) -> bool:
    """Whether a version moves within a second."""
    time.sleep(_APART)
    known = registry.versions(connection, version.projection)
    now = next((each for each in known if each.version == version.version), None)
    return now is None or now.position != version.position


def _is_ours(settings: ProjectionSettings, version: Version) -> bool:
    """Whether esops is to advance it, and can."""
    if settings.kind in ("external", "server") or version.state not in registry.LIVE_STATES:
        return False
    if settings.live == "inline" or (settings.live == "app" and version.state == "active"):
        return False
    adopted = version.position is None and version.fingerprint is None
    return not adopted and version.lost is None


def of_versions(config: Config, projections: Sequence[str]) -> Iterator[tuple[Version, Stall]]:
    """The stalled versions of some projections. A store is opened only where a checkpoint has not
    moved for a minute.

    Raises EsopsError where a read model or a store cannot be asked.
    """
    ours = [n for n in projections if config.projection(n).kind not in ("external", "server")]
    opened: dict[str, tuple[EventStore, Head]] = {}
    with ExitStack() as stack:
        for dsn, names in by_address(config, ours).items():
            with connect(dsn, "stalls") as connection, translated():
                for version, stands in _stand(connection, names):
                    settings = config.projection(version.projection)
                    if version.store not in config.stores or not _is_ours(settings, version):
                        continue
                    if version.store not in opened:
                        alone = config.store(version.store)[1].without_archive
                        store = stack.enter_context(open_store(version.store, alone))
                        opened[version.store] = store, store.head()
                    at = opened[version.store]
                    stall = of_version(connection, settings, version, stands, at)
                    if stall is not None:
                        yield version, stall


def _stand(
    connection: psycopg.Connection, projections: Sequence[str]
) -> list[tuple[Version, float]]:
    """The live versions whose checkpoints have not moved for a minute, with for how long."""
    if not migrations.installed(connection):
        return []
    values = {"projections": list(projections), "after": AFTER}
    rows = connection.execute(_SQL["stands"], values).fetchall()
    stand = {(projection, version): seconds for projection, version, seconds in rows}
    known = registry.versions(connection) if stand else []
    keyed = (((each.projection, each.version), each) for each in known)
    return [(each, stand[key]) for key, each in keyed if key in stand]


def of_shown(
    config: Config, name: str, store: EventStore, head: Head, shown: dict[str, Any]
) -> Stall | None:
    """The same for a version as `status` shows it, for which `lag_seconds` is known."""
    behind = shown.get("lag_seconds")
    if not behind or behind < AFTER:
        return None
    with connect(config.readmodel_of(name).dsn, "stalls") as connection, translated():
        for version, stands in _stand(connection, [name]):
            if version.version == shown["version"]:
                at = (store, head)
                return of_version(connection, config.projection(name), version, stands, at)
    return None


class StallLog:
    """Logs what is stalled while `esops run` follows: once, and again where the reason changes."""

    def __init__(
        self,
        config: Config,
        tell: Callable[[dict[str, Any], Stall | None], None] = lambda _, __: None,
    ) -> None:
        """Nothing is stalled yet. `tell` gets the name of what has become stalled, and of what
        advances again, then without a stall.
        """
        self._config, self._tell = config, tell
        self._versions: dict[tuple[Any, ...], str] = {}
        self._processors: dict[tuple[Any, ...], str] = {}

    def look(self, projections: Sequence[str]) -> None:
        """Look at the versions of some projections. Raises EsopsError as `of_versions`."""
        found = {
            (version.projection, version.version): (stall, version.position)
            for version, stall in of_versions(self._config, projections)
        }
        self._log(self._versions, found, ("projection", "version"))

    def look_at_processors(self, projections: Sequence[str]) -> None:
        """Look at the application's processors in the stores of some projections. Raises EsopsError
        where a store cannot be asked.
        """
        stores = {self._config.store(self._config.projection(n).store)[0] for n in projections}
        found = {}
        for name in sorted(stores):
            settings = self._config.store(name)[1].without_archive
            with open_store(name, settings) as store:
                for reader, stall in stalled_processors(store, store.head()):
                    found[name, reader.name, reader.tenant] = stall, reader.position
        self._log(self._processors, found, ("store", "processor", "tenant"))

    def _log(
        self,
        said: dict[tuple[Any, ...], str],
        found: Mapping[tuple[Any, ...], tuple[Stall, Position | None]],
        names: tuple[str, ...],
    ) -> None:
        for key in [each for each in said if each not in found]:
            del said[key]
            self._tell(_named(names, key), None)
            log.info("it advances again", **_named(names, key))
        for key, (stall, position) in found.items():
            reasons = "; ".join(stall.reasons)
            if key not in said:
                self._tell(_named(names, key), stall)
            if said.get(key) != reasons:
                said[key] = reasons
                log.error(
                    str(stall),
                    **_named(names, key),
                    position=None if position is None else str(position),
                    hint="esops status and esops doctor show the same.",
                )


def _named(names: tuple[str, ...], key: tuple[Any, ...]) -> dict[str, Any]:
    return {name: each for name, each in zip(names, key, strict=True) if each != ""}
