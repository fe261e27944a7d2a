"""Programs of the operator's that a rebuild runs on its way: executables, no shell, told by their
environment.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from esops.errors import Stopped, UsageError
from esops.readmodel.registry import Version
from esops.rebuild import journal
from esops.settings import HookSettings

_LIVE = (journal.VERIFIED, journal.SWITCHED)
Told = Mapping[str, object]


def told_of(
    projection: str, state: str, from_version: int | None, to: Version
) -> dict[str, object]:
    """What every program is told of a switch or a rebuild.

    `phase`: whether side effects of events would fire again.
    """
    return {
        "projection": projection,
        "state": state,
        "phase": "live" if state in _LIVE else "catching-up",
        "from_version": from_version,
        "to_version": to.version,
        "position": to.position,
        "tables": " ".join(".".join(table) for table in to.tables.values()),
    }


def run_program(
    what: str,
    command: Sequence[str],
    folder: Path,
    told: Told,
    limit: timedelta,
    say: Callable[[str], None],
) -> None:
    """Run a program with `ESOPS_*` in its environment and its output passed on.

    It may be run again after a crash, so it must stand that.

    Raises Stopped where it fails or takes longer than `limit`, UsageError where it cannot be
    started.
    """
    environment = {
        f"ESOPS_{name.upper()}": "" if value is None else str(value) for name, value in told.items()
    }
    say(f"{what}: {' '.join(command)}")
    try:
        done = subprocess.run(  # noqa: S603  # the user's own program, from the configuration, without a shell
            list(command),
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=limit.total_seconds(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Stopped(
            f"{what} took longer than {limit.total_seconds():.0f} s and was ended"
        ) from None
    except OSError as error:
        raise UsageError(f"{what}: {command[0]!r} cannot be run: {error.strerror}") from None
    for line in (done.stdout + done.stderr).splitlines():
        say(f"{what}: {line}")
    if done.returncode:
        raise Stopped(
            f"{what} ended with {done.returncode}",
            hint="Mend it and go on with --resume, or give the rebuild up with --abort.",
        )


@dataclass(frozen=True)
class Hooks:
    """A projection's hooks."""

    settings: HookSettings
    folder: Path
    say: Callable[[str], None]

    def run(self, name: str, told: Told) -> bool:
        """Run one, where there is one; whether there was. Raises as run_program does."""
        command: Sequence[str] = getattr(self.settings, name)
        if not command:
            return False
        told = {"hook": name.replace("_", "-"), **told}
        run_program(
            f"hook {name.replace('_', '-')}",
            command,
            self.folder,
            told,
            self.settings.timeout,
            self.say,
        )
        return True
