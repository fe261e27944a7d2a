"""New values of string fields that hold one of a few values, such as a status.

The rule, which depends on the events alone: a field holds one of a few values as long as it was
seen with at most 32 different ones, each of at most 64 characters. A value is new where, before it,
the field was seen at least 20 times, and 10 times for each value that was known. A field that gets
a 33rd value was none of these, and all that was said of it is dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from esops.events import RecordedEvent
from esops.json_paths import Steps, Wild, written
from esops.schema.changes import FieldChange
from esops.schema.shapes import MOST_MEMBERS, ShapeVariant, is_data, value_of
from esops.schema.type_inventory import Occurrence

FEW = 32
LONGEST = 64
SEEN, SEEN_EACH = 20, 10
_HELD = 100_000
"""Paths in all variants whose fields are held in memory."""
_MANY_PATHS = 2_000
"""Fields that are looked at; later ones are not."""


class _Values:
    """One field's values so far."""

    __slots__ = ("changes", "known", "seen")

    def __init__(self) -> None:
        self.known: dict[str, None] = {}
        self.seen = 0
        self.changes: list[FieldChange] = []


class EnumValues:
    """Finds new values in one type's payloads."""

    def __init__(self, *, shown: bool = False, maps: Collection[Steps] = ()) -> None:
        """`shown`: whether changes tell the values, which may be personal data. `maps`: the paths
        of objects whose members are `[*]` in the shapes, whatever their names.
        """
        self._shown, self._maps = shown, frozenset(maps)
        self._fields: dict[Steps, _Values | None] = {}
        """None: holds more than a few values."""
        self._plans: dict[ShapeVariant, list[Steps]] = {}
        self._held = 0

    def see(self, variant: ShapeVariant, event: RecordedEvent) -> None:
        """Look at the next event."""
        plan = self._plans.get(variant)
        if plan is None:
            self._held += len(variant.fields)
            if self._held > _HELD:
                self._held = len(variant.fields)
                self._plans.clear()
            plan = self._plans[variant] = [
                steps
                for steps, types in variant.types.items()
                if "string" in types and self._looked_at(steps)
            ]
        if not plan:
            return
        value = value_of(event.data)
        for steps in plan:
            for text in _strings(value, steps, self._maps):
                self._note(steps, text, event)

    def changes(self) -> list[FieldChange]:
        """All new values, each at its first event."""
        return [
            change for each in self._fields.values() if each is not None for change in each.changes
        ]

    def _looked_at(self, steps: Steps) -> bool:
        if steps in self._fields:
            return self._fields[steps] is not None
        if len(self._fields) >= _MANY_PATHS:
            return False
        self._fields[steps] = _Values()
        return True

    def _note(self, steps: Steps, text: str, event: RecordedEvent) -> None:
        field = self._fields[steps]
        if field is None:
            return
        if text not in field.known:
            before = len(field.known)
            if before >= FEW or len(text) > LONGEST:
                self._fields[steps] = None
                self._plans.clear()
                return
            if field.seen >= max(SEEN, SEEN_EACH * before):
                detail: dict[str, Any] = {"values_before": before}
                if self._shown:
                    detail |= {"previous": sorted(field.known), "new": text}
                at = Occurrence.of(event)
                field.changes.append(FieldChange("values", written(steps), at, detail))
            field.known[text] = None
        field.seen += 1


def _strings(value: Any, steps: Steps, maps: Collection[Steps], start: int = 0) -> Iterator[str]:
    for at in range(start, len(steps)):
        step = steps[at]
        if step is Wild.EVERY:
            if type(value) is list:
                for each in value:
                    yield from _strings(each, steps, maps, at + 1)
            elif type(value) is dict:
                all_ = len(value) > MOST_MEMBERS or steps[:at] in maps
                for name, each in value.items():
                    if all_ or is_data(name):
                        yield from _strings(each, steps, maps, at + 1)
            return
        if type(value) is not dict or step not in value:
            return
        value = value[step]
    if type(value) is str:
        yield value
