"""What the streams that are still open say about an old version, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta

from esops.schema.inventory import Inventory
from esops.schema.type_inventory import TypeInventory, TypeVersion
from esops.wording import count


def sentences(found: Inventory) -> Iterator[str]:
    """For each version that is not written any more: who still has it, and for how long."""
    for type_ in found.ordered():
        for version in type_.ordered():
            # Where nothing is known to close, open streams tell nothing.
            closes = found.rule.types(type_.category) or not version.open_streams
            if closes and type_.superseded(version):
                yield f"{named(type_, version)}: {_outlook(found, type_, version)}"


def closing_note(found: Inventory) -> str:
    """What counts as closed, and what does not."""
    rule = found.rule
    if not rule.sources:
        return (
            "No type of event closes a stream here, so every stream counts as open that the store "
            "has not archived. Name such types with --closed-by, or with closed_by in a policy."
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


def _outlook(found: Inventory, type_: TypeInventory, version: TypeVersion) -> str:
    streams = version.open_streams
    if not streams:
        return "no open stream has it any more; only what reads old events still needs its upcaster"
    have = f"{count(streams, 'open stream has', 'open streams have')} it"
    days = found.last_closes_in(type_, version)
    if days is None or found.window is None:
        return f"{have}; none of them closed lately, so it is not known when the last one will"
    closed = f"{version.closed_since:,} closed in {_about(found.window / timedelta(days=1))}"
    return (
        f"{have}; at the present rate ({closed}) the last one closes in {_about(days)}, then no "
        "open stream needs its upcaster"
    )


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
