"""What a rebuild finds of streams that lose their first events while it works, step by step; and
questions that are asked beside other work.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import contextmanager

import pytest

from esops.errors import Refused, Unavailable
from esops.events import NewEvent
from esops.postgres.connection import connect, translated
from esops.rebuild.options import Options
from esops.rebuild.shortened import LostWhileBuilding
from esops.settings import PostgresSettings, ProjectionSettings, TableSettings
from esops.stores import open_store
from esops.stores.aside import QuestionAside
from esops.testing import eventually
from tests.support import marten, messagedb

OPTIONS = Options()
TABLE = TableSettings(
    name="message_store.messages",
    id="id",
    stream="stream_name",
    version="position",
    type="type",
    data="data",
    position="global_position",
    time="time",
)


def make_marten(connection) -> tuple[str, str, dict]:
    marten.create(connection, marten.Variant(text_ids=True))
    return "mt_events", "stream_id", {"append": "quick"}


def make_messagedb(connection) -> tuple[str, str, dict]:
    messagedb.create(connection)
    return "message_store.messages", "stream_name", {}


@pytest.fixture(params=[make_marten, make_messagedb])
def store(request, dsn, connection):
    """A store with two streams of four events; and what deletes events of a stream."""
    table, name, settings = request.param(connection)

    def lose(stream: str, many: int) -> None:
        version = "position" if "message" in table else "version"
        connection.execute(
            f"DELETE FROM {table} WHERE {name} = %s AND {version} IN (SELECT {version} FROM {table} "
            f"WHERE {name} = %s ORDER BY 1 LIMIT %s)",
            (stream, stream, many),
        )

    with open_store("s", PostgresSettings(dsn=dsn, **settings)) as opened:
        for stream in ("cart-1", "cart-2"):
            append(opened, stream, 4)
        yield opened, lose


def append(store, stream: str, many: int) -> None:
    store.append(stream, [NewEvent(str(uuid.uuid4()), "added", b"{}") for _ in range(many)])


def looked(store) -> LostWhileBuilding:
    """All that is there was read, and all streams were found to be whole."""
    lost = LostWhileBuilding(store, "carts", ProjectionSettings(python="a:b", tables=["carts"]))
    lost.ask(store.head().position)
    lost.check(OPTIONS)
    return lost


def test_what_was_lost_before_all_was_read_is_found(store):
    store, lose = store
    lose("cart-1", 2)
    with pytest.raises(Refused, match="1 stream begins with 'added' and has lost the 2 events"):
        looked(store)


def test_what_was_read_and_is_lost_then_does_no_harm(store):
    store, lose = store
    lost = looked(store)
    lose("cart-1", 2)
    lost.check(OPTIONS)
    append(store, "cart-1", 3)  # to be read, and there yet
    lost.check(OPTIONS)
    lost.forget()
    with pytest.raises(Refused):
        lost.check(OPTIONS)


@pytest.mark.parametrize(("before", "gone"), [(4, 5), (4, 6), (0, 1)])
def test_what_is_lost_before_it_is_read_is_found(store, before, gone):
    """Of a stream that goes on, and of one that is new."""
    store, lose = store
    lost = looked(store)
    stream = "cart-1" if before else "cart-3"
    append(store, stream, 3)
    lose(stream, gone)
    with pytest.raises(Refused, match=f"lost the {gone} event"):
        lost.check(OPTIONS)
    lost.check(Options(accept_shortened=True))


def test_all_streams_are_looked_at_again_where_positions_tell_nothing(dsn, connection):
    """Nobody knows how a table of one's own is written: a first event may have come last."""
    messagedb.create(connection)
    connection.execute(
        "INSERT INTO message_store.messages (stream_name, type, position, data) "
        "SELECT 'cart-1', 'added', n, '{}' FROM generate_series(1, 3) AS n"
    )
    with open_store("s", PostgresSettings(dsn=dsn, layout="custom", table=TABLE)) as store:
        lost = looked(store)
        connection.execute("DELETE FROM message_store.messages WHERE position = 1")
        with pytest.raises(Refused):
            lost.check(OPTIONS)


def test_a_question_is_asked_again_where_there_is_no_room_for_it():
    @contextmanager
    def full():
        raise Unavailable("too many connections")
        yield

    with QuestionAside(full, lambda _: "aside", lambda: "again") as asked:
        assert asked.answer() == "again"


def test_what_a_question_raises_is_raised_where_its_answer_is_taken(dsn):
    def refuse(_) -> None:
        raise Refused("no")

    with (
        QuestionAside(lambda: connect(dsn, "aside"), refuse, refuse) as asked,
        pytest.raises(Refused),
    ):
        asked.answer()


def test_a_question_that_is_dropped_ends_in_the_server(dsn, connection):
    running = (
        "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' "
        "AND state = 'active'"
    )

    def sleep(own) -> None:
        with translated():
            own.execute("SELECT pg_sleep(600)")

    asked = QuestionAside(lambda: connect(dsn, "aside"), sleep, threading.Event().wait)
    assert eventually(lambda: connection.execute(running).fetchone() == (1,))
    asked.close()
    assert connection.execute(running).fetchone() == (0,)


HALF = """
import psycopg
from esops import fold

def lose():
    with psycopg.connect({dsn!r}, autocommit=True) as connection:
        connection.execute("DELETE FROM mt_events WHERE stream_id = 'cart-1' AND version < 6")

@fold(key="stream")
def carts(row, event):
    if event.stream == "cart-200" and event.version == 1:
        lose()
    return {{"id": event.stream, "events": (row or {{"events": 0}})["events"] + 1}}
"""


def test_a_stream_of_which_the_first_event_was_read_has_lost_others(project, dsn, connection):
    """Its first event proves nothing: here the row would have two of six events."""
    marten.create(connection, marten.Variant(text_ids=True))
    connection.execute(
        "INSERT INTO mt_streams (id, type, version) SELECT 'cart-' || n, 'cart', 6 "
        "FROM generate_series(1, 200) AS n"
    )
    connection.execute(
        "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type) "
        "SELECT nextval('mt_events_sequence'), gen_random_uuid(), 'cart-' || n, v, '{}', 'added' "
        "FROM generate_series(1, 6) AS v, generate_series(1, 200) AS n ORDER BY v, n"
    )
    project.configure(
        stores={"shop": {"dsn": dsn, "append": "quick"}},
        projections={"carts": {"python": "carts:carts", "tables": ["carts"], "ddl": "carts.sql"}},
    )
    project.write("carts.py", HALF.format(dsn=dsn))
    project.write("carts.sql", "CREATE TABLE {table} (id text PRIMARY KEY, events int)")
    # The rate makes it read in slices: the second one comes after the loss.
    stopped = project.run("rebuild", "--blue-green", "--max-rate", "2000")
    assert stopped.code == 6, (stopped.out, stopped.err)
    assert "has lost the 5 events before" in stopped.err
    assert connection.execute("SELECT to_regclass('carts')").fetchone() == (None,)
