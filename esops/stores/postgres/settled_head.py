"""The settled head of a Postgres store, by the rule of its layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import psycopg

from esops.errors import ConnectionLost, Refused
from esops.events import Position
from esops.postgres.connection import translated
from esops.stores.base import Head
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.settle import SettleRule

_GLANCE = timedelta(milliseconds=20)
"""How long one look of a follower waits."""


class SettledHead:
    """What is settled, from one look to the next."""

    def __init__(
        self, name: str, layout: Layout, connection: Callable[[], psycopg.Connection]
    ) -> None:
        """`name` is the store's; `connection` gives the one that is asked."""
        self._name, self._layout, self._connection = name, layout, connection
        self.rule: SettleRule = layout.rule()
        """Another one over each connection: what it knows and waits for belongs to a server that
        may be gone, and another one may have taken its place.
        """
        self._on: psycopg.Connection | None = None

    def head(self, patience: timedelta, after: Position | None, stop: Callable[[], bool]) -> Head:
        """With the sessions and missing numbers that hold it back."""
        with self._settling(after) as connection:
            position = self.rule.advance(connection, patience, stop)
            return Head(position, self.rule.held_back_by(connection))

    def newest(self, after: Position | None) -> Position | None:
        """By one statement, where no number was drawn since the last look."""
        with self._settling(after) as connection:
            if self.rule.rests(connection):
                return self.rule.settled
            return self.rule.advance(connection, _GLANCE)

    def remember(self, connection: psycopg.Connection) -> None:
        """Keep what was taken for settled, at the end."""
        with suppress(psycopg.Error):
            if not connection.closed:
                self.rule.remember(connection, now=True)

    @contextmanager
    def _settling(self, after: Position | None) -> Iterator[psycopg.Connection]:
        try:
            with translated():
                connection = self._connection()
                # Whoever else asks the store may have lost the connection, and made another one.
                if self._on is not connection:
                    if self._on is not None:
                        self._begin_again()
                    self._on = connection
                if after is not None:
                    self.rule.known_settled(after)
                yield connection
        except psycopg.errors.UndefinedTable as error:
            # Renamed or dropped under a running reader, which may be what a restore does.
            raise Refused(
                f"a table of the events of store {self._name} is gone: "
                f"{error.diag.message_primary}",
                hint="Was it dropped, renamed, or is the store being restored? Run this again when "
                "it is back.",
            ) from None
        except ConnectionLost:
            self._begin_again()
            raise

    def _begin_again(self) -> None:
        kept, self.rule = self.rule.memory, self._layout.rule()
        if kept is not None and self.rule.memory is not None:
            self.rule.memory.keeps = kept.keeps
