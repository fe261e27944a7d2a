"""The operator's own programs, such as hooks: whether they can be run, before anything is begun."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from esops.errors import UsageError

_MOST_READ = 256
"""Bytes of a script's first line that a kernel looks at."""


def check_executable(what: str, command: Sequence[str], folder: Path) -> None:
    """Raises UsageError where a program that is run in `folder` cannot be run. `what` is the key of
    the configuration that names it; no command is right.
    """
    if not command:
        return
    problem = _problem(command[0], folder)
    if problem:
        raise UsageError(
            f"{what}: {problem}",
            hint=f"Correct {what} in esops.toml. A path in it begins at {folder}.",
        )


def _problem(program: str, folder: Path) -> str:
    # As exec does it: only a name without a slash is looked for in PATH.
    if os.sep not in program:
        return "" if shutil.which(program) else f"there is no program {program!r} in PATH"
    path = folder / program
    if not path.exists():
        return f"there is no program {program!r}"
    if path.is_dir():
        return f"{program!r} is a folder"
    if not os.access(path, os.X_OK):
        return f"{program!r} may not be run (chmod +x {program})"
    interpreter = _interpreter(path)
    if interpreter and not (folder / interpreter).exists():
        return f"{program!r} begins with #!{interpreter}, which is not there"
    return ""


def _interpreter(path: Path) -> str:
    """The program that a script names in its first line; empty where it is none."""
    try:
        with path.open("rb") as file:
            first = file.read(_MOST_READ)
    except OSError:
        return ""  # a program may be run that may not be read
    words = first[2:].split(b"\n", 1)[0].split() if first.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""
