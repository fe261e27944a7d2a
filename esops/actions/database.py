"""Actions in the esops schema of a database. A session of its own holds a lock while an action's
process is there, and the server releases it however the process ends.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import make_conninfo

from esops.actions.action import RUNNING, WITHOUT_A_WORD, Action, PastAction, result_of
from esops.errors import EsopsError
from esops.postgres.connection import connect, is_lost
from esops.postgres.session import READ, statements_within
from esops.postgres.statements import statements

_SQL = statements(__package__, "queries")
KEPT = 1000
"""Rows of each command that are kept, the newest ones."""
_PURPOSE = "record of actions"
_WITHIN = 1.0
"""Seconds that a statement may take: the command waits for it, and nothing here may delay that."""


def key_of(connection: psycopg.Connection) -> tuple[Any, ...]:
    """Names a database, as this process reaches it."""
    info = connection.info
    return info.host, info.port, info.dbname


class DatabasePlace:
    """One action in one database."""

    def __init__(self, action: Action, beside: psycopg.Connection) -> None:
        """`beside` is a session of the job in the same database. Nothing is written yet."""
        self._action = action
        info = beside.info
        parameters: dict[str, Any] = {**info.get_parameters()}
        if info.password:
            parameters["password"] = info.password
        parameters.pop("application_name", None)
        self._dsn = make_conninfo(**parameters)
        self._connection: psycopg.Connection | None = None
        self.name = f"database {info.dbname}"

    def begin(self) -> None:
        """Write the row, and hold its lock. Raises what the database says."""
        connection = self._connected()
        projections = list(self._action.projections)
        values = asdict(self._action) | {"projections": projections, "age": self._action.age}
        connection.execute(_SQL["begin"], values)
        with suppress(EsopsError, psycopg.Error):  # the row is there, and the next one prunes
            connection.execute(_SQL["prune"], {**values, "kept": KEPT - 1})

    def keep(self) -> None:
        """Take the lock again where the session was lost. Raises what the database says."""
        self._connected().execute("SELECT 1")

    def end(self, exit_code: int) -> None:
        """Complete the row, then release the lock. Raises what the database says."""
        values = {
            "id": self._action.id,
            "result": result_of(exit_code),
            "exit_code": exit_code,
            "subject": self._action.subject,
            "projections": list(self._action.projections),
        }
        # `esops uninstall` has removed the table.
        with suppress(errors.UndefinedTable, errors.InvalidSchemaName):
            try:
                self._connected().execute(_SQL["end"], values)
            except psycopg.OperationalError as error:
                if not is_lost(error):
                    raise
                self.close()  # lost since it was last looked at
                self._connected().execute(_SQL["end"], values)

    def close(self) -> None:
        """Give up the session."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            # Locks are waited for within the same time.
            with statements_within(_WITHIN):
                self._connection = connect(self._dsn, _PURPOSE, READ)
            # Before the row, which a reader may see at once. Shared, since nobody competes for it.
            self._connection.execute(_SQL["hold"], (self._action.lock,))
        return self._connection


def past(
    connection: psycopg.Connection, projection: str | None, since: timedelta | None, last: int
) -> list[PastAction]:
    """The newest actions of a database, in any order; of a projection, where one is named."""
    values = {"projection": projection, "since": since, "last": last}
    found = [_past(row) for row in connection.execute(_SQL["newest"], values)]
    running = [each.id for each in found if each.result == RUNNING]
    if not running:
        return found
    row = connection.execute(_SQL["at_work"], {"ids": running}).fetchone()
    assert row is not None
    replica, at_work = row
    if replica:
        return found
    gone = set(running) - set(at_work)
    # Those may have ended in order since the first look: an end is written before the lock goes.
    again = {
        each.id: each
        for each in map(_past, connection.execute(_SQL["of_ids"], {"ids": list(gone)}))
    }
    found = [again.get(each.id, each) for each in found]
    return [
        replace(each, result=WITHOUT_A_WORD) if each.id in gone and each.result == RUNNING else each
        for each in found
    ]


def _past(row: tuple[Any, ...]) -> PastAction:
    identity, at, role, os_user, host, command, subject, projections, *rest = row
    return PastAction(
        identity, at, role, os_user, host, command, subject, tuple(projections), *rest
    )
