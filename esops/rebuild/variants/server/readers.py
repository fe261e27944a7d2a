"""Moves readers from one projection in the server to another, by a program of the operator's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from esops.rebuild.hooks import run_program
from esops.rebuild.variants.server.journal import ServerVersion

_LIMIT = timedelta(minutes=10)


def move_readers(
    command: Sequence[str],
    folder: Path,
    projection: str,
    old: ServerVersion | None,
    new: ServerVersion,
    say: Callable[[str], None],
) -> None:
    """Run `projections.X.handover`.

    Raises Stopped where it fails or takes longer than ten minutes, and UsageError where it cannot
    be started; nothing is switched then.
    """
    # Readers of a result subscribe to its stream, so the program gets that name, too.
    facts = {
        "projection": projection,
        "from_version": old.version if old else None,
        "from": old.name if old else None,
        "to_version": new.version,
        "to": new.name,
        "to_result": f"$projections-{new.name}-result",
    }
    run_program("handover", command, folder, facts, _LIMIT, say)
