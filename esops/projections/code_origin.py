"""Whose code a module is: the user's own project, an installed distribution, Python or esops."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import sysconfig
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType

_INSTALLED = {"site-packages", "dist-packages"}


class Origins:
    """Tells the modules of a project from those that are installed."""

    def __init__(self, home: str) -> None:
        """`home` is a module of the project; its package counts as the project's even where it is
        installed.
        """
        self._home = home.partition(".")[0]
        self._known: dict[str, str | None] = {}

    def foreign(self, module: str) -> str | None:
        """What stands for a module that is not the project's; None for one of the project.

        An installed module is known by the distributions that bring it and their versions, and one
        of Python or of esops by its name.
        """
        if module not in self._known:
            self._known[module] = self._foreign(module)
        return self._known[module]

    def _foreign(self, module: str) -> str | None:
        top = module.partition(".")[0]
        if top == "esops":
            # Not by its version: an upgrade of esops must not make every version look old.
            return top
        if top in {self._home, "__main__"}:
            return None
        if top in sys.stdlib_module_names:
            return top
        return _distributions(top) if _installed(module, top) else None


def _installed(module: str, top: str) -> bool:
    """Whether a module lies where packages are installed; one without a file is the project's."""
    found = sys.modules.get(module) or sys.modules.get(top)
    places = _places(found) if found is not None else _found(top)
    libraries = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    return any(
        _INSTALLED & set(place.parts) or any(place.is_relative_to(each) for each in libraries)
        for place in places
    )


def _places(module: ModuleType) -> list[Path]:
    file = getattr(module, "__file__", None)
    return [Path(file)] if file else [Path(each) for each in getattr(module, "__path__", ())]


def _found(top: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.origin is not None:
        return [Path(spec.origin)]
    return [Path(each) for each in spec.submodule_search_locations or ()]


@lru_cache(maxsize=1)
def _packages() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@lru_cache(maxsize=256)
def _distributions(top: str) -> str:
    names = sorted(set(_packages().get(top, ())))
    versions = [f"{name}=={importlib.metadata.version(name)}" for name in names]
    return " ".join([top, *versions])
