"""What `esops run` does beside following: it drops versions that are due, and looks for what is
wrong with those that it follows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import structlog

from esops.health.late import missed_by
from esops.health.serving import something_else
from esops.rebuild.lifecycle import retire_due

if TYPE_CHECKING:
    from esops.cli.run_reports import RunReports
    from esops.config import Config
    from esops.term import Output

_LOOK_EVERY = 60.0
"""Seconds between two looks for events that came late, and at what readers read."""
_NAMES_AT_ONCE = 2
"""Projections of which one look asks what readers read: some ten statements for each."""


class Chores:
    """The host calls them again and again. What is wrong is logged once."""

    def __init__(
        self, output: Output, config: Config, names: Sequence[str], reports: RunReports
    ) -> None:
        """`names`: the projections that are followed."""
        self._output, self._config, self._names, self._reports = output, config, names, reports
        self._log = structlog.get_logger("esops.run")
        self._said: set[str] = set()
        self._in_turn = cycle(names)
        self._looked = time.monotonic()

    def do(self, names: Sequence[str]) -> None:
        """What is due now for these projections."""
        # The host knows nothing of rebuilds; what is due after one is passed in.
        for version in retire_due(self._config, names):
            self._output.say(
                f"{version.projection}: retired v{version.version}, as --retire-after asked"
            )
        self._reports.look_again()
        self._reports.stalls.look(names)
        if time.monotonic() - self._looked > _LOOK_EVERY:
            self._looked = time.monotonic()
            self._look_for_late_events()
            self._look_at_readers([next(self._in_turn) for _ in names[:_NAMES_AT_ONCE]])
            self._reports.stalls.look_at_processors(names)

    def look_at_everything(self) -> bool:
        """Look once more at all projections; returns whether anything is wrong."""
        return self._look_for_late_events() | self._look_at_readers(self._names)

    def _look_for_late_events(self) -> bool:
        found = missed_by(self._config, self._names)
        for each in found:
            self._say(each.in_words(), each.remedy)
        return bool(found)

    def _look_at_readers(self, names: Sequence[str]) -> bool:
        found = something_else(self._config, names)
        for each in found:
            self._say(f"{each.projection} {each}", each.fix)
        return bool(found)

    def _say(self, text: str, hint: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._log.error(text, hint=hint)
