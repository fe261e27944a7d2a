"""Where an interpreter that starts now looks for modules.

multiprocessing gives a new process the path of its parent, which is as old as that one: what an
installation has changed since, such as a .pth file in site-packages, would not be seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import structlog

log = structlog.get_logger("esops.run")
_FLAGS = {"isolated": "-I", "ignore_environment": "-E", "no_user_site": "-s", "no_site": "-S"}
_LIMIT = 30.0
"""Seconds."""


def of_new_interpreter() -> list[str] | None:
    """What sys.path is there, without the folder of a script; None where it does not say."""
    flags = [option for name, option in _FLAGS.items() if getattr(sys.flags, name)]
    program = "import json, sys; print(); print(json.dumps(sys.path))"
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter itself
            [sys.executable, "-P", *flags, "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=_LIMIT,
            check=True,
        )
        # What runs as the interpreter starts may print, too.
        return [str(each) for each in json.loads(done.stdout.splitlines()[-1])]
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


class ImportPath:
    """The path that a process gives to those that it starts."""

    def __init__(self, project: Path) -> None:
        """`project` is the folder of esops.toml, which each process finds for itself."""
        known = of_new_interpreter() or []
        left_out = {*known, str(project)}
        self._own = [each for each in sys.path if each not in left_out]

    def renew(self) -> None:
        """To be called before a process is started."""
        found = of_new_interpreter()
        if found is None:
            log.warning(
                "it is not known where Python looks for modules now; the new process looks where "
                "this one does"
            )
            return
        sys.path[:] = [*self._own, *found]


def is_current(path: list[str]) -> bool:
    """Whether an interpreter that starts now would look where `path` says, which is that of a
    process before its code was loaded. In doubt it would not.
    """
    found = of_new_interpreter()
    return found is not None and path[-len(found) :] == found
