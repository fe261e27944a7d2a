"""A store in one file: events in SQLite. esops/stores/base.py says what each method promises.

SQLite lets one writer in at a time, and draws a number where it is committed. So what can be seen
is settled.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice
from pathlib import Path

from esops.errors import Unavailable
from esops.events import EventFilter, NewEvent, Position, RecordedEvent, StreamInfo, category_of
from esops.stores.base import (
    EVERYTHING,
    Batch,
    Capabilities,
    EventStore,
    Head,
    StoreInfo,
    StoreSettings,
    WrongExpectedVersion,
    at_most,
)
from esops.stores.counts import EventCounts

_TABLE = """CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT,
    stream TEXT, version INTEGER, type TEXT,
    data BLOB, metadata BLOB, at INTEGER, UNIQUE (stream, version))"""
_STREAMS = """SELECT stream, count(*), min(version), max(version), min(at), max(at) FROM events
    GROUP BY 1 ORDER BY 1"""
_COLUMNS = "id, stream, version, number, type, data, metadata, at"
_PAGE_BYTES = 2_000_000


class SqliteSettings(StoreSettings):
    file: Path


class SqliteStore(EventStore):
    Settings = SqliteSettings
    capabilities = Capabilities(append=True, count_between=True)

    def __init__(self, name: str, settings: SqliteSettings) -> None:
        self.name = name
        try:
            self._db = sqlite3.connect(
                settings.file, timeout=10, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(_TABLE)
        except sqlite3.Error as error:
            raise Unavailable(f"stores.{name}: {error}") from error

    def ping(self) -> StoreInfo:
        return StoreInfo("sqlite", "sqlite", sqlite3.sqlite_version, datetime.now(UTC))

    def head(
        self,
        patience: timedelta = timedelta(0),
        after: Position | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Head:
        (number,) = self._db.execute("SELECT max(number) FROM events").fetchone()
        return Head(None if number is None else Position((number,)))

    def read_all(
        self,
        after: Position | None = None,
        until: Position | None = None,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        return at_most(limit, self._read(after, until, filter))

    def _read(
        self, after: Position | None, until: Position | None, filter: EventFilter
    ) -> Iterator[Batch]:
        until = until or self.head().position
        if until is None:
            return
        conditions, values = ["number > ?", "number <= ?"], [after[0] if after else 0, until[0]]
        if filter.types:
            conditions.append(f"type IN ({', '.join('?' * len(filter.types))})")
            values += filter.types
        if filter.stream is not None:
            conditions.append("stream = ?")
            values.append(filter.stream)
        events, size = [], 0
        for event in self._select(" AND ".join(conditions) + " ORDER BY number", values):
            if filter.category is not None and event.category != filter.category:
                continue
            events.append(event)
            size += len(event.data)
            if size > _PAGE_BYTES:
                yield Batch(events, event.position)
                events, size = [], 0
        yield Batch(events, until)

    def read_stream(
        self, stream, after_version=None, backwards=False, limit=None
    ) -> Iterator[RecordedEvent]:
        condition, values = "stream = ?", [stream]
        if after_version is not None:
            condition += f" AND version {'<' if backwards else '>'} ?"
            values.append(after_version)
        values.append(-1 if limit is None else limit)
        return self._select(
            f"{condition} ORDER BY version {'DESC' if backwards else 'ASC'} LIMIT ?", values
        )

    def streams(
        self,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
        *,
        closed_by: Sequence[str] = (),
        measured: bool = False,
    ) -> Iterator[StreamInfo]:
        found = (
            info
            for info in self._infos()
            if filter.category in (None, info.category) and filter.stream in (None, info.name)
        )
        return islice(found, limit)

    def append(
        self, stream: str, events: Sequence[NewEvent], expected_version: int | None = None
    ) -> Position:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            (version,) = self._db.execute(
                "SELECT coalesce(max(version), 0) FROM events WHERE stream = ?", (stream,)
            ).fetchone()
            if expected_version is not None and version != expected_version:
                raise WrongExpectedVersion(
                    f"stream {stream!r} is at version {version}, not {expected_version}"
                )
            number = 0
            for offset, event in enumerate(events, 1):
                row = (
                    event.id,
                    stream,
                    version + offset,
                    event.type,
                    event.data,
                    event.metadata,
                    time.time_ns() // 1000,
                )
                number = self._db.execute(
                    "INSERT INTO events (id, stream, version, type, data, metadata, at) VALUES (?, "
                    "?, ?, ?, ?, ?, ?)",
                    row,
                ).lastrowid
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        return Position((number,))

    @cached_property
    def counts(self) -> EventCounts:
        return SqliteCounts(self, self._db)

    def close(self) -> None:
        self._db.close()

    def _select(self, rest: str, values: Sequence) -> Iterator[RecordedEvent]:
        for id, stream, version, number, kind, data, metadata, at in self._db.execute(
            f"SELECT {_COLUMNS} FROM events WHERE {rest}", values
        ):
            yield RecordedEvent(id, stream, version, Position((number,)), kind, data, metadata, at)

    def _infos(self) -> Iterator[StreamInfo]:
        for name, length, first, last, first_at, last_at in self._db.execute(_STREAMS):
            times = [datetime.fromtimestamp(at / 1e6, UTC) for at in (first_at, last_at)]
            yield StreamInfo(name, category_of(name), length, first, last, *times)


class SqliteCounts(EventCounts):
    def __init__(self, store: SqliteStore, db: sqlite3.Connection) -> None:
        super().__init__(store)
        self._db = db

    def between(self, after: Position | None, until: Position | None) -> int:
        bounds = (after[0] if after else 0, until[0] if until else 0)
        (count,) = self._db.execute(
            "SELECT count(*) FROM events WHERE number > ? AND number <= ?", bounds
        ).fetchone()
        return count
