"""Which names an archive's files know, where they are on this machine: fetching them takes too
long.
"""

from __future__ import annotations

from esops.events import EventFilter
from esops.stores.archive.files import ArchiveFiles
from esops.stores.base import EventStore
from esops.stores.names import StoreNames, What

_COLUMNS = {"event type": "type", "stream": "stream"}


class ArchiveNames(StoreNames):
    """StoreNames of an archive."""

    def __init__(self, store: EventStore, files: ArchiveFiles, *, here: bool) -> None:
        """`files` are those of the store; `here`: they are on this machine."""
        super().__init__(store)
        self._files, self._here = files, here

    def any_passes(self, filter: EventFilter) -> bool | None:
        """Looked up in the files."""
        if not self._files.runs:
            return False
        if not self._here:
            return None
        where, values = self._files.where(filter)
        source = self._files.database.stored(filter.stream)
        return bool(
            self._files.ask(
                f"SELECT 1 FROM ({source}) WHERE NOT hidden AND {where} LIMIT 1", values
            )
        )

    def of(self, what: What) -> list[str]:
        """Looked up in the files."""
        if not self._files.runs or not self._here:
            return []
        database = self._files.database
        if what == "category":
            rows = self._files.ask(database.categories.names(database.stored()))
        else:
            rows = self._files.ask(
                f"SELECT DISTINCT {_COLUMNS[what]} FROM ({database.stored()}) WHERE store = ? "
                "LIMIT 1000",
                [self._files.of],
            )
        return [name for (name,) in rows if name]
