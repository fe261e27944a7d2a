"""The program that moves readers from one projection to another: an executable, no shell, told by its environment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from esops.errors import Stopped, UsageError
from esops.rebuild.server.journal import Version

LIMIT = 600.0
"""Seconds that it may take."""


def hand_over(
    command: Sequence[str], folder: Path, projection: str, old: Version | None, new: Version, say: Callable[[str], None]
) -> None:
    """Run the program, with its output passed on. It may be run again after a crash, so it must stand that.

    Raises Stopped where it fails or takes too long, UsageError where it cannot be started.
    """
    told = {
        "ESOPS_PROJECTION": projection,
        "ESOPS_FROM_VERSION": str(old.version) if old else "",
        "ESOPS_FROM": old.name if old else "",
        "ESOPS_TO_VERSION": str(new.version),
        "ESOPS_TO": new.name,
        "ESOPS_TO_RESULT": f"$projections-{new.name}-result",
    }
    say(f"handing over to {new.name}: {' '.join(command)}")
    try:
        done = subprocess.run(  # noqa: S603  # the user's own program, from the configuration, without a shell
            list(command), cwd=folder, env={**os.environ, **told}, capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        raise Stopped(
            f"the hand-over took longer than {LIMIT:.0f} s and was ended",
            hint="Readers stay where they were, as far as esops knows.",
        ) from None
    except OSError as error:
        raise UsageError(f"the hand-over {command[0]!r} cannot be run: {error.strerror}", hint="Look at `handover`.") from None
    for line in (done.stdout + done.stderr).splitlines():
        say(f"hand-over: {line}")
    if done.returncode:
        raise Stopped(
            f"the hand-over ended with {done.returncode}; nothing was noted as switched",
            hint="Mend it and go on with --resume, or give the rebuild up with --abort.",
        )
