"""Whether a process that has run for a while would load the same code if it started now."""

from __future__ import annotations

import importlib
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from esops.config import Config
from esops.running import import_path

_Stamp = tuple[int, int, int, int] | None
"""Device, inode, size and time of change; None where there is no such file."""


class LoadedFiles:
    """The files that this process has loaded, as they were then."""

    def __init__(self, config: Config) -> None:
        """To be made when the process begins."""
        self._config = config
        self._began = time.time()
        self._stamps: dict[str, _Stamp] = {}
        self._found: dict[str, str] = {}
        self._path = list(sys.path)
        for path in (*_of_modules(), *self._of_project()):
            self._note(path)

    def watch(self) -> None:
        """Note each file from now on before it is imported, whenever that is: a fold may import a
        library at its first event. Another release may take a file's place later that is older than
        this process, as where its folder is renamed.
        """
        sys.meta_path.insert(0, _Watch(self._note_found))

    def changed(self) -> bool:
        """Whether one of them is another one now. In doubt it is."""
        if self._config.named.resolve() != self._config.path.resolve():
            return True
        links: dict[Path, float] = {}
        for path in (*_of_modules(), *self._of_project()):
            stamp, changed_at = _look(path)
            # A link that was moved right after its module was loaded is not in what was noted.
            changed_at = max(changed_at, _links_made(Path(path).absolute(), links))
            if changed_at >= self._began or self._stamps.setdefault(path, stamp) != stamp:
                return True
        return self._another_comes_first() or not import_path.is_current(self._path)

    def note(self) -> None:
        """Note what has been loaded since in other ways than by import: to be called when code was
        loaded.
        """
        for path in _of_modules():
            self._note(path)

    def _note(self, path: str) -> None:
        if path not in self._stamps:
            self._stamps[path] = _look(path)[0]

    def _note_found(self, name: str, path: str, on_path: bool) -> None:
        self._note(path)
        # What is in a package is found in the package's folder, which has been found already.
        if on_path and "." not in name:
            self._found[name] = path

    def _another_comes_first(self) -> bool:
        """Whether a file that was added since comes before one that was imported."""
        importlib.invalidate_caches()
        for name, path in dict(self._found).items():
            found = PathFinder.find_spec(name)
            if found is not None and found.has_location and found.origin != path:
                return True
        return False

    def _of_project(self) -> Iterator[str]:
        yield str(self._config.path)
        yield str(self._config.named)
        for settings in self._config.projections.values():
            for pattern in settings.fingerprint:
                yield from map(str, sorted(Path(self._config.directory).glob(pattern)))


class _Watch:
    """Stands before the finders of modules, and says which file they have found for a module before
    it is read.
    """

    def __init__(self, note: Callable[[str, str, bool], None]) -> None:
        """`note` gets the module's name, the file's, and whether sys.path led to it."""
        self._note = note

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the first of the other finders finds."""
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            found: ModuleSpec | None = None if find is None else find(name, path, target)
            if found is not None:
                if found.has_location and found.origin is not None:
                    self._note(name, found.origin, finder is PathFinder)
                return found
        return None


def _look(path: str) -> tuple[_Stamp, float]:
    """A file's stamp, and when it was changed or put in the place of another with an older time
    (seconds since 1970); where it is in a zip file or an egg, those of that.
    """
    place = Path(path)
    for each in (place, *place.parents):
        try:
            found = each.stat()
        except NotADirectoryError:
            continue
        except OSError:
            break
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns), found.st_ctime
    return None, 0.0


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
