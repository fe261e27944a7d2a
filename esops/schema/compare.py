"""Compares the schemas of two sets, type by type: what changed, what it breaks, and the proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from jsonschema_rs import CanonicalSchema

from esops.exact_json import WrittenNumber
from esops.json_paths import Steps, Wild, written
from esops.schema.containment import ComparedSchema, ContainmentAnswer, Refusal, Verdict, takes_all
from esops.schema.files import SchemaSet
from esops.schema.naming import Naming, SchemaChange, SchemaSide, similar
from esops.schema.rules import BACKWARD, DIRECTIONS, FORWARD, Direction
from esops.schema.writers import read_by, written_by


@dataclass
class TypeComparison:
    """One event type in two sets."""

    type: str
    changes: list[SchemaChange]
    verdicts: dict[Direction, Verdict]
    refusals: dict[Direction, Refusal] = field(default_factory=dict)
    """For each direction that breaks: a value that is written, and refused by its readers."""
    of_store: bool = False
    """Whether one side is what a store has, so that values may be of real events."""

    def compatible(self, directions: Sequence[Direction]) -> bool:
        """Whether it is proven that nothing breaks."""
        return all(self.verdicts[each] is Verdict.YES for each in directions)


@dataclass
class SetComparison:
    """Two sets of schemas."""

    old: str
    new: str
    types: list[TypeComparison]

    @property
    def changes(self) -> list[SchemaChange]:
        """All changes, by type."""
        return [change for each in self.types for change in each.changes]

    def compatible(self, directions: Sequence[Direction] = DIRECTIONS) -> bool:
        """Whether it is proven that nothing breaks."""
        return all(each.compatible(directions) for each in self.types)

    def as_dict(self, directions: Sequence[Direction] = DIRECTIONS) -> dict[str, Any]:
        """The fields of `--output json`."""
        return {
            "old": self.old,
            "new": self.new,
            "changes": [each.as_dict() for each in self.changes],
            "compatible": self.compatible(directions),
            "backward": self.compatible([BACKWARD]),
            "forward": self.compatible([FORWARD]),
            "witnesses": [
                {
                    "type": each.type,
                    "direction": direction,
                    "path": written(steps_of(refusal.path)),
                    "rule": refusal.rule,
                    "value": None if each.of_store else printable(refusal.value),
                }
                for each in self.types
                for direction, refusal in each.refusals.items()
            ],
        }


def compare_sets(old: SchemaSet, new: SchemaSet, *, strict: bool = False) -> SetComparison:
    """Compare two sets. `strict`: an open object may have been written with any members, and
    readers have to know every type.
    """
    gone = [each for each in old.types if each not in new.types]
    came = [each for each in new.types if each not in old.types]
    found = []
    for name in sorted({*old.types, *new.types}):
        if name in old.types and name in new.types:
            found.append(compare_types(name, old, new, strict=strict))
        else:
            found.append(_only_in_one(name, gone, came, strict=strict))
    return SetComparison(old.where, new.where, [each for each in found if each.changes])


def _only_in_one(name: str, gone: list[str], came: list[str], *, strict: bool) -> TypeComparison:
    removed = name in gone
    breaking: list[Direction] = [BACKWARD] if removed else [FORWARD] if strict else []
    others = [each for each in (came if removed else gone) if similar(each, name)]
    detail = f"looks like {others[0]}, which is {'new' if removed else 'gone'}" if others else ""
    kind = "type-removed" if removed else "type-added"
    change = SchemaChange(name, kind, (), frozenset(breaking), detail=detail)
    verdicts = {each: Verdict.NO if each in breaking else Verdict.YES for each in DIRECTIONS}
    return TypeComparison(name, [change], verdicts)


def compare_types(
    name: str, old: SchemaSet, new: SchemaSet, *, strict: bool = False
) -> TypeComparison:
    """Compare what two sets say of one type."""
    was, now = old.types[name].payloads, new.types[name].payloads
    if was != now:
        return _other_payloads(name, was, now)
    said = read_by if strict else written_by
    reads = [ComparedSchema(read_by(each, name)) for each in (old, new)]
    writes = [ComparedSchema(said(each.written or each, name)) for each in (old, new)]
    if reads[0].text == reads[1].text or "JSON" not in now:
        return TypeComparison(name, [], dict.fromkeys(DIRECTIONS, Verdict.YES))
    answers: dict[Direction, ContainmentAnswer] = {
        BACKWARD: takes_all(reads[1], writes[0]),
        FORWARD: takes_all(reads[0], writes[1]),
    }
    normal = [(r.normals, w.normals) for r, w in zip(reads, writes, strict=True)]
    of_store = old.written is not None or new.written is not None
    changes = _named(Naming(name, show_values=not of_store), normal)
    return TypeComparison(
        name,
        _settled(name, changes, answers),
        {direction: each.verdict for direction, each in answers.items()},
        {direction: each.refusal for direction, each in answers.items() if each.refusal},
        of_store,
    )


def _other_payloads(name: str, was: frozenset[str], now: frozenset[str]) -> TypeComparison:
    """One is JSON and the other is not, so that nothing below can be compared."""
    detail = f"{' or '.join(sorted(was))} → {' or '.join(sorted(now))}"
    if was < now or now < was:
        kind, breaking = ("type-widened", FORWARD) if was < now else ("type-narrowed", BACKWARD)
        unproven = frozenset(DIRECTIONS) - {breaking}
        change = SchemaChange(name, kind, (), frozenset(DIRECTIONS), unproven, detail)
        verdicts = {
            each: Verdict.NO if each == breaking else Verdict.UNKNOWN for each in DIRECTIONS
        }
        return TypeComparison(name, [change], verdicts)
    change = SchemaChange(name, "type-changed", (), frozenset(DIRECTIONS), detail=detail)
    return TypeComparison(name, [change], dict.fromkeys(DIRECTIONS, Verdict.NO))


def _named(
    naming: Naming, normal: list[tuple[list[CanonicalSchema] | None, list[CanonicalSchema] | None]]
) -> list[SchemaChange]:
    (old_reads, old_writes), (new_reads, new_writes) = normal
    if old_reads is None or old_writes is None or new_reads is None or new_writes is None:
        return [SchemaChange(naming.type, "rule-changed")]
    naming.compare(SchemaSide(old_reads, old_writes), SchemaSide(new_reads, new_writes))
    return naming.finish()


def _settled(
    name: str, changes: list[SchemaChange], answers: dict[Direction, ContainmentAnswer]
) -> list[SchemaChange]:
    """The changes, with what the comparison of the whole schemas says of them."""
    for direction, answer in answers.items():
        blamed = [each for each in changes if direction in each.breaking]
        if answer.verdict is Verdict.YES:
            changes = [replace(each, breaking=each.breaking - {direction}) for each in changes]
        elif not blamed:
            known = answer.verdict is Verdict.NO
            path = steps_of(answer.refusal.path) if answer.refusal else ()
            kind = "rule-changed" if known else "not-judged"
            detail = f"refused by {answer.refusal.rule}" if answer.refusal else ""
            changes = _merged(
                changes,
                SchemaChange(
                    name,
                    kind,
                    path,
                    frozenset({direction}),
                    frozenset() if known else frozenset({direction}),
                    detail,
                ),
            )
        elif answer.verdict is Verdict.UNKNOWN:
            changes = [
                replace(each, unproven=each.unproven | {direction}) if each in blamed else each
                for each in changes
            ]
    if all(each.verdict is Verdict.YES for each in answers.values()):
        # The same values, said in another way.
        changes = [each for each in changes if each.kind != "rule-changed"]
    return changes


def _merged(changes: list[SchemaChange], change: SchemaChange) -> list[SchemaChange]:
    """The changes with one more, which is put together with one of its kind at its place."""
    for number, each in enumerate(changes):
        if each.kind == change.kind and each.steps == change.steps:
            both = replace(
                each,
                breaking=each.breaking | change.breaking,
                unproven=each.unproven | change.unproven,
                detail=each.detail or change.detail,
            )
            return [*changes[:number], both, *changes[number + 1 :]]
    return [*changes, change]


def printable(value: Any) -> Any:
    """A value whose long numbers are written as they are."""
    match value:
        case dict():
            return {name: printable(each) for name, each in value.items()}
        case list():
            return [printable(each) for each in value]
        case Decimal():
            return WrittenNumber(str(value))
        case int() if not -(2**63) <= value < 2**64:
            return WrittenNumber(str(value))
        case _:
            return value


def steps_of(path: Sequence[str | int]) -> Steps:
    """A place in a value as a path to all like it: each element of an array."""
    return tuple(Wild.EVERY if isinstance(each, int) else each for each in path)
