"""What `esops run --health` answers: whether its process is alive, and whether it does its work.

A thread of its own looks at the databases every few seconds; a question is answered from what it
found last, so that no client and no database that hangs holds up a probe, or the loop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import psycopg

from esops.config import Config, by_address
from esops.errors import ConnectionLost, EsopsError, Refused
from esops.events import Position
from esops.health.stalls import Stall, of_versions
from esops.postgres.connection import connect, translated
from esops.readmodel import by_ranges, conduct, locks, registry
from esops.readmodel.registry import Version
from esops.running import control
from esops.running.never_followed import never_followed
from esops.stores import open_store
from esops.stores.base import LOOKING

LIVE_WITHIN = 120.0
"""Seconds within which the loop has to turn. It turns while it waits for a database that does not
answer: a restart would not help."""
_SEE = "see esops status"
LOOK_EVERY, LOOK_SOON = 5.0, 1.0
"""Seconds between two looks, while all is well and while it is not."""
OLD_AFTER = 30.0
"""Seconds after which what was found last says nothing any more."""
_STALLS_EVERY = 10.0


class Looped(Protocol):
    """What is asked of the loop of `esops run`."""

    turned: float
    """When it began its last turn (monotonic seconds)."""

    @property
    def names(self) -> list[str]:
        """The projections that it follows."""


@dataclass
class _LastLook:
    """What the last look found; replaced as a whole."""

    at: datetime | None = None
    monotonic: float = float("-inf")
    projections: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        return not self.wrong and all(each["ready"] for each in self.projections)


class Probes:
    """Looks, in a thread, and answers."""

    def __init__(self, config: Config, host: Looped, stop: threading.Event) -> None:
        """`stop` is set when the loop is to end."""
        self._config, self._host, self._stop = config, host, stop
        self._seen = _LastLook(wrong=["the databases have not been looked at yet"])
        self._targets: dict[tuple[str, int], Position | None] = {}
        """What each version has to reach to be caught up: the head of the first look."""
        self._caught_up: set[tuple[str, int]] = set()
        self._stalls: dict[tuple[str, int], str] = {}
        self._stalls_at = float("-inf")
        self._thread = threading.Thread(target=self._watch, name="esops-probes", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    @property
    def answers(self) -> Mapping[str, Callable[[], tuple[bool, Mapping[str, Any]]]]:
        """By path."""
        return {"/livez": self.live, "/readyz": self.ready}

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Whether the loop turns."""
        ago = max(0.0, time.monotonic() - self._host.turned)
        live = ago <= LIVE_WITHIN
        return live, {"live": live, "turned_seconds_ago": round(ago, 1), "within": LIVE_WITHIN}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether all that is followed is connected, was caught up once, and is not stalled."""
        seen, live = self._seen, self.live()[0]
        wrong = list(seen.wrong)
        if not live:
            wrong.append("the loop of `esops run` does not turn")
        if self._stop.is_set():
            wrong.append("it is being stopped")
        ago = time.monotonic() - seen.monotonic
        if seen.at is not None and ago > OLD_AFTER:
            wrong.append(f"the databases have not answered for {ago:.0f} s")
        ready = not wrong and seen.well
        return ready, {
            "ready": ready,
            "live": live,
            "looked_at": None if seen.at is None else seen.at.isoformat(),
            "projections": seen.projections,
            "wrong": wrong,
        }

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self._seen = self.look()
            except Exception as error:  # noqa: BLE001 - the next look may find what this did not
                wrong = [f"a defect in esops: {type(error).__name__}"]
                self._seen = _LastLook(datetime.now(UTC), time.monotonic(), [], wrong)
            self._stop.wait(LOOK_EVERY if self._seen.well else LOOK_SOON)

    def look(self) -> _LastLook:
        """Ask all databases of what is followed."""
        seen = _LastLook(datetime.now(UTC))
        self._look_for_stalls()
        for dsn, names in by_address(self._config, self._host.names).items():
            try:
                with connect(dsn, "health") as connection, translated(), ExitStack() as stack:
                    versions = registry.versions(connection)
                    heads = _Heads(self._config, stack, versions)
                    for name in names:
                        own = [each for each in versions if each.projection == name]
                        seen.projections += self._of(connection, name, own, heads)
            except (EsopsError, psycopg.Error) as error:
                seen.projections += [self._unknown(name, error) for name in names]
        seen.monotonic = time.monotonic()
        return seen

    def _of(
        self, connection: psycopg.Connection, name: str, versions: list[Version], heads: _Heads
    ) -> Iterator[dict[str, Any]]:
        asked = control.requested(connection, name)
        since = None if asked.at is None else asked.at.isoformat()
        live = [each for each in versions if each.state in registry.LIVE_STATES]
        if not live:
            yield {
                "projection": name,
                "version": None,
                "ready": True,
                "wrong": [],
                "note": "no version is built yet",
            }
        for version in live:
            shown: dict[str, Any] = {
                "projection": name,
                "version": version.version,
                "state": version.state,
                "store": version.store,
                "position": None if version.position is None else str(version.position),
                "paused": {"by": asked.by, "since": since} if asked.paused else None,
            }
            left = by_ranges.unfinished(connection, version)
            if left is not None:
                wrong = [left.message] if isinstance(left, Refused) else []
                yield {**shown, "ready": not wrong, "wrong": wrong, "note": left.message}
                continue
            apart = never_followed(self._config, version)
            if apart is None and _is_left_alone(connection, version):
                apart = "it stands by, and was built by other code than there is now"
            if apart is not None:
                yield {**shown, "ready": True, "wrong": [], "note": f"not followed: {apart}"}
                continue
            yield {**shown, **self._followed(connection, version, heads)}

    def _followed(
        self, connection: psycopg.Connection, version: Version, heads: _Heads
    ) -> dict[str, Any]:
        key = (version.projection, version.version)
        holder = locks.holder(connection, locks.version_lock(*key))
        failure = conduct.failure(connection, version)
        wrong = []
        if failure is not None:  # its reason may quote an event, and anybody may ask here
            wrong.append(f"fails since {failure.since:%Y-%m-%d %H:%M:%S} UTC; {_SEE}")
        lag = None
        try:
            head = heads.of(version.store)
            lag = heads.lag(version, head)
            self._note_reached(key, version, head)
        except EsopsError as error:
            wrong.append(f"its store {version.store} {_without_text(error)}")
        if holder is None:
            wrong.append("no process follows it")
        if key in self._stalls:
            wrong.append(self._stalls[key])
        caught_up = key in self._caught_up
        return {
            "lag_events": lag,
            "followed_by": None if holder is None else holder.process,
            "caught_up": caught_up,
            "ready": caught_up and not wrong,
            "wrong": wrong,
        }

    def _note_reached(self, key: tuple[str, int], version: Version, head: Position | None) -> None:
        target = self._targets.setdefault(key, head)
        if target is None or (version.position is not None and version.position >= target):
            self._caught_up.add(key)

    def _unknown(self, name: str, error: Exception) -> dict[str, Any]:
        why = f"its database {_without_text(error)}"
        return {"projection": name, "version": None, "ready": False, "wrong": [why]}

    def _look_for_stalls(self) -> None:
        """Rarely: it takes a second where something does not advance."""
        if time.monotonic() - self._stalls_at < _STALLS_EVERY:
            return
        try:
            found = of_versions(self._config, self._host.names)
            self._stalls = {
                (v.projection, v.version): f"{Stall(stall.seconds, ())}; {_SEE}"
                for v, stall in found
            }
        except (EsopsError, psycopg.Error):
            return  # the look itself says what cannot be reached
        self._stalls_at = time.monotonic()


def _is_left_alone(connection: psycopg.Connection, version: Version) -> bool:
    """Whether a version is not meant to advance. One that another process follows is."""
    key = locks.version_lock(version.projection, version.version)
    return conduct.left_alone(connection, version) and locks.holder(connection, key) is None


def _without_text(error: Exception) -> str:
    """What is wrong with a database, in words of our own: what it says names addresses and roles,
    and may quote a value.
    """
    if isinstance(error, ConnectionLost):
        return "cannot be reached"
    return f"cannot be asked ({type(error).__name__}); {_SEE}"


class _Heads:
    """The settled heads of stores, each asked once in a look."""

    def __init__(self, config: Config, stack: ExitStack, versions: Sequence[Version]) -> None:
        self._config, self._stack, self._versions = config, stack, versions
        self._opened: dict[str, tuple[Any, Position | None]] = {}

    def of(self, name: str) -> Position | None:
        """Raises EsopsError where the store cannot be asked."""
        if name not in self._opened:
            store = self._stack.enter_context(
                open_store(name, self._config.store(name)[1].without_archive)
            )
            places = [
                each.position
                for each in self._versions
                if each.store == name and each.state in registry.LIVE_STATES
            ]
            known = [each for each in places if each is not None]
            lowest = min(known) if known and len(known) == len(places) else None
            self._opened[name] = store, store.head(LOOKING, lowest).position
        return self._opened[name][1]

    def lag(self, version: Version, head: Position | None) -> int | None:
        """How many events it has not read; about, where the store only estimates that."""
        store, _ = self._opened[version.store]
        found = store.counts.between(version.position, head)
        return None if found is None else int(found)
