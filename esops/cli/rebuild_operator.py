"""The person at the terminal, as a rebuild sees them: reads plans, messages and progress, and is
asked before anything is dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from esops.cli.shared import confirm
from esops.rebuild.request import Operator

if TYPE_CHECKING:
    from esops.rebuild.api import AnyPlan
    from esops.rebuild.variants.in_place_plan import InPlacePlan
    from esops.term import Output, ProgressLine
    from esops.term.pace import Pace


class TerminalOperator(Operator):
    """Writes to standard error. One progress line serves all projections of a command."""

    def __init__(self, output: Output, projections: Sequence[str], *, yes: bool) -> None:
        """With `yes`, nothing is asked."""
        self._output, self._projections, self._yes = output, projections, yes
        self._lock = threading.Lock()
        self._done: dict[str, int] = {}
        self._total: dict[str, int | None] = {}
        self._doing: dict[str, str] = {}
        self._paces: dict[str, Pace] = {}
        self._line: ProgressLine | None = None

    def planned(self, plan: AnyPlan) -> None:
        """Print the plan; its statements only with --verbose."""
        lines = plan.lines(statements=self._output.settings.verbose)
        self._output.say("\n".join(lines) + "\n")

    def message(self, projection: str, text: str) -> None:
        """Print a message, with the projection's name where there are several."""
        self._output.say(text if len(self._projections) == 1 else f"{projection}: {text}")

    def progress(self, projection: str, done: int, total: int | None) -> None:
        """Show the sum over all projections; the time left is that of the slowest one."""
        from esops.term.pace import Pace

        with self._lock:
            self._paces.setdefault(projection, Pace(done)).update(done)
            self._doing.pop(projection, None)
            self._done[projection], self._total[projection] = done, total
            # The sum is known once every projection has said how much it has to do.
            totals = [self._total.get(each) for each in self._projections]
            known = [each for each in totals if each is not None]
            whole = sum(known) if len(known) == len(totals) else None
            so_far = sum(self._done.values())
            self._open(so_far, whole).update(so_far, whole)
            # What follows the load writes messages, and a line that stays at 100 % would look like
            # a hang.
            if whole is not None and so_far >= whole:
                self._close()

    def doing(self, projection: str, what: str, *, paused: bool = False) -> None:
        """Show it in the place of the events, once no projection applies any."""
        with self._lock:
            pace = self._paces.get(projection)
            if what and pace is not None:
                (pace.pause if paused else pace.beside)()
            if not what:
                if self._doing.pop(projection, None) and not self._doing:
                    self._close()
                return
            self._doing[projection] = what
            several = len(self._projections) > 1
            if all(each in self._doing or self._is_loaded(each) for each in self._projections):
                text = "; ".join(
                    f"{name}: {each}" if several else each for name, each in self._doing.items()
                )
                line = self._open(sum(self._done.values()), None)
                line.phase(text, paused=paused)

    def close(self) -> None:
        """Remove the progress line, so that a summary can follow."""
        with self._lock:
            self._close()

    def confirm_abort(self, projections: Sequence[str]) -> None:
        """Ask; without a person to ask, demand --yes. Raises UsageError."""
        confirm(
            f"Abort the rebuild of {', '.join(projections)} and drop what it built?",
            yes=self._yes,
            what="--abort drops what was built",
            hint="Add --yes, or --dry-run to see only what it would drop.",
        )

    def confirm_in_place(self, plan: InPlacePlan) -> None:
        """Ask; without a person to ask, demand --yes. Raises UsageError."""
        # Unlike an abort: a script that forgot --blue-green must not empty the tables that serve.
        verb = "Empty" if plan.ranges is None else "Replace rows of"
        confirm(
            f"{verb} {', '.join(plan.tables)}, while readers see it?",
            yes=self._yes,
            what="a rebuild in place changes what readers see",
            hint="Add --yes, or add --blue-green to build beside the version that serves.",
        )

    def _is_loaded(self, projection: str) -> bool:
        return projection in self._done and self._done[projection] == self._total[projection]

    def _open(self, done: int, total: int | None) -> ProgressLine:
        if self._line is None:
            several = len(self._projections)
            subject = f"of {several} projections" if several > 1 else self._projections[0]
            left = self._longest if several > 1 else None
            what = f"rebuild {subject}: events applied"
            self._line = self._output.progress(what, done, total, left)
        return self._line

    def _longest(self) -> float | None:
        """Seconds until the last of several projections has applied its events; None while that is
        not known of one of them.
        """
        rest = [
            0.0 if self._is_loaded(name) else pace.left(self._total.get(name))
            for name, pace in list(self._paces.items())
        ]
        known = [each for each in rest if each is not None]
        return max(known) if len(known) == len(self._projections) else None

    def _close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
