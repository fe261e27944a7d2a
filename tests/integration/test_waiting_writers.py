"""A writer that has drawn a number and waits before it inserts, wherever it waits, is waited for."""

from __future__ import annotations

import threading
from datetime import timedelta

import psycopg

from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support.numbered import LAYOUTS
from tests.support.waiting import DEADLINE, until

PATIENCE = timedelta(seconds=DEADLINE)
QUICKLY = timedelta(seconds=2)
"""Many times the threshold."""


def test_a_rich_append_that_waits_for_the_row_of_its_stream_holds_its_number(dsn, connection):
    layout = LAYOUTS["marten"]
    layout.make(connection)
    layout.insert(connection, [None])
    update = "UPDATE mt_streams SET version = version WHERE id = 'cart-1'"
    store_settings = PostgresSettings(dsn=dsn, hole_threshold=timedelta(milliseconds=200))
    with (
        psycopg.connect(dsn) as first,
        psycopg.connect(dsn) as second,
        open_store("s", store_settings) as store,
    ):
        first.execute(update)
        number = connection.execute("SELECT nextval('mt_events_sequence')").fetchone()[0]

        def append() -> None:
            second.execute(update)
            layout.insert(second, [number])
            second.commit()

        writer = threading.Thread(target=append)
        writer.start()
        until(
            lambda: connection.execute(
                "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted",
                (second.info.backend_pid,),
            ).fetchone()[0],
        )
        layout.insert(connection, [None])
        head = store.head(QUICKLY)
        told = [each.who for each in head.held_back_by]
        first.rollback()
        writer.join(DEADLINE)
        assert head.position == (1,)
        assert any(str(second.info.backend_pid) in each for each in told), told
        assert store.head(PATIENCE).position == (3,)
