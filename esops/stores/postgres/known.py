"""Which types and categories a Postgres store has, as far as that can be said quickly.

There is rarely an index on the type. So a question is asked with a short timeout, and one that is
not answered in time stays open: a store of a hundred million events is not read for the sake of a
hint.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from esops.events import EventFilter
from esops.stores.names import StoreNames, What
from esops.stores.postgres.layouts.expressions import category_in

if TYPE_CHECKING:
    from esops.stores.postgres.store import PostgresStore

_PATIENCE = timedelta(seconds=2)
_NAMES = 1_000
"""Names that are listed at most."""
_SAMPLE = 20_000
"""Events that are looked at for names where looking at all takes too long."""


class PostgresNames(StoreNames):
    """StoreNames of a Postgres store."""

    def __init__(self, store: PostgresStore) -> None:
        """Over the store's connection for short questions."""
        super().__init__(store)
        self._layout, self._control = store.layout, store.control

    def absent_tenant(self) -> str | None:
        """As the layout knows tenants."""
        with self._control() as connection:
            return self._layout.absent_tenant(connection)

    def any_passes(self, filter: EventFilter) -> bool | None:
        """Asked of the server, which has two seconds."""
        found = self._quickly(
            sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(
                self._layout.events, self._layout.where(filter)
            )
        )
        return None if found is None else bool(found[0][0])

    def of(self, what: What) -> list[str]:
        """All of them where that is quick, else those of some events."""
        for limited in (False, True):
            found = self._quickly(self._distinct(what, limited))
            if found is not None:
                return [str(name) for (name,) in found if name]
        return []

    def _distinct(self, what: What, limited: bool) -> sql.Composed:
        layout, own = self._layout, self._layout.stream_table
        source: sql.Composable = layout.events
        m, where = layout.mapped, layout.own
        category = layout.category or category_in(m.stream)
        columns = {"event type": m.type, "category": category, "stream": m.stream}
        column = columns[what]
        if what != "event type" and own is not None:
            source, where = own.table, own.scope
            column = own.category if what == "category" else own.stream
        return sql.SQL(
            "SELECT DISTINCT name::text FROM (SELECT {} AS name FROM {} WHERE {} {}) s LIMIT {}"
        ).format(
            column,
            source,
            where,
            sql.SQL("LIMIT {}").format(sql.Literal(_SAMPLE)) if limited else sql.SQL(""),
            sql.Literal(_NAMES),
        )

    def _quickly(self, statement: sql.Composed) -> list[tuple[object, ...]] | None:
        with self._control() as connection:
            try:
                with connection.transaction():
                    connection.execute(
                        sql.SQL("SET LOCAL statement_timeout = {}").format(
                            sql.Literal(int(_PATIENCE / timedelta(milliseconds=1)))
                        )
                    )
                    return connection.execute(statement).fetchall()
            except psycopg.errors.QueryCanceled:
                return None
