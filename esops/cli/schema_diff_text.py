"""What `esops schema diff` and `esops schema compat` write for a person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from esops.escaping import visible
from esops.wording import count

if TYPE_CHECKING:
    from esops.schema.compare import SetComparison, TypeComparison
    from esops.schema.compatibility import Comparisons
    from esops.schema.naming import SchemaChange
    from esops.schema.rules import Direction
    from esops.term import Output

_CANNOT: dict[Direction, str] = {
    "backward": "new code cannot read old events",
    "forward": "old code cannot read new events",
}
_UNPROVEN: dict[Direction, str] = {
    "backward": "it cannot be proven that new code can read old events",
    "forward": "it cannot be proven that old code can read new events",
}
_COMPATIBLE = {
    "backward": "backward compatible",
    "forward": "forward compatible",
    "full": "fully compatible",
}
_LONGEST = 200
"""Characters of an example."""


def changes(output: Output, found: Comparisons) -> None:
    """All changes, by type."""
    for each in found.sets:
        if len(found.sets) > 1:
            output.line(f"{each.old} → {each.new}")
        for comparison in each.types:
            hints = _hints(comparison)
            rest = [change for change in comparison.changes if change not in hints]
            _one_type(output, comparison, [*hints, *rest])


def breaks(output: Output, found: Comparisons) -> None:
    """The changes that break what the mode asks for, by type."""
    wanted = set(found.directions)
    for each in found.sets:
        if len(found.sets) > 1:
            output.line(f"{each.old} → {each.new}: {_verdict(each, found)}")
        for comparison in each.types:
            if comparison.compatible(found.directions):
                continue
            broken = [change for change in comparison.changes if change.breaking & wanted]
            _one_type(output, comparison, [*_hints(comparison), *broken])


def _hints(comparison: TypeComparison) -> list[SchemaChange]:
    """The renames and moves that changes look like: what to do about these depends on it."""
    return [change for change in comparison.changes if change.source is not None]


def last_line(output: Output, found: Comparisons) -> None:
    """What it comes to."""
    changed = {comparison.type for each in found.sets for comparison in each.types}
    total = sum(len(each.changes) for each in found.sets)
    if not total:
        output.line(f"no change: {_COMPATIBLE[found.mode]}")
        return
    against = f" against {len(found.sets)} old versions" if len(found.sets) > 1 else ""
    what = f"{count(total, 'change')} of {count(len(changed), 'event type')}{against}"
    if found.compatible:
        output.line(f"{what}: {_COMPATIBLE[found.mode]}")
        return
    broken = sorted(
        {
            comparison.type
            for each in found.sets
            for comparison in each.types
            if not comparison.compatible(found.directions)
        }
    )
    wanted = set(found.directions)
    breaking = sum(bool(change.breaking & wanted) for each in found.sets for change in each.changes)
    listed = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
    output.line(
        f"{what}, {breaking:,} breaking: not {_COMPATIBLE[found.mode]} because of {visible(listed)}"
    )


def _verdict(each: SetComparison, found: Comparisons) -> str:
    if each.compatible(found.directions):
        return f"{_COMPATIBLE[found.mode]}"
    return f"not {_COMPATIBLE[found.mode]}"


def _one_type(output: Output, comparison: TypeComparison, shown: Sequence[SchemaChange]) -> None:
    from esops.schema.rules import RULES

    output.line(visible(comparison.type))
    for each in shown:
        rule = RULES[each.kind]
        where = "" if not each.steps else f"{visible(each.path)}: "
        detail = f" ({visible(each.detail)})" if each.detail else ""
        output.line(f"  {where}{rule.what}{detail}")
        for line in _consequences(each, rule.advice):
            output.line(f"      {line}")
    for direction, refusal in comparison.refusals.items():
        if not any(direction in each.breaking for each in shown):
            continue
        who = "an old event" if direction == "backward" else "a new event"
        readers = "new" if direction == "backward" else "old"
        what = f"  {who} that the {readers} schema refuses ({refusal.rule})"
        if comparison.of_store:
            output.line(f"{what}: not shown, since it may have values of real events")
            continue
        value = json.dumps(refusal.value, ensure_ascii=False, default=str)
        if len(value) > _LONGEST:
            value = value[:_LONGEST] + " …"
        output.line(f"{what}: {visible(value)}")
    output.line()


def _consequences(change: SchemaChange, advice: str) -> list[str]:
    from esops.schema.rules import DIRECTIONS

    if change.source is not None:
        return [advice]
    if not change.breaking:
        return ["breaks nothing"]
    said = [
        (_UNPROVEN if each in change.unproven else _CANNOT)[each]
        for each in DIRECTIONS
        if each in change.breaking
    ]
    return [", and ".join(said), advice]
