"""What changed in the payloads of one type: which fields appeared, disappeared, or changed their
type or nullability, each at the first event that shows it.

Events are given in the order of the log, and old and new code may write side by side. All that is
kept is a handful of bits for each path, and two places for those that are missing at the moment.
Nothing is done for an event whose payload looks like that of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from esops.events import RecordedEvent
from esops.json_paths import Steps, Wild, written
from esops.schema.shapes import JsonType, ShapeVariant
from esops.schema.type_inventory import Occurrence

Kind = Literal["added", "removed", "type", "nullable", "values"]
_NUMBERS = {"integer", "number"}
_HELD = 100_000
"""Paths in all variants whose masks are held in memory."""
_MOST_PATHS = 10_000
"""Fields that are looked at; later ones are not."""


@dataclass(frozen=True)
class FieldChange:
    """One change: of which path, and the first event that shows it."""

    kind: Kind
    path: str
    at: Occurrence
    detail: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything under the documented field names."""
        return {"kind": self.kind, "path": self.path, **self.at.as_dict(), "detail": self.detail}


class _Masks(NamedTuple):
    """Of one variant, as far as paths are known: a bit for each."""

    has: int
    lacks: int
    """It is not there, though its object is."""
    partial: int
    """It is missing in some of the objects that could have it."""
    known: int
    """How many paths were known then."""


class _Missing(NamedTuple):
    """Since when a path is missing: after how many events, and the first without it."""

    number: int
    event: Any
    """The event itself, or its Occurrence."""


class FieldChanges:
    """Finds the changes of one type's payloads. A field is absent only where its
    object is there: where the object is absent too, the field has not changed.
    """

    def __init__(self) -> None:
        """No event was seen."""
        self.found: list[FieldChange] = []
        self._events = 0
        self._current: ShapeVariant | None = None
        self._numbers: dict[Steps, int] = {}
        self._paths: list[Steps] = []
        self._types: list[set[JsonType]] = []
        self._objects: set[Steps] = set()
        """The paths at which there was an object."""
        self._members: dict[Steps, int] = {}
        """By the path of an object, a bit for each path of a member."""
        self._looked_at: dict[ShapeVariant, _Masks] = {}
        self._held = 0
        self.left_out = False
        """Whether there were too many fields to look at all of them."""
        self._always = 0
        """Paths that were never missing before."""
        self._gone = 0
        """Paths that are missing since they were there last."""
        self._missing: dict[int, _Missing] = {}
        self._fresh: set[int] = set()
        self._longest: dict[int, int] = {}
        """The most events that ever lay between two with a path."""
        self._optional: dict[int, Occurrence] = {}
        """The first event without a path that had always been there."""

    def see(self, variant: ShapeVariant, event: RecordedEvent) -> None:
        """Look at the next event."""
        self._events += 1
        if variant is self._current:
            return
        self._current = variant
        masks = self._looked_at.get(variant)
        if masks is None:
            self._note_types(variant, event)
            masks = self._masks(variant)
        elif masks.known < len(self._paths):
            masks = self._masks(variant)
        back = self._gone & masks.has
        for number in _bits(back):
            away = self._events - self._missing[number].number
            self._longest[number] = max(away, self._longest.get(number, 0))
        newly = masks.lacks & ~self._gone
        for number in _bits(newly):
            self._missing[number] = _Missing(self._events, event)
            self._fresh.add(number)
        self._gone = (self._gone | masks.lacks) & ~masks.has
        first_time = (masks.lacks | masks.partial) & self._always
        if first_time:
            self._always &= ~first_time
            for number in _bits(first_time):
                self._optional[number] = Occurrence.of(event)

    def end_batch(self) -> None:
        """Keep nothing that would keep the batch of the last events in memory."""
        for number in self._fresh:
            missing = self._missing[number]
            if isinstance(missing.event, RecordedEvent):
                self._missing[number] = _Missing(missing.number, Occurrence.of(missing.event))
        self._fresh.clear()

    def changes(self) -> list[FieldChange]:
        """All changes, in the order of their events."""
        self.end_batch()
        found = [*self.found, *self._removed_or_optional()]
        return sorted(found, key=lambda each: (each.at.position, each.path, each.kind))

    def _removed_or_optional(self) -> Iterator[FieldChange]:
        removed = 0
        for number in _bits(self._gone):
            missing = self._missing[number]
            away = self._events - missing.number + 1
            # One that comes and goes is optional: it is removed only when it stays away for longer
            # than ever before.
            if away > self._longest.get(number, 0):
                removed |= 1 << number
                detail: dict[str, Any] = {"previous": sorted(self._types[number]), "new": []}
                first = self._optional.get(number)
                if first is not None and first != missing.event:
                    detail["first_missing"] = first.as_dict()
                yield FieldChange("removed", written(self._paths[number]), missing.event, detail)
        for number, first in self._optional.items():
            if not removed >> number & 1:
                types = sorted(self._types[number])
                detail = {"previous": types, "new": ["absent"], "absent": True}
                yield FieldChange("nullable", written(self._paths[number]), first, detail)

    def _note_types(self, variant: ShapeVariant, event: RecordedEvent) -> None:
        """What a variant has that no event before had."""
        objects = set()
        first = not self._paths
        for steps, types in sorted(variant.types.items(), key=lambda each: len(each[0])):
            if "object" in types:
                objects.add(steps)
            number = self._numbers.get(steps)
            if number is not None:
                self._note_new_types(number, types, event)
                continue
            if len(self._paths) >= _MOST_PATHS:
                self.left_out = True
                continue
            number = self._numbers[steps] = len(self._paths)
            self._paths.append(steps)
            self._types.append(set(types))
            member = bool(steps) and steps[-1] is not Wild.EVERY
            if member:
                self._members[steps[:-1]] = self._members.get(steps[:-1], 0) | 1 << number
            if member and not first and steps[:-1] in self._objects:
                detail = {"previous": [], "new": sorted(types)}
                self.found.append(
                    FieldChange("added", written(steps), Occurrence.of(event), detail)
                )
            elif member and steps not in variant.partial:
                self._always |= 1 << number
        self._objects |= objects

    def _note_new_types(
        self, number: int, types: frozenset[JsonType], event: RecordedEvent
    ) -> None:
        known = self._types[number]
        new = types - known
        if not new:
            return
        detail: dict[str, Any] = {"previous": sorted(known), "new": sorted(new)}
        path = written(self._paths[number])
        # Nothing is known of the type of what was always null.
        had_values = bool(known - {"null"})
        if "null" in new and had_values:
            found = {**detail, "new": ["null"]}
            self.found.append(FieldChange("nullable", path, Occurrence.of(event), found))
        others = new - {"null"}
        if "number" in known:
            others -= {"integer"}
        if others and had_values:
            detail["new"] = sorted(others)
            if known - {"null"} <= _NUMBERS and others <= _NUMBERS:
                detail["numbers"] = "integers only before"
            self.found.append(FieldChange("type", path, Occurrence.of(event), detail))
        known |= new

    def _masks(self, variant: ShapeVariant) -> _Masks:
        has = lacks = partial = 0
        for steps, types in variant.types.items():
            if "object" in types:
                lacks |= self._members.get(steps, 0)
            number = self._numbers.get(steps)
            if number is not None:
                has |= 1 << number
                if steps in variant.partial:
                    partial |= 1 << number
        lacks &= ~has
        self._held += len(variant.fields)
        if self._held > _HELD:
            self._held = len(variant.fields)
            self._looked_at.clear()
        made = self._looked_at[variant] = _Masks(has, lacks, partial, len(self._paths))
        return made


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
