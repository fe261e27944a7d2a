"""The connections of one Postgres store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from esops.errors import Refused
from esops.postgres.connection import connect, translated
from esops.postgres.session import READ

if TYPE_CHECKING:
    from esops.stores.postgres.bulk import BulkReader

_LISTED_BYTES = 256 << 10
"""Of a batch of streams: what is made of them in Python is many times as large."""


class StoreConnections:
    """One for short questions, which is made again where it was lost; and others, each for one."""

    def __init__(self, name: str, dsn: str) -> None:
        """`name` is the store's. Nothing is connected yet."""
        self._name, self._dsn = name, dsn
        self._connection: psycopg.Connection | None = None

    def shared(self) -> psycopg.Connection:
        """The connection for short questions. Raises what the driver raises."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._dsn, f"store {self._name}", READ)
        return self._connection

    @contextmanager
    def control(self) -> Iterator[psycopg.Connection]:
        """The connection for short questions, with errors made ours."""
        with translated():
            yield self.shared()

    @contextmanager
    def own(self) -> Iterator[psycopg.Connection]:
        """A connection for one question, beside that."""
        with translated(), connect(self._dsn, f"streams {self._name}", READ) as connection:
            yield connection

    def listing(self) -> BulkReader:
        """A reader of its own for a list of streams."""
        # Imported where events are read: Arrow takes as long to load as all of esops.
        from esops.stores.postgres.bulk import BulkReader

        return BulkReader(self._dsn, _LISTED_BYTES)

    def refuse_replica(self) -> None:
        """Raise Refused where the server is a replica."""
        row = self.shared().execute("SELECT pg_is_in_recovery()").fetchone()
        if row is not None and row[0]:
            raise Refused(
                f"stores.{self._name}: this server is a replica, and only the primary knows "
                "what is settled",
                hint="Name the primary in the DSN (target_session_attrs=read-write finds it among "
                "several hosts).",
            )

    @property
    def opened(self) -> psycopg.Connection | None:
        """The connection for short questions, where there ever was one."""
        return self._connection
