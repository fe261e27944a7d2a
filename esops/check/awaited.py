"""What a wait came to, for one projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from esops.events import Position
from esops.wording import count


@dataclass(frozen=True, slots=True)
class Awaited:
    """How far the version of a projection that serves is."""

    projection: str
    version: int | None
    """None where the application's own table serves, or nothing does."""
    position: Position | None
    """The checkpoint; None where there is none yet, or none at all (live = "inline")."""
    goal: Position | None
    """What it has to take in; None for a store without events, or one that does not settle."""
    reached: bool
    lag_events: int | None
    held_back_by: Sequence[str] = ()
    """Who or what holds it back, where it has not reached the goal."""
    notes: Sequence[str] = ()
    """What to know although it has: dead letters, names that stand for something else."""

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "projection": self.projection,
            "version": self.version,
            "position": None if self.position is None else str(self.position),
            "goal": None if self.goal is None else str(self.goal),
            "reached": self.reached,
            "lag_events": self.lag_events,
            "held_back_by": list(self.held_back_by),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        name = self.projection + ("" if self.version is None else f" v{self.version}")
        if self.reached:
            where = "" if self.position is None else f" {self.position}"
            return f"{name}: reached{where}" + "".join(f"; {each}" for each in self.notes)
        lag = "" if self.lag_events is None else f", {count(self.lag_events, 'event')} behind"
        goal = "" if self.goal is None else f" {self.goal}"
        why = "; ".join(self.held_back_by) or "its process is at work"
        return f"{name}: at {self.position or 'no event'}{lag}{goal}: {why}"
