"""What a sequence says is a claim, and the table has the truth: over every layout, a command sees
all events or refuses.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import psycopg
import pytest

from esops.archive.checkpoint_guard import behind
from esops.config import load_config
from esops.errors import ContradictedSequence, UnknowableNumbers, UsageError
from esops.events import Position
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.stores.base import Head
from tests.support.cases import thorough_but
from tests.support.numbered import LAYOUTS
from tests.support.waiting import DEADLINE, until

PATIENCE = timedelta(seconds=DEADLINE)
AT_ONCE = timedelta(0)
BY_SEQUENCE = [name for name in LAYOUTS if name != "emmett"]
"""Those that the sequence settles; Emmett's transaction ids settle without it."""
PROJECTION = """
from esops import fold

@fold(key=lambda event: str(event.position))
def numbers(row, event):
    return {"id": str(event.position)}
"""


@pytest.fixture(params=LAYOUTS)
def layout(request, connection):
    found = LAYOUTS[request.param]
    found.make(connection)
    return found


def open_layout(dsn, layout, **settings):
    return open_store("s", PostgresSettings(dsn=dsn, **{**layout.settings, **settings}))


def read(store) -> list[int]:
    return [event.position[-1] for batch in store.read_all() for event in batch.events]


def configure(project, dsn, layout, **settings) -> None:
    project.write("journal_numbers.py", PROJECTION)
    project.write("numbers.sql", "CREATE TABLE {table} (id text PRIMARY KEY);")
    project.configure(
        stores={"s": {"dsn": dsn, **layout.settings, **settings}},
        projections={
            "numbers": {
                "python": "journal_numbers:numbers",
                "tables": ["numbers"],
                "ddl": "numbers.sql",
            }
        },
    )


def test_a_position_that_is_given_twice_is_refused_until_a_rebuild(dsn, connection, project):
    """Emmett has no unique index on it, and nobody looked while the sequence was behind."""
    layout = LAYOUTS["emmett by position"]
    layout.make(connection)
    configure(project, dsn, layout)
    layout.insert(connection, [None] * 3)
    project.ok("rebuild", "numbers", "--blue-green")
    connection.execute(f"SELECT setval('{layout.sequence}', 3, FALSE)")
    second = layout.row.replace("'cart-1', n", "'cart-2', 1").format(number=3)
    connection.execute(second)
    connection.execute(f"SELECT setval('{layout.sequence}', 3)")
    for command in (["run", "numbers", "--until-caught-up"], ["status"]):
        done = project.run(*command)
        assert done.code == {"run": 6, "status": 1}[command[0]], done
        assert "has given position 3 twice" in done.out + done.err
    assert project.run("projection", "recover", "numbers", "--yes").code == 1
    project.ok("rebuild", "numbers", "--blue-green", "--compare", "none")
    project.ok("projection", "retire", "numbers", "1", "--yes")
    project.ok("status")


@pytest.mark.parametrize(
    "layout", thorough_but(LAYOUTS, "marten", "emmett", "custom"), indirect=True
)
def test_a_table_ahead_of_its_sequence_is_refused_by_every_command(
    layout, dsn, connection, project
):
    layout.insert(connection, range(1, 11))
    configure(project, dsn, layout)
    for claim in ("SELECT 'never called'", f"SELECT setval('{layout.sequence}', 4)"):
        connection.execute(claim)
        for command in (
            ["events"],
            ["rebuild", "numbers", "--blue-green"],
            ["rebuild", "numbers", "--yes"],
        ):
            done = project.run(*command)
            assert done.code == 6, (command, done)
            assert "SELECT setval(" in done.err
        shown = project.run("status", "--output", "json")
        assert shown.code == 1
        assert not shown.json["stores"][0]["ok"]
    found = project.run("doctor", "--output", "json").json["findings"]
    (finding,) = [each for each in found if each["code"] == "ESOPS-D005"]
    # what is said repairs it
    connection.execute(finding["fix"][finding["fix"].index("SELECT setval") :])
    assert len(project.ok("events").out.splitlines()) == 10
    assert project.ok("status", "--output", "json").json["stores"][0]["ok"]


def test_an_import_behind_which_the_sequence_was_set_is_seen_whole(layout, dsn, connection):
    layout.insert(connection, range(1, 11))
    for claim in (
        f"SELECT setval('{layout.sequence}', 11, false)",
        f"ALTER SEQUENCE {layout.sequence} RESTART WITH 11",
        f"SELECT setval('{layout.sequence}', 10)",
        f"SELECT setval('{layout.sequence}', 1000, false)",
    ):
        connection.execute(claim)
        with open_layout(dsn, layout) as store:
            assert read(store) == list(range(1, 11))
    layout.insert(connection, [None])
    with open_layout(dsn, layout) as store:
        assert read(store) == [*range(1, 11), 1000]


def test_a_sequence_that_is_made_anew_under_a_running_reader_is_noticed(layout, dsn, connection):
    layout.insert(connection, [None] * 5)
    with open_layout(dsn, layout) as store:
        position = store.head(PATIENCE).position
        connection.execute(
            f"ALTER TABLE {layout.table} ALTER {layout.number} DROP DEFAULT; "
            f"DROP SEQUENCE {layout.sequence}; CREATE SEQUENCE {layout.sequence} START WITH 6"
        )
        with psycopg.connect(dsn) as writer:
            layout.write(writer, f"nextval('{layout.sequence}')")
            layout.insert(connection, [None])
            store.head(AT_ONCE, position)
            writer.commit()
        layout.insert(connection, [None] * 3)
        store.head(PATIENCE, position)
        head = store.head(PATIENCE, position).position
        seen = [
            event.position[-1] for batch in store.read_all(position, head) for event in batch[0]
        ]
        assert sorted(seen) == [6, 7, 8, 9, 10]
        # one that begins at 1 again contradicts the events that are there
        connection.execute(f"DROP SEQUENCE {layout.sequence}; CREATE SEQUENCE {layout.sequence}")
        with pytest.raises(ContradictedSequence):
            store.head(AT_ONCE, head)
        connection.execute(f"DROP SEQUENCE {layout.sequence}")
        with pytest.raises(ContradictedSequence):
            store.head(AT_ONCE, head)


@pytest.mark.parametrize("name", BY_SEQUENCE)
def test_dead_numbers_at_the_end_may_be_given_once_more(name, dsn, connection):
    """As after `setval(…, max(number))`, which is the usual idiom."""
    layout = LAYOUTS[name]
    layout.make(connection)
    layout.insert(connection, [None] * 3)
    connection.execute(f"SELECT nextval('{layout.sequence}') FROM generate_series(1, 5)")
    with open_layout(dsn, layout) as store:
        head = store.head(PATIENCE)
        assert head == Head(Position((3,)), [])
        connection.execute(f"SELECT setval('{layout.sequence}', 3)")
        with psycopg.connect(dsn) as writer:
            layout.write(writer, f"nextval('{layout.sequence}')")
            layout.insert(connection, [None] * 2)
            assert store.head(AT_ONCE).position == (3,)
        assert until(lambda: store.head(PATIENCE, head.position).position) == (6,)
        assert read(store) == [1, 2, 3, 4, 5, 6]


def test_sequences_whose_numbers_put_nothing_in_order_are_refused(layout, dsn, connection):
    layout.insert(connection, [0, 1, 2])
    connection.execute(f"SELECT setval('{layout.sequence}', 2)")
    with open_layout(dsn, layout) as store, pytest.raises(ContradictedSequence, match="number 0"):
        store.head(AT_ONCE)
    connection.execute(f"DELETE FROM {layout.table} WHERE {layout.number} = 0")
    connection.execute(f"ALTER SEQUENCE {layout.sequence} MAXVALUE 3 CYCLE")
    layout.insert(connection, [None])
    with open_layout(dsn, layout) as store:
        assert read(store) == [1, 2, 3]
        connection.execute(f"SELECT nextval('{layout.sequence}')")  # it begins again
        with pytest.raises(ContradictedSequence, match="cycles"):
            store.head(AT_ONCE)
    connection.execute(
        f"ALTER SEQUENCE {layout.sequence} INCREMENT BY -1 MINVALUE -10 MAXVALUE 100 RESTART 50"
    )
    with open_layout(dsn, layout) as store, pytest.raises(ContradictedSequence, match="backwards"):
        store.head(AT_ONCE)


@pytest.mark.parametrize("name", BY_SEQUENCE)
def test_a_table_that_is_replaced_under_a_running_reader_is_read_by_its_name(name, dsn, connection):
    layout = LAYOUTS[name]
    layout.make(connection)
    layout.insert(connection, [None] * 3)
    with open_layout(dsn, layout) as store:
        position = store.head(PATIENCE).position
        connection.execute(
            f"ALTER TABLE {layout.table} RENAME TO old; "
            f"CREATE TABLE {layout.table} (LIKE {layout.table.rpartition('.')[0] or 'public'}.old "
            "INCLUDING ALL)"
        )
        connection.execute(
            f"INSERT INTO {layout.table} SELECT * FROM "
            f"{layout.table.rpartition('.')[0] or 'public'}.old"
        )
        # reserved outside of a transaction, and written by one that takes its time
        late = connection.execute(f"SELECT nextval('{layout.sequence}')").fetchone()[0]
        with psycopg.connect(dsn) as writer:
            layout.write(writer, late)
            layout.insert(connection, [None])
            deadline = time.monotonic() + 1.5
            while layout.settings.get("hole_threshold") and time.monotonic() < deadline:
                assert store.head(AT_ONCE, position).position == (3,)
        if layout.settings.get("hole_threshold"):
            assert store.head(PATIENCE, position).position == (5,)


def with_cache(connection, layout) -> None:
    layout.make(connection)
    connection.execute(f"ALTER SEQUENCE {layout.sequence} CACHE 10")


@pytest.mark.parametrize("name", BY_SEQUENCE)
def test_numbers_of_a_sessions_cache_are_waited_for_until_it_has_ended(name, dsn, connection):
    layout = LAYOUTS[name]
    with_cache(connection, layout)
    connection.close()
    with (
        open_layout(dsn, layout, settle_timeout="500ms", hole_threshold="200ms") as store,
        psycopg.connect(dsn, autocommit=True) as two,
    ):
        # A session of the application, whatever it is called.
        one = psycopg.connect(dsn, autocommit=True, application_name="esops importer")
        layout.insert(one, [None])
        layout.insert(two, [None])
        layout.insert(one, [None])
        head = store.head(timedelta(seconds=1))
        assert head.position == (2,)
        assert f"session {one.info.backend_pid} " in "".join(each.who for each in head.held_back_by)
        for _ in range(4):
            layout.insert(one, [None])
            layout.insert(two, [None])
        assert store.head(timedelta(seconds=0.5)).position == (6,)
        one.close()
        # The other session was there too, and could hold what is missing.
        assert store.head(timedelta(seconds=1.5)).position == (6,)
        two.close()
        assert store.head(PATIENCE).position == (15,)
        assert read(store) == [1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15]


def test_a_session_that_has_slept_since_before_the_number_was_drawn_holds_nothing_back(
    dsn, connection
):
    layout = LAYOUTS["messagedb"]
    with_cache(connection, layout)
    layout.insert(connection, [None])
    with open_layout(dsn, layout, hole_threshold="200ms") as store:
        store.head(AT_ONCE)
        time.sleep(0.05)
        store.head(AT_ONCE)
        with psycopg.connect(dsn, autocommit=True) as writer:
            layout.insert(writer, [None])  # 11, above what `connection` holds
            assert store.head(timedelta(seconds=1)).position == (1,)
            connection.execute("DISCARD SEQUENCES")
            for _ in range(9):
                layout.insert(connection, [None])
        # 2 to 10 are gone with the DISCARD, which nobody can see
        assert store.head(timedelta(seconds=1)).position == (1,)
        connection.close()
        assert store.head(PATIENCE).position == (29,)


@pytest.mark.parametrize("name", BY_SEQUENCE)
def test_numbers_that_the_application_hands_out_need_a_time_after_which_they_are_dead(
    name, dsn, connection, project
):
    """As Hibernate's pooled optimiser does: INCREMENT BY 50, with rows in between."""
    layout = LAYOUTS[name]
    layout.make(connection)
    connection.execute(f"ALTER SEQUENCE {layout.sequence} INCREMENT BY 50")
    connection.execute(f"SELECT nextval('{layout.sequence}') FROM generate_series(1, 2)")
    layout.insert(connection, [1, 2, 3, 51, 52])
    with (
        open_layout(dsn, layout, hole_threshold="100ms", append="auto") as store,
        pytest.raises(UnknowableNumbers, match="number 4 "),
    ):
        store.head(PATIENCE)
    with open_layout(dsn, layout, hole_threshold="100ms", append="auto", dead_after="1s") as store:
        assert store.head(AT_ONCE).position == (3,)
        layout.insert(connection, [4, 5])
        assert store.head(PATIENCE).position == (52,)
        assert read(store) == [1, 2, 3, 4, 5, 51, 52]
    # a promise that the rows contradict
    with open_layout(dsn, layout, append="quick") as store, pytest.raises(UnknowableNumbers):
        store.head(AT_ONCE)
    if name == "messagedb":
        configure(project, dsn, layout, hole_threshold="100ms")
        assert project.run("events").code == 6
        found = project.run("doctor", "--output", "json").json["findings"]
        assert {"ESOPS-D037", "ESOPS-D039"} <= {each["code"] for each in found}


def test_a_role_that_may_not_see_other_sessions_refuses_where_it_matters(dsn, connection):
    layout = LAYOUTS["messagedb"]
    with_cache(connection, layout)
    connection.execute(
        "CREATE ROLE blind LOGIN; GRANT USAGE ON SCHEMA message_store TO blind; "
        "GRANT SELECT ON ALL TABLES IN SCHEMA message_store TO blind; "
        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA message_store TO blind"
    )
    blind = psycopg.conninfo.make_conninfo(dsn, user="blind")
    try:
        layout.insert(connection, [None])
        with psycopg.connect(dsn, autocommit=True) as other:
            with open_layout(blind, layout, hole_threshold="100ms") as store:
                assert store.head(AT_ONCE) == Head(Position((1,)), [])
                layout.insert(other, [None])
                with pytest.raises(UnknowableNumbers, match="may not see"):
                    store.head(PATIENCE)
            with open_layout(blind, layout, hole_threshold="100ms", dead_after="1s") as store:
                assert store.head(PATIENCE).position == (11,)
        connection.execute("GRANT pg_read_all_stats TO blind")
        with open_layout(blind, layout, hole_threshold="100ms") as store:
            assert "session" in store.head(timedelta(seconds=0.5)).held_back_by[1].who
    finally:
        connection.execute("DROP OWNED BY blind; DROP ROLE blind")


@pytest.mark.parametrize("claim", ["setval('{}', 21, false)", "setval('{}', 20)"])
def test_the_shape_of_a_position_is_the_layouts_and_not_that_of_a_head(
    claim, dsn, connection, project
):
    """The guard of `archive run` once compared nothing, and removed what a processor of Emmett's
    had not read.
    """
    layout = LAYOUTS["emmett"]
    layout.make(connection)
    layout.insert(connection, range(1, 21))
    connection.execute("SELECT " + claim.format(layout.sequence))
    connection.execute(
        "INSERT INTO emt_streams SELECT 'cart-1', 20, 'emt:default', 'cart', '{}', FALSE; "
        "INSERT INTO emt_processors (processor_id, version, status, last_processed_checkpoint, "
        "last_processed_transaction_id) SELECT 'shipping', 1, 'stopped', "
        "lpad(transaction_id::text, 20, '0') || ':' || lpad(global_position::text, 19, '0'), "
        "transaction_id FROM emt_messages WHERE global_position = 10"
    )
    project.configure(
        stores={"s": {"dsn": dsn}},
        archives={
            "cold": {
                "repository": "archive",
                "policies": {"all": {"store": "s", "stream": "*", "never_younger_than": "0s"}},
            }
        },
    )
    done = project.run("archive", "run", "all", "--remove", "delete")
    assert done.code == 6, done
    assert "shipping" in done.err
    assert layout.numbers(connection) == list(range(1, 21))
    with open_layout(dsn, layout) as store:
        config = load_config(project.folder / "esops.toml")
        # a position of another shape, as before `ordering` was changed, tells nothing
        (shipping,) = store.checkpoints()
        assert len(behind(config, store, "s", lambda reader: 5)) == 1
        assert behind(config, store, "s", lambda reader: int(reader != shipping)) == []


@pytest.mark.parametrize("name", BY_SEQUENCE)
def test_an_import_above_the_sequence_is_waited_for_while_it_is_under_way(name, dsn, connection):
    layout = LAYOUTS[name]
    layout.make(connection)
    layout.insert(connection, [None])
    with open_layout(dsn, layout) as store, psycopg.connect(dsn) as importer:
        layout.write(importer, 3)
        connection.execute(f"SELECT setval('{layout.sequence}', 3)")
        layout.insert(connection, [None])
        head = store.head(timedelta(seconds=0.7))
        # without an index, Emmett's numbers are not searched for the first missing one
        assert head.position in ((1,), None)
        assert f"session {importer.info.backend_pid}" in "".join(
            each.who for each in head.held_back_by
        )
        importer.commit()
        assert store.head(PATIENCE).position == (4,)


def test_every_nth_number_is_all_that_there_is_where_the_application_promises_it(dsn, connection):
    layout = LAYOUTS["messagedb"]
    layout.make(connection)
    connection.execute(f"ALTER SEQUENCE {layout.sequence} INCREMENT BY 10 RESTART WITH 10")
    with open_layout(dsn, layout, append="quick") as store:
        assert store.head(AT_ONCE) == Head(None, [])
        layout.insert(connection, [None] * 3)
        assert store.head(PATIENCE).position == (30,)
        assert read(store) == [10, 20, 30]


def test_a_writer_that_waits_for_an_index_to_be_built_is_waited_for(dsn, connection):
    """It has reserved its number, and its INSERT has no lock yet."""
    layout = LAYOUTS["marten"]
    layout.make(connection)
    with (
        psycopg.connect(dsn) as building,
        psycopg.connect(dsn, autocommit=True) as writer,
        open_layout(dsn, layout, hole_threshold="200ms") as store,
    ):
        (reserved,) = writer.execute(f"SELECT nextval('{layout.sequence}')").fetchone()
        layout.insert(connection, [None])
        building.execute(f"CREATE INDEX slow ON {layout.table} (type)")
        waiting = threading.Thread(target=layout.insert, args=(writer, [reserved]))
        waiting.start()
        until(lambda: blocked(connection, writer))
        assert store.head(timedelta(seconds=1)).position is None
        building.commit()
        waiting.join()
        assert store.head(PATIENCE).position == (2,)
        assert read(store) == [1, 2]


def blocked(connection, other) -> bool:
    question = "SELECT pg_blocking_pids(%s) <> '{}'"
    return connection.execute(question, (other.info.backend_pid,)).fetchone()[0]


def test_writers_of_a_table_that_inherits_are_waited_for(dsn, connection):
    layout = LAYOUTS["custom"]
    layout.make(connection)
    connection.execute("CREATE TABLE journal_2026 () INHERITS (journal)")
    with psycopg.connect(dsn) as writer, open_layout(dsn, layout, hole_threshold="100ms") as store:
        layout.insert(connection, [None])
        writer.execute(
            "INSERT INTO journal_2026 SELECT nextval('journal_id_seq'), 'cart-1', 2, 'x', '{}'"
        )
        layout.insert(connection, [None])
        assert store.head(timedelta(seconds=0.6)).position == (1,)
        writer.commit()
        assert store.head(PATIENCE).position == (3,)
        assert read(store) == [1, 2, 3]


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_a_view_is_no_table_that_writers_lock(kind, dsn, connection):
    layout = LAYOUTS["custom"]
    layout.make(connection)
    connection.execute(f"CREATE {kind} shown AS SELECT * FROM journal")
    table = {**layout.settings["table"], "name": "public.shown", "sequence": "journal_id_seq"}
    with pytest.raises(UsageError, match="is a .*view"):
        open_layout(dsn, layout, table=table)
