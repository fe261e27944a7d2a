"""Which types and categories a Postgres store has, as far as that can be said quickly.

There is rarely an index on the type. So a question is asked with a short timeout, and one that is
not answered in time stays open: a store of a hundred million events is not read for the sake of a
hint.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta

import psycopg
from psycopg import sql

from esops.events import EventFilter
from esops.stores.parts import What
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.layouts.expressions import category_in

_PATIENCE = timedelta(seconds=2)
_NAMES = 1_000
"""Names that are listed at most."""
_SAMPLE = 20_000
"""Events that are looked at for names where looking at all takes too long."""


class KnownNames:
    """Answers within seconds, or not at all."""

    def __init__(
        self, layout: Layout, control: Callable[[], AbstractContextManager[psycopg.Connection]]
    ) -> None:
        """`control` gives the store's connection for short questions."""
        self._layout, self._control = layout, control

    def any_passes(self, filter: EventFilter) -> bool | None:
        """Whether an event passes, settled or not; None where the answer takes too long."""
        found = self._quickly(
            sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(
                self._layout.events, self._layout.where(filter)
            )
        )
        return None if found is None else bool(found[0][0])

    def names(self, what: What) -> list[str]:
        """Names that the store has: all where that is quick, else those of some events."""
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
