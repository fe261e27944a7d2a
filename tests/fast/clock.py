"""Time that passes only where somebody sleeps."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """Stands in for the module `time`. `asleep` is called with each sleep's seconds."""

    def __init__(self, asleep: Callable[[float], None] = lambda _: None) -> None:
        self.now, self.slept, self.asleep = 1_000.0, 0.0, asleep

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds
        self.asleep(seconds)
