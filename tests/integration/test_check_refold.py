"""Rows made again from the events in temporary tables are those of the version, exactly at the
position that was asked for.
"""

from __future__ import annotations

import psycopg
import pytest

from esops import stores
from esops.check.log_pass import LogPass
from esops.check.refold import refold
from esops.check.scratch import Scratch
from esops.check.subject import built_by
from esops.config import load_config
from esops.events import Position, StreamKey
from esops.readmodel import registry
from esops.running.throttle import Throttle
from tests.support import shop

EVENTS = 1_000


@pytest.fixture
def carts(dsn, project, connection):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    config = load_config(project.folder / "esops.toml")
    version = registry.active(connection, "cart_summary")
    assert version is not None
    with stores.open_store(*config.store(version.store)) as store:
        yield Scratch(
            connection,
            store,
            version,
            built_by(config, version),
            config.projection("cart_summary"),
        )


def rows(connection: psycopg.Connection, table: str) -> list[tuple]:
    return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


def test_the_rows_of_some_streams_are_as_in_the_version(carts, connection):
    served = rows(connection, "cart_summary")
    streams = [StreamKey(row[0]) for row in served[10:20]]
    assert carts.by_stream
    assert refold(carts, [*streams, StreamKey("none")], Position((EVENTS,))) == {}
    assert rows(connection, "pg_temp.esops_folded_0") == served[10:20]
    assert refold(carts, streams[:2], Position((EVENTS,))) == {}
    assert rows(connection, "pg_temp.esops_folded_0") == served[10:12]


def test_a_pass_over_the_log_can_be_continued(carts, dsn, connection):
    served = rows(connection, "cart_summary")
    throttle, log = Throttle(dsn, "cart_summary"), LogPass(carts)
    log.advance(Position((EVENTS // 2,)), throttle)
    half = rows(connection, "pg_temp.esops_folded_0")
    assert half != served
    refold(carts, [StreamKey(row[0]) for row in served], Position((EVENTS // 2,)))
    assert rows(connection, "pg_temp.esops_folded_0") == half
    carts.empty()
    log.advance(Position((EVENTS // 2,)), throttle)
    log.advance(Position((EVENTS,)), throttle)
    assert rows(connection, "pg_temp.esops_folded_0") == served
    throttle.close()


def test_a_stream_that_has_lost_its_first_event_is_not_taken_for_whole(carts, connection):
    served = rows(connection, "cart_summary")
    lost, whole = served[3], served[4]
    connection.execute(
        "DELETE FROM shop.mt_events WHERE stream_id = %s AND version = 1", (lost[0],)
    )
    keys = [StreamKey(lost[0]), StreamKey(whole[0])]
    assert set(refold(carts, keys, Position((EVENTS,)))) == {keys[0]}
    assert rows(connection, "pg_temp.esops_folded_0") == [whole]


def test_a_stream_that_has_lost_its_last_events_is_not_taken_for_whole(carts, connection):
    """The library's own list says how long it was; what is beyond the position is not lost."""
    served = rows(connection, "cart_summary")
    lost, whole = served[3], served[4]
    last = "(SELECT max(version) FROM shop.mt_events WHERE stream_id = %s)"
    connection.execute(
        f"DELETE FROM shop.mt_events WHERE stream_id = %s AND version = {last}", [lost[0]] * 2
    )
    (end,) = connection.execute(
        "SELECT max(seq_id) - 1 FROM shop.mt_events WHERE stream_id = %s", (whole[0],)
    ).fetchone()
    keys = [StreamKey(lost[0]), StreamKey(whole[0])]
    assert set(refold(carts, keys, Position((EVENTS,)))) == {keys[0]}
    assert rows(connection, "pg_temp.esops_folded_0") == [whole]
    assert set(refold(carts, keys, Position((end,)))) == {keys[0]}
