"""The events that came after their numbers had been passed as dead: what settling remembers, with
the events' coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
from psycopg import sql

from esops.events import EventFilter, Position
from esops.stores.parts import LateEvent
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.settle import SettleRule


class PostgresMemory:
    """See esops.stores.parts.SettlingMemory."""

    def __init__(
        self,
        layout: Layout,
        rule: Callable[[], SettleRule],
        control: Callable[[], AbstractContextManager[psycopg.Connection]],
    ) -> None:
        """`rule` gives the store's rule of settling, which may be another one later."""
        self._layout, self._rule, self._control = layout, rule, control

    def keep(self) -> None:
        """In the schema `esops` of the store's database."""
        with self._control() as connection:
            memory = self._rule().memory
            if memory is not None:
                memory.keep(connection)

    def late(self) -> list[LateEvent]:
        """By the numbers that were passed: an index leads to each."""
        with self._control() as connection:
            found = {number: times for number, *times in self._rule().late(connection)}
            if not found:
                return []
            layout = self._layout
            (number,) = layout.order_columns
            mapped = layout.mapped
            # What fills gaps, such as Marten's tombstones, is no event.
            statement = sql.SQL(
                "SELECT {number}, {stream}, {version}, {type}, {id} FROM {events} "
                "WHERE {number} = ANY(%s) AND {own} ORDER BY 1 DESC"
            ).format(
                number=number,
                stream=mapped.stream,
                version=mapped.version,
                type=mapped.type,
                id=mapped.id,
                events=layout.events,
                own=layout.where(EventFilter(archived=True)),
            )
            rows = connection.execute(statement, (list(found),)).fetchall()
        return [LateEvent(Position((row[0],)), *row[1:], *found[row[0]]) for row in rows]
