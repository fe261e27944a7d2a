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
    from esops.term import Output

_WHO = {
    "backward": "breaks readers of old events",
    "forward": "breaks old readers of new events",
    "both": "breaks readers of old events, and old readers of new events",
    "none": "breaks nothing",
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
            _one_type(output, comparison, comparison.changes)


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
            hints = [change for change in comparison.changes if change.source is not None]
            _one_type(output, comparison, [*broken, *hints])


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
    listed = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
    output.line(f"{what}: not {_COMPATIBLE[found.mode]} because of {visible(listed)}")


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
        value = json.dumps(refusal.value, ensure_ascii=False, default=str)
        if len(value) > _LONGEST:
            value = value[:_LONGEST] + " …"
        output.line(f"  {who} that the {readers} schema refuses ({refusal.rule}): {visible(value)}")
    output.line()


def _consequences(change: SchemaChange, advice: str) -> list[str]:
    if change.source is not None:
        return [advice]
    if not change.breaking:
        return [_WHO["none"]]
    unproven = ", or may: it cannot be proven" if change.unproven else ""
    return [_WHO[change.breaks] + unproven, advice]
