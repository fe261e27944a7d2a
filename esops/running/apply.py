"""Applies events to one version of a read model: exactly once, whatever dies.

The checkpoint of a version and its rows commit in one transaction. After any failure the cache is
dropped and the work continues from the checkpoint, so nothing is ever applied twice or left out.
Where the connection is lost, the runner waits for the database. A poison event is narrowed down to
itself, by committing in ever smaller pieces; then it stops the projection or becomes a dead letter.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta

import structlog

from esops.errors import Busy, ConnectionLost, PoisonEvent, Stopped, Unavailable
from esops.events import Position, RecordedEvent
from esops.postgres.connection import translated
from esops.projections.definition import FoldDefinition
from esops.projections.kinds import open_projector
from esops.projections.kinds.fold import Fold
from esops.readmodel import checkpoints, locks, migrations
from esops.readmodel.after_load import build_after_load, lacks_keys
from esops.readmodel.fence import FenceRaised
from esops.readmodel.rows import BadEvent
from esops.running.batches import Collector, of_one_position, pieces, without_collector
from esops.running.checkpoint import VersionCheckpoint
from esops.running.progress_reports import ProgressReports
from esops.running.sessions import OwnSession, RunnerSession
from esops.running.skipped import SkippedEvents
from esops.running.statements import Held, StatementApplier
from esops.running.throttle import Throttle
from esops.running.user_schema import naming
from esops.running.version_tables import find_tables
from esops.running.work import RunControl, Work
from esops.stores.base import Batch, EventStore

log = structlog.get_logger("esops.runner")

COMMIT_EVERY = timedelta(seconds=15)
"""At most this much work is done again after a crash."""
LOAD_COMMIT_EVERY = timedelta(minutes=1)
"""The same for the first load of a fold. Each commit writes rows that later events change again."""
_PATIENCE = timedelta(minutes=10)
_WIDEST = 65_536
"""Pieces of this many events are as good as no pieces: the search for a poison event is over."""


_FREE = RunControl()


class Applier(StatementApplier):
    """Advances a version up to a given position. Holds the version's lock as long as it is open."""

    def __init__(
        self,
        store: EventStore,
        dsn: str,
        work: Work,
        control: RunControl = _FREE,
        *,
        lock_patience: timedelta = timedelta(0),
        session: RunnerSession | None = None,
    ) -> None:
        """Connect to the read model, by a session of its own unless one is given, and take the
        version's lock.

        Raises Busy if another process has it for longer than `lock_patience`.
        """
        self._store, self._work = store, work
        self._session = session or OwnSession(dsn)
        self._stop, self._say = control.stop, control.say
        self._read, self._look = control.read, control.look
        self._progress = ProgressReports(control.report, buffered=not self.counts_rows)
        self._throttle = control.throttle or Throttle(
            dsn, work.projection, stop=control.stop, say=control.say
        )
        self.events = 0
        self._collector = Collector()
        self._since_commit = 0
        self._latest: list[RecordedEvent] = []
        self._skipped = SkippedEvents(work)
        self._singly = False
        """Whether the next events, which share a position, are applied one by one."""
        self._open(lock_patience)

    def _open(self, lock_patience: timedelta) -> None:
        work = self._work
        self.connection = self._session.open(f"run {work.projection} v{work.version}")
        name = work.lock
        with translated():
            try:
                if not locks.take(self.connection, name, lock_patience):
                    raise self._busy(name)
            except Busy:
                self._session.leave(self.connection, None)
                raise
        try:
            with translated():
                migrations.install(self.connection)
                if self._store.memory is not None:
                    self._store.memory.keep()
                self._load_checkpoint()
            self._checkpoint.recognise()
            self._checkpoint.check_rows()
            self._checkpoint.trust()
        except BaseException:
            self._session.leave(self.connection, name)
            raise

    def _busy(self, lock: str) -> Busy:
        work = self._work
        holder = locks.holder(self.connection, lock) or "another process"
        return Busy(
            f"{work.projection} v{work.version} is kept fresh by {holder}",
            hint="Only one process can advance a version. If `esops run` has started that one, "
            "stop `esops run`: it would start it again.",
        )

    def _load_checkpoint(self) -> None:
        """Read where the version is and what its tables are; nothing is applied beyond that."""
        going = self._checkpoint.going if "_checkpoint" in vars(self) else None
        self._checkpoint = VersionCheckpoint(self.connection, self._work, self._store, going)
        self._tables = find_tables(
            self.connection,
            self._checkpoint.version,
            self._work,
            self._store.capabilities,
            self._ensure_keys,
        )
        # Green gets its key after the load, unless a statement with ON CONFLICT needs it.
        self._keyed = all(table.key for table in self._tables.by_name.values())
        self._projector = open_projector(self._work.definition, self._tables)

    @property
    def counts_rows(self) -> bool:
        """Whether the number of rows is kept with each checkpoint: only of a fold, since esops
        knows which rows a fold adds and removes.
        """
        return isinstance(self._work.definition, FoldDefinition)

    def _ensure_keys(self) -> None:
        version = self._checkpoint.version
        # A rebuild may have built it after this was opened.
        if not self._keyed and lacks_keys(self.connection, version):
            self._say("building the key")
            self._progress.doing("building the key")
            build_after_load(self.connection, version, primary_only=True)
        self._keyed = True

    def run_until(self, target: Position) -> None:
        """Apply everything after the checkpoint up to a position and leave the checkpoint exactly
        there.

        Raises Stopped when asked to stop, PoisonEvent, Busy, or Unavailable when the database
        cannot be reached for ten minutes.
        """
        narrow: int | None = None  # events a commit, while a poison event is searched for
        while self.position is None or self.position < target:
            if self._throttle.holds():
                self._progress.doing("waiting", paused=True)
            self._throttle.wait()
            try:
                self._checkpoint.go_to(target)
                # One commit of the narrow search at a time: the next pass may be wider.
                for _ in self._pass(target, narrow):
                    if narrow is not None:
                        narrow = narrow * 2 if narrow < _WIDEST else None
                        break
            except Held:
                continue
            except (checkpoints.TablesMoved, FenceRaised):
                self._reset()
            except BadEvent as bad:
                narrow = self._after(bad, narrow)
            except ConnectionLost as lost:
                self._reconnect(lost)

    def _after(self, bad: BadEvent, narrow: int | None) -> int | None:
        """How many events to commit at a time after a poison one: ever fewer, until it is found.
        Raises PoisonEvent where it is not to be skipped.
        """
        applied, known, latest = self._since_commit, self._checkpoint.version, self._latest
        self._reset()
        now = self._checkpoint.version
        if (now.tables, now.fence) != (known.tables, known.fence):
            return narrow  # the rows were another version's, or others wrote them since
        if applied > 1:
            # The event at which it shows need not be the one that spoiled the row, so all since the
            # last commit are suspects. Smaller commits leave fewer of them.
            self._singly = of_one_position(latest, applied)
            return max(1, applied // 16)
        if self._work.on_error == "stop" or not self._skipped.can_skip(latest[-1], self._store):
            raise self._poisoned(bad) from bad.__cause__
        self._skipped.add(latest[-1].position, bad.reason)
        return narrow

    def _pass(self, target: Position, narrow: int | None) -> Iterator[None]:
        """Read and apply once through; yields after each commit."""
        with without_collector():
            if self._projector is None:
                yield from self._by_ranges(target)
            else:
                yield from self._read_and_apply(target, narrow)

    def _read_and_apply(self, target: Position, narrow: int | None) -> Iterator[None]:
        assert self._projector is not None
        self._latest = []
        while self.position is None or self.position < target:
            yield from self._read_and_apply_some(target, narrow)

    def _read_and_apply_some(self, target: Position, narrow: int | None) -> Iterator[None]:
        """Up to the target; under a rate limit only a slice, so that the pause after it comes when
        no statement is open any more.
        """
        assert self._projector is not None
        self._since_commit = 0
        piece = min(
            (size for size in (narrow, self._work.commit_events) if size is not None), default=None
        )
        since = time.monotonic()
        rests = self._throttle.rests
        limit, seen = (self._throttle.slice if rests else None), 0
        # Closed at once, whatever ends this: who shares a read must not wait for one that left.
        with closing(self._batches(target, limit, rests=rests)) as batches:
            for batch in batches:
                # Pieces, so that stop and pause are heard within a big batch, too.
                for part, reached in pieces(batch, lambda: self._most(piece)):
                    seen += len(part)
                    if self._singly and part:
                        self._commit_singly(part, reached)
                        yield
                        continue
                    if part:
                        self._apply(part)
                        self._progress.applied(self.events + self._since_commit, reached)
                    enough = self._since_commit >= (piece or self._progress.most_buffered)
                    if (
                        enough
                        or self._projector.full
                        or time.monotonic() - since >= self._commit_every.total_seconds()
                    ):
                        self._commit(reached)
                        since = time.monotonic()
                        yield
                    # What is applied is worth keeping, so stopping costs a commit.
                    if self._stop():
                        self._commit(reached)
                        raise Stopped(f"stopped at position {reached}")
                    if self._throttle.holds() or self._throttle.rests != rests:
                        self._commit(reached)
                        raise Held
        # A full slice: there may be more. Otherwise everything up to the target has been seen.
        if limit is not None and seen >= limit:
            self._commit(reached)
            self._throttle.spend(seen)
        else:
            self._commit(target)
        yield

    def _batches(self, target: Position, limit: int | None, *, rests: bool) -> Generator[Batch]:
        """The events up to a position."""
        wanted = self._work.events
        # A shared read would hold up the others while this one rests.
        shared = None if rests else self._read(self.position, target, wanted)
        yield from shared or self._store.read_all(self.position, target, wanted, limit)

    @property
    def _commit_every(self) -> timedelta:
        return LOAD_COMMIT_EVERY if self._tables.loading and self.counts_rows else COMMIT_EVERY

    def _most(self, piece: int | None) -> int:
        """How many events to apply before looking again."""
        assert self._projector is not None
        most = min(self._throttle.slice, self._projector.most_at_once, self._progress.most_at_once)
        return min(piece or most, most)

    def _apply(self, events: list[RecordedEvent]) -> None:
        self._since_commit += len(events)
        self._latest = events
        wanted = self._skipped.without(events)
        assert self._projector is not None
        with self._progress.applying(len(events)), translated(), naming(self._tables):
            self._projector.apply(wanted, self.connection)
        self._collector.applied(len(events))

    def _commit(self, position: Position) -> None:
        mark = self._checkpoint.mark_for(position)
        applied = None
        if self._since_commit:
            applied = self._checkpoint.applied(self._latest, position)
        with self._writing():
            # The row of the checkpoint is locked before any row of the tables is written, so a
            # switch that holds it sees a version that does not advance.
            self._checkpoint.move(position, self._since_commit, mark, applied)
        self._committed(position)

    def _commit_singly(self, events: list[RecordedEvent], position: Position) -> None:
        """Commit the events of a position, applied one by one, so that a poison one shows alone."""
        self._singly, mark = False, self._checkpoint.mark_for(position)
        applied = self._checkpoint.applied(events, position)
        with translated(), self.connection.transaction():
            for number, event in enumerate(events):
                self._since_commit = 0
                self._apply([event])
                with self._writing():
                    if number == 0:
                        self._checkpoint.move(position, len(events), mark, applied)
        self._since_commit = len(events)
        self._committed(position)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write what is applied in the transaction that moves the checkpoint, after that."""
        assert self._projector is not None
        writing = self._progress.writing(self._since_commit)
        with writing, translated(), naming(self._tables):
            with self.connection.transaction():
                yield
                change = self._projector.flush(self.connection)
                if self._since_commit and change is not None:
                    late = isinstance(self._projector, Fold) and self._projector.late
                    self._checkpoint.note_rows(change, self._projector.value_types, late=late)
                self._skipped.write(self.connection)
            self._projector.flushed()

    def _committed(self, position: Position) -> None:
        self._checkpoint.moved(position)
        self._counted()

    def _counted(self) -> None:
        self.events += self._since_commit
        self._since_commit = 0
        self._progress.committed(self.events, self.position)

    def _poisoned(self, bad: BadEvent) -> PoisonEvent:
        return self._skipped.poisoned(self._latest[-1], bad)

    def _reset(self) -> None:
        """Drop what is not committed and return to the checkpoint."""
        self._skipped.forget_unwritten()
        if self._projector is not None:
            self._projector.close()
        with translated():
            self._load_checkpoint()
            self._since_commit = 0

    def _reconnect(self, lost: ConnectionLost) -> None:
        """Wait for the database, in ever longer pauses, and open everything again.

        Raises Unavailable after ten minutes, Stopped when asked to stop.
        """
        self._say(f"waiting for the database: {lost.message}")
        log.warning("connection lost", error=lost.message)
        deadline, pause = time.monotonic() + _PATIENCE.total_seconds(), 0.2
        self._drop()
        while True:
            if self._stop():
                raise Stopped("stopped while waiting for the database")
            time.sleep(pause)
            pause = min(pause * 1.5, 5.0)
            try:
                self._reopen()
            except ConnectionLost as still:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"the database was unreachable for ten minutes: {still.message}"
                    ) from still
            else:
                self._say("the database can be reached again")
                return

    def _drop(self) -> None:
        """Give up what a lost connection may have spoiled."""
        if self._projector is not None:
            self._projector.close()
        self._session.leave(self.connection, self._work.lock)

    def _reopen(self) -> None:
        """Open everything again, at the checkpoint. Raises ConnectionLost where that is too
        early.
        """
        # The store may be in the same server: both have to be back.
        self._store.ping()
        self._open(timedelta(seconds=5))
        log.info("reconnected", position=str(self.position))
        self._skipped.forget_unwritten()
        self._since_commit = 0

    @property
    def store(self) -> EventStore:
        """Where the events come from; it stays open when this is closed."""
        return self._store

    def close(self) -> None:
        """Close the connection, which gives the lock back."""
        self._throttle.close()
        self._drop()
