"""Work that somebody asked for with a click and that may take long: audits and searches without an
index, one at a time; and controls, which wait for no audit. Only the last few are remembered.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

from esops.errors import Busy, EsopsError

log = structlog.get_logger("esops.web")
_REMEMBERED = 30
_MOST_LINES = 200

Lane = Literal["read", "control"]
"""Work of one lane is done one after the other."""
Run = Callable[["Job"], Awaitable[Mapping[str, Any]]]
"""Does the work, and returns what its template shows."""


@dataclass
class Job:
    """Work that was asked for, and what it found."""

    id: int
    title: str
    template: str
    """Of the result."""
    back: str
    """The page that it was asked for on."""
    began: datetime
    state: Literal["waiting", "running", "done", "failed", "refused"] = "waiting"
    ended: datetime | None = None
    lines: list[str] = field(default_factory=list)
    """What it said while it ran."""
    result: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    hint: str | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.ended is not None

    def say(self, text: str) -> None:
        """Add a line to what it said; of very many, the first ones are kept."""
        if len(self.lines) < _MOST_LINES:
            self.lines.append(text)


class Jobs:
    """Runs the jobs of each lane one after the other, and remembers the last ones."""

    def __init__(self, changed: Callable[[], Awaitable[None]]) -> None:
        """`changed` is called when a job begins or ends."""
        self._changed = changed
        self._numbers = itertools.count(1)
        self._jobs: OrderedDict[int, Job] = OrderedDict()
        self._turns: dict[Lane, asyncio.Lock] = {"read": asyncio.Lock(), "control": asyncio.Lock()}
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, number: int) -> Job | None:
        """A job by its number; None where it is not remembered."""
        return self._jobs.get(number)

    def begin(self, title: str, template: str, back: str, run: Run, lane: Lane = "read") -> Job:
        """Ask for work. Raises Busy where too much waits already."""
        waiting = sum(not each.over for each in self._jobs.values())
        if waiting >= _REMEMBERED // 3:
            raise Busy("too much waits already: look at it again in a while")
        job = Job(next(self._numbers), title, template, back, datetime.now(UTC))
        self._jobs[job.id] = job
        for old in [each for each in self._jobs.values() if each.over]:
            if len(self._jobs) <= _REMEMBERED:
                break
            del self._jobs[old.id]
        task = asyncio.create_task(self._run(job, run, self._turns[lane]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def finished(self, job: Job, patience: float) -> None:
        """Wait for a job for a while (seconds): a quick one needs no page in between."""
        for _ in range(int(patience / 0.05)):
            if job.over:
                return
            await asyncio.sleep(0.05)

    async def _run(self, job: Job, run: Run, turn: asyncio.Lock) -> None:
        async with turn:
            job.state = "running"
            await self._changed()
            try:
                job.result = await run(job)
                job.state = "done"
            except EsopsError as error:
                job.state = "refused" if error.exit_code == 6 else "failed"
                job.problem, job.hint = error.message, error.hint
            except Exception as error:  # noqa: BLE001 - the page says what went wrong
                log.warning("a job failed", title=job.title, error=str(error))
                job.state, job.problem = "failed", f"{type(error).__name__}: {error}"
            finally:
                job.ended = datetime.now(UTC)
                await self._changed()
