"""Where events come from. `open_store` is the one door; plug-ins come in by the entry point `esops.backends`."""

from __future__ import annotations

from importlib.metadata import entry_points

from esops.backends.base import EventStore
from esops.config import StoreSettings
from esops.errors import UsageError, nearest

ENTRY_POINT = "esops.backends"


def open_store(name: str, settings: StoreSettings) -> EventStore:
    """Open a store by its settings. Raises UsageError for an unknown backend, Unavailable where it cannot be reached."""
    found = entry_points(group=ENTRY_POINT)
    if settings.backend not in found.names:
        raise UsageError(
            f"stores.{name}.backend: there is no backend named {settings.backend!r}",
            hint=nearest(settings.backend, found.names),
        )
    opener = found[settings.backend].load()
    store: EventStore = opener(name, settings)
    return store
