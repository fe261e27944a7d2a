"""The tables that an application writes with each append, where a Postgres store has them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg

from esops.postgres.connection import database_of
from esops.stores.parts import InlineTable
from esops.stores.postgres.layouts.base import Layout


class PostgresInline:
    """InlineTables of a Postgres store."""

    def __init__(
        self, layout: Layout, control: Callable[[], AbstractContextManager[psycopg.Connection]]
    ) -> None:
        """`control` gives the store's connection."""
        self._layout, self._control = layout, control

    def database(self) -> str:
        """The cluster's own number and the database's name."""
        with self._control() as connection:
            return database_of(connection)

    def tables(self) -> list[InlineTable]:
        """As the layout finds them."""
        with self._control() as connection:
            return self._layout.inline_tables(connection)
