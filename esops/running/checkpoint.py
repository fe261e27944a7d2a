"""The checkpoint that a runner moves: a version's own, or that of one of its shards while several
processes load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import psycopg

from esops.events import Position
from esops.postgres.connection import translated
from esops.readmodel import registry
from esops.readmodel.marks import keep_mark, mark_of
from esops.readmodel.registry import Version
from esops.readmodel.shards import add_shard_rows, as_shard, move_shard
from esops.running.work import Work
from esops.stores.base import EventStore
from esops.stores.parts import Mark


class VersionCheckpoint:
    """Where a runner is, and the version that it works on as of when it was opened."""

    def __init__(self, connection: psycopg.Connection, work: Work, store: EventStore) -> None:
        """Read the checkpoint."""
        self._connection, self._store = connection, store
        self._shard = None if work.shard is None else work.shard[0]
        version = registry.version(connection, work.projection, work.version)
        self.version: Version = (
            version if self._shard is None else as_shard(connection, version, self._shard)
        )
        self.position = self.version.position

    def recognise(self) -> None:
        """Raises Refused where the store's log is not the one that the checkpoint was taken in."""
        if self.position is None or self._shard is not None:
            return
        with translated():
            mark = mark_of(self._connection, replace(self.version, position=self.position))
        identity = self._store.identity
        if mark is not None and identity is not None:
            identity.recognise(self.position, mark)

    def mark_for(self, position: Position) -> Mark | None:
        """What tells the store's log at a position from any other log.

        To be asked for before the transaction, which must not wait for a store.
        """
        identity = self._store.identity
        return None if self._shard is not None or identity is None else identity.mark(position)

    def move(self, position: Position, events: int, mark: Mark | None) -> None:
        """Move the checkpoint in the transaction that writes the rows.

        `position` here stays as it is until the transaction has committed. Raises Busy where
        somebody else moved the checkpoint.
        """
        if self._shard is None:
            registry.move_checkpoint(
                self._connection, self.version, self.position, position, events
            )
            if mark is not None:
                keep_mark(self._connection, self.version, position, mark)
        else:
            move_shard(
                self._connection,
                self.version,
                self._shard,
                old=self.position,
                new=position,
                events=events,
            )

    def note_rows(self, change: int, value_types: Mapping[str, str]) -> None:
        """Keep the change in the number of rows, and the columns' Python types, in the same
        transaction.
        """
        if self._shard is None:
            registry.add_rows(self._connection, self.version, change, value_types)
        else:
            add_shard_rows(self._connection, self.version, self._shard, change, value_types)
