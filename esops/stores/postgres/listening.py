"""Waiting for the notification that a library sends with each append, where it is set to do so.

It only makes a look come earlier: what is settled is asked as always, and a notification that never
comes, as behind some poolers or where the application was not set to send it, costs no more than
the time between two looks.
"""

from __future__ import annotations

import time
from datetime import timedelta

import psycopg
import structlog
from psycopg import sql

from esops.postgres.connection import is_lost

log = structlog.get_logger("esops.store")


class Listener:
    """Listens on a session of its store, for as long as that session lives."""

    def __init__(self, channel: str | None) -> None:
        """Without a channel it only waits."""
        self._channel = channel
        self._on: psycopg.Connection | None = None
        self._came = False
        """Whether a notification came with the answer of another statement, since the last wait."""

    def wait(self, connection: psycopg.Connection, timeout: timedelta) -> None:
        """Until a notification comes, or for so long. Raises what psycopg raises for a connection
        that is lost.
        """
        if not self._listens(connection):
            time.sleep(timeout.total_seconds())
            return
        # All that have come by now are one reason to look.
        came, self._came = self._came, False
        if came:
            return
        connection.remove_notify_handler(self._note)
        try:
            for _ in connection.notifies(timeout=timeout.total_seconds(), stop_after=1):
                pass
        finally:
            connection.add_notify_handler(self._note)

    def _note(self, _: psycopg.Notify) -> None:
        """Between two waits. Without it, psycopg would keep each of them until somebody waits: for
        ever, over a store that is never idle.
        """
        self._came = True

    def _listens(self, connection: psycopg.Connection) -> bool:
        if self._channel is None:
            return False
        if self._on is not connection:
            try:
                connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            except psycopg.Error as error:
                if is_lost(error):
                    raise
                log.info("no notifications", channel=self._channel, reason=str(error).strip())
                self._channel = None
                return False
            self._on, self._came = connection, False
            connection.add_notify_handler(self._note)
        return True
