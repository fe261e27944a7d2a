"""Whether a process that has run for a while would load the same code if it started now."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from esops.config import Config

_Stamp = tuple[int, int, int, int] | None
"""Device, inode, size and time of change; None where there is no such file."""


class LoadedFiles:
    """The files that this process has loaded, as they were then."""

    def __init__(self, config: Config) -> None:
        """To be made when the process begins."""
        self._config = config
        self._began = time.time()
        self._stamps: dict[str, _Stamp] = {}

    def changed(self) -> bool:
        """Whether one of them is another one now. In doubt it is."""
        for path in (*_of_modules(), *self._of_project()):
            try:
                found = Path(path).stat()
            except OSError:
                stamp, changed_at = None, 0.0
            else:
                stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
                # Also of one that was put in the place of another with an older time.
                changed_at = found.st_ctime
            if changed_at >= self._began or self._stamps.setdefault(path, stamp) != stamp:
                return True
        return False

    def _of_project(self) -> Iterator[str]:
        yield str(self._config.path)
        for settings in self._config.projections.values():
            for pattern in settings.fingerprint:
                yield from map(str, sorted(Path(self._config.directory).glob(pattern)))


def _of_modules() -> list[str]:
    modules: Mapping[str, object] = dict(sys.modules)
    files = (getattr(module, "__file__", None) for module in modules.values())
    return sorted({each for each in files if isinstance(each, str)})
