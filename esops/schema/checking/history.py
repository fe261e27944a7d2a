"""All events of a store against the schemas of their types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from esops.events import Position, RecordedEvent
from esops.schema.checking.rules import TypeRules
from esops.schema.checking.violations import (
    EventCoordinates,
    ViolationGroup,
    Violations,
    coordinates_of,
)
from esops.schema.files import SchemaSet
from esops.stores.base import Unsettled

_loads = orjson.loads


@dataclass(slots=True)
class SchemalessType:
    """An event type that no file is for, with its first event."""

    type: str
    events: int
    first: EventCoordinates

    def as_dict(self) -> dict[str, Any]:
        """Under the documented names."""
        return {"type": self.type, "events": self.events, "first": self.first.as_dict()}


class HistoryCheck:
    """Takes events, and keeps what they break."""

    def __init__(self, schemas: SchemaSet) -> None:
        """Compiles the schemas of all types."""
        self.rules = {each: TypeRules(schemas, each) for each in schemas.types}
        self.violations = Violations()
        self.schemaless: dict[str, SchemalessType] = {}
        self.events: Counter[str] = Counter()
        """How many events of each type were held against its schema, or had none."""
        self.numbers: Counter[str] = Counter()
        """The sum of the last numbers of their positions, by type."""
        self._fits = {name: each.fits for name, each in self.rules.items()}

    def take(self, events: Sequence[RecordedEvent]) -> None:
        """Hold some events against their schemas: few instructions for each that fits."""
        fits, loads = self._fits.get, _loads
        for event in events:
            fit = fits(event.type)
            if fit is None:
                self._without_schema(event)
                continue
            try:
                if fit(loads(event.data)):
                    continue
            except ValueError:
                pass  # no JSON, or what only `broken` looks through
            self._look(event)
        self.events.update(event.type for event in events)
        numbers = self.numbers
        for event in events:
            numbers[event.type] += event.position[-1]

    def drop(self, types: Collection[str]) -> None:
        """Forget all events of some types."""
        self.violations.drop(types)
        for each in types:
            self.schemaless.pop(each, None)
            self.events.pop(each, None)
            self.numbers.pop(each, None)

    def _look(self, event: RecordedEvent) -> None:
        broken = self.rules[event.type].broken(event.data)
        if broken:
            self.violations.add(event, broken)

    def _without_schema(self, event: RecordedEvent) -> None:
        known = self.schemaless.get(event.type)
        if known is None:
            self.schemaless[event.type] = SchemalessType(event.type, 1, coordinates_of(event))
        else:
            known.events += 1


@dataclass
class SchemaCheckResult:
    """What a check found."""

    store: str
    against: str
    events: int
    """Events that this run has read."""
    total: int
    """Events that the result is about: with those of earlier runs."""
    violations: Sequence[ViolationGroup]
    schemaless: Sequence[SchemalessType]
    unused: Sequence[str]
    """Types with a schema of which there was no event."""
    position: Position | None
    """Up to there the events are checked."""
    since: Position | None = None
    """Where the last run had stopped; None where all was read."""
    notes: list[str] = field(default_factory=list)
    """Sentences for a person: what was read again, and why."""
    short: Unsettled | None = None
    stopped: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "store": self.store,
            "against": self.against,
            "events": self.events,
            "total_events": self.total,
            "position": None if self.position is None else str(self.position),
            "since": None if self.since is None else str(self.since),
            "complete": self.short is None and not self.stopped,
            "violations": [each.as_dict() for each in self.violations],
            "types_without_schema": [each.as_dict() for each in self.schemaless],
            "types_without_events": list(self.unused),
            "notes": self.notes,
        }
