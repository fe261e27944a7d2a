"""Loads a fold whose keys do not fit into memory, by a spill; everything else is the Applier's.

A load begins as any other. When its rows have filled the memory that they may take, and most of the
events are still to come, it looks whether the keys that it would have to forget come back. If so,
it begins a spill: from the log's start where little is written yet, else from its checkpoint. A
spill that another process began is continued first, or, where its directory cannot be used any
more, dropped; where some of its partitions are in the table already, the load begins again then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import structlog

from esops.errors import PoisonEvent, Stopped
from esops.events import Position, RecordedEvent
from esops.postgres.connection import translated
from esops.projections.definition import FoldDefinition
from esops.projections.kinds.fold import Fold
from esops.readmodel import marks, spills
from esops.readmodel.marks import KeptMark
from esops.readmodel.rows import BadEvent
from esops.readmodel.spills import Spill, StaleSpill
from esops.readmodel.types import Key
from esops.running.batches import without_collector
from esops.running.spill.frames import DamagedSpill
from esops.running.spill.partition import PartitionFolder, UnlikeLoad
from esops.running.spill.reading import in_pieces
from esops.running.spill.writing import PartitionWriter
from esops.running.statements import Held

log = structlog.get_logger("esops.spill")
KEEP_EVERY_SECONDS = 60.0
"""At most this much work of writing events to files is done again after a crash."""
AGAIN_WITHIN_SECONDS = 120.0
"""A load that has run for longer than this keeps what it has committed when it spills."""


class _Begin(Exception):
    """The rows do not fit into memory: a spill is to begin."""

    def __init__(self, partitions: int, *, again: bool) -> None:
        super().__init__()
        self.again = again
        """Whether what is committed is to be dropped, since it is little."""
        self.partitions = partitions


class SpillingApplier(PartitionFolder):
    """An Applier that spills where it has to."""

    _target: Position | None = None
    _of = 0
    """How many events the files will have, about."""
    _narrow: int | None = None
    _next_round: int | None = None
    """The partitions of the spill before, where that ended for lack of room, and the next one can
    begin at once.
    """

    # -- when to spill

    def _commit(self, position: Position) -> None:
        begin = self._has_to_spill(position)
        # Where nothing is committed yet, it costs seconds to read all again, and what is in memory
        # is dropped: then all rows are new to the table.
        if begin is None or (not begin.again and self._committed_so_far):
            super()._commit(position)
        if begin is not None:
            raise begin

    def _has_to_spill(self, position: Position) -> _Begin | None:
        """Whether the keys do not fit into memory, and come back."""
        full = self._projector is not None and self._projector.full
        if not full or self._without or self._narrow is not None or not self._may_spill:
            return None
        assert self._target is not None
        left, events = self._store.counts.between(position, self._target), self.events
        with translated():
            wanted = self._memory.forgets_too_much(
                self._latest, events + self._since_commit, left, self.connection
            )
        if not wanted:
            return None
        again = self._work.shard is None and 0 < self._committed_so_far == events
        # Only a fold that has seen all events knows when its rows have shown which types.
        again = again and not self._tables.value_types
        soon = time.monotonic() - self._began <= AGAIN_WITHIN_SECONDS
        return _Begin(self._memory.partitions, again=again and soon)

    @property
    def _committed_so_far(self) -> int:
        return self._memory.committed(self.events, self._checkpoint.version)

    @property
    def _may_spill(self) -> bool:
        return (
            isinstance(self._work.definition, FoldDefinition)
            and self._tables.loading
            and self._limit > 0
        )

    # -- doing it

    def run_until(self, target: Position) -> None:
        """As an Applier. A spill that is being applied is completed first, though its events may go
        beyond the target: no position before them describes the rows.
        """
        if self._spill is not None and self._spill.until is None and self._files is not None:
            reached = self._files.manifest.position
            if reached is not None and reached > target:
                with translated():
                    self._drop_spill(f"{self._files.path} has events beyond {target}")
        self.complete_spill()
        super().run_until(target)

    def complete_spill(self) -> None:
        """Apply all of a spill that another process began to apply. Raises as `run_until` does."""
        if self._spill is not None and self._spill.until is not None:
            super().run_until(self._spill.until)

    def _pass(self, target: Position, narrow: int | None) -> Iterator[None]:
        self._target, self._narrow = target, narrow
        if self._next_round is not None and self._spill is None:
            partitions, self._next_round = self._next_round, None
            self._begin_spill(partitions)
        if self._spill is None:
            yield from self._unspilled(target, narrow)
            return
        try:
            with without_collector():
                if self._spill.until is None:
                    self._write(target)
                if self._spill is not None:
                    yield from self._fold(narrow)
        except UnlikeLoad:
            self._reset()
            if self._spill is not None:
                self._load_unspilled()
        except (DamagedSpill, StaleSpill) as error:
            why = str(error) or "its row says so"
            self._reset()  # which finds out what is wrong with a stale one
            if self._spill is not None and isinstance(error, DamagedSpill):
                with translated():
                    self._drop_spill(f"{self._spill.directory} cannot be used: {why}")

    def _unspilled(self, target: Position, narrow: int | None) -> Iterator[None]:
        try:
            yield from super()._pass(target, narrow)
        except _Begin as begin:
            assert isinstance(self._projector, Fold)
            changes = self._projector.shown
            self._reset()
            if begin.again:
                with translated():
                    self._start_again()
                self._reset()
            self._begin_spill(begin.partitions, changes)

    # -- the first half

    def _write(self, target: Position) -> None:
        """Write the events up to a position to the files, and record that they are there.

        Raises Stopped and Held; what is written then is certain.
        """
        files, spill = self._files, self._spill
        assert files is not None
        assert spill is not None
        if self._writer is None:
            after = files.manifest.position or self.position
            self._writer = PartitionWriter(files, after, self._keys)
        writer, left = self._writer, self._store.counts.between(self._writer.position, target)
        self._of = files.events + left
        while writer.full is None and (writer.position is None or writer.position < target):
            self._write_some(writer, target)
        if not files.events and writer.full is not None:
            self._do_without(spill, writer.full)
            return
        until = target if writer.full is None else writer.position
        assert until is not None
        if not self._keep(writer, until):
            return
        mark = self._checkpoint.mark_for(until)
        with translated(), self.connection.transaction():
            if mark is not None:
                # Whoever continues has to know the log of all that is in the files.
                marks.keep_mark(self.connection, self._checkpoint.version, *mark)
            self._spill = spills.complete(self.connection, spill, until)
        if writer.full is not None:
            self._next_round = spill.partitions
            self._say(f"{writer.full}. What is written is applied first")
        self._writer = None
        self._say(
            f"{files.events:,} events up to position {until} are written "
            f"({files.size / (1 << 20):,.0f} MB); folding them by partitions"
        )

    def _write_some(self, writer: PartitionWriter, target: Position) -> None:
        """Write events until all are there, there is no more room, or, under a rate limit, for a
        moment.
        """
        writer.begin()
        rests = self._throttle.rests
        limit, seen = (self._throttle.slice if rests else None), 0
        for batch in self._store.read_all(writer.position, target, self._work.events, limit):
            writer.add(batch)
            seen += len(batch.events)
            written = f"{self._files_events:,} of {max(self._of, self._files_events):,}"
            self._progress.doing(f"sorting events into files, {written}", paused=True)
            if writer.full is not None:
                return
            stop = self._stop()
            held = self._throttle.holds() or self._throttle.rests != rests
            if stop or held or time.monotonic() - writer.kept_at >= KEEP_EVERY_SECONDS:
                writer.flush()
                if writer.full is not None:
                    return
                if writer.position is not None and not self._keep(writer, writer.position):
                    return
            if stop:
                raise Stopped(f"stopped after writing the events up to {writer.position}")
            if held:
                raise Held
        writer.flush()
        if limit is not None and seen >= limit:
            self._throttle.spend(seen)
        elif writer.full is None:
            writer.finish(target)

    def _keys(self, events: Sequence[RecordedEvent]) -> Sequence[Key]:
        assert isinstance(self._projector, Fold)
        with translated():
            return self._projector.keys(events, self.connection)[0]

    def _keep(self, writer: PartitionWriter, position: Position) -> bool:
        """Make certain what is written; False where that cannot be done, and the spill is
        dropped.
        """
        assert self._files is not None
        assert self._spill is not None
        kept = self._checkpoint.going
        if kept is None and (mark := self._checkpoint.mark_for(position)) is not None:
            kept = mark
        applied = self._files.manifest.applied
        if writer.last:
            applied = self._checkpoint.applied(writer.last, position)
        try:
            self._files.keep(position, _as_json(kept), applied)
        except OSError as error:
            why = f"{self._files.path} cannot be written to: {error.strerror or error}"
            self._do_without(self._spill, why)
            return False
        writer.kept_at = time.monotonic()
        return True

    # -- the second half

    def _fold(self, narrow: int | None) -> Iterator[None]:
        while (spill := self._spill) is not None:
            if spill.partition == spill.partitions:
                self._end_spill()
            else:
                yield from self._fold_partition(spill, narrow)
            yield

    def _fold_partition(self, spill: Spill, narrow: int | None) -> Iterator[None]:
        """Apply what is left of the first partition that is not in the table."""
        assert self._files is not None
        number, done = spill.partition, spill.done
        self._singly = False  # a file may be cut anywhere, also between events of one position
        # Of a partition that was not begun yet there is no key in the table.
        self._open_projector(spill, empty=spill.fresh and not done)
        assert self._projector is not None
        self._since_commit = 0
        sizes = (size for size in (narrow, self._work.commit_events) if size is not None)
        piece, since = min(sizes, default=None), time.monotonic()
        for part in in_pieces(self._files.read(number), done, lambda: self._most(piece)):
            self._apply_as_logged(part)
            done += len(part)
            self._progress.applied(self.events + self._since_commit, self.position)
            stop, rests = self._stop(), self._throttle.rests
            held = self._throttle.holds()
            enough = piece is not None and self._since_commit >= piece
            late = time.monotonic() - since >= self._commit_every.total_seconds()
            if not (enough or self._projector.full or late or stop or held or rests):
                continue
            self._commit_part(number, done)
            since = time.monotonic()
            yield
            if stop:
                raise Stopped(f"stopped in partition {number + 1} of {spill.partitions}")
            if held:
                raise Held
            if rests:
                self._throttle.spend(len(part))
        self._pass_all_changes()
        self._commit_part(number + 1, 0)

    def _commit_part(self, partition: int, done: int) -> None:
        """Write the rows, and record which events they are of, in one transaction."""
        spill, version = self._spill, self._checkpoint.version
        assert spill is not None
        assert self._files is not None
        after = replace(spill, partition=partition, done=done)
        at = replace(version, position=self.position)
        self._check_shown()
        with self._writing():
            spills.advance(self.connection, at, spill, after, self._since_commit)
        self._spill = after
        self._keep_shown(after)
        self._counted()
        for number in range(spill.partition, partition):
            self._files.forget(number)

    def _end_spill(self) -> None:
        """Move the checkpoint to the end of the spill, which is all in the table."""
        spill, files = self._spill, self._files
        assert spill is not None
        assert spill.until is not None
        assert files is not None
        mark = self._checkpoint.mark_for(spill.until)
        applied = files.manifest.applied if files.manifest.events else None
        with translated(), self.connection.transaction():
            self._checkpoint.move(spill.until, 0, mark, applied)
            spills.end(self.connection, spill)
        files.remove()
        self._files = self._spill = None
        self._committed(spill.until)
        self._reset()

    def _poisoned(self, bad: BadEvent) -> PoisonEvent:
        error = super()._poisoned(bad)
        if self._spill is not None:
            error.hint = f"{self._skipped.hint} What is folded so far is committed."
        return error


def _as_json(kept: KeptMark | None) -> dict[str, object] | None:
    return None if kept is None else {"position": str(kept.position), "mark": dict(kept.mark)}
