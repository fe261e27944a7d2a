"""What a store itself shows of events that are gone: its archive may be a new one in the place of
another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esops.archive_format.snapshots import is_snapshot
from esops.errors import Refused
from esops.events import EventFilter, StreamInfo
from esops.stores.base import EventStore

if TYPE_CHECKING:
    from esops.stores.archive.joined import JoinedStore

_OWN_LIMITS = {"$maxCount", "$maxAge"}


def check_begins(store: JoinedStore) -> None:
    """Raises Refused where the archive has no run of the store, and the store has a stream whose
    first events are gone.
    """
    if store.cold.runs:
        return
    stream = without_beginning(store.hot)
    if stream is not None:
        raise Refused(
            f"the first events of stream {stream!r} are not in store {store.name} any more, and "
            f"the archive {store.cold.repository.address} has no run of this store: is it the "
            "archive that they went to?",
            hint="Is the disk mounted, and the prefix right? If the application removed them "
            "itself: --without-archived.",
        )


def without_beginning(store: EventStore) -> str | None:
    """A stream whose first events are gone, and neither by a limit of its own nor for a snapshot
    that its library put in their place; None where there is none.
    """
    found = store.emptied_stream()
    if found is not None:
        return found
    first = store.capabilities.first_version
    for info in store.streams(EventFilter(archived=True)):
        if info.length and info.first_version > first and not _explained(store, info):
            return info.name
    return None


def _explained(store: EventStore, info: StreamInfo) -> bool:
    if not _OWN_LIMITS.isdisjoint(info.settings):
        return True
    oldest = next(iter(store.read_stream(info.name, limit=1)), None)
    return oldest is not None and is_snapshot(oldest.type)
