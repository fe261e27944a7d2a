"""A store that is restored to an earlier time: its database is replaced by a copy of then.

As after a restore of a backup: the same numbers are given again, to other events.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict


class Backups:
    """Copies of a database, in its own cluster."""

    def __init__(self, server, dsn: str) -> None:
        self._server, self.name = server, str(conninfo_to_dict(dsn)["dbname"])

    @property
    def _copy(self) -> str:
        return f"{self.name}_backup"

    def take(self) -> None:
        """Copy the store as it is now."""
        self._replace(self._copy, self.name)

    def restore(self) -> None:
        """Put the copy in the store's place."""
        self._replace(self.name, self._copy)

    def drop(self) -> None:
        with psycopg.connect(self._server.dsn(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {self._copy} WITH (FORCE)")

    def _replace(self, name: str, template: str) -> None:
        with psycopg.connect(self._server.dsn(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (template,),
            )
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")


@contextmanager
def backups(server, dsn: str) -> Iterator[Backups]:
    """Backups of a store, dropped at the end."""
    made = Backups(server, dsn)
    try:
        yield made
    finally:
        made.drop()
