"""Who else has to have read what leaves a store: read models of another section, or of another
esops.toml, whose events are of the same log.
"""

from __future__ import annotations

import json

import psycopg
import pytest

from tests.integration.test_archive import new, of, write
from tests.support import marten
from tests.support.databases import database

PEOPLE = """
from esops import fold
@fold(key="stream")
def people(row, event): return {"id": event.stream, "n": (row or {"n": 0})["n"] + 1}
"""
PEOPLE_TABLE = "CREATE TABLE {table} (id text PRIMARY KEY, n int)"
POLICY = 'store = "s"\nstream = "*"\nremove = "delete"'


def people(store: str, more: str = "") -> str:
    return (
        f"[projections.people]\nstore = '{store}'\npython = 'people:people'\ntables = ['people']\n"
        f"ddl = 'people.sql'\n{more}"
    )


def append(connection, stream: str, *types: str) -> None:
    """As an application that writes to Marten: no esops is needed."""
    (version,) = connection.execute(
        "SELECT coalesce(max(version), 0) FROM mt_events WHERE stream_id = %s", (stream,)
    ).fetchone()
    connection.execute(
        "INSERT INTO mt_streams (id, version) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET "
        "version = excluded.version",
        (stream, version + len(types)),
    )
    for number, kind in enumerate(types, version + 1):
        event = new(kind)
        connection.execute(
            "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, timestamp) VALUES "
            "(nextval('mt_events_sequence'), %s, %s, %s, '{}', %s, now() - interval '2 days')",
            (event.id, stream, number, kind),
        )


def prepare(project, connection) -> None:
    """An empty store of Marten's, and a projection that counts the events of each stream."""
    marten.create(connection, marten.Variant(text_ids=True))
    project.write("people.py", PEOPLE)
    project.write("people.sql", PEOPLE_TABLE)


@pytest.fixture
def text_ids(project, connection):
    prepare(project, connection)
    append(connection, "a-1", "A", "A")
    return project


def test_readers_are_known_by_their_log_and_not_by_a_name(text_ids, server, dsn, connection):
    # Another section names the same database: in other words, and with more of it said.
    stores = of(dsn) + of(f"{dsn} application_name=other", "t", 'append = "quick"\nlayout="marten"')
    write(text_ids, stores, POLICY, people("t"))
    text_ids.begin_archive("cold")
    text_ids.ok("rebuild", "people", "--blue-green")
    append(connection, "a-1", "A", "A")
    append(connection, "a-2", "A")
    refused = text_ids.run("archive", "run", "old")
    assert (refused.code, connection.execute("SELECT count(*) FROM mt_events").fetchone()) == (
        6,
        (5,),
    )
    assert "projection people v1 (it is at 2; 3 events of these may be unread)" in refused.err

    # It is in the same registry, and this esops.toml knows nothing of it: by what it was made of.
    write(text_ids, of(dsn), POLICY)
    refused = text_ids.run("archive", "run", "old")
    assert refused.code == 6
    assert "people v1 (it is at 2; 3 events of these may be unread); esops.toml does" in refused.err
    # Its section has the name of this one, or one that is another store's here.
    with database(server) as elsewhere:
        for name in ("s", "t"):
            write(text_ids, of(dsn) + of(elsewhere, "t"), POLICY)
            connection.execute("UPDATE esops.versions SET store = %s", (name,))
            assert text_ids.run("archive", "run", "old").code == 6, name
    # Nothing tells: then it counts as one that has read nothing, until somebody knows better.
    connection.execute("UPDATE esops.versions SET position = '5', store = 'unknown'")
    connection.execute("DELETE FROM esops.marks")
    refused = text_ids.run("archive", "run", "old")
    assert refused.code == 6
    assert "nothing tells whose events it has, store 'unknown' is not in" in refused.err
    assert "--despite people" in refused.err
    assert text_ids.run("archive", "run", "old", "--despite", "people/1").code == 0
    assert connection.execute("SELECT count(*) FROM mt_events").fetchone() == (0,)


@pytest.mark.thorough
def test_readers_of_another_log_hold_nothing_back(text_ids, server, dsn, connection):
    """In one database for the read models of two stores."""
    with database(server) as elsewhere:
        main = f"[readmodels.main]\ndsn = {json.dumps(elsewhere)}\n"
        stores = of(dsn) + of(elsewhere, "t")
        with psycopg.connect(elsewhere, autocommit=True) as other:
            marten.create(other, marten.Variant(text_ids=True))
            append(other, "b-1", "B", "B")
        policy = POLICY.replace("*", "a-2")
        write(text_ids, stores, policy, people("t") + main)
        text_ids.begin_archive("cold")
        text_ids.ok("rebuild", "people", "--blue-green")
        append(connection, "a-2", "A", "A")
        text_ids.ok("archive", "run", "old")
        # Nor where another esops.toml alone knows the other store, by the same name.
        append(connection, "a-2", "A", "A")
        with psycopg.connect(elsewhere, autocommit=True) as other:
            other.execute("UPDATE esops.versions SET store = 's'")
        write(text_ids, of(dsn), policy, main)
        connection.execute("UPDATE mt_streams SET is_archived = false")
        text_ids.ok("archive", "run", "old")
        assert connection.execute("SELECT count(*) FROM mt_events").fetchone() == (2,)
