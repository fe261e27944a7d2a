"""Archives: the format that streams are kept in, the repositories that hold it, and an archive as a
store, read-only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esops.settings import StoreSettings
    from esops.stores.base import EventStore


def open_archive(name: str, settings: StoreSettings) -> EventStore:
    """Open an archive as a store. Raises Unavailable, UsageError."""
    from esops.stores.archive.store import ArchiveStore

    return ArchiveStore(name, settings)
