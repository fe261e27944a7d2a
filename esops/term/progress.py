"""A progress line for a long job."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from esops.escaping import visible
from esops.term.values import duration

if TYPE_CHECKING:
    from esops.term.output import Output

PLAIN_EVERY = timedelta(seconds=3)


class ProgressLine:
    """A bar at a terminal, or a plain line every few seconds; both with rate and time left.

    Never swallows a log line.
    """

    def __init__(self, output: Output, what: str, done: int, total: int | None) -> None:
        """`done` is how much was done before, and does not count for the rate."""
        self._what = what = visible(what)
        self._output, self._before, self._total = output, done, total
        self._started = self._last = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        # A pipe gets lines instead (in update): a bar is made of control characters.
        if output.talk.is_terminal and not output.settings.quiet:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=output.talk,
                transient=True,
            )
            self._task = self._bar.add_task(what, total=total, completed=done, rate="")
            self._bar.start()

    def update(self, done: int, total: int | None) -> None:
        """Show how much is done, and of how much, if that is known."""
        now = time.monotonic()
        self._total = total
        # Over the whole time: a rate of the last moment would make the time left jump.
        rate = (done - self._before) / max(now - self._started, 0.01)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, rate=f"{rate:,.0f}/s")
        elif now - self._last >= PLAIN_EVERY.total_seconds():
            self._last = now
            left = ""
            if self._total is not None and self._total > done and rate > 0:
                left = f", about {duration((self._total - done) / rate)} left"
            of = f" of {self._total:,}" if self._total is not None else ""
            self._output.say(f"{self._what}: {done:,}{of}, {rate:,.0f}/s{left}")

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
