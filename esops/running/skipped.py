"""Events that a version could not project and is built without: they become dead letters, in the
transaction that moves the checkpoint past them.
"""

from __future__ import annotations

import psycopg
import structlog

from esops.events import Position, RecordedEvent
from esops.readmodel.dead_letters import record_dead_letter
from esops.running.work import Work

log = structlog.get_logger("esops.runner")


class SkippedEvents:
    """The poison events that are known, by their positions."""

    def __init__(self, work: Work) -> None:
        """None is known yet."""
        self._work = work
        self._reasons: dict[Position, str] = {}
        self._dead_letters: list[tuple[RecordedEvent, str]] = []

    def add(self, position: Position, reason: str) -> None:
        """Skip the event at a position from now on."""
        self._reasons[position] = reason

    def without(self, events: list[RecordedEvent]) -> list[RecordedEvent]:
        """The events that are to be applied; the others wait to be written as dead letters."""
        if not self._reasons:
            return events
        self._dead_letters += [
            (event, self._reasons[event.position])
            for event in events
            if event.position in self._reasons
        ]
        return [event for event in events if event.position not in self._reasons]

    def forget_unwritten(self) -> None:
        """Drop those of a transaction that was not committed; their events come again."""
        self._dead_letters = []

    def write(self, connection: psycopg.Connection) -> None:
        """Write the dead letters."""
        for event, reason in self._dead_letters:
            record_dead_letter(connection, self._work.projection, self._work.version, event, reason)
            log.warning(
                "dead letter",
                position=str(event.position),
                stream=event.stream,
                type=event.type,
                error=reason,
            )
            self._reasons.pop(event.position, None)
        self._dead_letters = []
