"""What `esops archive` and doctor say is what a run does, or has done."""

from __future__ import annotations

import uuid

import psycopg
import pytest

from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.integration.test_archive import new, of, write
from tests.support import eventsourcing, marten
from tests.support.databases import database

DELETE = 'store = "s"\nstream = "*"\nremove = "delete"'
KILLED = """
import os
if os.environ.get("KILLED"):
    from esops.archive.remover import Remover
    remove = Remover._remove_batch
    def once(self, *arguments):
        remove(self, *arguments)
        os._exit(137)
    Remover._remove_batch = once
"""


def test_a_continuation_in_another_way_counts_all_that_left(project, dsn, connection):
    """What had been deleted before it was told to archive the rest was in no count."""
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for number in range(3):
            store.append(f"cart-{number}", [new(n=n) for n in range(5)])
    write(project, of(dsn), DELETE + "\nbatch = 5")
    project.patch(KILLED)
    project.environment["KILLED"] = "1"
    assert project.run("archive", "run", "old").code == -9
    del project.environment["KILLED"]
    assert connection.execute("SELECT count(*) FROM mt_events").fetchone() == (10,)
    told = project.ok("archive", "run", "old", "--remove", "archive", "--output", "json").json
    assert (told["removed_events"], told["removed"]) == (15, 3)


@pytest.mark.thorough
def test_a_second_restore_into_another_store_finds_it_complete(project, dsn, server, connection):
    """A library that makes ids of its own was taken to have other events; and a copy of a store's
    events to be the store under another name.
    """
    marten.create(connection)
    stream = str(uuid.uuid4())
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        store.append(stream, [new(n=1), new(n=2)])
    connection.execute("UPDATE mt_streams SET type = 'cart'")
    with database(server) as second, database(server) as third:
        with psycopg.connect(second, autocommit=True) as other:
            eventsourcing.create(other)
        with psycopg.connect(third, autocommit=True) as other:
            marten.create(other)
        stores = of(dsn) + of(second, "e", "") + of(third, "m")
        joined = of(dsn, "j", 'append = "quick"\nof = "s"\narchive = "cold"')
        write(project, stores + joined, DELETE)
        run = project.ok("archive", "run", "old", "--output", "json").json["run"]
        for store in ("e", "m"):
            for events in (2, 0):
                told = project.ok(
                    "archive", "restore", run, "--into", store, "--yes", "--output", "json"
                ).json
                assert (told["events"], told["there"]) == (events, int(not events)), store
        found = project.run("doctor", "--output", "json").json["findings"]
        assert not [each for each in found if each["code"] == "ESOPS-D076"]
        with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
            store.append(str(uuid.uuid4()), [new(n=3)])
        connection.execute("UPDATE mt_streams SET type = 'cart'")
        audit = project.ok("audit", "streams", "--store", "j", "--output", "json").json
        assert [(each["category"], each["streams"]) for each in audit["categories"]] == [
            ("cart", 2)
        ]
