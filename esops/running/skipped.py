"""Events that a version could not project and is built without: they become dead letters, in the
transaction that moves the checkpoint past them.
"""

from __future__ import annotations

from dataclasses import replace

import psycopg
import structlog

from esops.errors import PoisonEvent
from esops.events import Position, RecordedEvent
from esops.readmodel.dead_letters import record_dead_letter
from esops.readmodel.rows import BadEvent
from esops.running.work import Work
from esops.stores.base import EventStore

log = structlog.get_logger("esops.runner")


class SkippedEvents:
    """The poison events that are known, by their positions."""

    def __init__(self, work: Work) -> None:
        """None is known yet."""
        self._work = work
        self._shared = ""
        self.hint = (
            'Fix the projection, or set on_error = "dead-letter" in '
            f"[projections.{work.projection}] to skip such events."
        )
        self._reasons: dict[Position, str] = {}
        self._dead_letters: list[tuple[RecordedEvent, str]] = []

    def add(self, position: Position, reason: str) -> None:
        """Skip the event at a position from now on."""
        self._reasons[position] = reason

    def can_skip(self, event: RecordedEvent, store: EventStore) -> bool:
        """Whether an event can become a dead letter: these are known by their positions, so it has
        to be the projection's only one at its own.
        """
        position = event.position
        if len(position) > 1:  # no store with such positions gives one to two events
            return True
        before = Position((position[0] - 1,))
        found = store.read_all(before, position, replace(self._work.events, shard=None))
        number = sum(len(batch.events) for batch in found)
        if number > 1:
            self.hint = "Fix the projection."
            self._shared = (
                f"; {number:,} of its events share that position, and one of them alone cannot "
                "become a dead letter"
            )
        return number <= 1

    def poisoned(self, event: RecordedEvent, bad: BadEvent) -> PoisonEvent:
        """The error that stops the version at an event."""
        return PoisonEvent(
            f"{self._work.projection} v{self._work.version} cannot project event {event.id} "
            f"({event.type}, version {event.version} of stream {event.stream!r}, position "
            f"{event.position}): {bad.reason}{self._shared}",
            hint=f"{self.hint} What came before is committed.",
        )

    def __contains__(self, position: Position) -> bool:
        return position in self._reasons

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
