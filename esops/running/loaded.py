"""Whether a process that has run for a while would load the same code if it started now."""

from __future__ import annotations

import stat
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
        links: dict[Path, float] = {}
        for path in (*_of_modules(), *self._of_project()):
            stamp, changed_at = _look(path)
            # A link that was moved right after its module was loaded is not in what was noted.
            changed_at = max(changed_at, _links_made(Path(path).absolute(), links))
            if changed_at >= self._began or self._stamps.setdefault(path, stamp) != stamp:
                return True
        return False

    def note(self) -> None:
        """Note what has been loaded since, as it is now: to be called when code was loaded.

        Another release may take a file's place later that is older than this process, as where its
        folder is renamed.
        """
        for path in _of_modules():
            self._stamps.setdefault(path, _look(path)[0])

    def _of_project(self) -> Iterator[str]:
        yield str(self._config.path)
        for settings in self._config.projections.values():
            for pattern in settings.fingerprint:
                yield from map(str, sorted(Path(self._config.directory).glob(pattern)))


def _look(path: str) -> tuple[_Stamp, float]:
    """A file's stamp, and when it was changed or put in the place of another with an older time
    (seconds since 1970).
    """
    try:
        found = Path(path).stat()
    except OSError:
        return None, 0.0
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns), found.st_ctime


def _links_made(path: Path, known: dict[Path, float]) -> float:
    """When the symbolic links on the way to a file were made, at the latest (seconds since 1970); 0
    where there are none. `known` keeps what was found for each path.
    """
    if path in known:
        return known[path]
    made = known[path] = 0.0
    if path.parent != path:
        made = _links_made(path.parent, known)
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            target = path.parent / path.readlink()
            made = max(made, found.st_ctime, _links_made(target, known))
    except OSError:
        pass  # its stamp says that it is gone
    known[path] = made
    return made


def _of_modules() -> list[str]:
    modules: Mapping[str, object] = dict(sys.modules)
    files = (getattr(module, "__file__", None) for module in modules.values())
    return sorted({each for each in files if isinstance(each, str)})
