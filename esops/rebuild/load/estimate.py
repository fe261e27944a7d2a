"""How many events a load will have applied at its end.

Counting what passes a filter would read the whole log once more, so it is estimated from the part
that is read: of a tenth of the log, ten times as much.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from esops.events import Position
from esops.stores.base import EventStore


@dataclass(slots=True)
class Load:
    """A load from one position to another."""

    after: Position | None
    until: Position
    before: int
    """How many events were applied before it."""
    counted: int
    """How many events of any type there are between: an upper bound or an estimate, which is used
    until some are read.
    """
    _at: Position | None = field(default=None, init=False)
    _known: int = field(default=0, init=False)

    def begun_again(self, store: EventStore) -> Load:
        """The same load from the log's beginning on."""
        return Load(None, self.until, 0, store.counts.between(None, self.until))

    def shared(self, processes: int) -> list[Load]:
        """What each of several processes has to load of it."""
        each = -(-self.counted // processes)
        return [Load(self.after, self.until, 0, each) for _ in range(processes)]

    def total(self, done: int, position: Position | None) -> int:
        """How many events there will be, where `done` are applied up to a position."""
        # While a spill is folded, events are applied and the position stays: what was estimated
        # when it moved last is as good as before.
        if not self._known or position != self._at:
            self._at = position
            self._known = self.total_at(done, _part_passed(self.after, position, self.until))
        return max(done, self._known)

    def total_at(self, done: int, passed: float) -> int:
        """The same, where that part of the log is read."""
        applied = done - self.before
        if applied <= 0 or passed <= 0:
            return max(done, self.before + self.counted)
        whole = round(applied / passed)
        if whole == self.counted:
            return self.before + whole
        # Three digits say as much as is known, and do not flicker. Less is never left than is there
        # to do: only the end of a load is 100 %.
        unit = int(10 ** max(0, len(str(whole)) - 3))
        return max(done + (passed < 1), self.before - (-whole // unit) * unit)


def _part_passed(after: Position | None, at: Position | None, until: Position) -> float:
    """About which part of the log between two positions is passed at a third, from 0 to 1.

    The last number of a position grows with the log: it is a number of events, or of bytes.
    """
    begin, end = after[-1] if after else 0, until[-1]
    if at is None or end <= begin:
        return 0.0
    return min(1.0, max(0.0, (at[-1] - begin) / (end - begin)))
