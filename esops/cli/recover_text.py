"""How the plan of `esops projection recover` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esops.rebuild.recovery import RecoveryPlan, VersionRecovery
    from esops.term import Output


def show(output: Output, found: RecoveryPlan) -> None:
    """Print what becomes of each version, and what the operator has to do then."""
    output.line(
        f"{found.projection} over store {found.store}, whose head is {found.head or 'none'}"
    )
    for each in found.versions:
        version = each.version
        at = f" at {version.position}" if version.position is not None else ""
        output.line(f"  v{version.version} ({version.state}{at}): {_outcome(each)}")
        if each.reason is not None:
            output.line(f"    why: {each.reason}")
        if each.shared is not None:
            output.line(f"    both histories have the same events up to position {each.shared}")
    if not found.versions:
        output.line("  it has no version")
    for command in found.commands:
        output.line(f"Then run: {command}")
    if not found.needed and not found.commands:
        output.line("Nothing has to be done.")


def _outcome(each: VersionRecovery) -> str:
    if each.outcome == "fine":
        return "it is of this log"
    if each.outcome == "kept":
        return "all its events are in this log; it continues where it is"
    if each.outcome == "set back":
        return f"no event after {each.to} was applied; it is set back to there and continues"
    if each.outcome == "application":
        return "the application keeps it, at a position that its log does not have"
    if each.outcome == "abort":
        return "it is being built from events that the store does not have any more"
    if each.version.lost is not None:
        return "it was given up: it serves as it is, until you rebuild"
    return (
        "it may have applied events that the store does not have any more; it is given up: it "
        "serves as it is, and nothing follows it"
    )
