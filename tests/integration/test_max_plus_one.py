"""Positions that each writer takes from the highest one: nothing is missed and nothing read twice,
whatever writers do; and what such a table cannot be is refused.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from datetime import timedelta

import psycopg
import pytest

from esops.errors import AnotherLog, ContradictedSequence, Refused, Unavailable, UsageError
from esops.events import Position
from esops.settings import PostgresSettings, TableSettings
from esops.stores import open_store
from tests.support.cases import thorough_but
from tests.support.own_tables import ACURIS, ACURIS_TABLE, CASTORE, CASTORE_TABLE
from tests.support.soak import rounds
from tests.support.waiting import DEADLINE, until

ENOUGH = rounds(300, 20_000)
KILLS = rounds(2, 40)
NO_KEY = "ALTER TABLE es.event DROP CONSTRAINT event_pkey"
CREATE = 'CREATE UNIQUE INDEX CONCURRENTLY ON "es"."event" ("position");'
INVALID = "UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = 'es.bad'::regclass"


def partitioned(by: str) -> str:
    """What makes the table partitioned, without an index."""
    return (
        "ALTER TABLE es.event RENAME TO plain; CREATE TABLE es.event (LIKE es.plain) "
        f"PARTITION BY {by}; CREATE TABLE es.part PARTITION OF es.event DEFAULT"
    )


def described(dsn: str, **changed) -> PostgresSettings:
    table = {key: value for key, value in {**ACURIS_TABLE, **changed}.items() if value is not None}
    return PostgresSettings(dsn=dsn, table=TableSettings(**table), hole_threshold="1s")


def write(connection, stream: str = "1", count: int = 1) -> None:
    for _ in range(count):
        connection.execute(
            "SELECT es.write_event('cart', %s, 'added', '{\"n\": 1}', NULL, NULL)", (stream,)
        )


def start(dsn: str, seed: int, way: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.max_plus_one_writer", dsn, str(seed), way],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
@pytest.mark.timeout(rounds(300, 900))
@pytest.mark.parametrize("way", thorough_but(["locks", "unique index only"], "unique index only"))
def test_nothing_is_missed_or_doubled_while_writers_are_killed(way, dsn, connection):
    connection.execute(ACURIS)
    chance = random.Random(7)
    writers = [start(dsn, seed, way) for seed in range(rounds(3, 4))]
    seen: list[tuple[int, str, int]] = []
    killed, position = 0, None
    deadline = time.monotonic() + rounds(150, 600)
    try:
        with open_store("s", described(dsn)) as store:

            def read(patience: timedelta) -> None:
                nonlocal position
                head = store.head(patience, position).position
                if head is not None and (position is None or head > position):
                    for batch in store.read_all(position, head):
                        seen.extend((e.position[0], e.stream, e.version) for e in batch.events)
                    position = head

            while (len(seen) < ENOUGH or killed < KILLS) and time.monotonic() < deadline:
                read(timedelta(milliseconds=20))
                if len(seen) > ENOUGH // (KILLS + 1) * (killed + chance.random()):
                    at = chance.randrange(len(writers))
                    writers[at].send_signal(signal.SIGKILL)
                    writers[at].wait(DEADLINE)
                    writers[at] = start(dsn, 100 + killed, way)
                    killed += 1
            for writer in writers:
                writer.kill()
                writer.wait(DEADLINE)
            # The server notices that they are gone when it next writes to them.
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> "
                "pg_backend_pid() AND application_name NOT LIKE 'esops%' AND datname = "
                "current_database()"
            )
            end = time.monotonic() + DEADLINE
            while time.monotonic() < end:
                read(timedelta(seconds=2))
                (last,) = connection.execute("SELECT max(position) FROM es.event").fetchone()
                if position == Position((last,)):
                    break
    finally:
        for writer in writers:
            writer.kill()
    truth = connection.execute(
        "SELECT position, stream_category || '-' || stream_id, event_number FROM es.event "
        "ORDER BY position"
    ).fetchall()
    assert killed >= KILLS
    assert len(seen) >= ENOUGH
    assert seen == truth
    assert [number for number, *_ in truth] == list(range(1, len(truth) + 1))


def test_a_writer_that_has_not_committed_holds_nothing_back(dsn, connection):
    connection.execute(ACURIS)
    write(connection, count=3)
    with psycopg.connect(dsn) as other:
        write(other, "2")
        with open_store("s", described(dsn)) as store:
            began = time.monotonic()
            head = store.head(timedelta(seconds=DEADLINE))
            assert (head.position, list(head.held_back_by)) == (Position((3,)), [])
            assert time.monotonic() - began < DEADLINE / 3
        other.rollback()
    write(connection, "3")
    with open_store("s", described(dsn)) as store:
        found = [e for batch in store.read_all() for e in batch.events]
        assert [(e.position[0], e.stream) for e in found][-1] == (4, "cart-3")
        assert store.memory.late() == []


def test_newest_events_that_were_deleted_are_noticed(dsn, connection):
    """Their numbers are given to others, which nobody who has read the first ones would read."""
    connection.execute(ACURIS)
    write(connection, count=5)
    with open_store("s", described(dsn)) as store:
        assert store.head().position == Position((5,))
        mark = store.identity.mark(Position((5,)))
        connection.execute("DELETE FROM es.event WHERE position > 3")
        with pytest.raises(ContradictedSequence, match="newest events were deleted"):
            store.head()
    write(connection, "2", count=3)
    with open_store("s", described(dsn)) as store:
        assert store.head().position == Position((6,))
        with pytest.raises(AnotherLog, match="position 5 is another event now"):
            store.identity.recognise(Position((5,)), mark)
    # The same stream, version and number, so the same made-up id: only its time tells.
    connection.execute("DELETE FROM es.event WHERE position > 3")
    write(connection, "1", count=2)
    with (
        open_store("s", described(dsn)) as store,
        pytest.raises(AnotherLog, match="position 5 is another event now"),
    ):
        store.identity.recognise(Position((5,)), mark)


def test_a_number_that_was_left_out_is_passed_late_and_its_coming_is_an_alarm(dsn, connection):
    connection.execute(ACURIS)
    write(connection, count=3)
    with psycopg.connect(dsn) as other:
        # A writer that does not take the highest and one, and commits late.
        other.execute("INSERT INTO es.event VALUES (4, 'x', '1', 0, 'added', now(), '{}', NULL)")
        connection.execute(
            "INSERT INTO es.event VALUES (5, 'x', '2', 0, 'added', now(), '{}', NULL)"
        )
        with open_store("s", described(dsn)) as store:
            store.memory.keep()
            head = store.head(timedelta(milliseconds=300))
            assert head.position == Position((3,))
            assert head.held_back_by
            other.rollback()
            assert store.head(timedelta(seconds=DEADLINE)).position == Position((5,))
    connection.execute("INSERT INTO es.event VALUES (4, 'x', '1', 0, 'added', now(), '{}', NULL)")
    with open_store("s", described(dsn)) as store:
        assert [each.position for each in store.memory.late()] == [Position((4,))]


@pytest.mark.parametrize(
    ("change", "why", "hint"),
    [
        (NO_KEY, "no unique index", CREATE),
        (
            f"{NO_KEY}; CREATE UNIQUE INDEX part ON es.event (position) WHERE position > 100",
            "part is partial",
            CREATE,
        ),
        (
            f"{NO_KEY}; CREATE UNIQUE INDEX wide ON es.event (position, stream_id)",
            "no unique index",
            CREATE,
        ),
        (
            f"{NO_KEY}; CREATE UNIQUE INDEX bad ON es.event (position); {INVALID}",
            "bad is not valid",
            'REINDEX INDEX CONCURRENTLY "es"."bad";',
        ),
        (
            "CREATE TABLE es.more () INHERITS (es.event)",
            "does not cover the tables that inherit",
            "move their rows into",
        ),
        (partitioned("RANGE (timestamp)"), "no unique index", "is partitioned by RANGE"),
        (partitioned("RANGE (position)"), "no unique index", 'CREATE UNIQUE INDEX ON "es"."event"'),
    ],
)
def test_without_a_unique_index_it_is_refused(dsn, connection, change, why, hint):
    connection.execute(ACURIS)
    connection.execute(change)
    with pytest.raises(Refused, match=why) as error:
        open_store("s", described(dsn))
    assert hint in error.value.hint
    told, _, statements = error.value.hint.partition("Run this in the database: ")
    if not told:
        for each in filter(str.strip, statements.split(";")):
            connection.execute(each)
        open_store("s", described(dsn)).close()


def test_a_sequence_contradicts_it_and_no_sequence_needs_it(dsn, connection):
    connection.execute(CASTORE + ";" + ACURIS)
    described_so = {**CASTORE_TABLE, "position_by": "max_plus_one"}
    with pytest.raises(UsageError, match=r"public\.castore_at_seq fills 'at'"):
        open_store("s", PostgresSettings(dsn=dsn, table=TableSettings(**described_so)))
    with pytest.raises(ValueError, match="`sequence` is not for"):
        TableSettings(**described_so, sequence="castore_at_seq")
    with pytest.raises(Unavailable, match="no sequence fills") as error:
        open_store("s", described(dsn, position_by=None))
    assert "max_plus_one" in error.value.hint


def test_an_empty_table_and_one_that_begins_with_zero(dsn, connection):
    connection.execute(ACURIS)
    with open_store("s", described(dsn)) as store:
        assert store.head().position is None
        assert list(store.read_all()) == []
    connection.execute("INSERT INTO es.event VALUES (0, 'x', '1', 0, 'added', now(), '{}', NULL)")
    with (
        open_store("s", described(dsn)) as store,
        pytest.raises(ContradictedSequence, match="begin with number 0") as error,
    ):
        store.head()
    assert "sequence" not in error.value.hint
    connection.execute("UPDATE es.event SET position = position + 1")
    with open_store("s", described(dsn)) as store:
        assert store.head().position == Position((1,))
    connection.execute("UPDATE es.event SET position = 9223372036854775807")
    with (
        open_store("s", described(dsn)) as store,
        pytest.raises(ContradictedSequence, match="there is none after that"),
    ):
        store.head()


def test_commands_work_with_it(project, dsn, connection):
    connection.execute(ACURIS)
    for stream in range(40):
        write(connection, str(stream), count=3)
    project.configure(
        stores={"s": {"dsn": dsn, "hole_threshold": "1s", "table": ACURIS_TABLE}},
        projections={"carts": {"python": "carts:carts", "tables": ["carts"], "ddl": "carts.sql"}},
    )
    project.write("carts.py", CODE)
    project.write("carts.sql", "CREATE TABLE {table} (stream text PRIMARY KEY, n int);")
    project.ok("rebuild", "carts", "--blue-green")
    write(connection, "7", count=2)
    project.ok("run", "--until-caught-up")
    assert connection.execute("SELECT n FROM carts WHERE stream = 'cart-7'").fetchone() == (5,)
    assert project.ok("status").code == 0
    doctor = project.run("doctor", "--output", "json").json
    codes = {each["code"] for each in doctor["findings"]}
    assert not codes & {"ESOPS-D005", "ESOPS-D079", "ESOPS-D080", "ESOPS-D081", "ESOPS-D082"}
    granted = project.ok("doctor", "--grants", "reader")
    assert "SELECT ON SEQUENCE" not in granted.out
    connection.execute("DELETE FROM es.event WHERE position = 50")
    doctor = project.run("doctor", "--output", "json").json
    assert "ESOPS-D082" in {each["code"] for each in doctor["findings"]}
    # Deleted from the end and given again: the checkpoint's event is another one now.
    connection.execute("DELETE FROM es.event WHERE position > 120")
    write(connection, "8", count=9)
    stopped = project.run("run", "--until-caught-up")
    assert stopped.code == 6
    assert "is another event now" in stopped.err


def test_numbers_that_are_given_again_stop_a_process_that_runs(project, dsn, connection):
    """What it has read is gone, and events at the same numbers would never be read."""
    connection.execute(ACURIS)
    write(connection, "1", count=10)
    project.configure(
        stores={"s": {"dsn": dsn, "hole_threshold": "1s", "table": ACURIS_TABLE}},
        projections={"carts": {"python": "carts:carts", "tables": ["carts"], "ddl": "carts.sql"}},
    )
    project.write("carts.py", CODE)
    project.write("carts.sql", "CREATE TABLE {table} (stream text PRIMARY KEY, n int);")
    project.ok("rebuild", "carts", "--blue-green")

    def read(stream: str) -> bool:
        found = connection.execute("SELECT n FROM carts WHERE stream = %s", (stream,)).fetchone()
        return found is not None

    running = project.start("run")
    try:
        write(connection, "3", count=2)
        until(lambda: read("cart-3"))
        with connection.transaction():
            connection.execute("DELETE FROM es.event WHERE position > 9")
            write(connection, "9", count=6)
        until(lambda: "is another event now" in project.run("status").out)
    finally:
        running.kill()
        running.wait()
    assert not read("cart-9")
    stopped = project.run("run", "--until-caught-up")
    assert (stopped.code, "is another event now" in stopped.err) == (6, True)


CODE = """
from esops import fold

@fold(key="stream")
def carts(row, event):
    return {"stream": event.stream, "n": (row or {"n": 0})["n"] + 1}
"""
