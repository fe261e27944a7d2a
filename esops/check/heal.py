"""Makes chosen rows of the version that serves right, while it is followed and read.

The rows are made again from the events outside of any lock (courses.py), and compared in a
snapshot. Only those that differ are written: some at a time, in a transaction that holds the
version's row, at exactly its checkpoint, which does not move. It raises the version's fence, so
that a follower with old rows in memory drops them (readmodel/fence.py).

Nothing is kept between two runs: a row that is right is left alone, so whoever is killed begins
again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import psycopg
import structlog

from esops.check.courses import Course, TooMuchSince
from esops.check.scratch import Scratch
from esops.check.served_rows import Differing, NotTaken, RowKey, ServedRows
from esops.errors import Busy, Refused, Stopped
from esops.events import Position
from esops.postgres.connection import translated
from esops.postgres.held import end_if_still
from esops.readmodel import locks, registry
from esops.readmodel.fence import raise_fence, unfenced_holder
from esops.readmodel.registry import Version
from esops.readmodel.rows import is_bad_row, one_line
from esops.rebuild.refolded import pieces
from esops.stores.base import EventStore

log = structlog.get_logger("esops.heal")
_PIECE = 500
"""Keys whose rows are made again at once."""
_HELD = 100
"""Rows that are written in one transaction, about."""
_ATTEMPTS = 5
"""How often rows are made again outside of the lock before they are made under it."""
_LOCK_TIMEOUT = "500ms"
_ROW_TIMEOUT = "100ms"
"""For rows of the table, while whoever follows the version waits for this one."""
_PATIENCE = timedelta(minutes=2)
"""How long the version's row may be held by others."""
_CATCHES_UP = timedelta(seconds=20)
"""How long one that is behind gets between two raises of the fence, at most."""


@dataclass
class Healed:
    """What became of the rows of some keys."""

    projection: str
    version: int
    position: Position | None = None
    """The checkpoint at which the last rows were compared."""
    keys: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    differing: dict[str, list[RowKey]] = field(default_factory=dict)
    """By what they take (insert, update, delete), the keys of the rows that differ."""
    unknown: dict[RowKey, str] = field(default_factory=dict)
    """Keys whose rows nobody knows, and why."""
    unfit: dict[RowKey, str] = field(default_factory=dict)
    """Keys whose rows the table does not take as the events make them, and what it says."""

    absent: list[RowKey] = field(default_factory=list)
    """Keys that were named and have no row, neither in the read model nor by the events."""
    statements: list[str] = field(default_factory=list)
    """The form of those that make rows right, with the keys as parameters."""

    @property
    def rows(self) -> int:
        """How many rows were written."""
        return self.inserted + self.updated + self.deleted

    def add(self, found: Differing) -> None:
        """Note rows that differ."""
        for name, keys in found._asdict().items():
            self.differing.setdefault(name, []).extend(keys)

    def note_absent(self, named: Iterable[RowKey], there: Collection[RowKey]) -> None:
        """Note which of some keys nobody knows; `there` are those that have a row now."""
        found = {key for keys in self.differing.values() for key in keys}
        known = {*there, *self.unknown, *self.unfit}
        self.absent = sorted(
            each for each in set(named) - known if not any(set(each) <= set(key) for key in found)
        )

    def as_dict(self) -> dict[str, object]:
        """Under the documented field names."""
        return {
            "projection": self.projection,
            "version": self.version,
            "position": None if self.position is None else str(self.position),
            "keys": self.keys,
            "differing": sum(map(len, self.differing.values())),
            "inserted": self.inserted,
            "updated": self.updated,
            "deleted": self.deleted,
            "healed": self.rows,
            "unknown": _reasons(self.unknown),
            "unfit": _reasons(self.unfit),
            "absent": [list(key) for key in self.absent],
        }


def _reasons(keys: dict[RowKey, str]) -> list[dict[str, object]]:
    return [{"key": list(key), "reason": why} for key, why in sorted(keys.items())]


class _MadeAgain(Exception):
    """Somebody else has written rows since these were made, or too much has come since."""

    def __init__(self, *, spoiled: bool) -> None:
        """`spoiled`: what was made is of no use."""
        super().__init__()
        self.spoiled = spoiled


def is_unfit(error: psycopg.Error | NotTaken) -> bool:
    """Whether the table, or a trigger of it, does not take a row."""
    if isinstance(error, NotTaken | psycopg.errors.RaiseException):
        return True
    return is_bad_row(error)


def _halves(keys: Sequence[RowKey]) -> tuple[Sequence[RowKey], Sequence[RowKey]]:
    return keys[: len(keys) // 2], keys[len(keys) // 2 :]


class Healer:
    """Makes rows of one version right, in a session that may hold it for a moment."""

    def __init__(
        self,
        connection: psycopg.Connection,
        store: EventStore,
        version: Version,
        scratch: Scratch,
        course: Course,
        tables: Sequence[ServedRows],
        stop: Callable[[], bool],
    ) -> None:
        """The connection is that of `scratch`, outside a transaction."""
        self._connection, self._store, self._version = connection, store, version
        self._scratch, self._course, self._tables, self._stop = scratch, course, tables, stop
        self._lock = locks.version_lock(version.projection, version.version)
        self._fence: int | None = None
        """As it is where only this heal has written rows since the first ones were made."""

    def run(self, keys: Sequence[RowKey], *, write: bool) -> Healed:
        """Compare the rows of some keys, and make right those that differ, where `write`.

        Raises Stopped; Refused where the version is another one by now, or a process follows it
        that would not notice; Busy where others hold it all the time.
        """
        result = Healed(self._version.projection, self._version.version, keys=len(keys))
        for some in pieces(keys, _PIECE):
            self._piece(some, result, write=write)
        for table in self._tables:
            result.statements += table.forms(self._connection, self._version.value_types)
        return result

    def _piece(self, keys: Sequence[RowKey], result: Healed, *, write: bool) -> None:
        left, attempt = list(keys), 0
        while left:
            attempt += 1
            if self._stop():
                raise Stopped("stopped; the rows that were made right stay so")
            seen = self._see()
            result.position = seen
            unknown = self._course.bring(left, seen)
            result.unknown.update(unknown)
            left = [each for each in left if each not in unknown]
            differing, moved = self._look(left, seen, result, write=write)
            left = moved
            for some in pieces(differing, _HELD):
                left += self._written(some, seen, result)
            if left and attempt >= _ATTEMPTS:
                for some in pieces(left, self._course.few):
                    self._held(some, result, write=write)
                return

    # -- outside of the lock

    def _see(self) -> Position:
        """Where the version is now. What was made before others wrote rows is dropped."""
        with translated():
            now = registry.version(
                self._connection, self._version.projection, self._version.version
            )
        self._check(now)
        if self._fence is not None and now.fence != self._fence:
            self._course.spoil()
        self._fence = now.fence
        with translated():
            self._scratch.look_at_skipped()
        assert now.position is not None
        return now.position

    def _look(
        self, keys: list[RowKey], seen: Position, result: Healed, *, write: bool
    ) -> tuple[list[RowKey], list[RowKey]]:
        """Compare in one snapshot. Returns the keys to be written, and those whose rows may be
        other ones by now.
        """
        connection = self._connection
        with translated(), connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            now = registry.version(connection, self._version.projection, self._version.version)
            self._check(now)
            assert now.position is not None
            try:
                touched = set(self._course.touched(keys, seen, now.position))
            except TooMuchSince:
                return [], keys
            if now.fence != self._fence:
                return [], keys
            steady = [each for each in keys if each not in touched]
            differing = set[RowKey]()
            for table in self._tables:
                found = table.differing(connection, steady)
                if not write:
                    result.add(found)
                elif found:
                    # Selected keys may be shorter than those of the rows.
                    differing.update(*found) if table.is_by_key else differing.update(steady)
        return sorted(differing), [each for each in keys if each in touched]

    # -- under the lock

    def _written(self, keys: Sequence[RowKey], seen: Position, result: Healed) -> list[RowKey]:
        """Write the rows of some keys that differ; returns those that have to be made again."""
        try:
            return self._transaction(keys, seen, result, held=False, write=True)
        except _MadeAgain as again:
            if again.spoiled:
                self._course.spoil()
            return list(keys)
        except (psycopg.Error, NotTaken) as error:
            if not is_unfit(error):
                raise
            if len(keys) == 1:
                result.unfit[keys[0]] = one_line(error)
                return []
        # The table does not take them together: by halves, down to a single one.
        return [each for some in _halves(keys) for each in self._written(some, seen, result)]

    def _held(self, keys: Sequence[RowKey], result: Healed, *, write: bool) -> None:
        """Make rows again under the lock, for they change all the time."""
        deadline = time.monotonic() + _PATIENCE.total_seconds()
        while True:
            seen = self._see()
            self._course.bring(keys, seen)
            try:
                self._transaction(keys, seen, result, held=True, write=write)
            except _MadeAgain as again:
                if again.spoiled:
                    self._course.spoil()
                if time.monotonic() > deadline:
                    raise self._held_by_others() from None
            except (psycopg.Error, NotTaken) as error:
                if not is_unfit(error):
                    raise
                self._course.spoil()
                if len(keys) > 1:
                    for some in _halves(keys):
                        self._held(some, result, write=write)
                else:
                    result.unfit[keys[0]] = one_line(error)
                return
            else:
                return

    def _transaction(
        self, keys: Sequence[RowKey], seen: Position, result: Healed, *, held: bool, write: bool
    ) -> list[RowKey]:
        """One transaction, as soon as the version's row can be had."""
        deadline, pause = time.monotonic() + _PATIENCE.total_seconds(), 0.05
        while True:
            if self._stop():
                raise Stopped("stopped; the rows that were made right stay so")
            try:
                return self._once(keys, seen, result, held=held, write=write)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                if held:
                    raise _MadeAgain(spoiled=True) from None
                if time.monotonic() > deadline:
                    raise self._held_by_others() from None
                time.sleep(pause)
                pause = min(2 * pause, 2.0)

    def _once(
        self, keys: Sequence[RowKey], seen: Position, result: Healed, *, held: bool, write: bool
    ) -> list[RowKey]:
        connection, version = self._connection, self._version
        wrote = Differing([], [], [])
        with translated(), connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
            end_if_still(connection)
            now = registry.hold(connection, version, registry.LIVE_STATES)
            connection.execute(f"SET LOCAL lock_timeout = '{_ROW_TIMEOUT}'".encode())
            self._check(now)
            self._check_follower()
            assert now.position is not None
            try:
                touched = set(self._course.touched(keys, seen, now.position))
                if now.fence != self._fence:
                    raise _MadeAgain(spoiled=True)
                if held:
                    self._scratch.look_at_skipped()
                    unknown = self._course.bring_held(keys, now.position)
                    result.unknown.update(unknown)
                    touched = set(unknown)
            except TooMuchSince:
                raise _MadeAgain(spoiled=False) from None
            steady = [each for each in keys if each not in touched]
            change = 0
            for table in self._tables:
                found = table.differing(connection, steady)
                if write:
                    change += table.write(connection, found, self._scratch.value_types)
                for mine, each in zip(wrote, found, strict=True):
                    mine.extend(each)
            if write and wrote:
                for table in self._tables:
                    table.see_written(connection, steady)
                raise_fence(connection, version.projection, version.version)
                if now.rows is not None:
                    types = {**now.value_types, **self._scratch.value_types}
                    registry.add_rows(connection, now, change, types)
                # Another one may have opened it since, in the place of the first.
                self._check_follower()
        result.position = now.position
        result.add(wrote)
        if write and wrote:
            self._fence = now.fence + 1
            result.inserted += len(wrote.insert)
            result.updated += len(wrote.update)
            result.deleted += len(wrote.delete)
            self._let_commit(now.position)
        return [] if held else [each for each in keys if each in touched]

    def _check(self, now: Version) -> None:
        """Raises Refused where the version is not what it was when the heal began."""
        at = self._version
        name = f"v{at.version} of {at.projection}"
        if now.state != at.state or now.tables != at.tables:
            raise Refused(
                f"{name} was switched or retired since the heal began",
                hint="Rows that were made right stay so. Run it again for the version that serves.",
            )
        if now.position is None or now.lost is not None:
            raise Refused(f"{name} has no checkpoint any more, at which its rows could be made")

    def _check_follower(self) -> None:
        """Keep others from opening the version until the transaction ends, or, where a process
        follows it, see that this one compares the fence. Raises Refused where it does not.
        """
        if locks.take_until_commit(self._connection, self._lock):
            return
        holder = unfenced_holder(self._connection, self._lock)
        if holder is None:
            return
        raise Refused(
            f"{self._version.projection} v{self._version.version} is kept fresh by {holder}, of an "
            "esops that would write old rows over those that are made right",
            hint="Restart that process with this version of esops.",
        )

    def _let_commit(self, at: Position) -> None:
        """Let the one that follows the version commit: each raise of the fence makes it begin its
        batch again.
        """
        if locks.holder(self._connection, self._lock) is None:
            return
        newest = self._store.newest(at)
        if newest is None or newest <= at:
            return
        deadline = time.monotonic() + _CATCHES_UP.total_seconds()
        while time.monotonic() < deadline and not self._stop():
            version = self._version
            now = registry.read_position(self._connection, version.projection, version.version)
            if now != at or locks.holder(self._connection, self._lock) is None:
                return
            time.sleep(0.02)

    def _held_by_others(self) -> Busy:
        return Busy(
            f"others have held v{self._version.version} of {self._version.projection}, or its "
            f"tables, for {_PATIENCE.total_seconds():.0f} s",
            hint="Look for long transactions: esops doctor. Rows that were made right stay so; run "
            "it again.",
        )
