"""Events that their library folded into a snapshot before a version has read them: its rows would
lack them for ever, and no count of events would show it.
"""

from __future__ import annotations

import time
from datetime import timedelta

from esops.errors import Refused
from esops.events import Position
from esops.readmodel.registry import Version
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore
from esops.stores.shortened import example, not_taken, remedy

_EVERY = timedelta(minutes=1)


class Compactions:
    """Looks for them before a version reads on."""

    def __init__(self, store: EventStore, version: Version, settings: ProjectionSettings) -> None:
        """Nothing was looked at yet."""
        self._store, self._version, self._settings = store, version, settings
        self._looked = -_EVERY.total_seconds()

    def check(self, position: Position | None) -> None:
        """Look, at most once a minute.

        Raises Refused where streams that the projection reads have a snapshot after the position
        that its code does not take. What is compacted while the version catches up is found only
        where the snapshot lies after the next position that is looked at.
        """
        # A first load reads from the beginning, and has asked for all streams.
        if position is None or time.monotonic() - self._looked < _EVERY.total_seconds():
            return
        self._looked = time.monotonic()
        compacted = self._store.losses.compacted_after(position, self._settings.filter)
        found = not_taken(compacted, self._settings.begins_with)
        if not found:
            return
        version = self._version
        raise Refused(
            f"{example(self._store, found)}, and {version.projection} v{version.version} has read "
            f"up to {position} only, before the snapshot: its rows would lack what is gone",
            hint=remedy(
                version.projection, found, f"esops rebuild {version.projection} --blue-green "
            ),
        )
