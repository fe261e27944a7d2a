"""What is said of a projection's versions beside their table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esops.rebuild.outcome import rows_of_old_code
from esops.wording import count


def notes(name: str, versions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each thing that an operator should know of a projection's versions."""
    for each in versions:
        if dead := each.get("dead_letters"):
            yield (
                f"v{each['version']}: {count(dead, 'event')} became dead letters and are missing "
                f"from its rows; see: esops projection dead-letters {name}"
            )
        for accepted in each.get("accepted_code", ()):
            yield (
                f"v{each['version']}: {rows_of_old_code(accepted['position'])} (--accept-code on "
                f"{accepted['host']}, {accepted['at']:%Y-%m-%d %H:%M} UTC)"
            )
