"""esops' own commands that need the user's code, in a process of their own: the code is that on
disk now, what it prints reaches nobody, and it can be ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esops.errors import EsopsError, Stopped, Unavailable

LIMIT = 120.0
"""Seconds."""


def run(config: Path, command: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """What a command answers as JSON about some projections. Raises an EsopsError with what it says
    itself, and Stopped where it takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="esops-mcp-") as folder:
        # In a file: the user's code may print.
        result = Path(folder, "result.json")
        options = ["--output", "json", "-o", str(result), "--quiet", "--config", str(config)]
        try:
            done = subprocess.run(  # noqa: S603 - this program itself
                [sys.executable, "-m", "esops", *command, *options, "--", *names],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Stopped(
                f"it took longer than {LIMIT:.0f} s and was ended",
                hint="Ask for less, such as a smaller sample, or run it at a terminal.",
            ) from None
        try:
            found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise _error(done.stderr, done.returncode) from None
    return found


def _error(text: str, code: int) -> EsopsError:
    """The error that a command has printed."""
    found = {"error": "", "hint": ""}
    for line in text.splitlines():
        key, separator, rest = line.partition(": ")
        if separator and key in found:
            found[key] = rest
    message = found["error"] or f"the command ended with exit code {code}"
    return Unavailable(message, hint=found["hint"] or None)
