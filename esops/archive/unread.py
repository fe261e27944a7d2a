"""Which of a run's events a reader has not read yet, by what its row of progress says of it."""

from __future__ import annotations

from typing import Any

from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.events import Checkpoint, Position


class RunEvents:
    """The events of a sealed run, as readers see them."""

    def __init__(self, run: Run, manifest: Manifest) -> None:
        """No file is read before a question needs it."""
        self._run, self._manifest = run, manifest
        self.last = Position.parse(manifest.last_position)

    def unread(self, reader: Checkpoint) -> int:
        """How many of the events a reader may not have read: all that it reads where its position
        is unknown, or of another form, as before the store's `ordering` was changed.
        """
        position = reader.position
        if position is not None and len(position) != len(self.last):
            position = None
        if position is not None and position >= self.last:
            return 0
        if position is None and not (
            reader.tenant or reader.category or reader.stream or reader.types
        ):
            return self._manifest.events
        return self._counted(reader, position)

    def _counted(self, reader: Checkpoint, position: Position | None) -> int:
        # DuckDB is only needed where somebody may be behind, and takes long to import.
        from esops.stores.archive.reading import Database, beyond

        conditions, values = ["TRUE"], list[Any]()
        for condition, value in (
            ("tenant = ?", reader.tenant or None),
            ("split_part(stream, '-', 1) = ?", reader.category),
            ("stream = ?", reader.stream),
            ("list_contains(?, type)", [*reader.types] or None),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        if position is not None:
            condition, more = beyond(position)
            conditions.append(condition)
            values += more
        with Database([(self._run, self._manifest)]) as database:
            source = database.stored(reader.stream, position)
            row = database.connection.execute(
                f"SELECT count(*) FROM ({source}) WHERE {' AND '.join(conditions)}", values
            ).fetchone()
        return int(row[0]) if row is not None else 0
