"""Where events come from.

`open_store` is the one door; plug-ins come in by the entry point `esops.stores`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from esops.errors import UsageError, nearest
from esops.settings import StoreSettings
from esops.stores.base import EventStore

ENTRY_POINT = "esops.stores"
Opener = Callable[[str, StoreSettings], EventStore]
_registered: dict[str, Opener] = {}


def register(backend: str, opener: Opener) -> None:
    """Make a backend known in this process, as an entry point makes it known in an installation."""
    _registered[backend] = opener


def open_store(name: str, settings: StoreSettings) -> EventStore:
    """Open a store by its settings.

    Raises UsageError for an unknown backend, Unavailable where it cannot be reached.
    """
    opener = _registered.get(settings.backend)
    if opener is None:
        found = entry_points(group=ENTRY_POINT)
        if settings.backend not in found.names:
            raise UsageError(
                f"stores.{name}.backend: there is no backend named {settings.backend!r}",
                hint=nearest(settings.backend, found.names),
            )
        opener = found[settings.backend].load()
    store: EventStore = opener(name, settings)
    if settings.cold is None or settings.backend == "archive":
        return store
    return _joined(store, settings)


def _joined(hot: EventStore, settings: StoreSettings) -> EventStore:
    """A store with the archive that its old streams went to."""
    from esops.stores.archive.joined import JoinedStore
    from esops.stores.archive.store import ArchiveStore

    try:
        cold = ArchiveStore(hot.name, settings.model_copy(update={"of": settings.of or hot.name}))
    except BaseException:
        hot.close()
        raise
    return JoinedStore(hot, cold)
