"""Asks a module of esops something in a new process, in which nothing was imported before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

_PATIENCE_SECONDS = 60


def ask(
    module: str, task: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """What `python -m module` makes of a task: JSON on its input, and an object as the last line of
    its output. None where it gives no answer.
    """
    # -P: a module of the project named like one of ours must not be imported instead.
    command = [sys.executable, "-P", "-m", module]
    try:
        done = subprocess.run(  # noqa: S603 - our own module, by this interpreter
            command,
            input=json.dumps(task),
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return found
