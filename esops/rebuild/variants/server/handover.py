"""The program that moves readers from one projection to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from esops.rebuild.hooks import run_program
from esops.rebuild.variants.server.journal import Version

LIMIT = timedelta(minutes=10)
"""How long it may take."""


def hand_over(
    command: Sequence[str],
    folder: Path,
    projection: str,
    old: Version | None,
    new: Version,
    say: Callable[[str], None],
) -> None:
    """Run it. Raises Stopped where it fails or takes too long: nothing is switched then; UsageError
    where it cannot be started.
    """
    told = {
        "projection": projection,
        "from_version": old.version if old else None,
        "from": old.name if old else None,
        "to_version": new.version,
        "to": new.name,
        "to_result": f"$projections-{new.name}-result",
    }
    run_program("hand-over", command, folder, told, LIMIT, say)
