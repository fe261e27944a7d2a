"""Names what changed between two schemas of an event type, place by place.

What each change breaks is said by the rules of its kind; the comparison of the whole schemas has
the last word (`compare`).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jsonschema_rs import CanonicalSchema
from jsonschema_rs.canonical import ReferenceView

from esops.json_paths import Steps, Wild, written
from esops.schema.places import LimitSpan, SchemaPlace, value_key
from esops.schema.proofs import proves
from esops.schema.rules import BACKWARD, FORWARD, Breaks, Direction
from esops.wording import count

_DEEPEST = 40
_MOST_STEPS = 300
"""Places that differ and are named; schemas that refer to each other have more than one can read.
"""
_MOST_FIELDS = 1_000
"""Fields that are compared to find renames."""
_SIMILAR = 0.6
"""A share of equal characters, as difflib counts them."""


@dataclass
class SchemaChange:
    """One change."""

    type: str
    kind: str
    steps: Steps = ()
    breaking: frozenset[Direction] = frozenset()
    unproven: frozenset[Direction] = frozenset()
    """Those of `breaking` that nobody could prove."""
    detail: str = ""
    """What was there, and what is there now."""
    source: Steps | None = None
    """Where a renamed or moved field was."""

    @property
    def path(self) -> str:
        """The place in the payload: `$.items[*].price`."""
        return written(self.steps)

    @property
    def breaks(self) -> Breaks:
        """Which readers it breaks."""
        if len(self.breaking) == 2:
            return "both"
        return next(iter(self.breaking), "none")

    def as_dict(self) -> dict[str, Any]:
        """The fields of `--output json`."""
        return {
            "type": self.type,
            "path": self.path,
            "kind": self.kind,
            "breaks": self.breaks,
            "detail": self.detail,
            "from": None if self.source is None else written(self.source),
            "unproven": sorted(self.unproven),
        }


class SchemaSide(NamedTuple):
    """One of two schemas at one place: its alternatives as readers take them, and as writers write
    them.
    """

    reads: Sequence[CanonicalSchema]
    writes: Sequence[CanonicalSchema]

    @property
    def text(self) -> str:
        """Tells it from another."""
        return text_of(self.reads) + text_of(self.writes)


def text_of(schemas: Iterable[CanonicalSchema]) -> str:
    """The same for the same alternatives, in whatever order they come."""
    found = {
        json.dumps(_target(each).to_json_schema(), sort_keys=True, default=str) for each in schemas
    }
    return "\n".join(sorted(found))


def _target(schema: CanonicalSchema) -> CanonicalSchema:
    """What a reference leads to; else the schema itself."""
    view = schema.view()
    found = schema.definition(view.uri) if isinstance(view, ReferenceView) else None
    return found or schema


class _Field(NamedTuple):
    """A field that is gone or new, to find renames."""

    steps: Steps
    schema: str
    removed: bool


@dataclass
class Naming:
    """Names the changes of one type."""

    type: str
    show_values: bool = True
    """Whether details name constants and limits of numbers."""
    changes: list[SchemaChange] = field(default_factory=list)
    _fields: list[_Field] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _steps: int = 0

    def compare(self, old: SchemaSide, new: SchemaSide, steps: Steps = ()) -> None:
        """Name what differs at a place and below."""
        texts = old.text, new.text
        key = "\n\n".join(texts)
        if texts[0] == texts[1] or key in self._seen or len(steps) > _DEEPEST:
            return
        self._steps += 1
        if self._steps > _MOST_STEPS:
            if self._steps == _MOST_STEPS + 1:
                self._add("rule-changed", steps, _judged(old, new), "and more, not named")
            return
        self._seen.add(key)  # a schema that refers to itself comes by again
        before = len(self.changes)
        was, now = SchemaPlace.of(old.reads), SchemaPlace.of(new.reads)
        self._types(was, now, steps)
        self._values(was, now, steps)
        self._scalars(was, now, steps)
        if was.objects and now.objects:
            self._objects(old, new, steps)
        if was.arrays and now.arrays:
            self._arrays(old, new, steps)
        if len(self.changes) == before and text_of(old.reads) != text_of(new.reads):
            self._add("rule-changed", steps, _judged(old, new))
        self._seen.discard(key)

    def finish(self) -> list[SchemaChange]:
        """All changes, with the renames and moves that they look like."""
        gone = [each for each in self._fields if each.removed]
        for new in (each for each in self._fields if not each.removed):
            same = [each for each in gone if each.schema == new.schema]
            beside = [each for each in same if each.steps[:-1] == new.steps[:-1]]
            near = [each for each in beside if similar(each.steps[-1], new.steps[-1])]
            moved = [
                each
                for each in same
                if each.steps[-1] == new.steps[-1] and each.steps[:-1] != new.steps[:-1]
            ]
            if near:
                self._suspect("rename-suspected", near[0], new)
                gone.remove(near[0])
            elif moved:
                self._suspect("move-suspected", moved[0], new)
                gone.remove(moved[0])
        return self.changes

    def _suspect(self, kind: str, old: _Field, new: _Field) -> None:
        detail = f"{written(old.steps)} looks like {written(new.steps)}"
        self.changes.append(
            SchemaChange(self.type, kind, new.steps, detail=detail, source=old.steps)
        )

    def _add(
        self, kind: str, steps: Steps, breaking: Iterable[Direction], detail: str = ""
    ) -> None:
        self.changes.append(
            SchemaChange(self.type, kind, steps, frozenset(breaking), detail=detail)
        )

    def _note(
        self,
        steps: Steps,
        schemas: Sequence[CanonicalSchema],
        above: frozenset[str] = frozenset(),
        *,
        removed: bool,
    ) -> None:
        """Remember a field that is gone or new, and those below it. `above`: what it is in."""
        text = text_of(schemas)
        if text in above or len(self._fields) >= _MOST_FIELDS:
            return  # a schema that refers to itself
        self._fields.append(_Field(steps, text, removed))
        place = SchemaPlace.of(schemas)
        for name in place.names:
            self._note((*steps, name), place.named(name), above | {text}, removed=removed)

    def _types(self, was: SchemaPlace, now: SchemaPlace, steps: Steps) -> None:
        old, new = was.types - {"null"}, now.types - {"null"}
        gone, came = _not_in(old, new), _not_in(new, old)
        detail = f"{_listed(old)} → {_listed(new)}"
        if not now.types:
            detail += ": no event can fit the new schema"
        if gone and came:
            self._add("type-changed", steps, [BACKWARD, FORWARD], detail)
        elif gone:
            self._add("type-narrowed", steps, [BACKWARD], detail)
        elif came:
            self._add("type-widened", steps, [FORWARD], detail)
        if "null" in was.types - now.types:
            self._add("null-refused", steps, [BACKWARD])
        elif "null" in now.types - was.types:
            self._add("null-allowed", steps, [FORWARD])

    def _values(self, was: SchemaPlace, now: SchemaPlace, steps: Steps) -> None:
        if was.limited and now.limited:
            gone, came = _other_values(was, now), _other_values(now, was)
            parts = [f"no longer {self._shown(gone)}"] if gone else []
            parts += [f"new: {self._shown(came)}"] if came else []
            detail = "; ".join(parts)
            if gone and came:
                self._add("values-changed", steps, [BACKWARD, FORWARD], detail)
            elif gone:
                self._add("values-removed", steps, [BACKWARD], detail)
            elif came:
                self._add("values-added", steps, [FORWARD], detail)
        elif was.limited and now.free & was.types:
            self._add("values-added", steps, [FORWARD], f"only {self._shown(was.constants)} → any")
        elif now.limited and was.free & now.types:
            self._add(
                "values-removed", steps, [BACKWARD], f"any → only {self._shown(now.constants)}"
            )

    def _scalars(self, was: SchemaPlace, now: SchemaPlace, steps: Steps) -> None:
        if was.numbers and now.numbers:
            self._span("value", was.number_span, now.number_span, steps)
        if was.strings and now.strings:
            self._span("length", was.length_span, now.length_span, steps)
            for attribute, what in (("formats", "format"), ("patterns", "pattern")):
                self._texts(what, was.texts(attribute), now.texts(attribute), steps)

    def _texts(
        self, what: str, old: frozenset[str] | None, new: frozenset[str] | None, steps: Steps
    ) -> None:
        if old == new:
            return
        detail = f"{what}: {_listed(old or ['none'])} → {_listed(new or ['none'])}"
        if old is None or (new is not None and new < old):
            self._add("format-added", steps, [BACKWARD], detail)
        elif new is None or old < new:
            self._add("format-removed", steps, [FORWARD], detail)
        else:
            self._add("format-changed", steps, [BACKWARD, FORWARD], detail)

    def _span(self, what: str, old: LimitSpan, new: LimitSpan, steps: Steps) -> None:
        if old == new:
            return
        hidden = what == "value" and not self.show_values
        detail = "" if hidden else f"{what}: {old} → {new}"
        if old.within(new):
            self._add("range-widened", steps, [FORWARD], detail)
        elif new.within(old):
            self._add("range-narrowed", steps, [BACKWARD], detail)
        else:
            self._add("range-changed", steps, [BACKWARD, FORWARD], detail)

    def _shown(self, values: Sequence[Any]) -> str:
        return _shown(values) if self.show_values else count(len(values), "value")

    def _arrays(self, old: SchemaSide, new: SchemaSide, steps: Steps) -> None:
        was, now = SchemaPlace.of(old.reads), SchemaPlace.of(new.reads)
        writes = SchemaPlace.of(old.writes), SchemaPlace.of(new.writes)
        self._span("items", was.items_span, now.items_span, steps)
        for number in range(max(was.prefixes, now.prefixes)):
            self.compare(
                SchemaSide(was.prefix(number), writes[0].prefix(number)),
                SchemaSide(now.prefix(number), writes[1].prefix(number)),
                (*steps, number),
            )
        self.compare(
            SchemaSide(was.items(), writes[0].items()),
            SchemaSide(now.items(), writes[1].items()),
            (*steps, Wild.EVERY),
        )

    def _objects(self, old: SchemaSide, new: SchemaSide, steps: Steps) -> None:
        was, now = SchemaPlace.of(old.reads), SchemaPlace.of(new.reads)
        wrote, writes = SchemaPlace.of(old.writes), SchemaPlace.of(new.writes)
        # What has no schema of its own is named only by what writers write.
        old_names = dict.fromkeys([*was.names, *wrote.names])
        new_names = dict.fromkeys([*now.names, *writes.names])
        for name in old_names:
            if name not in new_names:
                self._one_sided(name, (was, wrote), (now, writes), steps, removed=True)
        for name in new_names:
            if name not in old_names:
                self._one_sided(name, (now, writes), (was, wrote), steps, removed=False)
        for name in (each for each in old_names if each in new_names):
            at = (*steps, name)
            if name in now.required - was.required:
                self._add("field-required", at, [BACKWARD])
            elif name in was.required - now.required:
                self._add("field-optional", at, [FORWARD])
            self.compare(
                SchemaSide(was.named(name), wrote.named(name)),
                SchemaSide(now.named(name), writes.named(name)),
                at,
            )
        if was.closed != now.closed:
            loose = not wrote.closed if now.closed else not writes.closed
            direction = BACKWARD if now.closed else FORWARD
            self._add("closed" if now.closed else "opened", steps, [direction] if loose else [])
        elif not was.closed:
            self.compare(
                SchemaSide(was.others(), wrote.others()),
                SchemaSide(now.others(), writes.others()),
                (*steps, Wild.EVERY),
            )

    def _one_sided(
        self,
        name: str,
        has: tuple[SchemaPlace, SchemaPlace],
        lacks: tuple[SchemaPlace, SchemaPlace],
        steps: Steps,
        *,
        removed: bool,
    ) -> None:
        """A field that only one of two schemas has; of each, what readers take and writers write.
        `removed`: the old one has it, else the new one.
        """
        reads, writes = has
        others_read, others_write = lacks
        breaking: set[Direction] = set()
        # Who reads by the schema without the field may meet it.
        if not _all_taken(others_read.member(name), writes.named(name)):
            breaking.add(BACKWARD if removed else FORWARD)
        # And who reads by the one that has it may miss it, or meet another one.
        required, other = name in reads.required, others_write.member(name)
        if required or (other and not _all_taken(reads.named(name), other)):
            breaking.add(FORWARD if removed else BACKWARD)
        at, kind = (*steps, name), "field-removed" if removed else "field-added"
        self._add(f"required-{kind}" if required else kind, at, breaking)
        self._note(at, reads.named(name), removed=removed)


def similar(old: object, new: object) -> bool:
    """Whether one name may be another, written differently: customerId, customer_id, customer."""
    was, now = (re.sub(r"[^a-z0-9]", "", str(each).lower()) for each in (old, new))
    return was == now or difflib.SequenceMatcher(None, was, now).ratio() >= _SIMILAR


def _all_taken(readers: Sequence[CanonicalSchema], written: Sequence[CanonicalSchema]) -> bool:
    """Whether it is proven that all that is written at a place is taken there."""
    return all(any(proves(reader, each) for reader in readers) for each in written)


def _judged(old: SchemaSide, new: SchemaSide) -> list[Direction]:
    backward = [] if _all_taken(new.reads, old.writes) else [BACKWARD]
    return backward + ([] if _all_taken(old.reads, new.writes) else [FORWARD])


def _not_in(types: set[str], others: set[str]) -> set[str]:
    """Types that others do not have; an integer is a number too."""
    return {
        each
        for each in types
        if each not in others and not (each == "integer" and "number" in others)
    }


def _other_values(place: SchemaPlace, other: SchemaPlace) -> list[Any]:
    """The constants of a place that another does not have; 1 is none of true."""
    known = {value_key(each) for each in other.constants}
    return [each for each in place.constants if value_key(each) not in known]


def _listed(names: Iterable[str]) -> str:
    return " or ".join(sorted(names)) or "nothing"


def _shown(values: Sequence[Any]) -> str:
    """Values as a detail names them."""
    texts = [json.dumps(each, ensure_ascii=False, default=str) for each in values[:10]]
    return ", ".join(texts) + (f" and {len(values) - 10} more" if len(values) > 10 else "")
