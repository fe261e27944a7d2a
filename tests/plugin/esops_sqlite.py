"""A backend in one file: an event store in SQLite.

Read esops/stores/base.py for what each method promises.

SQLite lets one writer in at a time, and a number is drawn where it is committed; so what can be
seen is settled.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Self

from esops.errors import Unavailable
from esops.events import (
    CAUSATION_KEYS,
    CORRELATION_KEYS,
    EventFilter,
    NewEvent,
    Position,
    RecordedEvent,
    StreamInfo,
    asked_for,
    category_of,
)
from esops.settings import StoreSettings
from esops.stores.base import (
    EVERYTHING,
    Batch,
    Capabilities,
    Found,
    NothingArchived,
    OutsideOfSql,
    StoreInfo,
    Unmarked,
    WrongExpectedVersion,
    at_most,
)
from esops.stores.counting import CountedOneByOne

_TABLE = """CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT,
    stream TEXT, version INTEGER, type TEXT,
    data BLOB, metadata BLOB, at INTEGER, UNIQUE (stream, version))"""
_COLUMNS = "id, stream, version, number, type, data, metadata, at"
_PAGE_BYTES = 2_000_000


def open_sqlite(name: str, settings: StoreSettings) -> SqliteStore:
    return SqliteStore(name, settings)


class SqliteStore(NothingArchived, Unmarked, OutsideOfSql, CountedOneByOne):
    capabilities = Capabilities(append=True, count_between=True)

    def __init__(self, name: str, settings: StoreSettings) -> None:
        if settings.dsn is None:
            raise Unavailable(f"stores.{name}.dsn: name the file")
        self.name = name
        try:
            self._db = sqlite3.connect(
                settings.dsn, timeout=10, isolation_level=None, check_same_thread=False
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
    ) -> Position | None:
        (number,) = self._db.execute("SELECT max(number) FROM events").fetchone()
        return None if number is None else Position((number,))

    def held_back_by(self) -> list:
        return []

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
        until = until or self.head()
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

    def follow(
        self, after=None, filter=EVERYTHING, stop=lambda: False, poll=timedelta(milliseconds=20)
    ) -> Iterator[Batch]:
        while not stop():
            head = self.head()
            if head is not None and (after is None or head > after):
                yield from self.read_all(after, head, filter)
                after = head
            else:
                yield Batch([], after)
                time.sleep(poll.total_seconds())

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

    def stream_info(self, stream: str) -> StreamInfo | None:
        return next((info for info in self._infos("WHERE stream = ?", [stream])), None)

    def streams(
        self,
        filter: EventFilter = EVERYTHING,
        limit: int | None = None,
        *,
        closed_by: Sequence[str] = (),
        measured: bool = False,
    ) -> Iterator[StreamInfo]:
        found = (info for info in self._infos("", []) if filter.category in (None, info.category))
        return (
            (info for _, info in zip(range(limit), found, strict=False))
            if limit is not None
            else found
        )

    def find(self, *, event_id=None, correlation_id=None, causation_id=None, keys=()) -> Found:
        which, values = asked_for(
            event_id=event_id, correlation_id=correlation_id, causation_id=causation_id
        )
        among = f"({', '.join('?' * len(values))})"
        if which == "event_id":
            return Found(self._select(f"id IN {among}", values), "the key of the table")
        keys = keys or (CORRELATION_KEYS if which == "correlation_id" else CAUSATION_KEYS)
        condition = " OR ".join(f"json_extract(CAST(metadata AS TEXT), ?) IN {among}" for _ in keys)
        (count,) = self._db.execute("SELECT count(*) FROM events").fetchone()
        asked = [part for key in keys for part in (f'$."{key}"', *values)]
        return Found(self._select(condition, asked), "a scan of the file", count)

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

    def count_between(self, after: Position | None, until: Position | None) -> int:
        bounds = (after[0] if after else 0, until[0] if until else 0)
        (count,) = self._db.execute(
            "SELECT count(*) FROM events WHERE number > ? AND number <= ?", bounds
        ).fetchone()
        return count

    def checkpoints(self) -> list:
        return []

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _select(self, rest: str, values: Sequence) -> Iterator[RecordedEvent]:
        for id, stream, version, number, kind, data, metadata, at in self._db.execute(
            f"SELECT {_COLUMNS} FROM events WHERE {rest}", values
        ):
            yield RecordedEvent(id, stream, version, Position((number,)), kind, data, metadata, at)

    def _infos(self, where: str, values: Sequence) -> Iterator[StreamInfo]:
        statement = (
            "SELECT stream, count(*), min(version), max(version), min(at), max(at) FROM "
            f"events {where} GROUP BY 1 ORDER BY 1"
        )
        for name, length, first, last, first_at, last_at in self._db.execute(statement, values):
            times = [datetime.fromtimestamp(at / 1e6, UTC) for at in (first_at, last_at)]
            yield StreamInfo(name, category_of(name), length, first, last, *times)
