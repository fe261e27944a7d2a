"""The checkpoint that a runner moves: a version's own, or that of one of its shards while several
processes load it. And whether the store's log is still the one that it belongs to.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import psycopg

from esops.events import Position, RecordedEvent
from esops.postgres.connection import translated
from esops.readmodel import checkpoints, marks, own_rows, registry
from esops.readmodel.marks import KeptMark
from esops.readmodel.registry import Version
from esops.readmodel.shards import LATE, add_shard_rows, as_shard, move_shard
from esops.readmodel.types import widest
from esops.running.work import Work
from esops.stores.base import EventStore
from esops.stores.parts import LogIdentity

_ASIDE_EVERY_SECONDS = 1.0
"""How often a mark is put beside the older ones."""


class VersionCheckpoint:
    """Where a runner is, and the version that it works on as of when it was opened."""

    def __init__(
        self,
        connection: psycopg.Connection,
        work: Work,
        store: EventStore,
        going: KeptMark | None = None,
    ) -> None:
        """Read the checkpoint. `going` is the mark of where the runner is on its way to."""
        self._connection, self._store = connection, store
        self._shard = None if work.shard is None else work.shard[0]
        version = registry.version(connection, work.projection, work.version)
        self.version: Version = (
            version if self._shard is None else as_shard(connection, version, self._shard)
        )
        self.position = self.version.position
        self.going = going
        """The mark of where the runner is going."""
        self._ahead = going
        """The same until it is kept."""
        self._moving: KeptMark | None = None
        self._kept: KeptMark | None = None
        """The mark of the last commit, and that of the one that is being made."""
        self._session: object | None = None
        """What the log was last recognised over (`LogIdentity.session`)."""
        self._put_aside = 0.0
        self.others_show: Mapping[str, str] = {}
        """Columns and types that other rows than those of the next commits have shown."""
        self.others_late = False
        """Whether any of these have shown them late."""

    def recognise(self) -> None:
        """Raises AnotherLog where the store's log is not the one that the checkpoint was taken in.

        The mark of a version that several processes load is at the end of the load.
        """
        identity, at = self._store.identity, replace(self.version, position=self.position)
        # Asked first: where the connection is lost after that, the next step asks once more.
        session = None if identity is None else identity.session()
        with translated():
            marks.check(self._connection, self._store, at)
            if self.going is not None and identity is not None:
                with marks.named(at):
                    identity.recognise(*self.going)
        self._session = session

    def _recognise_again(self, identity: LogIdentity) -> None:
        """Recognise the log before the next step, unless it is asked over the same session still.

        Where several versions share a store, only the first of them sees that its connection was
        lost: the others find another one in its place, which may lead to another history.
        """
        session = identity.session()
        if session is not None and session is self._session:
            return
        last = self.going or self._kept
        if last is None:
            self.recognise()
            return
        with translated(), marks.named(replace(self.version, position=self.position)):
            identity.recognise(*last)
        self._session = session

    def check_rows(self) -> None:
        """Raises OtherRows where the rows are not those of the checkpoint; keeps in which tables
        they are.
        """
        with translated():
            own_rows.check(self._connection, self.version)
            if self._shard is None:
                own_rows.note_tables(self._connection, self.version)

    def trust(self) -> None:
        """Keep a mark at the checkpoint where there is none yet, or where the log has moved, such
        as to a promoted replica.
        """
        identity = self._store.identity
        if self._shard is not None or identity is None or not identity.covers_before:
            return
        if self.position is None or self.going is not None:
            return
        with translated():
            kept = marks.newest_mark(self._connection, self.version)
            if kept is not None and kept.position > self.position:
                return  # it covers the checkpoint
            mark = identity.mark(self.position)
            if mark is None or (kept is not None and kept == (self.position, mark)):
                return
            with self._connection.transaction():
                version = self.version
                held = registry.lock_checkpoint(
                    self._connection, version.projection, version.version
                )
                if held == self.position:
                    marks.keep_mark(self._connection, version, self.position, mark)

    def go_to(self, target: Position) -> None:
        """Recognise the log where it may be another one by now, and ask for the mark of where the
        runner is going, which covers all checkpoints up to there.

        The first checkpoint on the way keeps it. Raises AnotherLog where the log is another one, or
        the target is no position of it.
        """
        identity = self._store.identity
        if self._shard is not None or identity is None:
            return
        self._recognise_again(identity)
        if not identity.covers_before:
            return
        if self.going is not None and self.going.position == target:
            return
        self.going = self._ahead = None
        # It may be another version's checkpoint, or the head before the connection was lost.
        with marks.named(replace(self.version, position=self.position)):
            identity.check_reach(target)
        mark = identity.mark(target)
        if mark is not None:
            self.going = self._ahead = KeptMark(target, mark)

    def mark_for(self, position: Position) -> KeptMark | None:
        """What tells the store's log at a position from any other log, where it is not kept yet.

        To be asked for before the transaction, which must not wait for a store.
        """
        identity = self._store.identity
        if self._shard is not None or identity is None:
            return None
        if identity.covers_before:
            return self._ahead
        mark = identity.mark(position)
        return None if mark is None else KeptMark(position, mark)

    def applied(self, events: Sequence[RecordedEvent], reached: Position) -> Mapping[str, object]:
        """What to remember of the last events that were applied; without any: of unknown ones, up
        to where the checkpoint goes.
        """
        if not events:
            return {"position": str(reached), "mark": None}
        identity = self._store.identity
        mark = None if identity is None else identity.mark_of(events)
        return {"position": str(events[-1].position), "mark": mark}

    def move(
        self,
        position: Position,
        events: int,
        mark: KeptMark | None,
        applied: Mapping[str, object] | None = None,
    ) -> None:
        """Move the checkpoint in the transaction that writes the rows.

        `position` here stays as it is until the transaction has committed (`moved`). Raises Busy
        where somebody else moved the checkpoint.
        """
        self._moving = mark or self._kept
        if self._shard is None:
            checkpoints.move_checkpoint(
                self._connection, self.version, self.position, position, events, applied
            )
            if mark is not None:
                if time.monotonic() - self._put_aside >= _ASIDE_EVERY_SECONDS:
                    marks.keep_older(self._connection, self.version)
                marks.keep_mark(self._connection, self.version, *mark)
        else:
            move_shard(
                self._connection,
                self.version,
                self._shard,
                old=self.position,
                new=position,
                events=events,
            )

    def moved(self, position: Position) -> None:
        """Note that the transaction with the last `move` has committed."""
        self.position, self._kept = position, self._moving
        if self._ahead is not None:
            self._ahead, now = None, time.monotonic()
            if now - self._put_aside >= _ASIDE_EVERY_SECONDS:
                self._put_aside = now

    def note_rows(self, change: int, value_types: Mapping[str, str], *, late: bool) -> None:
        """Keep the change in the number of rows, and the columns' Python types, in the same
        transaction. `late`: rows have shown columns or types that earlier ones had not.
        """
        value_types, late = widest(self.others_show, value_types), late or self.others_late
        if self._shard is None:
            registry.add_rows(self._connection, self.version, change, value_types)
        else:
            types = {**value_types, LATE: "yes"} if late else value_types
            add_shard_rows(self._connection, self.version, self._shard, change, types)
