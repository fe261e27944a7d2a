"""What the streams that are still open say about an old version, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta

from esops.schema.inventory import SHORTEST, Inventory
from esops.schema.type_inventory import TypeInventory, TypeVersion
from esops.wording import count

_LISTED = 10
"""Names in one sentence."""


def sentences(found: Inventory) -> Iterator[str]:
    """For the versions that are not written any more: who still has them, and for how long. What
    holds for several of them is said once.
    """
    unknown: list[tuple[TypeInventory, str]] = []
    gone: list[str] = []
    for type_ in found.ordered():
        for version in type_.ordered():
            # Where nothing is known to close, open streams tell nothing.
            closes = found.rule.types(type_.category) or not version.open_streams
            if not closes or not type_.superseded(version):
                continue
            name = named(type_, version)
            if not version.open_streams:
                gone.append(name)
                continue
            days = found.last_closes_in(type_, version)
            have = f"{count(version.open_streams, 'open stream has', 'open streams have')} it"
            if days is None or found.window is None:
                unknown.append((type_, f"{name}: {have}"))
                continue
            closed = (
                f"{version.closed_since:,} closed in {_about(found.window / timedelta(days=1))}"
            )
            yield (
                f"{name}: {have}; at the present rate ({closed}) the last one closes in "
                f"{_about(days)}, then no open stream needs its upcaster"
            )
    if len(unknown) == 1:
        yield f"{unknown[0][1]}; {_why(found)}, so it is not known when the last one will close"
    elif unknown:
        types = list(dict.fromkeys(type_.base for type_, _ in unknown))
        yield (
            f"{len(unknown):,} old versions and shapes are in open streams ({_listed(types)}); "
            f"{_why(found)}, so it is not known when the last one will close"
        )
    if gone:
        its = "its upcaster" if len(gone) == 1 else "their upcasters"
        yield (
            f"{_listed(gone)}: no open stream has {'it' if len(gone) == 1 else 'them'} any more; "
            f"rebuilds, and whoever loads a closed stream, still need {its}"
        )


def _why(found: Inventory) -> str:
    """Why it is not known when the last open stream closes."""
    if found.window is None:
        return "the events have no times"
    if found.window < SHORTEST:
        return "the store has the events of less than an hour"
    return "none of them closed lately"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def closing_note(found: Inventory) -> str:
    """What counts as closed, and what does not."""
    rule = found.rule
    open_ = any(v.open_streams for each in found.types.values() for v in each.versions.values())
    if found.types and not open_ and not rule.sources:
        return "No stream is open: all of them are archived."
    if not rule.sources:
        return (
            "No type of event closes a stream here, so every stream that is not archived counts as "
            "open. Name such types with --closed-by, or with closed_by in a policy."
        )
    without = sorted(
        {each.category or "-" for each in found.types.values() if not rule.types(each.category)}
    )
    note = f"A stream is closed by the types of {', '.join(rule.sources)}, or archived."
    if without:
        note += f" None closes streams of {', '.join(without)}: those count as open."
    if rule.not_used:
        note += (
            f" Not used: {', '.join(rule.not_used)}, since no category is in the pattern of "
            "stream names."
        )
    return note


def named(type_: TypeInventory, version: TypeVersion) -> str:
    """A version, as a person tells it from others of its type."""
    stored = f" ({version.stored})" if version.stored != type_.base else ""
    explicit = f" version {version.explicit}" if version.explicit else ""
    return f"{type_.base}{stored}{explicit} shape {version.shape.hash}"


def _about(days: float) -> str:
    """A span of time with no more precision than there is."""
    if days < 1:
        hours = math.ceil(days * 24)
        return "an hour" if hours == 1 else f"{hours} hours"
    if days <= 60:
        return count(math.ceil(days), "day")
    if days <= 730:
        return count(math.ceil(days / 30.44), "month")
    return "more than 2 years"
