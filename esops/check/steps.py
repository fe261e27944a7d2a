"""The steps of a row: what is asked for, and what each event made of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from esops.check.changes import RowChange, changes, shown_row
from esops.check.lanes import Applied
from esops.events import Position, RecordedEvent
from esops.readmodel.types import Row
from esops.trace.log import event_as_dict

KEPT = 10_000
"""Steps that are kept of a row with more events: the first half and the last half of them."""


@dataclass(frozen=True)
class StepRequest:
    """What is asked for."""

    projection: str
    key: str
    at: str | None = None
    """The version of the stream after which it ends, or, of a key of several streams, the
    position.
    """
    python: str | None = None
    """Other code to run beside that of today: `module:function`."""
    store: str | None = None
    keep: int = KEPT
    table: str | None = None
    """Of a projection with several tables, the one whose row it is; None: the first."""


@dataclass(frozen=True)
class Step:
    """One event, and what became of the row."""

    event: RecordedEvent
    applied: Applied | None
    """None where the version that serves has it as a dead letter."""
    row: Row | None
    skipped: str | None = None
    """Why it is a dead letter."""
    other: Applied | None = None
    parted: Sequence[RowChange] = ()
    """What the other code makes otherwise, up to this event."""

    @property
    def before(self) -> Row | None:
        """The row before the event."""
        return self.row if self.applied is None else self.applied.before

    @property
    def after(self) -> Row | None:
        """The row after it."""
        return self.row if self.applied is None else self.applied.after

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        done, other = self.applied, self.other
        fault = done.fault if done is not None else None
        return {
            "event": event_as_dict(self.event),
            "before": shown_row(self.before),
            "after": shown_row(self.after),
            "changed": [each.as_dict() for each in changes(self.before, self.after)],
            "microseconds": None if done is None else done.microseconds,
            "error": None if fault is None else fault.reason,
            "traceback": [] if fault is None else list(fault.traceback),
            "skipped": self.skipped,
            "other": None
            if other is None
            else {
                "after": shown_row(other.after),
                "differs": [each.as_dict() for each in self.parted],
                "microseconds": other.microseconds,
                "error": None if other.fault is None else other.fault.reason,
                "traceback": [] if other.fault is None else list(other.fault.traceback),
            },
        }


@dataclass(frozen=True)
class Served:
    """The row that a version serves, and the row that the events up to its checkpoint make."""

    version: int
    position: Position
    row: Row | None
    differs: Sequence[RowChange] = ()

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "version": self.version,
            "position": str(self.position),
            "row": shown_row(self.row),
            "differs": [each.as_dict() for each in self.differs],
        }


@dataclass
class Stepped:
    """All steps of a row."""

    projection: str
    store: str
    key: str
    steps: list[Step] = field(default_factory=list)
    events: int = 0
    """How many events of the row there are; more than `steps` where some were left out."""
    faults: int = 0
    parts_at: RecordedEvent | None = None
    """The first event after which the other code has another row."""
    python: str | None = None
    served: Served | None = None
    stopped: bool = False
    """Whether it ended at an event that the code failed on, as the projection would."""
    notes: list[str] = field(default_factory=list)

    @property
    def findings(self) -> bool:
        """Whether the code failed, or old and new code part."""
        return bool(self.faults) or self.parts_at is not None

    @property
    def left_out(self) -> int:
        """How many steps were not kept, between the first and the last."""
        return self.events - len(self.steps)

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        at = self.parts_at
        return {
            "projection": self.projection,
            "store": self.store,
            "key": self.key,
            "events": self.events,
            "steps": [each.as_dict() for each in self.steps],
            "left_out": self.left_out,
            "python": self.python,
            "parts_at": None
            if at is None
            else {
                "stream": at.stream,
                "version": at.version,
                "position": str(at.position),
                "type": at.type,
            },
            "served": None if self.served is None else self.served.as_dict(),
            "stopped": self.stopped,
            "notes": self.notes,
        }


class KeptSteps:
    """The first and the last steps of a row, within a number."""

    def __init__(self, keep: int) -> None:
        """`keep`: how many at most."""
        self._first: list[Step] = []
        self._most = max(2, keep) // 2
        self._last: deque[Step] = deque(maxlen=max(2, keep) - self._most)
        self.count = 0

    def add(self, step: Step) -> None:
        """Keep a step, and perhaps drop one in the middle."""
        self.count += 1
        (self._last if len(self._first) >= self._most else self._first).append(step)

    def all(self) -> list[Step]:
        """Those that were kept, in their order."""
        return [*self._first, *self._last]
