"""Finds rows that are not as all events of their streams make them, and writes these again, while
an application writes.

Rows are compared with their events in one snapshot, without a lock: an append writes both in one
transaction, so the snapshot has both or neither. Only the rows that differ are locked, a few at a
time, while the events are applied that came since: an append that has not committed has not written
its row yet, or has it locked. No row is waited for, and a missing row is inserted in a transaction
of its own, since an insert may wait for one of the application's: so nobody waits in a circle.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import NamedTuple

import psycopg
from psycopg import sql

from esops.events import EventFilter, StreamKey
from esops.readmodel.locks import deadlock_timeout
from esops.rebuild.ignored import ignored_in, kept
from esops.rebuild.refolded import FOLDED, Key, RefoldedRows, columns, pieces
from esops.rebuild.verification.comparison import keys_unlike
from esops.settings import ProjectionSettings
from esops.stores.inline_tables import StreamLength

_STREAMS, _EVENTS = 50, 5_000
"""Of one comparison: it is in memory, and what it finds is written at once."""
_ASKED = 1_000
"""Streams that are asked for their lengths at once."""
_LOCKED, _LATER, _WAIT_MS = 10, 500, 100
"""Rows that are locked at once, events that are applied to them, and the longest wait for others;
the application waits as long.
"""
_UNFIT = (psycopg.errors.IntegrityError, psycopg.errors.RaiseException)
"""What the table, or a trigger of it, says to values that it does not take."""
_NOT_TAKEN = "the table has not taken it, and said nothing: a trigger, a rule or row security"


@dataclass
class Found:
    """What a pass over some streams came to."""

    updated: set[StreamKey] = field(default_factory=set)
    inserted: set[StreamKey] = field(default_factory=set)
    deleted: set[StreamKey] = field(default_factory=set)
    busy: set[StreamKey] = field(default_factory=set)
    """Those whose rows are wrong, and somebody else has them, or has written them since."""
    unfit: dict[StreamKey, str] = field(default_factory=dict)
    """Those whose rows are wrong, and the table does not take the right ones; and what it says."""
    unchecked: set[StreamKey] = field(default_factory=set)
    """Those of which events are gone, or are archived and would make another row."""

    @property
    def written(self) -> set[StreamKey]:
        """Those whose rows were made right."""
        return self.updated | self.inserted | self.deleted

    @property
    def healed(self) -> int:
        """How many these are."""
        return len(self.written)

    def add(self, other: Found) -> None:
        """Add what another piece came to."""
        self.updated |= other.updated
        self.inserted |= other.inserted
        self.deleted |= other.deleted
        self.busy |= other.busy
        self.unfit.update(other.unfit)
        self.unchecked |= other.unchecked


class UnlikeStreams(NamedTuple):
    """Streams whose rows are not as their events make them: those of rows that are there, those of
    rows that are missing, those of rows that no event makes; and those of which nobody knows.
    """

    wrong: set[StreamKey]
    missing: set[StreamKey]
    surplus: set[StreamKey]
    unchecked: set[StreamKey]


@dataclass
class _ComparedRows:
    """Some streams whose rows were compared, by the keys of their rows.

    `versions` are those of the last events that were applied, and `types` the Python types of what
    was made.
    """

    streams: Mapping[Key, StreamKey]
    versions: dict[StreamKey, int] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    wrong: set[Key] = field(default_factory=set)
    """Those of rows that are there."""
    surplus: set[Key] = field(default_factory=set)
    """Those of them that no event makes."""
    missing: set[Key] = field(default_factory=set)


class RowRepair:
    """Makes rows of one version right."""

    def __init__(
        self,
        connection: psycopg.Connection,
        rows: RefoldedRows,
        settings: ProjectionSettings,
        *,
        deletes: bool = False,
    ) -> None:
        """The connection is the one of the rows, outside a transaction. `deletes`: whether a row of
        which no event tells is wrong; else nobody knows of it.
        """
        self._connection, self._rows, self._deletes = connection, rows, deletes
        self._filter = settings.filter
        self._ignored = ignored_in(rows.live, rows.live, settings.verify)
        self._deadlock_timeout = deadlock_timeout(connection)

    @property
    def all_of(self) -> EventFilter:
        """What makes the rows: the application does not forget what is archived."""
        return replace(self._filter, archived=True)

    def repair(self, streams: Sequence[StreamKey]) -> Iterator[Found]:
        """Compare the rows of some streams, a few at a time, and write those that differ.

        Raises Refused where the code fails.
        """
        for piece, found in self._compared(streams):
            self._write(piece, found)
            yield found

    def differing(self, streams: Sequence[StreamKey]) -> Iterator[UnlikeStreams]:
        """Compare the rows of some streams, a few at a time. Raises as `repair`."""
        for piece, found in self._compared(streams):
            wrong, missing, surplus = (
                {piece.streams[key] for key in keys}
                for keys in (piece.wrong - piece.surplus, piece.missing, piece.surplus)
            )
            yield UnlikeStreams(wrong, missing, surplus, found.unchecked)

    def _compared(self, streams: Sequence[StreamKey]) -> Iterator[tuple[_ComparedRows, Found]]:
        for asked in pieces(streams, _ASKED):
            lengths = self._rows.inline.lengths(self._connection, asked, self._filter)
            for some in _few(asked, lengths):
                found = Found()
                piece = _ComparedRows({self._rows.key(each): each for each in some})
                self._compare(piece, lengths, found)
                yield piece, found

    def _compare(
        self, piece: _ComparedRows, lengths: Mapping[StreamKey, StreamLength], found: Found
    ) -> None:
        connection, rows, streams = self._connection, self._rows, piece.streams
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            events, short = rows.inline.whole(connection, list(streams.values()), self.all_of)
            gone = set(short)
            events = [each for each in events if StreamKey(each.stream, each.tenant) not in gone]
            piece.types = rows.make(events)
            there, made = rows.there(streams), rows.made()
            unlike = keys_unlike(connection, rows.sides)
        piece.versions = {StreamKey(each.stream, each.tenant): each.version for each in events}
        missing = {tuple(key) for has, *key in unlike if not has}
        surplus = there - made - {rows.key(each) for each in gone}
        lone = surplus - {rows.key(each) for each in piece.versions}
        if not self._deletes:
            surplus -= lone
            gone |= {streams[key] for key in lone}
        wrong = surplus | {tuple(key) for has, *key in unlike if has}
        # What is archived is left out of the projection, and so a rebuild makes other rows.
        archived = {
            key
            for key, stream in streams.items()
            if not self._filter.archived and (length := lengths.get(stream)) and length.archived
        }
        unclear = {
            key for key in missing & archived if not _all_archived(lengths[streams[key]])
        } | (wrong & archived)
        found.unchecked = gone | {streams[key] for key in unclear}
        piece.wrong, piece.missing = wrong - archived, missing - archived
        piece.surplus = surplus - archived

    def _write(self, piece: _ComparedRows, found: Found) -> None:
        unfit: dict[Key, str] = {}
        for some in pieces(sorted(piece.wrong), _LOCKED):
            if not self._again(piece, some, unfit, found):
                # Each by itself, to know which one it was.
                for key in some:
                    self._again(piece, [key], unfit, found)
        for key in sorted(piece.missing):
            try:
                written = False
                with self._connection.transaction():
                    self._limit_wait(0)
                    if self._insert(key, piece.types):
                        self._see_written({key})
                        written = True
                    else:
                        self._see_there(key)
                if written:
                    found.inserted.add(piece.streams[key])
            except (*_UNFIT, _NotTaken) as error:
                unfit[key] = _said(error)
            except psycopg.errors.LockNotAvailable:
                pass
        found.unfit = {piece.streams[key]: said for key, said in unfit.items()}
        left = {piece.streams[key] for key in piece.wrong | piece.missing}
        found.busy = left - found.written - found.unfit.keys()

    def _again(
        self, piece: _ComparedRows, keys: Sequence[Key], unfit: dict[Key, str], found: Found
    ) -> bool:
        """Write rows that are there, as far as nobody has locked them. False: together they cannot
        be; of a single one, `unfit` says why.
        """
        rows, connection = self._rows, self._connection
        with connection.transaction():
            since = time.monotonic()
            free = rows.there(keys, " FOR UPDATE SKIP LOCKED")
            free -= self._shortened(piece, free)
            if not free:
                return True
            # Of a stream without events, all that it has by now.
            versions = {
                piece.streams[key]: piece.versions.get(piece.streams[key], -1) for key in free
            }
            events = rows.inline.later(connection, versions, self.all_of)
            if len(events) > _LATER:
                return True
            piece.types = rows.add(events)
            piece.versions |= {StreamKey(each.stream, each.tenant): each.version for each in events}
            try:
                # What was applied stays so if the rows cannot be written.
                with connection.transaction():
                    self._limit_wait(time.monotonic() - since)
                    self._update(list(free))
                    self._delete(list(free))
                    self._see_written(free)
            except (*_UNFIT, _NotTaken) as error:
                if len(keys) == 1:
                    unfit[keys[0]] = _said(error)
                return False
            except psycopg.errors.LockNotAvailable:
                return False
            made = rows.made()
        found.updated |= {piece.streams[key] for key in free & made}
        found.deleted |= {piece.streams[key] for key in free - made}
        return True

    def _shortened(self, piece: _ComparedRows, keys: Collection[Key]) -> set[Key]:
        """Those of some keys that no event made, and of which events are known to be gone."""
        lone = [piece.streams[key] for key in keys if piece.streams[key] not in piece.versions]
        if not lone:
            return set()
        _, short = self._rows.inline.whole(self._connection, lone, self.all_of)
        return {self._rows.key(each) for each in short}

    def _limit_wait(self, locked_seconds: float) -> None:
        """Wait for others, such as for a value in a unique index, only for so short that no server
        looks for a deadlock: it might end a transaction of the application's.
        """
        left = self._deadlock_timeout / timedelta(milliseconds=1) - locked_seconds * 1000
        limit = max(1, min(_WAIT_MS, int(left / 3)))
        self._connection.execute(f"SET LOCAL lock_timeout = {limit}".encode())

    def _see_written(self, keys: Collection[Key]) -> None:
        """Raises _NotTaken where rows that were written are not as they were made."""
        unlike = {tuple(key) for _, *key in keys_unlike(self._connection, self._rows.sides)}
        surplus = self._rows.there(keys) - self._rows.made()
        if surplus or not unlike.isdisjoint(keys):
            raise _NotTaken

    def _see_there(self, key: Key) -> None:
        """Raises _NotTaken where nobody has inserted a row."""
        if not self._rows.there([key]):
            raise _NotTaken

    # -- statements

    def _update(self, keys: Sequence[Key]) -> None:
        names = [
            pair.name for pair in self._rows.sides.others if pair.name not in self._rows.computed
        ]
        if not names:
            return
        statement = sql.SQL("UPDATE {} AS l SET {} FROM {} AS f WHERE {} AND {}")
        written = statement.format(
            self._rows.name,
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), self._new(name)) for name in names
            ),
            FOLDED,
            self._rows.same_key(),
            self._rows.among("l"),
        )
        self._connection.execute(written, columns(keys))

    def _delete(self, keys: Sequence[Key]) -> None:
        """Rows that the fold does not have."""
        statement = sql.SQL(
            "DELETE FROM {} AS l WHERE {} AND NOT EXISTS (SELECT FROM {} AS f WHERE {})"
        ).format(
            self._rows.name,
            self._rows.among("l"),
            FOLDED,
            self._rows.same_key(),
        )
        self._connection.execute(statement, columns(keys))

    def _new(self, column: str) -> sql.Composable:
        """A column's value by the events; what is ignored in it stays as it is in the row."""
        paths = self._ignored.get(column)
        if not paths:
            return sql.Identifier("f", column)
        return kept(column, self._rows.live.column(column).type, paths, ("l", "f"))

    def _insert(self, key: Key, types: Mapping[str, str]) -> bool:
        """Whether the row was inserted: somebody may have been faster."""
        rows = self._rows
        given, unwritten = {*rows.live.key, *types}, rows.unwritten
        names = sql.SQL(", ").join(
            sql.Identifier(each.name)
            for each in rows.fresh.columns
            if each.name not in rows.computed | unwritten or (each.name in rows.identity & given)
        )
        # The key alone: where another index has the value, the row is not there all the same.
        statement = sql.SQL(
            "INSERT INTO {} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {} AS f WHERE {} "
            "ON CONFLICT ({}) DO NOTHING"
        ).format(
            rows.name,
            FOLDED,
            rows.among("f"),
            sql.SQL(", ").join(map(sql.Identifier, rows.live.key)),
            names=names,
        )
        return bool(self._connection.execute(statement, columns([key])).rowcount)


def _few(
    streams: Sequence[StreamKey], lengths: Mapping[StreamKey, StreamLength]
) -> Iterator[list[StreamKey]]:
    """The streams in lists of which the events are few, or of a single one."""
    some: list[StreamKey] = []
    events = 0
    for each in streams:
        length = lengths[each].events if each in lengths else 0
        if some and (len(some) == _STREAMS or events + length > _EVENTS):
            yield some
            some, events = [], 0
        some.append(each)
        events += length
    if some:
        yield some


def _all_archived(length: StreamLength) -> bool:
    return length.events == length.archived


class _NotTaken(Exception):
    """Rows were written without an error, and are others."""


def _said(error: psycopg.Error | _NotTaken) -> str:
    if isinstance(error, _NotTaken):
        return _NOT_TAKEN
    return error.diag.message_primary or str(error)
