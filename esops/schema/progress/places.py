"""Where progress is kept: a table in the store's database, a stream of esops' own in EventStoreDB,
or an archive's repository (in_archives.py).

Each place replaces a document only where its revision is still the one that was read.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import orjson
import psycopg
from psycopg import errors

from esops.actions import database
from esops.errors import Denied
from esops.events import NewEvent
from esops.postgres.connection import connect, translated
from esops.postgres.statements import statements
from esops.readmodel import migrations
from esops.settings import StoreSettings
from esops.stores import open_store
from esops.stores.base import EventStore, WrongExpectedVersion

_SQL = statements(__package__, "queries")
_MOST_ACTIONS = 20_000
STREAM = "$esops.schema-"
"""Before the key: one stream for each document, of which the store keeps the last event."""
_KEPT = "$esops-schema-progress"


class Entry(NamedTuple):
    """What is kept under a key, as it is written."""

    revision: int
    document: dict[str, Any]
    position: str | None
    mark: dict[str, Any] | None


class Described(NamedTuple):
    """The key, and what it stands for."""

    key: str
    store: str
    job: str
    selection: str


class ProgressPlace(Protocol):
    """Where one document is kept."""

    name: str

    def prepare(self) -> None:
        """Make what is needed to write. Raises Unavailable, Refused, Busy."""

    def read(self) -> Entry | None:
        """The document. Raises Unavailable."""

    def replace(self, entry: Entry) -> bool:
        """Write a document over the one whose revision is one lower; the first one is 1. False
        where that is not there any more.
        """

    def forget(self) -> None:
        """Remove it."""

    def erasures(self) -> list[str]:
        """Names the erasures that have changed payloads here, as far as esops knows them."""


class ProgressRow:
    """A row of esops.schema_progress."""

    def __init__(self, dsn: str, described: Described) -> None:
        """Nothing is read yet; each call opens a session of its own."""
        self._dsn, self._described = dsn, described
        self.name = "the store's database"

    def prepare(self) -> None:
        """Make esops' tables, or bring them to the newest form, and look for the right to write."""
        with self._session() as session:
            migrations.install(session)
            row = session.execute(_SQL["may_write"]).fetchone()
            if row is None or not row[0]:
                raise Denied(f"role {session.info.user} may not write to esops.schema_progress")

    def read(self) -> Entry | None:
        """The row, where there is one."""
        with self._session() as session:
            if not migrations.installed(session) or not migrations.has(session, "schema_progress"):
                return None
            row = session.execute(_SQL["read"], {"key": self._described.key}).fetchone()
        if row is None:
            return None
        revision, document, position, mark = row
        known = None if mark is None else orjson.loads(mark)
        return Entry(revision, orjson.loads(document), position, known)

    def replace(self, entry: Entry) -> bool:
        """One statement, which takes hold whole or not at all."""
        values = {
            **self._described._asdict(),
            "revision": entry.revision,
            "document": orjson.dumps(entry.document).decode(),
            "position": entry.position,
            "mark": None if entry.mark is None else orjson.dumps(entry.mark).decode(),
        }
        with self._session() as session:
            migrations.install(session)
            statement = _SQL["create" if entry.revision == 1 else "replace"]
            return session.execute(statement, values).rowcount == 1

    def forget(self) -> None:
        """Delete the row."""
        with self._session() as session:
            if migrations.has(session, "schema_progress"):
                session.execute(_SQL["forget"], {"key": self._described.key})

    def erasures(self) -> list[str]:
        """Those that `esops history` has of the database; one that is at work has no name yet that
        it keeps.
        """
        with self._session() as session:
            if not migrations.has(session, "actions"):
                return []
            found = database.past(session, None, None, _MOST_ACTIONS)
        return [f"{each.id} {each.result}" for each in found if each.command == "erase"]

    @contextmanager
    def _session(self) -> Iterator[psycopg.Connection]:
        with translated(), connect(self._dsn, "schema progress") as session:
            try:
                yield session
            except (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction) as error:
                raise Denied(error.diag.message_primary or "writing was denied") from None


class ProgressStream:
    """The last event of a stream of its own."""

    def __init__(self, settings: StoreSettings, described: Described) -> None:
        """Nothing is read yet; each call opens the store."""
        self._settings, self._described = settings.without_archive, described
        self._stream = STREAM + described.key
        self._at = -1
        self.name = f"stream {self._stream}"

    def prepare(self) -> None:
        """Bound the stream, so that it keeps its last event; that needs the right to write."""
        with self._store() as store:
            if self._last(store) is None:
                bound = orjson.dumps({"$maxCount": 1})
                store.append(f"$${self._stream}", [NewEvent(str(uuid.uuid4()), "$metadata", bound)])

    def read(self) -> Entry | None:
        """The last event."""
        with self._store() as store:
            return self._last(store)

    def replace(self, entry: Entry) -> bool:
        """An append at the version that was read."""
        content = orjson.dumps(entry._asdict())
        with self._store() as store:
            last = self._last(store)
            if (0 if last is None else last.revision) != entry.revision - 1:
                return False
            try:
                store.append(self._stream, [NewEvent(str(uuid.uuid4()), _KEPT, content)], self._at)
            except WrongExpectedVersion:
                return False
        return True

    def forget(self) -> None:
        """Append that there is nothing: a deleted stream would need other rights."""
        with self._store() as store:
            last = self._last(store)
            if last is not None:
                emptied = orjson.dumps({"forgotten": True})
                store.append(self._stream, [NewEvent(str(uuid.uuid4()), _KEPT, emptied)])

    def erasures(self) -> list[str]:
        """None: its events cannot be changed."""
        return []

    def _last(self, store: EventStore) -> Entry | None:
        event = next(iter(store.read_stream(self._stream, backwards=True, limit=1)), None)
        self._at = -1 if event is None else event.version
        if event is None:
            return None
        document = event.json()
        return None if "forgotten" in document else Entry(**document)

    @contextmanager
    def _store(self) -> Iterator[EventStore]:
        with open_store(self._described.store, self._settings) as store:
            yield store
