"""The backends that other packages bring, by the entry point `esops.stores`.

An entry point names a store class: `Settings` is the pydantic model of its `[stores.NAME]` table,
derived from StoreSettings, and the class is called with the store's name and these settings.
"""

from __future__ import annotations

from typing import Any, Protocol

from esops import plugins
from esops.settings import StoreSettings

ENTRY_POINT = "esops.stores"


class StoreClass(Protocol):
    """What an entry point names."""

    @property
    def Settings(self) -> type[StoreSettings]:  # noqa: N802 - a class by a class's name
        """The model of its table in esops.toml."""
        ...

    def __call__(self, name: str, settings: Any) -> Any:
        """Open the store; an EventStore, whose layer is above this one."""
        ...


_registered: dict[str, StoreClass] = {}


def register(backend: str, store_class: StoreClass) -> None:
    """Make a backend known in this process, as an entry point makes it known in an installation."""
    _registered[backend] = store_class


def brought(backend: str) -> StoreClass | None:
    """The store class that a package brings for a backend; None where none does."""
    if backend in _registered:
        return _registered[backend]
    found = plugins.brought(ENTRY_POINT)
    if backend not in found.names:
        return None
    store_class: StoreClass = found[backend].load()
    return store_class


def names() -> list[str]:
    """The backends that packages bring."""
    return sorted({*plugins.brought(ENTRY_POINT).names, *_registered})
