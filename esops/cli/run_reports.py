"""What `esops run` records of itself and tells others: it works for days, in several processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from esops.actions import current
from esops.config import Config, by_address
from esops.health.stalls import Stall, StallLog
from esops.notifying.notifier import Notifier
from esops.notifying.stalls import stall_of


class RunReports(AbstractContextManager["RunReports"]):
    """The record of a run, and the notifications of what does not advance while it follows."""

    def __init__(self, config: Config, names: Sequence[str]) -> None:
        """Record it where its processes are about to write; `names` are its projections."""
        current.concerns(*names)
        self._databases = by_address(config, names)
        self._known = current.in_databases(self._databases)
        self._notifier = Notifier(config.notify, config.directory)
        self.stalls = StallLog(config, self._tell)

    def __exit__(self, *_: object) -> None:
        self._notifier.close()

    def look_again(self) -> None:
        """Record it in databases that could not be reached when it began, or had no tables of
        esops' own.
        """
        self._known = self._known or current.in_databases(self._databases)

    def _tell(self, named: dict[str, Any], stall: Stall | None) -> None:
        self._notifier.send(stall_of(named, None if stall is None else stall.seconds))
