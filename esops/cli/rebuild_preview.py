"""What `esops rebuild --dry-run` prints: plans, or what --resume and --abort would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from esops.config import Config
    from esops.rebuild.api import RebuildRequest
    from esops.term import Output


def show_plans(
    output: Output, config: Config, names: Sequence[str], request: RebuildRequest
) -> int:
    """Print the plans of new rebuilds; returns the exit code."""
    from esops.rebuild.api import plan
    from esops.rebuild.plan import without_repetition

    plans = plan(config, names, request)
    if output.as_json:
        documents = [each.as_dict() for each in plans]
        output.json(documents[0] if len(documents) == 1 else {"rebuilds": documents})
        return 0
    for each in without_repetition(plans, lambda name: config.readmodel_of(name).dsn):
        for line in each.lines():
            output.line(line)
    output.line("\nNothing was changed (--dry-run).")
    return 0


def show_resumption(
    output: Output, config: Config, names: Sequence[str], request: RebuildRequest
) -> int:
    """Print what would become of unfinished rebuilds; returns the exit code."""
    from esops.rebuild import steering

    action: Literal["resume", "abort"] = "abort" if request.action == "abort" else "resume"
    found = [steering.preview(config, name, action) for name in names or list(config.projections)]
    if output.as_json:
        output.json(found[0] if len(found) == 1 else {"rebuilds": found})
        return 0
    for each in found:
        about = f"rebuild {each['rebuild']} of {each['projection']}"
        if not each["possible"]:
            output.line(f"would refuse: {about} changes its tables in place and cannot be undone")
        elif action == "resume":
            at = f", at position {each['position']}" if each["position"] else ""
            output.line(f"would resume {about}, from state {each['state']}{at}")
            if each["reason"]:
                output.line(f"it is paused: {each['reason']}")
            if each["max_diff"] and request.max_diff is None:
                output.line(
                    "it would compare again, and stop again if as many rows differ, unless you "
                    f"add --max-diff {each['max_diff']}"
                )
            if each["code_changed"]:
                output.line(_about_code(each, accepted=bool(request.accept_code)))
        else:
            output.line(f"would end {about}, and drop {', '.join(each['drops']) or 'nothing'}")
    output.line("\nNothing was changed (--dry-run).")
    return 0


def _about_code(preview: Mapping[str, Any], *, accepted: bool) -> str:
    from esops.rebuild.outcome import rows_of_old_code

    old = rows_of_old_code(preview["position"])
    if accepted:
        return f"the code has changed: {old} (--accept-code)"
    if preview["begins_again"]:
        return f"the code has changed: it begins again. With --accept-code, {old}"
    return f"would refuse: the code has changed. With --accept-code, {old}"
