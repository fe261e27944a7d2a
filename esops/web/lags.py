"""How far versions and processors were behind since the server started: bounded, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

MOST_POINTS = 600
"""Points of one line. When they are reached, the older half is thinned: each two become one."""
MOST_LINES = 400
PAUSE = 30.0
"""Seconds without a look across which no line is drawn."""
_BACK = 10.0
"""Seconds over which a rate is measured."""

Key = tuple[str, str]
"""The store or projection, and the processor or version."""


@dataclass(frozen=True, slots=True)
class LagPoint:
    """One look at a version or a processor; `events` is None where nothing was known then."""

    at: datetime
    events: int | None
    seconds: float | None = None
    done: int | None = None
    """How many events a version had taken in."""


@dataclass
class LagLine:
    """The points of one version or processor, the oldest first."""

    points: list[LagPoint] = field(default_factory=list)

    def add(self, point: LagPoint, pause: float = PAUSE) -> None:
        """Add a point, and thin the older ones where there are too many. No line is drawn to it
        across more than `pause` seconds in which nobody looked.
        """
        last = self.points[-1] if self.points else None
        if (
            last is not None
            and last.events is not None
            and (point.at - last.at).total_seconds() > pause
        ):
            self.points.append(LagPoint(point.at, None))
        self.points.append(point)
        if len(self.points) > MOST_POINTS:
            half = MOST_POINTS // 2
            self.points[:half] = _thinned(self.points[:half])

    @property
    def highest(self) -> int:
        """The most events that it was behind."""
        return max((each.events for each in self.points if each.events is not None), default=0)

    def rate(self) -> float | None:
        """Events a second that a version took in lately; None where that is not known."""
        known = [each for each in self.points[-30:] if each.done is not None]
        if len(known) < 2:
            return None
        last = known[-1]
        first = next(
            (each for each in known if (last.at - each.at).total_seconds() <= _BACK), known[-2]
        )
        if first is last:
            first = known[-2]
        seconds = (last.at - first.at).total_seconds()
        if seconds <= 0 or last.done is None or first.done is None:
            return None
        return max(0.0, (last.done - first.done) / seconds)

    def runs(self) -> Iterator[list[LagPoint]]:
        """The stretches of points without a break."""
        run: list[LagPoint] = []
        for each in self.points:
            if each.events is None:
                if run:
                    yield run
                run = []
            else:
                run.append(each)
        if run:
            yield run


class LagHistory:
    """The lines of everything that was looked at."""

    def __init__(self) -> None:
        """Nothing was looked at yet."""
        self._lines: dict[Key, LagLine] = {}

    def add(self, key: Key, point: LagPoint, pause: float = PAUSE) -> None:
        """Add a point to a line (see LagLine.add); the oldest lines go where there are too many."""
        line = self._lines.pop(key, None) or LagLine()
        # At the end: what was not looked at for longest is first.
        self._lines[key] = line
        line.add(point, pause)
        while len(self._lines) > MOST_LINES:
            del self._lines[next(iter(self._lines))]

    def line(self, key: Key) -> LagLine | None:
        """The line of a version or a processor; None where it was never looked at."""
        return self._lines.get(key)


def _thinned(points: list[LagPoint]) -> list[LagPoint]:
    """Each two points as one: of both, the one that was further behind, so that peaks stay."""
    found: list[LagPoint] = []
    for at in range(0, len(points), 2):
        pair = points[at : at + 2]
        gap = next((each for each in pair if each.events is None), None)
        found.append(gap or max(pair, key=lambda each: each.events or 0))
    return found
