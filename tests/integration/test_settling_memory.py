"""What settling remembers between processes: young missing numbers, those passed as dead, and the
events that came at them all the same.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

import esops
from esops.errors import Unavailable
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support.cases import thorough_but
from tests.support.numbered import LAYOUTS
from tests.support.waiting import DEADLINE, until

PATIENCE = timedelta(seconds=DEADLINE)
AT_ONCE = timedelta(0)
PROJECTION = """
from esops import fold

@fold(key=lambda event: str(event.position))
def numbers(row, event):
    return {"id": str(event.position)}
"""


def configure(project, dsn, layout, readmodel=None, **settings) -> None:
    project.write("journal_numbers.py", PROJECTION)
    project.write("numbers.sql", "CREATE TABLE {table} (id text PRIMARY KEY);")
    project.configure(
        stores={"s": {"dsn": dsn, **layout.settings, **settings}},
        readmodels={"main": {"dsn": readmodel or dsn}},
        projections={
            "numbers": {
                "python": "journal_numbers:numbers",
                "tables": ["numbers"],
                "ddl": "numbers.sql",
            }
        },
    )


def one(connection, question: str):
    return connection.execute(question).fetchone()[0]


def open_marten(dsn, **settings):
    layout = LAYOUTS["marten"]
    return open_store("s", PostgresSettings(dsn=dsn, **{**layout.settings, **settings}))


def test_the_migration_and_the_module_make_the_same_tables():
    package = Path(esops.__file__).parent
    assert (package / "readmodel/migrations/005.sql").read_text() == (
        package / "stores/postgres/memory_tables.sql"
    ).read_text()


@pytest.mark.parametrize(
    "name", thorough_but(["marten", "marten quick", "messagedb", "custom"], "marten")
)
def test_an_event_that_comes_late_is_an_alarm_until_the_read_model_is_rebuilt(
    name, dsn, connection, project
):
    layout = LAYOUTS[name]
    layout.make(connection)
    configure(project, dsn, layout)
    layout.insert(connection, [None])
    project.ok("rebuild", "numbers", "--blue-green")
    late = one(connection, f"SELECT nextval('{layout.sequence}')")
    dead = one(connection, f"SELECT nextval('{layout.sequence}')")
    layout.insert(connection, [None])
    project.ok("run", "numbers", "--until-caught-up")
    assert one(connection, "SELECT count(*) FROM numbers") == 2
    assert project.ok("status", "--output", "json").json["stores"][0]["late_events"] == []
    layout.insert(connection, [late])

    done = project.run("run", "numbers", "--until-caught-up")
    assert done.code == 1, done
    assert f"at {late} came" in done.err
    shown = project.run("status", "--output", "json")
    assert shown.code == 1
    store = shown.json["stores"][0]
    assert not store["ok"]
    (event,) = store["late_events"]
    assert (event["position"], event["stream"], event["versions"]) == (
        str(late),
        "cart-1",
        ["numbers v1"],
    )
    found = project.run("doctor", "--output", "json").json["findings"]
    (finding,) = [each for each in found if each["code"] == "ESOPS-D038"]
    assert "esops rebuild numbers --blue-green" in finding["fix"]
    assert 'esops_store_late_events{store="s"} 1.0' in project.run("metrics").out

    project.ok("rebuild", "numbers", "--blue-green", "--compare", "none")
    project.ok("projection", "retire", "numbers", "1", "--yes")
    assert one(connection, "SELECT count(*) FROM numbers") == 3
    project.ok("run", "numbers", "--until-caught-up")
    assert project.ok("status", "--output", "json").json["stores"][0]["ok"]
    assert dead not in layout.numbers(connection)


def test_a_late_event_is_an_alarm_where_the_sequence_was_made_again(dsn, connection, project):
    layout = LAYOUTS["marten"]
    layout.make(connection)
    configure(project, dsn, layout)
    layout.insert(connection, [None])
    late = one(connection, f"SELECT nextval('{layout.sequence}')")
    layout.insert(connection, [None])
    project.ok("rebuild", "numbers", "--blue-green")
    assert one(connection, "SELECT count(*) FROM numbers") == 2
    connection.execute(
        f"DROP SEQUENCE {layout.sequence}; CREATE SEQUENCE {layout.sequence} START {late}"
    )
    layout.insert(connection, [None])
    connection.execute(f"SELECT setval('{layout.sequence}', {late + 1})")
    done = project.run("run", "numbers", "--until-caught-up")
    assert (done.code, f"at {late} came" in done.err) == (1, True), done


def test_numbers_that_a_sequence_gives_out_again_in_their_turn_are_not_late(
    dsn, connection, project
):
    layout = LAYOUTS["marten"]
    layout.make(connection)
    configure(project, dsn, layout)
    layout.insert(connection, [None] * 2)
    connection.execute(f"SELECT nextval('{layout.sequence}')")
    layout.insert(connection, [None])
    project.ok("rebuild", "numbers", "--blue-green")
    assert one(connection, "SELECT first FROM esops.passed") == 3
    connection.execute(f"TRUNCATE {layout.table}; ALTER SEQUENCE {layout.sequence} RESTART")
    layout.insert(connection, [None])
    assert project.run("run", "numbers", "--until-caught-up").code == 6
    project.run("projection", "recover", "numbers", "--yes")
    project.ok("rebuild", "numbers", "--blue-green", "--compare", "none")
    project.ok("projection", "retire", "numbers", "1", "--yes")
    layout.insert(connection, [None] * 3)
    project.ok("run", "numbers", "--until-caught-up")
    assert one(connection, "SELECT count(*) FROM numbers") == 4


def test_a_watch_goes_on_where_an_earlier_process_was(dsn, connection):
    layout = LAYOUTS["marten"]
    layout.make(connection)
    connection.execute("SELECT nextval('mt_events_sequence')")
    layout.insert(connection, [None])
    with open_marten(dsn, hole_threshold="2s") as store:
        assert store.head(AT_ONCE).position is None
    assert one(connection, "SELECT to_regclass('esops.sightings') IS NULL")  # nobody writes
    with open_marten(dsn, hole_threshold="2s") as store:
        store.memory.keep()
        assert store.head(AT_ONCE).position is None
    until(
        lambda: one(connection, "SELECT clock_timestamp() - first_at > '2.1s' FROM esops.sightings")
    )

    def transactions() -> int:
        return one(connection, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")

    with open_marten(dsn, hole_threshold="2s") as store:
        assert store.head(AT_ONCE).position == (2,)
        store.memory.keep()
        store.head(AT_ONCE)  # notes what was passed before
        before = transactions()
        for _ in range(20):
            store.head(AT_ONCE)
        assert transactions() == before, "an idle store is written to"
    # of a sequence that was created again nothing is known
    connection.execute(
        "DROP SEQUENCE mt_events_sequence; CREATE SEQUENCE mt_events_sequence START 3; "
        "SELECT nextval('mt_events_sequence')"
    )
    layout.insert(connection, [None])
    with open_marten(dsn, hole_threshold="2s") as store:
        assert store.head(AT_ONCE).position is None


def test_a_store_that_takes_no_writes_is_read_without_the_memory(dsn, connection, project, server):
    from tests.support.databases import database

    layout = LAYOUTS["marten"]
    layout.make(connection)
    name = one(connection, "SELECT current_database()")
    connection.execute(
        f"REVOKE CREATE ON DATABASE {name} FROM PUBLIC; CREATE ROLE reader LOGIN; "
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; "
        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO reader"
    )
    try:
        with database(server) as readmodel:
            reader = psycopg.conninfo.make_conninfo(dsn, user="reader")
            configure(project, reader, layout, readmodel)
            layout.insert(connection, [None])
            connection.execute("SELECT nextval('mt_events_sequence')")
            layout.insert(connection, [None])
            project.ok("rebuild", "numbers", "--blue-green")
            project.ok("run", "numbers", "--until-caught-up")
            assert one(connection, "SELECT count(*) FROM pg_namespace WHERE nspname = 'esops'") == 0
            project.ok("status")
            # a role that may write: the tables are in the store's database
            configure(project, dsn, layout, readmodel)
            layout.insert(connection, [one(connection, "SELECT nextval('mt_events_sequence')") + 0])
            connection.execute("SELECT nextval('mt_events_sequence')")
            layout.insert(connection, [None])
            project.ok("run", "numbers", "--until-caught-up")
            assert one(connection, "SELECT max(last) FROM esops.passed") == 5
            # and the reader may not see them
            with open_store("s", PostgresSettings(dsn=reader)) as store:
                store.memory.keep()
                assert store.memory.late() == []
                store.head(AT_ONCE)
    except Unavailable as error:
        pytest.fail(json.dumps(error.message))
    finally:
        connection.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_what_an_archive_brings_back_is_no_late_event(dsn, connection, project):
    layout = LAYOUTS["messagedb"]
    layout.make(connection)
    configure(project, dsn, layout)
    layout.insert(connection, [None] * 3)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.memory.keep()
        (stream,) = store.streams()
        from esops.events import StreamKey, StreamRef

        reference = StreamRef(stream.name, "", stream.length)
        batches = list(store.archiving.export([reference]))
        connection.execute("DELETE FROM message_store.messages WHERE global_position = 2")
        assert store.head(PATIENCE).position == (3,)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        assert one(connection, "SELECT count(*) FROM esops.passed") == 1
        store.archiving.restore_streams([StreamKey(stream.name, "")], [None], batches)
        assert layout.numbers(connection) == [1, 2, 3]
        assert store.memory.late() == []


def test_the_memory_is_bounded(dsn, connection, monkeypatch):
    from esops.stores.postgres import memory, passed

    monkeypatch.setattr(memory, "MOST_PASSED", 5)
    monkeypatch.setattr(passed, "MOST_PASSED", 5)
    monkeypatch.setattr(memory, "_MOST_SIGHTINGS", 6)
    monkeypatch.setattr(memory, "_EVERY", 0.0)
    layout = LAYOUTS["marten"]
    layout.make(connection)
    for _ in range(20):
        connection.execute("SELECT nextval('mt_events_sequence')")
        layout.insert(connection, [None])
    with open_marten(dsn, hole_threshold="60s") as store:
        store.memory.keep()
        for _ in range(30):
            store.head(AT_ONCE)
            layout.insert(connection, [None])
    assert 2 <= one(connection, "SELECT count(*) FROM esops.sightings") <= 8
    with open_marten(dsn, hole_threshold="100ms") as store:
        store.memory.keep()
        assert store.head(PATIENCE).position == (70,)
    rows = connection.execute("SELECT first, last FROM esops.passed ORDER BY 1").fetchall()
    assert rows == [(31, 31), (33, 33), (35, 35), (37, 37), (39, 39)]
    assert one(connection, "SELECT count(*) FROM esops.sightings") <= 8


def test_numbers_that_are_passed_often_are_said_seldom(dsn, connection, monkeypatch):
    from esops.stores.postgres import passed

    said: list[int] = []

    class Log:
        def info(self, _: str, **values) -> None:
            said.append(values.get("times"))

        def debug(self, *_: object, **values) -> None:
            assert values["ranges"]

    monkeypatch.setattr(passed, "log", Log())
    layout = LAYOUTS["marten"]
    layout.make(connection)
    with open_marten(dsn, hole_threshold="50ms") as store:

        def pass_one() -> None:
            connection.execute("SELECT nextval('mt_events_sequence')")
            layout.insert(connection, [None])
            assert store.head(PATIENCE).held_back_by == []

        for _ in range(4):
            pass_one()
        assert said == [1]
        monkeypatch.setattr(passed, "_LOGGED_EVERY", 0.0)
        pass_one()
    assert said == [1, 4]
