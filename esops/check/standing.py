"""Where a version stands while its rows are copied: the position that they are made up to.

Rows and position are read in one short snapshot, where both are in one database. No lock is taken,
and nobody waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import psycopg

from esops.errors import Refused
from esops.events import EventFilter, Position, RecordedEvent, StreamKey
from esops.postgres.connection import translated
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.stores.base import EventStore
from esops.stores.checkpoints import processor_of
from esops.stores.inline_tables import InlineTables
from esops.stores.whole_streams import GONE, WholeStreams

LONGEST_MS = 2_000
"""How long a snapshot may take."""
_TRIES, _PAUSE_SECONDS = 100, 0.02


class TooSlow(Exception):
    """What was to be copied takes longer than a snapshot may."""


@contextmanager
def snapshot(connection: psycopg.Connection) -> Iterator[None]:
    """A transaction that sees one moment, writes nothing but temporary tables, and is short.

    Raises TooSlow where a statement of it takes too long.
    """
    try:
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            connection.execute(f"SET LOCAL statement_timeout = {LONGEST_MS}".encode())
            yield
    except psycopg.errors.QueryCanceled:
        raise TooSlow from None


class PositionSource(Protocol):
    """How the position of a version's rows is found out."""

    @property
    def exact(self) -> bool:
        """Whether rows and position are of one moment, so that one look is enough."""
        ...

    def position(self) -> Position:
        """Where the version stands now. Raises Refused where that is not known."""
        ...

    def copy(self, do: Callable[[], None]) -> Position:
        """Do something in one snapshot, and return where the version's rows stand in it.

        Raises TooSlow, and Refused where the version has changed since it was looked at.
        """
        ...


class OwnCheckpoint:
    """Of a version that esops keeps."""

    exact = True

    def __init__(
        self, connection: psycopg.Connection, version: Version, states: Collection[str]
    ) -> None:
        """The version as it was when it was looked at, and the states in which it is checked."""
        self._connection, self._version, self._states = connection, version, states

    def position(self) -> Position:
        """As the registry has it."""
        with translated():
            return self._now()

    def copy(self, do: Callable[[], None]) -> Position:
        """Checkpoint and rows move in one transaction."""
        with translated(), snapshot(self._connection):
            now = self._now()
            do()
        return now

    def _now(self) -> Position:
        version = self._version
        now = registry.version(self._connection, version.projection, version.version)
        if now.tables != version.tables or now.state not in self._states or now.position is None:
            raise Refused(
                f"v{now.version} of {now.projection} is {now.state} by now: another command has "
                "switched, rebuilt or retired it while it was checked",
                hint=f"Check again: esops projection check {now.projection}",
            )
        return now.position


class AppCheckpoint:
    """Of a version that a processor of the application keeps."""

    exact = False

    def __init__(self, connection: psycopg.Connection, store: EventStore, name: str) -> None:
        """`name` is that of the processor."""
        self._connection, self._store, self._name = connection, store, name

    def position(self) -> Position:
        """As the store has it."""
        there = processor_of(self._store, self._name)
        if there is None or there.position is None or there.beyond:
            raise Refused(
                f"the application's checkpoint {self._name} is at no known position, so nobody can "
                "say up to which event its rows are made"
                + (f": {there.evidence}" if there is not None and there.evidence else ""),
                hint="`esops status` shows the application's checkpoints; name the one that makes "
                'these tables: checkpoint = "…".',
            )
        return there.position

    def copy(self, do: Callable[[], None]) -> Position:
        """The checkpoint is looked at before and after, until it has not moved in between: it and
        the rows move in one transaction.
        """
        for _ in range(_TRIES):
            before = self.position()
            with translated(), snapshot(self._connection):
                do()
            if self.position() == before:
                return before
            time.sleep(_PAUSE_SECONDS)
        raise TooSlow


class InlineRows:
    """Of a table that the application writes in the transaction of each append: a snapshot has an
    append's events and its rows, or neither. There is no checkpoint.
    """

    exact = False

    def __init__(
        self,
        connection: psycopg.Connection,
        store: EventStore,
        tables: InlineTables,
        filter: EventFilter,
    ) -> None:
        """The connection is to the database of the events and of the tables."""
        self._connection, self._store, self._tables = connection, store, tables
        # The application does not forget what is archived.
        self._filter = replace(filter, archived=True)

    def position(self) -> Position:
        """The settled head: later events are read in the snapshot of the rows."""
        head = self._store.head().position
        if head is None:
            raise Refused(
                f"store {self._store.name} has no settled event, so no row can be checked",
                hint="Check again when it has some.",
            )
        return head

    def copy(self, do: Callable[[], None]) -> Position:
        """The rows may be of later events than the position that is returned."""
        position = self.position()
        with translated(), snapshot(self._connection):
            do()
        return position

    def copy_with_events(
        self, do: Callable[[], None], streams: Sequence[StreamKey]
    ) -> WholeStreams:
        """As `copy`, with all events of some streams that the snapshot has."""
        with translated(), snapshot(self._connection):
            do()
            events, short = self._tables.whole(self._connection, streams, self._filter)
        return WholeStreams(events, dict.fromkeys(short, GONE))

    def copy_with_later(self, do: Callable[[], None], after: Position) -> list[RecordedEvent]:
        """As `copy`, with the events after a position that the snapshot has."""
        with translated(), snapshot(self._connection):
            do()
            return self._tables.visible(self._connection, after, self._filter)
