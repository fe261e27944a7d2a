"""Which events are not given to the code any more: after some events of one type and shape have
ended its process, more of them would end it again, and each end takes as long as a start.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence

from esops.events import RecordedEvent
from esops.schema.decode.plain_shapes import PlainShapes

MOST_ENDS = 3
"""Of events of one type and shape."""


class FatalEvents:
    """Counts the ends, for all processes together."""

    def __init__(self, shapes: PlainShapes) -> None:
        """None has ended it yet. `shapes` is its own: several threads ask for it, one at a time."""
        self._ends: Counter[tuple[str, str]] = Counter()
        self._shapes = shapes
        self._lock = threading.Lock()

    def add(self, known: Iterable[tuple[str, str, int]]) -> None:
        """Take over types and shapes with their ends, from a run that is resumed."""
        with self._lock:
            for kind, shape, ends in known:
                self._ends[kind, shape] += ends

    def clear(self) -> None:
        """Forget all ends."""
        with self._lock:
            self._ends.clear()

    def ended(self, event: RecordedEvent) -> None:
        """Count an end by an event."""
        with self._lock:
            self._ends[event.type, self._shape(event)] += 1

    def left_out(self, events: Sequence[RecordedEvent]) -> set[int]:
        """The places of events that are not to be given."""
        with self._lock:
            over = {kind for (kind, _), ends in self._ends.items() if ends >= MOST_ENDS}
            if not over:
                return set()
            return {
                at
                for at, event in enumerate(events)
                if event.type in over and self._ends[event.type, self._shape(event)] >= MOST_ENDS
            }

    def _shape(self, event: RecordedEvent) -> str:
        return self._shapes.hash(event.data)
