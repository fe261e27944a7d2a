"""The status of each store, as it was read last: one reader for everybody who looks.

Each store is read on its own, in a thread of its own, so that one that does not answer leaves the
others as they are. Nothing is read while nobody looks, and a reader rests for a multiple of the
time that its last reading took: ten open pages cost the databases what one does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from esops.config import Config
from esops.errors import EsopsError
from esops.health.status import Status, look
from esops.web.lags import PAUSE, LagHistory, LagPoint
from esops.web.threads import in_thread

log = structlog.get_logger("esops.web")
EVERY = 5.0
"""Seconds from one reading to the next."""
EVERY_WHILE_REBUILT = 1.0
SLOW = 3.0
"""Seconds after which a reading that is under way is said to take long."""
_REST = 4
"""A reader rests at least this many times as long as it read."""
_STATEMENT_LIMIT = 15.0
"""Seconds that one statement of a reading may take in a database."""

Look = Callable[[Config, str], Status]


@dataclass(frozen=True, slots=True)
class StoreReading:
    """What is known of one store and what belongs to it."""

    store: str
    status: Status | None = None
    """As it was at the last reading that succeeded."""
    at: datetime | None = None
    """When that was."""
    problem: str | None = None
    """Why the last reading failed."""
    seconds: float = 0.0
    """How long the last one took."""
    since: float | None = None
    """When the reading that is under way began, by the monotonic clock; None where none is."""


class Readings:
    """Reads the status of all stores for everybody who looks."""

    def __init__(self, config: Config, look: Look = look, every: float = EVERY) -> None:
        """Nothing is read before somebody looks."""
        self._config, self._look, self._every = config, look, every
        self.of: dict[str, StoreReading] = {name: StoreReading(name) for name in config.stores}
        self.lags = LagHistory()
        self.revision = 0
        """Counts the readings; a page that shows this one is up to date."""
        self.watching = 0
        """How many pages are open."""
        self._news = asyncio.Condition()
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Read again and again while somebody is in here."""
        self.watching += 1
        if self.watching == 1:
            self._readers = {
                name: asyncio.create_task(self._keep_reading(name)) for name in self.of
            }
        try:
            yield
        finally:
            self.watching -= 1
            if self.watching == 0:
                for each in self._readers.values():
                    each.cancel()
                self._readers = {}

    async def fresh(self, patience: float = 2.0) -> None:
        """Read what was not read lately, and wait a moment for it."""
        due = [self._read(name) for name, each in self.of.items() if self._is_old(each)]
        if due:
            await asyncio.wait([asyncio.ensure_future(each) for each in due], timeout=patience)

    async def news(self, seen: int, patience: float) -> int:
        """Wait for a reading after the one that was seen, or for as long; returns the revision."""
        async with self._news:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait_for(lambda: self.revision != seen), patience)
            return self.revision

    async def wake(self) -> None:
        """Let everybody who waits for news look."""
        async with self._news:
            self.revision += 1
            self._news.notify_all()

    async def again(self, patience: float = 3.0) -> None:
        """Read everything now: something was changed."""
        due = [asyncio.ensure_future(self._read(name, now=True)) for name in self.of]
        if due:
            await asyncio.wait(due, timeout=patience)

    def hangs(self) -> bool:
        """Whether a store has not answered for a while."""
        now = time.monotonic()
        return any(each.since is not None and now - each.since > SLOW for each in self.of.values())

    def _is_old(self, reading: StoreReading) -> bool:
        if reading.at is None:
            return True
        return (datetime.now(UTC) - reading.at).total_seconds() > self._rest(reading)

    def _rest(self, reading: StoreReading) -> float:
        """Seconds until a store is read again."""
        busy = reading.status is not None and any(
            each["unfinished"] and each["unfinished"]["works"] for each in reading.status.rebuilds
        )
        least = min(EVERY_WHILE_REBUILT, self._every) if busy else self._every
        return max(least, _REST * reading.seconds)

    async def _keep_reading(self, name: str) -> None:
        while True:
            if self._is_old(self.of[name]):
                await self._read(name)
            await asyncio.sleep(self._rest(self.of[name]))

    async def _read(self, name: str, *, now: bool = False) -> None:
        """Read a store, or wait for the reading that is under way."""
        while (task := self._under_way.get(name)) is not None:
            await asyncio.shield(task)
            if not now:
                return
            now = False
        task = self._under_way[name] = asyncio.create_task(self._read_once(name))
        await asyncio.shield(task)

    async def _read_once(self, name: str) -> None:
        began = time.monotonic()
        before = self.of[name]
        self.of[name] = replace(before, since=began)
        found = StoreReading(name, before.status, before.at)
        try:
            status = await in_thread(
                lambda: self._look(self._config, name), statement_limit=_STATEMENT_LIMIT
            )
            found = StoreReading(name, status, datetime.now(UTC))
        except EsopsError as error:
            found = replace(found, problem=error.message)
        except Exception as error:  # noqa: BLE001 - one store's trouble is not the page's
            log.warning("a store could not be read", store=name, error=str(error))
            found = replace(found, problem=f"{type(error).__name__}: {error}")
        finally:
            self.of[name] = replace(found, seconds=time.monotonic() - began)
            del self._under_way[name]
        if found.status is not None and found.problem is None and found.at is not None:
            # A reader of a slow store rests for long, although somebody looks.
            pause = PAUSE + (_REST + 1) * (before.seconds + self.of[name].seconds)
            self._remember(found.status, found.at, pause)
        await self.wake()

    def _remember(self, status: Status, at: datetime, pause: float) -> None:
        for each in status.projections:
            if each.get("version") is not None:
                key = each["projection"], f"v{each['version']}"
                self.lags.add(key, _point(at, each), pause)
        for each in status.processors:
            if each["kind"] == "processor":
                self.lags.add((each["store"], processor_key(each)), _point(at, each), pause)


def processor_key(processor: Mapping[str, Any]) -> str:
    """What a processor is known by among those of its store."""
    detail = processor.get("detail", {})
    parts = (processor["name"], processor["tenant"], detail.get("version"), detail.get("partition"))
    return "/".join(str(each) for each in parts if each)


def _point(at: datetime, row: Mapping[str, Any]) -> LagPoint:
    return LagPoint(at, row.get("lag_events"), row.get("lag_seconds"), row.get("events"))
