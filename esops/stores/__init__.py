"""Where events come from. `open_store` is the one door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from esops import backends
from esops.errors import UsageError, nearest
from esops.settings import STORE_SETTINGS, StoreSettings
from esops.stores.base import EventStore


def open_store(name: str, settings: StoreSettings) -> EventStore:
    """Open a store by its settings, joined with its archive where they name one.

    Raises UsageError for an unknown backend, Unavailable where it cannot be reached.
    """
    store = _opener(name, settings.backend)(name, settings)
    if settings.cold is None or settings.backend == "archive":
        return store
    return _joined(store, settings)


def _opener(name: str, backend: str) -> Callable[[str, Any], EventStore]:
    # A store's module brings its drivers, so it is imported when a store of its kind is opened.
    if backend == "postgres":
        from esops.stores.postgres.store import PostgresStore

        return PostgresStore
    if backend == "eventstoredb":
        from esops.stores.eventstoredb.store import EventStoreDBStore

        return EventStoreDBStore
    if backend == "archive":
        from esops.stores.archive.store import ArchiveStore

        return ArchiveStore
    store_class = backends.brought(backend)
    if store_class is None:
        raise UsageError(
            f"stores.{name}.backend: there is no backend named {backend!r}",
            hint=nearest(backend, [*STORE_SETTINGS, *backends.names()]),
        )
    return store_class


def _joined(hot: EventStore, settings: StoreSettings) -> EventStore:
    """A store with the archive that its old streams went to."""
    from esops.stores.archive.cold import ColdPart
    from esops.stores.archive.joined import JoinedStore

    # The hot store is open already: it must not stay open where the archive cannot be read.
    try:
        return JoinedStore(hot, ColdPart(hot, settings))
    except BaseException:
        hot.close()
        raise
