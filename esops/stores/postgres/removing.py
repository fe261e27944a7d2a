"""Removing archived events from a layout's tables, in small transactions.

What leaves is compared by the statement that removes it: only events that are as the archive has
them go, and where one is not, its whole stream stays as it is. A stream that a writer works on is
left alone.

A stream's row is locked first, as the library's own writers do, and its last event looked at
after that. Where writers insert events before they lock the row (Marten's quick append, without a
foreign key), the transactions that are writing events at that moment are waited for in between.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import errors, sql

from esops.events import StreamKey
from esops.postgres.statements import statements
from esops.stores.archiving import Removed, VersionRange
from esops.stores.postgres import refusals
from esops.stores.postgres.comparing import Comparison, array_of
from esops.stores.postgres.layouts.archiving import RANGES, STREAMS, LayoutArchiving, SqlRemoval
from esops.stores.postgres.obstacles import used_twice
from esops.stores.postgres.settle import Waiting
from esops.stores.postgres.side_effects import refuse_side_effects

_SQL = statements(__package__, "removing")
_ROWS_AT_ONCE = 5_000
_POLL = 0.01
_LOSES = "the library's own way to archive it does not keep all of its columns"
_HELD = "a writer holds it"
_GONE = f"{_HELD}, or it does not exist any more"


class _LeftAlone(Exception):
    """Some ranges must stay; nothing was removed."""

    def __init__(self, reasons: dict[StreamKey, str], *, lasting: bool = False) -> None:
        """`lasting`: it would be the same the next time."""
        super().__init__(reasons)
        self.reasons, self.lasting = reasons, lasting


class _WriterWaits(Exception):
    """A writer that has inserted events of one of the streams waits for its row."""


@dataclass
class _SeenInRemoval:
    """What was seen of streams while their events were removed."""

    equal: Counter[StreamKey] = field(default_factory=Counter)
    """Events that are as the archive has them."""
    expected: Counter[StreamKey] = field(default_factory=Counter)
    """Those that may be there after that."""
    taken: Counter[tuple[StreamKey, int]] = field(default_factory=Counter)
    """Archived events of each range, by its stream and lowest version."""


@dataclass(frozen=True)
class StreamRemover:
    """Removes ranges of streams over one connection."""

    connection: psycopg.Connection
    rules: LayoutArchiving
    removal: SqlRemoval
    events: sql.Identifier
    compare: Callable[[psycopg.Connection], Comparison]
    """Reads what the table is like now."""
    patience: timedelta
    """How long writers are waited for."""
    waits: bool
    """Whether transactions that are writing events have to be waited for."""
    tried: bool = False
    """Whether all of it is rolled back: what would be removed stays."""

    def remove(self, parts: Sequence[VersionRange]) -> list[Removed]:
        """Remove ranges in one transaction.

        Where that fails, each half is tried by itself, and so on: the streams that can go do go,
        and the reason is given for the one that it concerns.
        """
        try:
            with self.connection.transaction(force_rollback=self.tried):
                removed = self._remove_at_once(parts)
                if self.tried:  # what a commit would check
                    self.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                return removed
        except _LeftAlone as left:
            reasons, lasting = left.reasons, left.lasting
            alone = [Removed(p, 0, reasons[p.key], lasting) for p in parts if p.key in reasons]
            rest = [part for part in parts if part.key not in reasons]
            return alone + (self.remove(rest) if rest else [])
        except (
            errors.LockNotAvailable,
            errors.QueryCanceled,
            errors.DeadlockDetected,
            errors.IntegrityError,
            errors.RaiseException,
            errors.DataError,
            _WriterWaits,
        ) as error:
            if len(parts) == 1:
                return [_refused(parts[0], error)]
        middle = len(parts) // 2
        first = self.remove(parts[:middle])
        # Of a stream that stays, no later part may go.
        stay = {each.part.key: each for each in first if each.reason is not None}
        rest = [part for part in parts[middle:] if part.key not in stay]
        alone = [stay[p.key]._replace(part=p) for p in parts[middle:] if p.key in stay]
        return [*first, *alone, *(self.remove(rest) if rest else [])]

    def _remove_at_once(self, parts: Sequence[VersionRange]) -> list[Removed]:
        # From here on nobody changes columns, or makes a trigger or a foreign key. It is the lock
        # that each writer takes, so that none waits for it.
        tables = sql.SQL(", ").join([self.events, *self.rules.streams])
        self.connection.execute(sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(tables))
        refuse_side_effects(self.connection, self.rules, self.removal, self.events)
        comparison = self.compare(self.connection)
        done = self._heads_needed(parts) if parts[0].head else self._lock(parts)
        going = [part for part in parts if part.key not in done]
        found = _SeenInRemoval()
        if going:
            self._take(going, comparison, found)
            self._check_rest(going, found, comparison)
        # Where events stay, the stream stays as it is.
        ending = [
            part.key
            for part in going
            if part.ends and not part.head and part.high == part.last_version
        ]
        if ending:
            whole = {} if self.removal.deletes else self._whole_rows(ending)
            for statement in self.removal.end:
                self.connection.execute(statement, keys_of(ending))
            if whole and (lost := whole.items() - self._whole_rows(ending).items()):
                raise _LeftAlone({key: _LOSES for (key, _), _ in lost}, lasting=True)
        # As many as the archive has: in the middle of a stream, a version may be missing.
        return [
            Removed(part, 0, done[part.key])
            if part.key in done
            else Removed(part, found.taken[part.key, part.low], None)
            for part in parts
        ]

    def _heads_needed(self, parts: Sequence[VersionRange]) -> dict[StreamKey, str | None]:
        """The streams that cannot do without their heads any more. No row of a stream is locked, so
        that no writer waits, and what is appended lies behind what is removed.
        """
        limits = head_limits(self.connection, self.removal, [part.key for part in parts])
        reason = "it changed since it was archived: it cannot do without this head any more"
        return {
            part.key: reason
            for part in parts
            if limits.get(part.key, part.high - 1) < part.last_version
        }

    def _lock(self, parts: Sequence[VersionRange]) -> dict[StreamKey, str | None]:
        """Lock the streams' rows, and look at their last events then.

        Returns the streams that stay, each with its reason (None where it has gone before).
        """
        keys = keys_of([part.key for part in parts])
        there = {
            StreamKey(stream, tenant): (version, archived)
            for stream, tenant, version, archived in self.connection.execute(
                self.rules.guard, keys
            ).fetchall()
        }
        if twice := used_twice(self.connection, self.rules, parts):
            raise _LeftAlone(dict.fromkeys(twice, refusals.USED_AGAIN), lasting=True)
        if self.waits:
            self._wait_for_writers()
        last = self._by_stream("highest", keys) if self.rules.streams else {}
        done: dict[StreamKey, str | None] = {}
        for part in parts:
            version, archived = there.get(part.key, (None, False))
            version = max(version, last.get(part.key, version)) if version is not None else None
            if version is None:
                done[part.key] = _GONE
            elif version != part.last_version:
                done[part.key] = (
                    f"it changed since it was archived: at version {version}, not "
                    f"{part.last_version}"
                )
            elif archived and not self.removal.deletes:
                done[part.key] = None  # by a run before
        return done

    def _wait_for_writers(self) -> None:
        """Until the transactions that are writing events now have ended: of an event that is not
        committed, nobody else can know the stream.
        """
        waiting = Waiting([self.events.as_string(self.connection)])
        waiting.look(self.connection)
        until = time.monotonic() + self.patience.total_seconds()
        while not waiting.over(self.connection):
            virtual = {"virtual": list(waiting.virtual)}
            row = self.connection.execute(_SQL["waits_for_us"], virtual).fetchone()
            if row is not None and row[0]:
                raise _WriterWaits
            if time.monotonic() > until:
                raise errors.LockNotAvailable("transactions are writing events")
            time.sleep(_POLL)

    def _take(
        self, parts: Sequence[VersionRange], comparison: Comparison, found: _SeenInRemoval
    ) -> None:
        """Delete the events that are as the archive has them, or lock these."""
        for batch in _chunks(parts, found.taken):
            rows = comparison.rows(batch)
            if self.removal.deletes:
                statement = comparison.statement("delete_equal", rows)
                self.connection.execute(statement, rows.parameters)
            else:
                statement = comparison.statement("lock_equal", rows)
                for stream, tenant, count in self.connection.execute(statement, rows.parameters):
                    found.expected[StreamKey(stream, tenant)] += count

    def _check_rest(
        self, parts: Sequence[VersionRange], found: _SeenInRemoval, comparison: Comparison
    ) -> None:
        """Raises _LeftAlone where a range has an event that is not as the archive has it."""
        ranges = {
            **keys_of([part.key for part in parts]),
            "low": [part.low for part in parts],
            "high": [part.high for part in parts],
        }
        there = self._by_stream("there", ranges)
        changed = {key for key, count in there.items() if count != found.expected[key]}
        changed |= found.expected.keys() - there.keys()
        if changed:
            reasons = dict.fromkeys(
                changed, "the store has events of it that the archive does not have as they are"
            )
            raise _LeftAlone({**reasons, **self._explained(parts, changed, comparison)})

    def _explained(
        self, parts: Sequence[VersionRange], changed: set[StreamKey], comparison: Comparison
    ) -> dict[StreamKey, str]:
        """Which event differs in what, where that is still known."""
        again = [p for p in parts if p.key in changed and isinstance(p.events, Sequence)]
        reasons: dict[StreamKey, str] = {}
        for batch in _chunks(again, Counter()):
            rows = comparison.rows(batch)
            statement = comparison.statement("differing", rows)
            for stream, tenant, version, columns in self.connection.execute(
                statement, rows.parameters
            ):
                what = f" in {', '.join(columns)}" if columns else ""
                reasons.setdefault(
                    StreamKey(stream, tenant), f"version {version} differs from the store's{what}"
                )
        return reasons

    def _whole_rows(self, streams: Sequence[StreamKey]) -> dict[tuple[StreamKey, str], int]:
        """What tells all rows of streams from others: the library's own way to archive them might
        know only columns of its own.
        """
        keys = {**keys_of(streams), "marks": list(self.removal.marks)}
        return {
            (key, name): found
            for name in ("whole_rows", "whole_stream")
            for key, found in self._by_stream(name, keys).items()
        }

    def _by_stream(self, name: str, parameters: dict[str, Any]) -> dict[StreamKey, int]:
        nothing = sql.SQL("FALSE")
        statement = sql.SQL(_SQL[name]).format(
            events=self.events,
            streams=STREAMS,
            ranges=RANGES,
            of_stream=self.rules.of_stream,
            of_any=self.rules.of_any or nothing,
            of_row=self.rules.of_row or nothing,
            own=self.rules.streams[0] if self.rules.streams else nothing,
            version=sql.Identifier("e", self.rules.columns["version"]),
        )
        rows = self.connection.execute(statement, parameters).fetchall()
        return {StreamKey(stream, tenant): number for stream, tenant, number in rows}


def _refused(part: VersionRange, error: Exception) -> Removed:
    """What became of a range that an error kept from being removed."""
    if isinstance(error, errors.LockNotAvailable | _WriterWaits):
        return Removed(part, 0, _HELD)
    lasting = not isinstance(error, errors.DeadlockDetected)
    assert isinstance(error, psycopg.Error)
    return Removed(part, 0, refusals.in_words(error), lasting)


def head_limits(
    connection: psycopg.Connection, removal: SqlRemoval, streams: Sequence[StreamKey]
) -> dict[StreamKey, int]:
    """The version up to which the head of each stream can go; see Archiving."""
    assert removal.heads is not None
    found = connection.execute(removal.heads.limits, keys_of(streams)).fetchall()
    return {StreamKey(stream, tenant): version for stream, tenant, version in found}


def insert_locks_stream(
    connection: psycopg.Connection, events: sql.Identifier, streams: sql.Identifier
) -> bool:
    """Whether each insert of an event locks its stream's row."""
    names = {"events": events.as_string(connection), "streams": streams.as_string(connection)}
    row = connection.execute(_SQL["insert_locks_stream"], names).fetchone()
    return bool(row and row[0])


def _chunks(
    parts: Sequence[VersionRange], taken: Counter[tuple[StreamKey, int]]
) -> Iterator[pa.RecordBatch]:
    """The archived events of ranges, some thousand at a time; `taken` counts those of each."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for part in parts:
        for batch in part.events:
            taken[part.key, part.low] += batch.num_rows
            for at in range(0, batch.num_rows, _ROWS_AT_ONCE):
                some = batch.slice(at, _ROWS_AT_ONCE)
                if count and count + some.num_rows > _ROWS_AT_ONCE:
                    yield _joined(waiting)
                    waiting, count = [], 0
                waiting.append(some)
                count += some.num_rows
    if count:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.concat_batches(batches) if len(batches) > 1 else batches[0]


def keys_of(streams: Sequence[StreamKey]) -> dict[str, Any]:
    """Streams as the parameters that a layout's statements take."""
    return {
        "stream": array_of([key.stream for key in streams]),
        "tenant": array_of([key.tenant for key in streams]),
    }
