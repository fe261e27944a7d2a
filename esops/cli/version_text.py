"""What is said of a projection's versions beside their table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esops.rebuild.outcome import rows_of_old_code


def notes(versions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each thing that an operator should know of a version."""
    for each in versions:
        for accepted in each.get("accepted_code", ()):
            yield (
                f"v{each['version']}: {rows_of_old_code(accepted['position'])} (--accept-code on "
                f"{accepted['host']}, {accepted['at']:%Y-%m-%d %H:%M} UTC)"
            )
