"""The oracle: every event that was ever committed, kept by its writers and not by asking the store."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field

Position = tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """An event that was inserted. `late`: why a reader may have passed its number before, by the
    rules that docs/explanation/settled-reads.md states; empty for all that no reader may miss.
    """

    token: str
    position: Position
    late: str = ""
    again: bool = False
    """Another event had the number before, and was deleted."""


@dataclass(frozen=True)
class Drawn:
    """A number that a session holds and has not written."""

    number: int
    late: str
    at: float
    outside: bool


@dataclass
class Books:
    """What is in the store, and how far numbers have gone."""

    committed: dict[str, Written] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    """Committed once, and archived: a read model that has seen them may keep their rows."""
    peak_drawn: int = 0
    """The highest number that the sequence was ever at."""
    peak_written: int = 0
    """The highest number that was ever committed."""
    written: set[int] = field(default_factory=set)
    """Every number that was ever committed."""

    def copy(self) -> Books:
        return copy.deepcopy(self)

    def commit(self, events: list[Written]) -> None:
        for event in events:
            self.committed[event.token] = event
            self.peak_written = max(self.peak_written, event.position[-1])
            self.written.add(event.position[-1])

    def remove(self, tokens: list[str]) -> None:
        for token in tokens:
            del self.committed[token]
            self.removed.add(token)

    def missable(self) -> set[str]:
        """The committed events that a reader may have passed: they came too late for any rule."""
        return {event.token for event in self.committed.values() if event.late}

    def alarming(self) -> set[str]:
        """Those of which esops has to say that they came late: their numbers had been missing."""
        return {event.token for event in self.committed.values() if event.late and not event.again}

    def drawn(self, number: int, own: range, *, outside: bool) -> Drawn:
        """A number that the sequence gave out, `own` being what the session had taken before."""
        late = ""
        if number <= self.peak_drawn and number not in own and number <= self.peak_written:
            late = "the sequence was set back, and gave it out again"
        self.peak_drawn = max(self.peak_drawn, number)
        return Drawn(number, late, time.monotonic(), outside)

    def explicit(self, number: int) -> str:
        """Why a number that is written by hand comes late."""
        return "written by hand, below what was given out" if number <= self.peak_drawn else ""
