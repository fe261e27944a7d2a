"""What the pages share: the configuration, the readings, jobs, and sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from esops.config import Config
from esops.errors import Busy
from esops.web.controls import Commands
from esops.web.guard import Sessions
from esops.web.jobs import Jobs
from esops.web.options import ServeOptions
from esops.web.readings import Readings
from esops.web.threads import in_thread

T = TypeVar("T")
MOST_LIVE = 50
"""Pages that are kept up to date at a time."""
_AT_ONCE = 2
"""Questions that are asked of databases at a time, besides the readings."""
_PATIENCE = 10.0
_QUICK_STATEMENT = 10.0
"""Seconds that a statement of a question may take that nobody was warned of."""


class Site:
    """One server's state. All of it is in memory, and bounded."""

    def __init__(
        self, config: Config, options: ServeOptions, readings: Readings | None = None
    ) -> None:
        """Nothing is opened or read yet."""
        self.config, self.options = config, options
        self.sessions = Sessions(options.token)
        self.readings = readings or Readings(config)
        self.jobs = Jobs(self.readings.wake)
        self.commands = Commands(config.named)
        self.closing = asyncio.Event()
        self.rendered: dict[str, tuple[int, str]] = {}
        """Parts of pages as they were sent last, with the revision that they show."""
        self._live = 0
        self._config_at = self._changed_at()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    @property
    def config_changed(self) -> bool:
        """Whether esops.toml is another one than this server has read."""
        return self._changed_at() != self._config_at

    def _changed_at(self) -> tuple[int, int] | None:
        try:
            found = self.config.named.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    async def ask(self, question: Callable[[], T]) -> T:
        """Ask something of a database, with few at a time. Raises Busy where too many wait."""
        try:
            await asyncio.wait_for(self._turns.acquire(), _PATIENCE)
        except TimeoutError:
            raise Busy("others are asking the databases: try it again in a moment") from None
        try:
            return await in_thread(question, statement_limit=_QUICK_STATEMENT)
        finally:
            self._turns.release()

    @asynccontextmanager
    async def live_page(self) -> AsyncIterator[None]:
        """Count a page that is kept up to date. Raises Busy where there are too many."""
        if self._live >= MOST_LIVE:
            raise Busy(f"{MOST_LIVE} pages are kept up to date already")
        self._live += 1
        try:
            async with self.readings.watched():
                yield
        finally:
            self._live -= 1

    async def close(self) -> None:
        """Let pages that are open end: the server is about to."""
        self.closing.set()
        await self.readings.wake()

    async def end(self) -> None:
        """Let commands that run end in order."""
        await self.close()
        await self.commands.end()
