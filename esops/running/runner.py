"""Keeps one version of a read model fresh: catch up, checkpoint, follow; exactly once, whatever
dies.

The checkpoint of a version and its rows commit in one transaction. After any failure the cache is
dropped and the work goes
on from the checkpoint, so nothing is ever applied twice or left out. A lost connection is waited
for. A poison event is
narrowed down to itself, by committing in ever smaller pieces, and then stops the projection or goes
to the dead letters.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import psycopg
import structlog

from esops.errors import Busy, ConnectionLost, PoisonEvent, Stopped, Unavailable
from esops.events import EventFilter, Position, RecordedEvent
from esops.postgres import catalog
from esops.postgres.connection import connect, translated
from esops.projections.definition import Definition, FoldDefinition, SqlDefinition
from esops.projections.kinds import open_projector
from esops.projections.kinds.sql import EVENTS_A_STATEMENT, range_statement
from esops.projections.projector import VersionTables
from esops.readmodel import locks, migrations, registry
from esops.readmodel.after_load import build_after_load
from esops.readmodel.dead_letters import record_dead_letter
from esops.readmodel.marks import keep_mark, mark_of
from esops.readmodel.registry import Version
from esops.readmodel.rows import BadEvent, is_bad_row, one_line
from esops.readmodel.shards import add_shard_rows, as_shard, move_shard
from esops.running.throttle import Throttle
from esops.settings import ProjectionSettings
from esops.stores.base import Batch, EventStore, require, settled
from esops.stores.parts import Mark

log = structlog.get_logger("esops.runner")

COMMIT_EVERY = timedelta(seconds=15)
"""At most this much work is done again after a crash."""
_PATIENCE = timedelta(minutes=10)
_WIDEST = 65_536
_COLLECT_AFTER = 500_000


Reader = Callable[[Position | None, Position, EventFilter], Iterator[Batch] | None]
"""Reads events after a position up to another; None where it does not."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a runner has done so far: events applied by it, and up to where they are committed."""

    events: int
    position: Position | None


@dataclass(frozen=True, slots=True)
class Work:
    """What a runner needs to know: the version, its code, and which events it is made of."""

    projection: str
    version: int
    definition: Definition
    filter: EventFilter
    on_error: str
    cache_rows: int
    commit_events: int | None = None
    """At most so many events a checkpoint; None leaves it to time and memory."""
    shard: tuple[int, int] | None = None
    """Only this share of the streams (which one, of how many), with a checkpoint of its own."""

    @classmethod
    def on(
        cls,
        projection: str,
        version: int,
        definition: Definition,
        settings: ProjectionSettings,
        commit_events: int | None = None,
        shard: tuple[int, int] | None = None,
    ) -> Work:
        """Work on a version, as its projection is configured."""
        how = (settings.filter, settings.on_error, settings.cache_rows)
        return cls(projection, version, definition, *how, commit_events, shard)

    @property
    def lock(self) -> str:
        """The lock of the one process that does this."""
        name = locks.version_lock(self.projection, self.version)
        return name if self.shard is None else f"{name}:{self.shard[0]}"

    @property
    def events(self) -> EventFilter:
        """Which events are read."""
        return replace(self.filter, shard=self.shard or self.filter.shard)


class Runner:
    """The one process that moves a version on. Holds the version's lock as long as it lives."""

    def __init__(
        self,
        store: EventStore,
        dsn: str,
        work: Work,
        *,
        stop: Callable[[], bool] = lambda: False,
        report: Callable[[Progress], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
        lock_patience: timedelta = timedelta(0),
        throttle: Throttle | None = None,
        read: Reader = lambda *_: None,
    ) -> None:
        """Connect to the read model and take the version's lock.

        Raises Busy if another process has it.

        `read` gives events that are read by somebody else, or None where the runner is to read them
        from the store.
        """
        self._store, self._dsn, self._work = store, dsn, work
        self._throttle = throttle or Throttle(dsn, work.projection, stop=stop, say=say)
        self._stop, self._report, self._say, self._read = stop, report, say, read
        self.events = 0
        self._uncollected = 0
        self._skip: dict[Position, str] = {}
        self._letters: list[tuple[RecordedEvent, str]] = []
        self._open(lock_patience)

    def _open(self, lock_patience: timedelta) -> None:
        work = self._work
        self.connection = connect(self._dsn, f"run {work.projection} v{work.version}")
        name = work.lock
        with translated():
            if not locks.take(self.connection, name, lock_patience):
                holder = locks.holder(self.connection, name)
                self.connection.close()
                raise Busy(
                    f"{work.projection} v{work.version} is kept fresh by "
                    f"{holder or 'another process'}",
                    hint="Only one process can move a version on.",
                )
            migrations.install(self.connection)
            self._version = self._checkpoint()
            self.position = self._version.position
            self._tables = self._find_tables()
            self._projector = open_projector(self._work.definition, self._tables)
        try:
            self._recognise()
        except BaseException:
            self.connection.close()
            raise

    def _recognise(self) -> None:
        """Raises Refused where the store's log is not the one that the checkpoint was taken in."""
        if self.position is None or self._work.shard is not None:
            return
        with translated():
            mark = mark_of(self.connection, replace(self._version, position=self.position))
        identity = self._store.identity
        if mark is not None and identity is not None:
            identity.recognise(self.position, mark)

    def _checkpoint(self) -> Version:
        """The version with the checkpoint that is moved here."""
        version = registry.version(self.connection, self._work.projection, self._work.version)
        return (
            version
            if self._work.shard is None
            else as_shard(self.connection, version, self._work.shard[0])
        )

    def _mark(self, position: Position) -> Mark | None:
        """Asked for before the transaction, which must not wait for a store."""
        identity = self._store.identity
        return None if self._work.shard is not None or identity is None else identity.mark(position)

    def _move(self, position: Position, events: int, mark: Mark | None) -> None:
        if self._work.shard is None:
            registry.move_checkpoint(
                self.connection, self._version, self.position, position, events
            )
            if mark is not None:
                keep_mark(self.connection, self._version, position, mark)
        else:
            move_shard(
                self.connection,
                self._version,
                self._work.shard[0],
                old=self.position,
                new=position,
                events=events,
            )

    def _note_rows(self, change: int, value_types: Mapping[str, str]) -> None:
        if self._work.shard is None:
            registry.add_rows(self.connection, self._version, change, value_types)
        else:
            add_shard_rows(self.connection, self._version, self._work.shard[0], change, value_types)

    @property
    def counts_rows(self) -> bool:
        """Whether the number of rows is kept with each checkpoint: of a fold, whose rows esops
        writes itself.
        """
        return isinstance(self._work.definition, FoldDefinition)

    def _find_tables(self) -> VersionTables:
        version = self._version
        tables = {}
        for name, physical in version.tables.items():
            table = catalog.find_table(self.connection, *physical)
            if table is None:
                raise Unavailable(
                    f"the table {'.'.join(physical)} of {version.projection} v{version.version} "
                    "is gone"
                )
            tables[name] = table
        self._keyed = all(table.key for table in tables.values())
        return VersionTables(
            projection=version.projection,
            version=version.version,
            by_name=tables,
            keys={
                name: table.key or key_noted(version, table.name) for name, table in tables.items()
            },
            value_types=version.value_types,
            conjoined=self._store.capabilities.tenants,
            empty=version.events == 0 and version.state == "building",
            cache_rows=self._work.cache_rows,
            ensure_keys=self._ensure_keys,
        )

    def _ensure_keys(self) -> None:
        if not self._keyed:
            self._say("building the key")
            build_after_load(self.connection, self._version, primary_only=True)
            self._keyed = True

    def run_until(self, target: Position) -> None:
        """Apply everything after the checkpoint up to a position and leave the checkpoint exactly
        there.

        Raises Stopped when asked to stop, PoisonEvent, Busy, or Unavailable when the database stays
        away.
        """
        narrow: int | None = None  # pieces to commit, while a poison event is searched
        while self.position is None or self.position < target:
            self._throttle.wait()
            try:
                for _ in self._pass(target, narrow):
                    if narrow is not None:
                        narrow = narrow * 2 if narrow < _WIDEST else None
                        break
            except _Held:
                continue
            except registry.TablesMoved:
                self._reset()
            except BadEvent as bad:
                applied, known_as = self._since_commit, self._version.tables
                self._reset()
                if self._version.tables != known_as:
                    continue  # rows were read by a name that is another version's by now
                if applied > 1:
                    # Not the event at which it showed is to blame, but the one that spoiled the
                    # row.
                    narrow = max(1, applied // 16)
                elif self._work.on_error == "stop":
                    raise self._poisoned(bad) from bad.__cause__
                else:
                    assert self._last is not None
                    self._skip[self._last.position] = bad.reason
            except ConnectionLost as lost:
                self._reconnect(lost)

    def _pass(self, target: Position, narrow: int | None) -> Iterator[None]:
        """Read and apply once through; yields after each commit."""
        with _collecting_at_commits():
            if self._projector is None:
                yield from self._by_ranges(target)
            else:
                yield from self._read_and_apply(target, narrow)

    def _by_ranges(self, target: Position) -> Iterator[None]:
        """A statement for each range of events, in the checkpoint's transaction."""
        definition = self._work.definition
        assert isinstance(definition, SqlDefinition)
        with translated():
            self._ensure_keys()  # what comes again is written over, by ON CONFLICT
        while self.position is None or self.position < target:
            most = self._work.commit_events or EVENTS_A_STATEMENT
            if self._throttle.limits.max_rate is not None:
                most = min(most, max(self._throttle.slice, 1_000))
            part = require(self._store, self._store.sql, "sql").range(self.position, target, most)
            text = range_statement(definition, self._tables.names, part)
            mark = self._mark(part.reached)
            with translated(), self.connection.transaction():
                self._move(part.reached, part.events, mark)
                try:
                    self.connection.execute(text.encode())
                except psycopg.Error as error:
                    if not (is_bad_row(error) or isinstance(error, psycopg.ProgrammingError)):
                        raise
                    raise PoisonEvent(
                        f"the statement of {self._work.projection} v{self._work.version} fails on "
                        f"the events after {part.after} "
                        f"up to {part.until}: {one_line(error)}",
                        hint="Mend the statement and go on with --resume. What came before is "
                        "committed.",
                    ) from error
            self._since_commit = part.events
            self._committed(part.reached)
            yield
            if self._stop():
                raise Stopped(f"stopped at position {part.reached}")
            self._throttle.spend(part.events)
            if self._throttle.holds():
                raise _Held

    def _read_and_apply(self, target: Position, narrow: int | None) -> Iterator[None]:
        assert self._projector is not None
        self._last: RecordedEvent | None = None
        while self.position is None or self.position < target:
            yield from self._read_and_apply_some(target, narrow)

    def _read_and_apply_some(self, target: Position, narrow: int | None) -> Iterator[None]:
        """Up to the target; where a rate is kept, less, so that the rest comes when no statement is
        open any more.
        """
        assert self._projector is not None
        self._since_commit = 0
        piece = min(
            (size for size in (narrow, self._work.commit_events) if size is not None), default=None
        )
        since = time.monotonic()
        wanted, rests = self._work.events, self._throttle.rests
        limit, seen = (self._throttle.slice if rests else None), 0
        batches = None if rests else self._read(self.position, target, wanted)
        for batch in batches or self._store.read_all(self.position, target, wanted, limit):
            for part, reached in _pieces(
                batch, min(piece or self._throttle.slice, self._throttle.slice)
            ):
                seen += len(part)
                if part:
                    self._apply(part)
                enough = piece is not None and self._since_commit >= piece
                if (
                    enough
                    or self._projector.full
                    or time.monotonic() - since >= COMMIT_EVERY.total_seconds()
                ):
                    self._commit(reached)
                    since = time.monotonic()
                    yield
                if self._stop():
                    self._commit(reached)
                    raise Stopped(f"stopped at position {reached}")
                if self._throttle.holds() or self._throttle.rests != rests:
                    self._commit(reached)
                    raise _Held
        if seen == limit:
            self._commit(reached)
            self._throttle.spend(seen)
        else:
            self._commit(target)
        yield

    def _apply(self, events: list[RecordedEvent]) -> None:
        self._since_commit += len(events)
        self._last = events[-1]
        wanted = events
        if self._skip:
            self._letters += [
                (event, self._skip[event.position])
                for event in events
                if event.position in self._skip
            ]
            wanted = [event for event in events if event.position not in self._skip]
        assert self._projector is not None
        with translated():
            self._projector.apply(wanted, self.connection)

    def _commit(self, position: Position) -> None:
        assert self._projector is not None
        mark = self._mark(position)
        with translated():
            with self.connection.transaction():
                self._move(position, self._since_commit, mark)
                change = self._projector.flush(self.connection)
                if self._since_commit and change is not None:
                    self._note_rows(change, self._projector.value_types)
                self._write_letters()
            self._projector.flushed()
        self._committed(position)

    def _committed(self, position: Position) -> None:
        self._uncollected += self._since_commit
        if self._uncollected > _COLLECT_AFTER:
            gc.collect()
            self._uncollected = 0
        self.position = position
        self.events += self._since_commit
        self._since_commit = 0
        self._report(Progress(self.events, position))

    def _write_letters(self) -> None:
        for event, reason in self._letters:
            record_dead_letter(
                self.connection, self._work.projection, self._work.version, event, reason
            )
            log.warning(
                "dead letter",
                position=str(event.position),
                stream=event.stream,
                type=event.type,
                error=reason,
            )
            self._skip.pop(event.position, None)
        self._letters = []

    def _poisoned(self, bad: BadEvent) -> PoisonEvent:
        event = self._last
        assert event is not None
        return PoisonEvent(
            f"{self._work.projection} v{self._work.version} cannot project event {event.id} "
            f"({event.type}, version {event.version} of stream {event.stream!r}, position "
            f"{event.position}): {bad.reason}",
            hint='Mend the projection and go on, or set on_error = "dead-letter". What came before '
            "it is committed.",
        )

    def _reset(self) -> None:
        """Drop what is not committed and go back to the checkpoint."""
        self._letters = []
        if self._projector is not None:
            self._projector.close()
        with translated():
            self._version = self._checkpoint()
            self.position = self._version.position
            self._tables = self._find_tables()
            self._projector = open_projector(self._work.definition, self._tables)
            self._since_commit = 0

    def _reconnect(self, lost: ConnectionLost) -> None:
        """Wait for the database, in ever longer pauses, and take everything up again.

        Raises Unavailable after ten minutes.
        """
        self._say(f"waiting for the database: {lost.message}")
        log.warning("connection lost", error=lost.message)
        deadline, pause = time.monotonic() + _PATIENCE.total_seconds(), 0.2
        if self._projector is not None:
            self._projector.close()
        self.connection.close()
        while True:
            if self._stop():
                raise Stopped("stopped while the database was away")
            time.sleep(pause)
            pause = min(pause * 1.5, 5.0)
            try:
                self._store.ping()
                self._open(timedelta(seconds=5))
            except ConnectionLost as still:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"the database stayed away for ten minutes: {still.message}"
                    ) from still
            else:
                self._say("the database is back")
                log.info("reconnected", position=str(self.position))
                self._letters = []
                self._since_commit = 0
                return

    def step(self, patience: timedelta = timedelta(milliseconds=20)) -> bool:
        """Go on to what is settled now; whether there was anything.

        Waits for a database that went away.
        """
        try:
            head = self._store.head(patience, self.position).position
        except ConnectionLost as lost:
            self._reconnect(lost)
            return True
        if head is None or (self.position is not None and head <= self.position):
            self._check_end(head)
            return False
        self.run_until(head)
        return True

    def _check_end(self, head: Position | None) -> None:
        """Raises Refused where the log ends before the checkpoint, so that it is not the one that
        this was taken in.
        """
        if self.position is not None and (head is None or head < self.position):
            self._recognise()

    def catch_up(self) -> None:
        """Apply all that was committed before the call.

        Raises Unsettled where not all of it settles in time; what did is applied then.
        """
        while True:
            try:
                head, short = settled(self._store, self.position, self._stop)
                break
            except ConnectionLost as lost:
                self._reconnect(lost)
        if head is not None and (self.position is None or head > self.position):
            self.run_until(head)
        else:
            self._check_end(head)
        if short is not None:
            raise short

    def follow(self, poll: timedelta = timedelta(milliseconds=100)) -> None:
        """Go on until asked to stop, or until the version is retired."""
        checked = time.monotonic()
        while not self._stop():
            try:
                worked = self.step()
            except Stopped:
                return
            except (Busy, psycopg.errors.UndefinedTable):
                # Retired between two looks: its checkpoint moves no more, or its table is gone.
                if self._retired():
                    return
                raise
            if not worked:
                time.sleep(poll.total_seconds())
            if time.monotonic() - checked > 1:
                checked = time.monotonic()
                if self._retired():
                    return

    def _retired(self) -> bool:
        try:
            with translated():
                version = registry.version(
                    self.connection, self._work.projection, self._work.version
                )
        except ConnectionLost:
            return False
        return version.state not in registry.LIVE_STATES and version.state != "building"

    def close(self) -> None:
        """Give the lock back."""
        self._throttle.close()
        if self._projector is not None:
            self._projector.close()
        self.connection.close()


class _Held(Exception):
    """Work is to wait, with no statement open."""


@contextlib.contextmanager
def _collecting_at_commits() -> Iterator[None]:
    """Keep the cyclic collector out of the loop: events and rows make no cycles, and looking for
    them took a quarter of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def key_noted(version: Version, physical: str) -> tuple[str, ...]:
    """The columns of a table's key as noted for after the load."""
    noted = (item for item in version.after_load if item.get("table", version.table[1]) == physical)
    return next((tuple(item["key"]) for item in noted if item["primary"] and item.get("key")), ())


def _pieces(batch: Batch, size: int | None) -> Iterator[tuple[list[RecordedEvent], Position]]:
    """A batch in pieces, each with the position up to which everything has been seen with it."""
    events, seen = batch
    assert seen is not None
    step = size or len(events) or 1
    for start in range(0, max(1, len(events)), step):
        part = events[start : start + step] if len(events) > step else events
        yield part, part[-1].position if start + step < len(events) else seen
