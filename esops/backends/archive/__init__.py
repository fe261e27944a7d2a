"""Archives: the format that streams are kept in, the repositories that hold it, and an archive as a store, read-only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esops.backends.base import EventStore
    from esops.settings import StoreSettings


def open_archive(name: str, settings: StoreSettings) -> EventStore:
    """Open an archive as a store. Raises Unavailable, UsageError."""
    from esops.backends.archive.store import ArchiveStore

    return ArchiveStore(name, settings)
