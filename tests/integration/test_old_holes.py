"""Missing numbers that are old hide nothing: each command sees all that was committed before it, or
says that it does not.

The databases are those that the real Marten wrote (tests/fixtures), and live ones whose writers
roll back, conflict and are killed.
"""

from __future__ import annotations

import json
import random
import threading
import time
from datetime import timedelta

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esops.errors import Refused
from esops.events import Position
from esops.settings import PostgresSettings, StoreSettings
from esops.stores import open_store
from esops.stores.base import Head, Unsettled, settled
from tests.support import marten
from tests.support.cases import thorough_but
from tests.support.soak import SOAK, rounds
from tests.support.waiting import DEADLINE, end, until
from tests.support.writers import Writers

PATIENCE = timedelta(seconds=DEADLINE)
AT_ONCE = timedelta(seconds=2.5)
"""Less than the threshold for which a number would be watched that nothing proves to be old."""
FIXTURES = ("v1", "v2", "v3", "v4", "v5", "v7")
THRESHOLD = "2s"
"""Longer than a writer takes from drawing a number to its insert, on a busy machine, too."""
RUNS = rounds(3, 300)
"""One-shot commands beside live writers."""
PAUSE = 0.05 if SOAK else 0.15
"""Seconds between two transactions of a writer."""

PROJECTION = """
from esops import fold

@fold(key=lambda event: event.id)
def events(row, event):
    return {"id": event.id, "stream": event.stream}
"""


def restore(connection, dumps, variant: str) -> str:
    """The schema of the event store."""
    connection.execute((dumps / f"marten-9.58-{variant}.sql").read_text())
    return "es" if variant == "v2" else "public"


def configure(project, dsn, schema: str = "public", more: str = "") -> None:
    project.begin_archive("archive")
    project.write("lengths.py", PROJECTION)
    project.write("lengths.sql", "CREATE TABLE {table} (id text PRIMARY KEY, stream text);")
    project.write(
        "esops.toml",
        f"""
        [stores.shop]
        dsn = {json.dumps(dsn)}
        schema = "{schema}"
        {more}
        [projections.lengths]
        python = "lengths:events"
        tables = ["lengths"]
        ddl = "lengths.sql"
        [archives.cold]
        repository = "archive"
        [archives.cold.policies.all]
        store = "shop"
        stream = "*"
        idle_for = "0s"
        """,
    )


def visible(connection, schema: str) -> list[str]:
    """The ids of all that an application's reader is given, in the order of the log."""
    skipped = connection.execute(
        "SELECT count(*) FROM information_schema.columns WHERE table_schema = %s AND table_name = "
        "'mt_events' AND column_name = 'is_skipped'",
        (schema,),
    ).fetchone()[0]
    condition = "AND is_skipped IS NOT TRUE" if skipped else ""
    return [
        row[0]
        for row in connection.execute(
            f"SELECT id::text FROM {schema}.mt_events WHERE type <> 'tombstone' AND is_archived IS "
            f"NOT TRUE {condition} ORDER BY seq_id"
        )
    ]


@pytest.mark.parametrize("variant", FIXTURES)
def test_every_event_of_a_store_that_marten_wrote_is_read(variant, dumps, dsn, connection):
    schema = restore(connection, dumps, variant)
    truth = visible(connection, schema)

    with open_store("s", PostgresSettings(dsn=dsn, schema=schema)) as store:
        settled_head = store.head(AT_ONCE)
        head = settled_head.position
        assert not settled_head.held_back_by
        assert head is not None
        assert (
            head[0]
            >= connection.execute(f"SELECT max(seq_id) FROM {schema}.mt_events").fetchone()[0]
        )
        read = [event.id for batch in store.read_all(until=head) for event in batch.events]
    assert read == truth


@pytest.mark.thorough
@pytest.mark.parametrize("variant", FIXTURES)
def test_every_command_sees_every_event_of_a_store_that_marten_wrote(
    variant, dumps, dsn, connection, project
):
    schema = restore(connection, dumps, variant)
    configure(project, dsn, schema)
    truth = visible(connection, schema)
    assert [json.loads(line)["id"] for line in project.ok("events").out.splitlines()] == truth
    assert project.ok("audit", "events", "--output", "json").json["events"] == len(truth)
    assert project.run("audit", "modelling", "--output", "json").json["events"] == len(truth)
    assert project.run("status", "--output", "json").json["stores"][0]["held_back_by"] == []
    plan = project.ok("archive", "plan", "all", "--output", "json").json
    streams = connection.execute(
        f"SELECT count(DISTINCT (stream_id, tenant_id)) FROM {schema}.mt_events WHERE type <> "
        "'tombstone'"
    )
    assert 0 < plan["streams"] <= streams.fetchone()[0]

    name, length = connection.execute(
        f"SELECT stream_id::text, count(*) FROM {schema}.mt_events WHERE type <> 'tombstone' AND "
        "is_archived IS NOT TRUE GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1"
    ).fetchone()
    if variant != "v4":  # some of whose events are skipped
        assert len(project.ok("events", "--stream", name).out.splitlines()) == length
        assert len(project.ok("trace", "stream", name, "--output", "json").json["events"]) >= min(
            length, 1
        )

    # Of v4, streams are compacted.
    done = project.ok(
        "rebuild", "lengths", "--blue-green", "--accept-shortened", "--output", "json"
    ).json
    assert done["events"] == len(truth)
    assert connection.execute("SELECT count(*) FROM public.lengths").fetchone()[0] == len(truth)


@pytest.mark.thorough
def test_a_cron_job_is_not_stopped_for_ever_by_one_append_that_was_rolled_back(
    dsn, connection, project
):
    marten.create(connection, marten.Variant(text_ids=True))
    configure(project, dsn)
    append(connection, 3)
    project.ok("rebuild", "lengths", "--blue-green")
    with connection.transaction(force_rollback=True):
        append(connection, 2)
    append(connection, 4)
    done = project.ok("run", "lengths", "--until-caught-up")
    assert "1 version caught up" in done.err
    assert connection.execute("SELECT count(*) FROM public.lengths").fetchone()[0] == 7


def append(connection, count: int, stream: str = "cart-1") -> None:
    connection.execute(
        "INSERT INTO mt_streams (id, version) VALUES (%s, 0) ON CONFLICT DO NOTHING", (stream,)
    )
    connection.execute(
        "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type) "
        "SELECT nextval('mt_events_sequence'), gen_random_uuid(), %(stream)s::varchar, "
        "(SELECT coalesce(max(version), 0) FROM mt_events WHERE stream_id = %(stream)s::varchar) + "
        "n, '{}', 'x' FROM generate_series(1, %(count)s) n",
        {"stream": stream, "count": count},
    )


def test_what_is_not_settled_in_time_is_said_and_the_exit_code_is_5(dsn, connection, project):
    marten.create(connection, marten.Variant(text_ids=True))
    configure(project, dsn, more='hole_threshold = "300ms"\n        settle_timeout = "500ms"')
    append(connection, 3)
    project.ok("rebuild", "lengths", "--blue-green")
    with psycopg.connect(dsn) as writer:
        writer.execute("SELECT nextval('mt_events_sequence')")
        append(connection, 2)
        for command in (["events"], ["audit", "events"], ["run", "lengths", "--until-caught-up"]):
            done = project.run(*command)
            assert done.code == 5, (command, done)
            assert f"session {writer.info.backend_pid}" in done.err
            assert command[0] == "run" or "3" in done.out, done  # up to where numbers are missing
        assert "0 versions caught up, 1 did not" in done.err
        # versions put one stream's events in order, whatever else is under way
        assert len(project.ok("events", "--stream", "cart-1").out.splitlines()) == 5
    assert len(project.ok("events").out.splitlines()) == 5


def hole_rule(dsn, seconds: float = 30.0) -> StoreSettings:
    return PostgresSettings(dsn=dsn, hole_threshold=timedelta(seconds=seconds))


def test_a_number_is_old_where_an_event_above_it_was_committed_before_the_servers_last_checkpoint(
    own_server,
):
    dsn = own_server.dsn()
    with psycopg.connect(dsn, autocommit=True) as connection:
        marten.create(connection, marten.Variant(text_ids=True))
        append(connection, 5)
        connection.execute("SELECT nextval('mt_events_sequence')")
        append(connection, 5)
        with psycopg.connect(dsn) as running:  # began before the checkpoint, and committed after it
            append(running, 1, "late-1")
            connection.execute("SELECT nextval('mt_events_sequence')")
            connection.execute("CHECKPOINT")
        connection.execute("SELECT nextval('mt_events_sequence')")
        append(connection, 1)

        def at_first_sight() -> Head:
            with open_store("s", hole_rule(dsn, 1.0)) as fresh:
                return fresh.head(timedelta(0))

        # As soon as the checkpoint is older than the threshold, the eleventh number is passed.
        until(lambda: at_first_sight().position == (12,))
        with open_store("s", hole_rule(dsn, 1.0)) as store:
            # The number after the late commit is watched, since nothing proves its age.
            head = store.head(timedelta(0))
            assert head.position == (12,)
            assert "missing number 13" in head.held_back_by[0].who
            assert store.head(PATIENCE) == Head(Position((15,)), [])


def test_a_number_is_old_where_an_event_above_it_was_committed_long_ago_by_commit_timestamps(
    own_server,
):
    dsn = own_server.dsn()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
    own_server.restart()
    with psycopg.connect(dsn, autocommit=True) as connection:
        marten.create(connection, marten.Variant(text_ids=True))
        connection.execute("SELECT nextval('mt_events_sequence')")
        append(connection, 5)
        with open_store("s", hole_rule(dsn, 1.0)) as store:
            assert store.head(timedelta(0)).position is None
        time.sleep(1.1)
        with open_store("s", hole_rule(dsn, 1.0)) as store:
            assert store.head(timedelta(0)).position == (6,)


def test_an_old_number_is_not_passed_while_its_writer_is_at_work(dsn, connection):
    """It drew its number long ago, outside of its transaction, and has inserted its event and not
    committed.
    """
    marten.create(connection, marten.Variant(text_ids=True))
    connection.execute("INSERT INTO mt_streams (id, version) VALUES ('cart-1', 1), ('cart-2', 1)")
    late = connection.execute("SELECT nextval('mt_events_sequence')").fetchone()[0]
    append(connection, 4, "cart-1")
    connection.execute(
        "INSERT INTO mt_event_progression (name, last_seq_id) VALUES ('HighWaterMark', 5)"
    )
    with psycopg.connect(dsn) as writer:
        writer.execute(
            "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type) VALUES (%s, "
            "gen_random_uuid(), 'cart-2', 1, '{}', 'x')",
            (late,),
        )
        with open_store("s", hole_rule(dsn)) as store:
            head = store.head(timedelta(seconds=0.5))
            assert head.position is None
            told = [each.who for each in head.held_back_by]
            assert any(str(writer.info.backend_pid) in each for each in told), told
            writer.commit()
            assert store.head(PATIENCE).position == (5,)
            assert [event.position[0] for batch in store.read_all() for event in batch.events] == [
                1,
                2,
                3,
                4,
                5,
            ]


def test_a_high_water_mark_is_a_lower_bound_and_never_an_upper_one(dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    append(connection, 3)
    connection.execute(
        "INSERT INTO mt_event_progression (name, last_seq_id) VALUES ('HighWaterMark', 2)"
    )
    with open_store("s", hole_rule(dsn)) as store:
        assert store.head(timedelta(0)).position == (3,)
    connection.execute(
        "UPDATE mt_event_progression SET last_seq_id = 1000000"
    )  # beyond what was ever drawn: no evidence of anything
    connection.execute("SELECT nextval('mt_events_sequence')")
    append(connection, 1)
    with open_store("s", hole_rule(dsn)) as store:
        assert store.head(timedelta(0)).position == (3,)


def test_a_leap_of_the_sequence_and_many_holes_cost_no_more_than_the_watch(dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    connection.execute("INSERT INTO mt_streams (id, version) VALUES ('cart-1', 1)")
    connection.execute(
        "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type) "
        "SELECT 2 * n, gen_random_uuid(), 'cart-1', n, '{}', 'x' FROM generate_series(1, 30000) n"
    )
    connection.execute("SELECT setval('mt_events_sequence', 1000000000000)")
    connection.execute("ANALYZE mt_events")
    append(connection, 1)
    with open_store("s", hole_rule(dsn, 0.5)) as store:
        # Each hole looked for by itself takes minutes.
        assert store.head(PATIENCE).position == (1_000_000_000_001,)
        assert sum(len(batch.events) for batch in store.read_all()) == 30_001


def test_a_leap_behind_the_newest_event_is_not_walked_through(dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    append(connection, 3)
    connection.execute("SELECT setval('mt_events_sequence', 1000000000000)")
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        # In pages of 200,000 numbers it takes hours.
        for limit in (None, 5):
            batches = store.read_all(until=Position((10**12,)), limit=limit)
            assert sum(len(batch.events) for batch in batches) == 3


@pytest.mark.thorough
def test_looking_for_missing_numbers_keeps_no_statement_open_for_long(dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    connection.execute("INSERT INTO mt_streams (id, version) VALUES ('cart-1', 1)")
    connection.execute(
        "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type) "
        "SELECT n, gen_random_uuid(), 'cart-1', n, '{}', 'x' FROM generate_series(1, 400000) n; "
        "SELECT setval('mt_events_sequence', 400000)"
    )
    longest, ended = [0.0], threading.Event()

    def watch() -> None:
        with psycopg.connect(dsn, autocommit=True) as watcher:
            while not ended.wait(0.005):
                row = watcher.execute(
                    "SELECT extract(epoch FROM clock_timestamp() - min(query_start))::float FROM "
                    "pg_stat_activity "
                    "WHERE application_name LIKE 'esops %' AND state = 'active'"
                ).fetchone()
                longest[0] = max(longest[0], row[0] or 0.0)

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.monotonic()
    with open_store("s", hole_rule(dsn, 60)) as store:
        assert store.head(PATIENCE).position == (400_000,)
    lasted = time.monotonic() - began
    ended.set()
    thread.join()
    assert 0 < longest[0] < lasted / 2, "it looks in several statements"


@pytest.mark.slow
@pytest.mark.parametrize("outside", thorough_but([0.0, 0.5], 0.5), ids=["quick", "rich and quick"])
def test_one_shot_commands_beside_live_writers_see_all_that_was_committed_before(
    outside, dsn, connection, project
):
    marten.create(connection, marten.Variant(text_ids=True, partitioned=True))
    configure(project, dsn, more=f'hole_threshold = "{THRESHOLD}"')
    writers = Writers(dsn, "marten", 3, outside=outside, batch=6, late=0.02, pause=PAUSE)
    chance = random.Random(7)
    append(connection, 1)
    project.ok("rebuild", "lengths", "--blue-green")
    try:
        for number in range(RUNS if outside else RUNS // 2):
            time.sleep(chance.random() * 0.2)
            if number % 4 == 0:
                writers.kill_one()
            before = {row[0] for row in connection.execute("SELECT seq_id FROM mt_events")}
            if number % 3 == 2:
                project.ok("run", "lengths", "--until-caught-up")
                position = connection.execute(
                    "SELECT position::bigint FROM esops.versions"
                ).fetchone()[0]
                assert position >= max(before)
                continue
            if number % 3 == 1:
                assert project.ok("audit", "events", "--output", "json").json["events"] >= len(
                    before
                )
                continue
            seen = [
                int(json.loads(line)["position"]) for line in project.ok("events").out.splitlines()
            ]
            assert seen == sorted(set(seen))
            assert before <= set(seen), sorted(before - set(seen))[:10]
    finally:
        writers.stop()
    project.ok("run", "lengths", "--until-caught-up")
    served = connection.execute("SELECT count(*) FROM public.lengths").fetchone()[0]
    assert served == connection.execute("SELECT count(*) FROM mt_events").fetchone()[0]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "roll back", "lose", "leap", "reserve", "write", "read"]),
        st.integers(1, 5),
    ),
    max_size=25,
)


@settings(max_examples=rounds(10, 500))
@given(steps=STEPS)
def test_a_reader_of_any_history_sees_all_of_it_or_says_so(steps, dsn, connection):
    """Numbers that were reserved are written before the threshold is over, as the rule supposes;
    all else may come in any order.
    """
    connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    marten.create(connection, marten.Variant(text_ids=True))
    reserved: list[int] = []
    seen: list[int] = []
    position = None
    with open_store("s", hole_rule(dsn)) as store:
        for step, count in steps:
            if step == "append":
                append(connection, count)
            elif step == "roll back":
                with connection.transaction(force_rollback=True):
                    append(connection, count)
            elif step == "lose":
                connection.execute("SELECT nextval('mt_events_sequence')")
                break_here = connection.execute(
                    "SELECT last_value FROM mt_events_sequence"
                ).fetchone()[0]
                connection.execute(
                    "INSERT INTO mt_event_progression (name, last_seq_id) VALUES "
                    "('HighWaterMark', %s) "
                    "ON CONFLICT (name) DO UPDATE SET last_seq_id = EXCLUDED.last_seq_id",
                    (break_here if not reserved else min(reserved) - 1,),
                )
            elif step == "leap":
                connection.execute(
                    "SELECT setval('mt_events_sequence', (SELECT last_value + %s FROM "
                    "mt_events_sequence))",
                    (count,),
                )
            elif step == "reserve":
                reserved += [
                    connection.execute("SELECT nextval('mt_events_sequence')").fetchone()[0]
                ]
            elif step == "write" and reserved:
                connection.execute(
                    "INSERT INTO mt_streams (id, version) VALUES ('r', 0) ON CONFLICT DO NOTHING"
                )
                connection.execute(
                    "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type) VALUES "
                    "(%s, gen_random_uuid(), 'r', %s, '{}', 'x')",
                    (reserved[0], reserved.pop(0)),
                )
            elif step == "read":
                settled_head = store.head(timedelta(0), position)
                head = settled_head.position
                if head is not None and (position is None or head > position):
                    seen += [
                        event.position[0]
                        for batch in store.read_all(position, head)
                        for event in batch.events
                    ]
                    position = head
                committed = {row[0] for row in connection.execute("SELECT seq_id FROM mt_events")}
                assert seen == sorted(set(seen))
                assert set(seen) <= committed
                if not settled_head.held_back_by:
                    assert set(seen) == committed
                # whatever has not been written yet lies beyond what was read
                assert all(position is None or number > position[0] for number in reserved)
                with open_store("another", hole_rule(dsn)) as fresh:
                    other = fresh.head(timedelta(0)).position
                    assert all(other is None or number > other[0] for number in reserved)


def test_reading_raises_at_its_end_where_it_is_not_the_end_of_the_log(dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    append(connection, 3)
    with psycopg.connect(dsn) as writer, open_store("s", hole_rule(dsn, 0.1)) as store:
        writer.execute("SELECT nextval('mt_events_sequence')")
        append(connection, 2)
        stop = threading.Event()
        stop.set()
        head, short = settled(store, stop=stop.is_set)
        assert isinstance(short, Unsettled)
        assert head == (3,)


def test_numbers_missing_at_the_very_end_hold_nothing_back(dsn, connection):
    """Nothing that was committed comes after them: an idle store is read at once, whatever its
    sequence has lost.
    """
    marten.create(connection, marten.Variant(text_ids=True))
    append(connection, 5)
    connection.execute("SELECT nextval('mt_events_sequence') FROM generate_series(1, 30)")
    with open_store("s", hole_rule(dsn)) as store:
        assert store.head(timedelta(0)) == Head(Position((5,)), [])
        append(connection, 1)
        held = store.head(timedelta(0))  # now they do
        assert held.position == (5,)
        assert held.held_back_by


SETVAL = 'setval(\'"public"."mt_events_sequence"\', 10)'
IN_COMMANDS = ("ALTER SEQUENCE mt_events_sequence RESTART WITH 11", "SELECT 'never called'")


@pytest.mark.parametrize(
    ("sequence", "events", "refused"),
    [
        ("ALTER SEQUENCE mt_events_sequence RESTART WITH 11", 10, False),
        ("SELECT setval('mt_events_sequence', 11, false)", 10, False),
        ("SELECT setval('mt_events_sequence', 10)", 10, False),
        ("SELECT 'never called'", 10, True),
        ("SELECT setval('mt_events_sequence', 4)", 10, True),
        ("SELECT setval('mt_events_sequence', 5, false)", 10, True),
    ],
)
def test_an_import_is_seen_whole_or_refused(sequence, events, refused, dsn, connection, project):
    marten.create(connection, marten.Variant(text_ids=True))
    configure(project, dsn)
    connection.execute("INSERT INTO mt_streams (id, version) VALUES ('s', 10)")
    connection.execute(
        "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type) "
        "SELECT n, gen_random_uuid(), 's', n, '{}', 'x' FROM generate_series(1, %s) n",
        (events,),
    )
    connection.execute(sequence)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        if refused:
            with pytest.raises(Refused) as error:
                store.head()
            assert SETVAL in f"{error.value} {error.value.hint}"
        else:
            assert sum(len(batch.events) for batch in store.read_all()) == events
    if not (SOAK or sequence in IN_COMMANDS):
        return
    for command in (
        ["events"],
        ["audit", "events", "--output", "json"],
        ["rebuild", "lengths", "--blue-green"],
    ):
        done = project.run(*command)
        if refused:
            assert done.code == 6, (command, done)
            assert SETVAL in done.err
        else:
            assert done.code == 0, (command, done)
    if not refused:
        assert len(project.ok("events").out.splitlines()) == events
        assert connection.execute("SELECT count(*) FROM public.lengths").fetchone()[0] == events


@pytest.mark.parametrize("how", thorough_but(["restored", "emptied"], "restored"))
def test_a_store_that_ends_before_the_checkpoint_is_refused(how, dsn, connection, project):
    marten.create(connection, marten.Variant(text_ids=True))
    configure(project, dsn)
    append(connection, 10)
    project.ok("rebuild", "lengths", "--blue-green")
    if how == "restored":
        connection.execute(
            "DELETE FROM mt_events WHERE seq_id > 4; SELECT setval('mt_events_sequence', 4)"
        )
    else:
        connection.execute(
            "TRUNCATE mt_streams, mt_events; ALTER SEQUENCE mt_events_sequence RESTART"
        )
    append(connection, 2, "cart-2")
    done = project.run("run", "lengths", "--until-caught-up")
    assert done.code == 6, done
    assert "0 versions caught up, 1 did not" in done.err


@pytest.mark.slow
def test_a_signal_ends_the_wait_for_events_to_settle(dsn, connection, project):
    marten.create(connection, marten.Variant(text_ids=True))
    configure(project, dsn, more='settle_timeout = "60s"')
    append(connection, 2)
    with psycopg.connect(dsn) as writer:
        writer.execute("SELECT nextval('mt_events_sequence')")
        append(connection, 2)
        process = project.start("events")
        until(
            lambda: connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'esops%' "
                "AND datname = current_database()"
            ).fetchone()[0]
        )
        out, err = end(process)
        assert process.returncode == 5, err
        assert len(out.splitlines()) == 2


def test_a_wide_hole_whose_lower_part_alone_is_old_does_not_hold_a_reader_for_ever(dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    append(connection, 1)
    with open_store("s", hole_rule(dsn, 0.3)) as store:
        for _ in range(3):
            connection.execute("SELECT nextval('mt_events_sequence') FROM generate_series(1, 2000)")
            store.head(timedelta(0))
            time.sleep(0.4)
        append(connection, 1)
        until(lambda: store.head(timedelta(0)).position == (6002,))
