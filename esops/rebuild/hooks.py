"""Hooks: the operator's programs that a rebuild runs on its way.

They are run without a shell; what they need to know is in their environment.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from esops.errors import Stopped, UsageError
from esops.executables import check_executable
from esops.readmodel.registry import Version
from esops.rebuild import journal
from esops.settings import HookSettings, ProjectionSettings

_LIVE = (journal.VERIFIED, journal.SWITCHED)
_HOOKS = ("before_catch_up", "before_switch", "switch", "after_switch", "on_failure")
Facts = Mapping[str, object]


def facts_of(
    projection: str, state: str, from_version: int | None, to: Version
) -> dict[str, object]:
    """What every program gets to know of a switch or a rebuild.

    `phase` is "catching-up" while old events are applied again, so that a program can suppress side
    effects; then it is "live".
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
    facts: Facts,
    limit: timedelta,
    say: Callable[[str], None],
) -> None:
    """Run a program with `facts` as `ESOPS_*` in its environment, and pass its output on.

    It may be run again after a crash, so it must be idempotent. What it leaves running in the
    background is not waited for.

    Raises Stopped where it fails or takes longer than `limit`, UsageError where it cannot be
    started.
    """
    environment = {
        f"ESOPS_{name.upper()}": "" if value is None else str(value)
        for name, value in facts.items()
    }
    say(f"{what}: {' '.join(command)}")
    # A file and no pipe: what a program leaves running in the background keeps its output open.
    with tempfile.TemporaryFile() as output:
        try:
            code = subprocess.run(  # noqa: S603  # the user's own program, from the configuration, without a shell
                list(command),
                cwd=folder,
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=limit.total_seconds(),
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise Stopped(
                f"{what} took longer than {limit.total_seconds():.0f} s and was killed"
            ) from None
        except OSError as error:
            raise UsageError(f"{what}: cannot run {command[0]!r}: {error.strerror}") from None
        finally:
            # Also where it fails: its last lines usually say why.
            output.seek(0)
            for line in output.read().decode(errors="replace").splitlines():
                say(f"{what}: {line}")
    if code:
        raise Stopped(
            f"{what} ended with exit code {code}",
            hint="Fix it and continue with --resume, or drop the rebuild with --abort.",
        )


def check_executables(settings: ProjectionSettings, name: str, folder: Path) -> None:
    """Raises UsageError where one of a projection's programs cannot be run: found before the work
    of hours, and before a switch.
    """
    commands = {each: getattr(settings.hooks, each) for each in _HOOKS}
    commands = {f"hooks.{each}": command for each, command in commands.items()}
    for key in ("command", "start", "handover"):
        commands[key] = getattr(settings, key)
    for key, command in commands.items():
        check_executable(f"projections.{name}.{key}", command, folder)


@dataclass(frozen=True)
class Hooks:
    """A projection's hooks; `folder` is where they are run."""

    settings: HookSettings
    folder: Path
    say: Callable[[str], None]

    def run(self, name: str, facts: Facts) -> bool:
        """Run a hook; returns False where none is configured. Raises as run_program does."""
        command: Sequence[str] = getattr(self.settings, name)
        if not command:
            return False
        facts = {"hook": name.replace("_", "-"), **facts}
        run_program(
            f"hook {name.replace('_', '-')}",
            command,
            self.folder,
            facts,
            self.settings.timeout,
            self.say,
        )
        return True


@dataclass(frozen=True, slots=True)
class MoveReaders:
    """The program that moves the readers itself, and how long it may take; `run` gets the version
    that they are moved to.
    """

    run: Callable[[Version], object]
    limit: timedelta


def move_readers(hooks: Hooks, facts: Facts) -> MoveReaders:
    """The hook `switch`, to be run in the switch's transaction."""

    def run(to: Version) -> None:
        # How far it is now, and not when the switch began.
        now = {"position": to.position, "events": to.events, "rows": to.rows}
        hooks.run("switch", {**facts, **now})

    return MoveReaders(run, hooks.settings.timeout)
