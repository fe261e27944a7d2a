"""How many events of a layout lie between positions, or pass a filter: asked of the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from esops.events import EventFilter, Position
from esops.stores.base import EVERYTHING
from esops.stores.counts import EventCounts, Tally
from esops.stores.positions import check_parts

if TYPE_CHECKING:
    from esops.stores.postgres.store import PostgresStore

_EXACT_COUNT = 100_000
"""Beyond this many numbers a lag is not counted row by row."""


class PostgresCounts(EventCounts):
    """EventCounts of a Postgres store."""

    def __init__(self, store: PostgresStore) -> None:
        """Over the store's connection for short questions."""
        super().__init__(store)
        self._layout, self._control = store.layout, store.control

    def between(self, after: Position | None, until: Position | None) -> int:
        """Exact up to a hundred thousand numbers; beyond, the numbers between (an upper bound)
        where a position is one number.
        """
        if until is None or (after is not None and after >= until):
            return 0
        if len(until) == 1:
            numbers = until[0] - (after[0] if after else 0)
            if numbers > _EXACT_COUNT:
                return numbers
        beyond = self._layout.beyond(after) if after is not None else SQL("TRUE")
        rows = self._ask(
            SQL("SELECT count(*) FROM {} WHERE {} AND {} AND {}").format(
                self._layout.events,
                self._layout.where(EVERYTHING),
                beyond,
                self._layout.up_to(until),
            )
        )
        return int(rows[0][0])

    def passing(
        self,
        filter: EventFilter,
        until: Position | None,
        at_most: int,
        after: Position | None = None,
        tenant: str = "",
    ) -> int:
        """Counted in the server, which stops at the limit."""
        if until is None:
            return 0
        check_parts(len(self._layout.order), until)
        rows = self._ask(
            SQL(
                "SELECT count(*) FROM (SELECT FROM {} WHERE {} AND {} AND {} AND {} LIMIT {}) "
                "AS counted"
            ).format(
                self._layout.events,
                self._layout.where(filter),
                self._layout.beyond(after) if after is not None else SQL("TRUE"),
                self._layout.up_to(until),
                self._of_tenant(tenant),
                Literal(at_most),
            )
        )
        return int(rows[0][0])

    def tallies(self, filter: EventFilter, until: Position | None) -> Mapping[str, Tally]:
        """Counted in the server, in one pass over its rows."""
        if until is None:
            return {}
        check_parts(len(self._layout.order), until)
        rows = self._ask(
            SQL("SELECT {}, count(*), sum({}) FROM {} WHERE {} AND {} GROUP BY 1").format(
                self._layout.mapped.type,
                self._layout.order_columns[-1],
                self._layout.events,
                self._layout.where(filter),
                self._layout.up_to(until),
            )
        )
        return {type_ or "": Tally(events, int(numbers)) for type_, events, numbers in rows}

    def _of_tenant(self, tenant: str) -> Composable:
        column = self._layout.tenant_column
        if not tenant or column is None:
            return SQL("TRUE")
        return SQL("{} = {}").format(Identifier(column), Literal(tenant))

    def _ask(self, statement: Composed) -> list[tuple[Any, ...]]:
        with self._control() as connection:
            return connection.execute(statement).fetchall()
