"""How many events an archive has between two positions, counted in its files."""

from __future__ import annotations

from esops.events import Position
from esops.stores.archive.files import ArchiveFiles
from esops.stores.base import EVERYTHING, EventStore
from esops.stores.counts import EventCounts


class ArchiveCounts(EventCounts):
    """EventCounts of an archive."""

    def __init__(self, store: EventStore, files: ArchiveFiles) -> None:
        """`files` are those of the store."""
        super().__init__(store)
        self._files = files

    def between(self, after: Position | None, until: Position | None) -> int:
        """An event that several runs have counts once."""
        if until is None or not self._files.runs:
            return 0
        where, values = self._files.where(EVERYTHING, after, until)
        distinct = (
            "SELECT DISTINCT position_1, position_2, stream, version FROM "
            f"({self._files.database.stored(None, after, until)})"
        )
        rows = self._files.ask(
            f"SELECT count(*) FROM ({distinct} WHERE NOT hidden AND {where})", values
        )
        return int(rows[0][0])
