"""The stores that the contract is held against: every layout in every variant, and EventStoreDB.

A layout has one database for all tests of a process, which is emptied before each of them: to make
one costs five times as much. `LayoutKit.connection` is a connection beside the store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from esops.settings import EventStoreDBSettings, PostgresSettings
from esops.stores import open_store
from esops.testing import Kit
from tests.support import emmett, eventsourcing, marten, messagedb
from tests.support.cases import thorough_in
from tests.support.databases import database

LAYOUTS = [
    *marten.VARIANTS,
    "marten-quick",
    "marten-tenant",
    "emmett",
    "emmett-by-position",
    "emmett-0.41",
    "messagedb",
    "eventsourcing",
]
NODES = ["eventstoredb", "eventstoredb-21.10", "eventstoredb-real"]
ALIKE = {"marten-conjoined", "marten-partitioned", "marten-schema"}
"""Left to the thorough half: what is special in the first two is in `marten-partitioned-conjoined`,
and the shop of the other tests has a schema of its own.
"""
OBJECTS = """
    SELECT md5(string_agg(concat_ws(' ', c.relnamespace, c.relname, c.relkind, c.relnatts, c.relchecks,
               c.relhastriggers, c.relhasrules, c.reloptions), ';' ORDER BY c.oid)),
           (SELECT count(*) FROM pg_proc WHERE oid >= 16384),
           (SELECT count(*) FROM pg_namespace WHERE oid >= 16384),
           (SELECT count(*) FROM pg_db_role_setting)
      FROM pg_class c WHERE c.oid >= 16384
"""
"""What a database has of the user's, so that a test which changes that is noticed."""


@dataclass
class LayoutKit(Kit):
    """A layout's store, with a connection beside it and the way that its library archives a stream,
    if it does.
    """

    connection: psycopg.Connection | None = None
    archive: Callable[[str], None] | None = None


def variant_of(name: str) -> marten.Variant:
    return marten.VARIANTS.get(
        name, marten.Variant(conjoined=name == "marten-tenant", text_ids=True)
    )


def create(name: str, connection) -> None:
    """The tables of a layout, as its library makes them."""
    if name == "messagedb":
        messagedb.create(connection)
    elif name == "eventsourcing":
        eventsourcing.create(connection)
    elif name.startswith("emmett"):
        emmett.create(connection, old_processors=name == "emmett-0.41")
    else:
        marten.create(connection, variant_of(name))


def layout_kit(name: str, dsn: str, connection) -> Iterator[LayoutKit]:
    """The store of a layout whose tables are there."""
    more, archive, text_ids = {}, None, True
    if name == "messagedb":
        settings = PostgresSettings(dsn=dsn)
    elif name == "eventsourcing":
        settings, text_ids = PostgresSettings(dsn=dsn), False
        more = {"timestamp": {"_type_": "datetime_iso", "_data_": datetime.now(UTC).isoformat()}}
    elif name.startswith("emmett"):
        settings = PostgresSettings(
            dsn=dsn, ordering="position" if name == "emmett-by-position" else "native"
        )

        def archive(stream: str) -> None:
            emmett.archive(connection, stream)
    else:
        variant = variant_of(name)
        settings = PostgresSettings(
            dsn=dsn,
            append="quick" if name == "marten-quick" else "auto",
            tenant="*DEFAULT*" if name == "marten-tenant" else None,
            hole_threshold=timedelta(seconds=0.3),
        )
        text_ids = variant.text_ids

        def archive(stream: str) -> None:
            marten.archive(connection, variant, stream)

    with open_store("s", settings) as store:
        yield LayoutKit(
            store, settings, text_ids, more=more, connection=connection, archive=archive
        )


def eventstoredb_kit(request, name: str) -> Iterator[Kit]:
    """On the node in tests/, in two versions, and on a real one where there is one: streams of its
    own, deleted afterwards.
    """
    if name == "eventstoredb-real":
        uri = os.environ.get("ESOPS_TEST_ESDB_URI")
        if not uri:
            pytest.skip("ESOPS_TEST_ESDB_URI names no real node")
    else:
        uri = request.getfixturevalue("node" if name == "eventstoredb" else "old_node").uri
    settings = EventStoreDBSettings(uri=uri)
    with open_store("s", settings) as store:
        kit = Kit(store, settings, begin=store.head().position)
        yield kit
        for stream in kit.streams:
            info = store.stream_info(stream)
            if info is not None and not info.deleted:
                store.changes.delete(stream)


class LayoutDatabase:
    """A database with the tables of one layout."""

    def __init__(self, name: str, server):
        self._stack = ExitStack()
        self.dsn = self._stack.enter_context(database(server))
        self.connection = self._stack.enter_context(psycopg.connect(self.dsn, autocommit=True))
        self.connection.execute("SET TIME ZONE 'UTC'; SET lock_timeout = '10s'")
        create(name, self.connection)
        self._objects = self._found()
        tables = self.connection.execute(
            "SELECT string_agg(oid::regclass::text, ', ') FROM pg_class "
            "WHERE oid >= 16384 AND relkind IN ('r', 'p')"
        ).fetchone()
        self._truncate = f"TRUNCATE {tables[0]}"

    def _found(self):
        return self.connection.execute(OBJECTS).fetchone()

    def emptied(self) -> bool:
        """Whether it is as it was made; if not, a test changed more than rows, or left a lock."""
        try:
            prepared = self.connection.execute(
                "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
            ).fetchall()
            if prepared or self._found() != self._objects:
                return False
            self.connection.execute(self._truncate)
            self.connection.execute("SELECT setval(seqrelid, seqstart, false) FROM pg_sequence")
        except psycopg.Error:
            return False
        return True

    def close(self) -> None:
        try:
            left = self.connection.execute(
                "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
            ).fetchall()
            for (gid,) in left:
                self.connection.execute(f"ROLLBACK PREPARED '{gid}'")
        except psycopg.Error:
            pass  # a test closed it
        self._stack.close()


class LayoutDatabases:
    """The database of each layout that was asked for."""

    def __init__(self, server):
        self._server = server
        self._made: dict[str, LayoutDatabase] = {}

    def kit(self, name: str) -> Iterator[LayoutKit]:
        """The store of a layout, empty."""
        found = self._made.get(name)
        if found is not None and not found.emptied():
            self._made.pop(name).close()
            found = None
        if found is None:
            found = self._made[name] = LayoutDatabase(name, self._server)
        yield from layout_kit(name, found.dsn, found.connection)

    def close(self) -> None:
        for each in self._made.values():
            each.close()


def kits(names: Sequence[str], alike: Collection[str] = frozenset(ALIKE)) -> list[object]:
    """Parameters of a fixture: all of these stores, of which `make test` leaves those out that are
    `alike`.
    """
    return thorough_in(names, alike)


def any_kit(request, name: str) -> Iterator[Kit]:
    """A store of this name, for a fixture `kit` of tests/contract."""
    if name.startswith("eventstoredb"):
        yield from eventstoredb_kit(request, name)
    else:
        yield from request.getfixturevalue("layout_databases").kit(name)
