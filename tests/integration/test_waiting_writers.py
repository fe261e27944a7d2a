"""A number that a writer has drawn is not passed, wherever the writer waits before it inserts."""

from __future__ import annotations

import threading
from datetime import timedelta

import psycopg
import pytest

from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.stores.postgres import in_advance
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


def test_an_event_that_was_written_above_the_sequence_proves_nothing_of_the_numbers_below_it(
    own_server,
):
    layout, dsn = LAYOUTS["custom"], own_server.dsn()
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        psycopg.connect(dsn, autocommit=True) as writer,
    ):
        layout.make(connection)
        layout.insert(connection, [None] * 3)
        layout.insert(connection, [6])
        connection.execute("CHECKPOINT")
        # Longer ago than the threshold and the rounding of a checkpoint's time.
        old = "SELECT checkpoint_time < clock_timestamp() - '2 s'::interval FROM "
        until(lambda: connection.execute(f"{old} pg_control_checkpoint()").fetchone()[0])
        writer.execute(f"SELECT nextval('{layout.sequence}') FROM generate_series(1, 2)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            layout.insert(connection, [None])
        layout.insert(connection, [None])
        with open_store("s", PostgresSettings(dsn=dsn, **layout.settings)) as store:
            assert store.head(timedelta(0)).position == (3,)
            layout.insert(writer, [4, 5])
            assert store.head(PATIENCE).position == (7,)


def test_a_server_whose_clock_went_back_does_not_make_a_sessions_cache_younger(
    dsn, connection, monkeypatch
):
    layout = LAYOUTS["messagedb"]
    layout.make(connection)
    connection.execute(f"ALTER SEQUENCE {layout.sequence} CACHE 10")
    connection.close()
    settings = PostgresSettings(dsn=dsn, hole_threshold=timedelta(milliseconds=200))
    with (
        psycopg.connect(dsn, autocommit=True) as one,
        psycopg.connect(dsn, autocommit=True) as two,
        open_store("s", settings) as store,
        open_store("s", settings) as later,
    ):
        layout.insert(one, [None])
        assert store.head(timedelta(0)).position == (1,)
        # The clock of a server that others use cannot be set, so this is what it would say.
        told = in_advance._SQL["sessions"]
        an_hour_back = told.replace("clock_timestamp())", "clock_timestamp()) - 3600")
        monkeypatch.setitem(in_advance._SQL, "sessions", an_hour_back)
        layout.insert(two, [None])
        for each in (store, later):
            assert each.head(timedelta(seconds=1)).position == (1,)
        holders = later.head(timedelta(0)).held_back_by
        assert any("clock went back" in each.what for each in holders), holders
        layout.insert(one, [None])
        one.close()
        two.close()
        for each in (store, later):
            assert each.head(PATIENCE).position == (11,)
