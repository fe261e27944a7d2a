"""Lag over time as SVG paths. Styled by classes alone, since the pages allow no style inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from esops.web.lags import LagLine, LagPoint

WIDTH, HEIGHT = 600.0, 100.0
_LEAST = 50
"""Events at the upper edge at least: a lag of two is not to look like a mountain."""


@dataclass(frozen=True, slots=True)
class LagChart:
    """A line as a path in a box of WIDTH by HEIGHT, and what is at its edges."""

    line: str
    area: str
    highest: int
    top: int
    """Events at the upper edge."""
    first: datetime
    last: datetime


def chart(line: LagLine | None) -> LagChart | None:
    """The chart of a line; None where there is nothing to draw yet."""
    if line is None:
        return None
    known = [each for each in line.points if each.events is not None]
    if len(known) < 2:
        return None
    first, last = known[0].at, known[-1].at
    span = max((last - first).total_seconds(), 1.0)
    top = max(line.highest, _LEAST)

    def place(point: LagPoint) -> tuple[float, float]:
        x = (point.at - first).total_seconds() / span * WIDTH
        # A pixel of room at both edges, so that no line is cut in half.
        y = HEIGHT - 2 - (point.events or 0) / top * (HEIGHT - 4)
        return round(x, 1), round(y, 1)

    runs = [[place(each) for each in run] for run in line.runs()]
    return LagChart(
        " ".join(_path(run) for run in runs),
        " ".join(f"{_path(run)} L{run[-1][0]} {HEIGHT} L{run[0][0]} {HEIGHT} Z" for run in runs),
        line.highest,
        top,
        first,
        last,
    )


def _path(run: Sequence[tuple[float, float]]) -> str:
    # A single point is drawn as a short line.
    places = run if len(run) > 1 else [run[0], (run[0][0] + 0.5, run[0][1])]
    return "M" + " L".join(f"{x} {y}" for x, y in places)


def bars(histogram: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bars of a histogram: each with its share of the highest, for a `meter`."""
    highest = max((each["streams"] for each in histogram), default=1) or 1
    return [{**each, "share": each["streams"] / highest} for each in histogram]
