"""Which streams of a layout are archived, and which of their names were used again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from psycopg import sql

from esops.events import StreamKey
from esops.stores.archived import ArchivedStreams
from esops.stores.parts import WITH_ARCHIVED
from esops.stores.postgres import used_again
from esops.stores.postgres.column_values import column_values
from esops.stores.postgres.layouts.base import FALSE

if TYPE_CHECKING:
    from esops.stores.postgres.store import PostgresStore


class PostgresArchived(ArchivedStreams):
    """ArchivedStreams of a Postgres store."""

    def __init__(self, store: PostgresStore) -> None:
        """Over the store's connections."""
        super().__init__(store)
        self._layout, self._control, self._listing = store.layout, store.control, store.listing

    def streams(self) -> Iterator[StreamKey]:
        """By the mark of their events, where the library has one."""
        layout = self._layout
        if layout.archived is FALSE:
            return
        again = set(self.used_again())
        marked = sql.SQL("SELECT DISTINCT {}, {} FROM {} WHERE {} AND {}").format(
            layout.mapped.stream,
            layout.mapped.tenant,
            layout.events,
            layout.where(WITH_ARCHIVED),
            layout.archived,
        )
        with closing(self._listing()) as reader:
            for batch in reader.read(iter([marked.as_string(None)])):
                for row in zip(*map(column_values, batch.columns), strict=True):
                    key = StreamKey(*row)
                    if key not in again:
                        yield key

    def used_again(self, stream: str | None = None) -> list[StreamKey]:
        """From the library's list of streams."""
        if self._layout.used_again is None:
            return []
        with self._control() as connection:
            return used_again.names(connection, self._layout, stream)
