"""What a rebuild tells: to whom it reports on the way, and what it hands over at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from esops.events import Position


class Reporter(Protocol):
    """Who wants to know how a rebuild goes."""

    def say(self, text: str) -> None:
        """A state was reached, or something is waited for."""
        ...

    def progress(self, done: int, total: int | None) -> None:
        """So many events of so many are in green."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rebuild did.

    `seconds` is working time over all its sessions; `events` what green was made of.

    `followed`: a process that keeps the version before fresh is there, and will take the new one
    over.
    """

    rebuild: int
    projection: str
    state: str
    from_version: int | None
    to_version: int
    events: int
    rows: int | None
    seconds: float
    position: Position | None
    verification: Mapping[str, Any] | None
    findings: bool = False
    followed: bool = False

    @property
    def events_per_second(self) -> float:
        """Over the working time."""
        return self.events / self.seconds if self.seconds > 0 else 0.0
