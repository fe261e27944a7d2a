"""A progress line for a long job."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Column
from rich.text import Text

from esops.escaping import visible
from esops.term.pace import Pace
from esops.term.values import duration

if TYPE_CHECKING:
    from esops.term.output import Output

PLAIN_EVERY = timedelta(seconds=3)
_BRIEF_SECONDS = 0.5
_NARROWEST, _WIDEST = 10, 40
"""Columns of a terminal that the bar takes at least and at most."""
_LEAST = 5
"""Those that the name of what is worked on takes at least."""


class ProgressLine:
    """A bar at a terminal, or a plain line every few seconds; both with rate and time left.

    Never swallows a log line.
    """

    def __init__(
        self,
        output: Output,
        what: str,
        done: int,
        total: int | None,
        left: Callable[[], float | None] | None = None,
    ) -> None:
        """`what` is the subject of the job and, behind a colon, what is counted; `done` is how much
        was done before, and does not count for the rate. `left` gives the seconds that the rest
        takes (None: not known) where the rate does not tell them.
        """
        self._what = what = visible(what)
        self._output, self._done, self._total = output, done, total
        self._pace = Pace(done)
        self._left = left or (lambda: self._pace.left(self._total))
        self._last = self._phase_since = time.monotonic()
        self._phase = ""
        self._bar: Progress | None = None
        self._task = TaskID(0)
        # A pipe gets lines instead (in update).
        if output.shows_progress:
            self._bar = Progress(
                SpinnerColumn("line" if output.talk.options.ascii_only else "dots"),
                _Activity(self, Column(no_wrap=True, overflow="ellipsis")),
                _Bar(self),
                _Figures(self, Column(no_wrap=True)),
                console=output.talk,
                transient=True,
            )
            self._task = self._bar.add_task(what, total=total, completed=done)
            self._bar.start()

    def update(self, done: int, total: int | None) -> None:
        """Show how much is done, and of how much, if that is known."""
        self._done, self._total, self._phase = done, total, ""
        self._pace.update(done)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
            return
        now = time.monotonic()
        if now - self._last >= PLAIN_EVERY.total_seconds():
            self._last = now
            left = self._left()
            rest = f", about {duration(left)} left" if left else ""
            of = f" of {self._total:,}" if self._total is not None else ""
            self._output.say(f"{self._what}: {done:,}{of}, {self._pace.rate:,.0f}/s{rest}")

    def phase(self, what: str, *, paused: bool = False) -> None:
        """Show what is done beside that, or why nothing is done, until the next update. What stands
        behind a comma says how far it is. `paused`: its time counts for no rate.
        """
        what, now = visible(what), time.monotonic()
        if what.partition(",")[0] != self._phase.partition(",")[0]:
            self._phase_since = now
        self._phase = what
        if self._bar is None and now - self._last >= PLAIN_EVERY.total_seconds():
            self._last = now
            self._output.say(f"{self._subject}: {what}")
        if paused:
            self._pace.pause()
        else:
            self._pace.beside()

    def activity(self) -> str:
        """What stands before the bar; less of it where the terminal is narrow."""
        subject = self._subject
        if self._phase_shows:
            return f"{subject}: {self._phase}"
        most = max(_LEAST, self._room() - _NARROWEST)
        name = subject.rpartition(" ")[2]
        return next((each for each in (self._what, subject) if len(each) <= most), name[:most])

    @property
    def _subject(self) -> str:
        return self._what.partition(":")[0]

    @property
    def _phase_shows(self) -> bool:
        """Whether there is a phase that lasts: what is brief would only make the line jump."""
        return bool(self._phase) and (not self._done or self._phase_lasts >= _BRIEF_SECONDS)

    @property
    def _phase_lasts(self) -> float:
        return time.monotonic() - self._phase_since

    def bar_width(self) -> int:
        """Columns of the terminal for the bar itself."""
        return max(_NARROWEST, min(_WIDEST, self._room() - len(self.activity())))

    def _room(self) -> int:
        """Columns of the terminal beside the figures and what stands between."""
        return self._output.talk.width - len(self.figures()) - len("⠼   ")

    def figures(self) -> str:
        """What stands behind the bar."""
        of = f" of {self._total:,}" if self._total is not None else ""
        counted = f"{self._done:,}{of}"
        if self._phase_shows:
            lasts = f"for {duration(self._phase_lasts)}"
            return f"{counted}  {lasts}" if self._done else lasts
        rate, left = self._pace.rate, self._left()
        rest = "" if left is None else f"  about {duration(left)} left"
        return f"{counted}  {rate:,.0f}/s{rest}"

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


class _Bar(BarColumn):
    def __init__(self, line: ProgressLine) -> None:
        self._line = line
        super().__init__()

    def render(self, task: Task) -> ProgressBar:
        self.bar_width = self._line.bar_width()
        return super().render(task)


class _OfLine(ProgressColumn):
    """A part of a line at the moment when it is drawn."""

    def __init__(self, line: ProgressLine, column: Column) -> None:
        self._line = line
        super().__init__(column)


class _Activity(_OfLine):
    def render(self, task: Task) -> Text:  # noqa: ARG002 - the line knows it all
        return Text(self._line.activity())


class _Figures(_OfLine):
    def render(self, task: Task) -> Text:  # noqa: ARG002 - the line knows it all
        return Text(self._line.figures())
