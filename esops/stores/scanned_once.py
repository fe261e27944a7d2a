"""A log that is read once for several searches: which ids each event has is kept on disk.

The ids are kept as hashes, with the place of the event; each event that is found is read again and
looked at, so that a hash that stands for two ids gives nothing wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING

import orjson

from esops.causality import parse_traceparent, trace_id
from esops.events import EventFilter, Position, RecordedEvent
from esops.stores.scanning import has_one_of

if TYPE_CHECKING:
    from esops.stores.base import EventStore
    from esops.stores.searching import SoughtIds

_ARCHIVED_TOO = EventFilter(archived=True)


class KnownIds:
    """The ids of a store's events, as its log was when they were first asked for."""

    def __init__(self, store: EventStore) -> None:
        """Nothing is read yet."""
        self._store = store
        self._db: sqlite3.Connection | None = None

    @property
    def read(self) -> bool:
        """Whether the log was read already."""
        return self._db is not None

    def find(self, sought: SoughtIds) -> Iterator[RecordedEvent]:
        """The events that have one of the ids, in the order of the log."""
        db = self._db = self._db or self._scanned()
        wanted = has_one_of(sought)
        lower = sought.kind == "event_id"
        numbers: set[int] = set()
        for value in sought.values:
            key = hash(value.lower() if lower else value)
            numbers.update(
                number for (number,) in db.execute("SELECT event FROM ids WHERE id = ?", (key,))
            )
        for number in sorted(numbers):
            for event in self._read(db, number):
                if wanted(event):
                    yield event

    def _scanned(self) -> sqlite3.Connection:
        # Without a name it is a file that ends with the connection.
        db = sqlite3.connect("", check_same_thread=False)
        db.execute("CREATE TABLE places (event INTEGER PRIMARY KEY, place TEXT)")
        db.execute("CREATE TABLE ids (id INTEGER, event INTEGER)")
        number = 0
        for batch in self._store.read_all(filter=_ARCHIVED_TOO):
            places = [
                (at, str(event.position)) for at, event in enumerate(batch.events, number + 1)
            ]
            ids = [
                (key, at)
                for at, event in enumerate(batch.events, number + 1)
                for key in _hashes(event)
            ]
            db.executemany("INSERT INTO places VALUES (?, ?)", places)
            db.executemany("INSERT INTO ids VALUES (?, ?)", ids)
            number += len(places)
        db.execute("CREATE INDEX by_id ON ids (id)")
        return db

    def _read(self, db: sqlite3.Connection, number: int) -> Iterator[RecordedEvent]:
        query = "SELECT event, place FROM places WHERE event IN (?, ?)"
        places = {at: Position.parse(text) for at, text in db.execute(query, (number - 1, number))}
        before, place = places.get(number - 1), places[number]
        for batch in self._store.read_all(before, place, _ARCHIVED_TOO):
            yield from (e.detached() for e in batch.events if e.position == place)


def _hashes(event: RecordedEvent) -> set[int]:
    found = {hash(event.id.lower())}
    try:
        meta = event.meta()
    except orjson.JSONDecodeError:
        return found
    for value in meta.values():
        if not isinstance(value, (dict, list)):
            text = str(value)
            span = parse_traceparent(text)
            # A trace is asked for by its id, however an event writes it.
            trace = trace_id(text) if span is None else span.trace
            found |= {hash(text), hash(trace or text)}
    return found
