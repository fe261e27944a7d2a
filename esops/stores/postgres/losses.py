"""Which streams of a layout have lost their first events: asked of the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from esops.archive_format.snapshots import is_snapshot
from esops.events import EventFilter, Position
from esops.stores.archiving import LateBeginning
from esops.stores.aside import QuestionAside, load_arrow
from esops.stores.losses import StreamLosses
from esops.stores.parts import EVERYTHING, WITH_ARCHIVED
from esops.stores.postgres.beginnings import late_beginnings, shortened
from esops.stores.shortened import Shortened

if TYPE_CHECKING:
    from esops.stores.postgres.store import PostgresStore


class PostgresLosses(StreamLosses):
    """StreamLosses of a Postgres store."""

    def __init__(self, store: PostgresStore) -> None:
        """Over the store's connections."""
        super().__init__(store)
        self._layout, self._control = store.layout, store.control
        self._own_connection, self._listing = store.own_connection, store.listing

    def late_beginnings(self, filter: EventFilter = WITH_ARCHIVED) -> Iterator[LateBeginning]:
        """By the index on streams and versions, and by the table of streams."""
        with closing(self._listing()) as reader:
            yield from late_beginnings(self._layout, reader, filter)

    def shortened(
        self, filter: EventFilter = EVERYTHING, after: Position | None = None
    ) -> list[Shortened]:
        """Counted in the server; those whose first event is one after the position now."""
        if not self._layout.in_order_of_versions:
            after = None
        with self._control() as connection:
            return shortened(connection, self._layout, filter, after)

    def ask_shortened(self, filter: EventFilter = EVERYTHING) -> QuestionAside[list[Shortened]]:
        """Counted in the server, on a connection of its own."""
        # Whoever asks will read: what that takes is loaded while the server answers.
        load_arrow()
        return QuestionAside(
            self._own_connection,
            lambda connection: shortened(connection, self._layout, filter),
            lambda: self.shortened(filter),
        )

    def compacted_after(self, position: Position, filter: EventFilter) -> list[Shortened]:
        """Looked up in the server, among the streams with an event after the position."""
        if not self._layout.compacts:
            return []
        with self._control() as connection:
            found = shortened(connection, self._layout, filter, position)
        return [each for each in found if is_snapshot(each.type)]
