"""What SQL can do with the tables of a layout: ranges for statements, checkpoints, rights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
from psycopg import sql

from esops.events import Position
from esops.postgres.connection import database_of
from esops.stores.base import EVERYTHING
from esops.stores.counts import EventCounts
from esops.stores.parts import Concern, SqlRange, SqlTables
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.published import published
from esops.stores.readers import EventReader


class PostgresSql:
    """SqlAccess of a Postgres store."""

    def __init__(
        self,
        layout: Layout,
        control: Callable[[], AbstractContextManager[psycopg.Connection]],
        counts: EventCounts,
    ) -> None:
        """`control` gives the store's connection; `counts` are the store's."""
        self._layout = layout
        self.control, self._counts = control, counts

    @property
    def tables(self) -> SqlTables:
        """The layout's tables."""
        layout, archiving = self._layout, self._layout.archiving
        archived = [layout.events, *archiving.streams] if archiving is not None else []
        return SqlTables(
            layout.schema,
            layout.events,
            layout.reads,
            layout.sequences,
            layout.order_columns,
            archived,
        )

    def database(self) -> str:
        """The cluster's own number and the database's name."""
        with self.control() as connection:
            return database_of(connection)

    def concerns(self) -> list[Concern]:
        """What the layout finds."""
        with self.control() as connection:
            return self._layout.concerns(connection)

    @property
    def begins_checkpoints(self) -> bool:
        """As the library does."""
        return self._layout.begins_checkpoints

    def row_of(self, connection: psycopg.Connection, name: str) -> str | None:
        """As the library keeps it."""
        return self._layout.row_of(connection, name)

    def signs_of_life(self, name: str) -> str:
        """As the layout finds them."""
        with self.control() as connection:
            return self._layout.signs_of_life(connection, name)

    def check_checkpoint(self, connection: psycopg.Connection, name: str) -> None:
        """By the library's own tables."""
        self._layout.check_checkpoint(connection, name)

    def set_checkpoint(
        self,
        connection: psycopg.Connection,
        name: str,
        position: Position,
        *,
        stopped: bool = False,
    ) -> str:
        """By the library's own means."""
        return self._layout.set_checkpoint(connection, name, position, stopped=stopped)

    def published(self) -> list[EventReader]:
        """By the catalogue; which types pass a row filter, by the events."""
        with self.control() as connection:
            return published(connection, self._layout.events, self._layout.mapped.type)

    def range(self, after: Position | None, until: Position, events: int) -> SqlRange:
        """By the columns that order the events; counted in the server."""
        layout, reached = self._layout, until
        beyond = layout.beyond(after) if after is not None else sql.SQL("TRUE")
        own = sql.SQL("{} AND {} AND {}").format(
            layout.where(EVERYTHING), beyond, layout.up_to(until)
        )
        with self.control() as connection:
            # The last position of the range is looked up only where there are more events than one
            # statement is to take.
            if self._counts.between(after, until) > events:
                nth = connection.execute(
                    sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {} OFFSET {} LIMIT 1").format(
                        sql.SQL(", ").join(layout.order),
                        layout.events,
                        own,
                        layout.ascending,
                        sql.Literal(events - 1),
                    )
                ).fetchone()
                if nth is not None:
                    reached = Position(map(int, nth))
            row = connection.execute(
                sql.SQL("SELECT count(*) FROM {} WHERE {} AND {}").format(
                    layout.events, own, layout.up_to(reached)
                )
            ).fetchone()
        assert row is not None
        return SqlRange(
            layout.literal(after),
            layout.literal(reached),
            reached,
            int(row[0]),
            layout.where(EVERYTHING).as_string(None),
            [each.as_string(None) for each in layout.order_columns],
        )
