"""What every event store has to do (esops.testing), on every layout in every variant, and what more
those in Postgres have to.
"""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from esops.errors import Refused
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.testing import StoreContract
from tests.support.layout_kits import ALIKE, LAYOUTS, NODES, any_kit, kits
from tests.support.waiting import DEADLINE

PATIENCE = timedelta(seconds=DEADLINE)


def skip_where_writers_queue(kit) -> None:
    if kit.store.layout.name == "eventsourcing":
        pytest.skip("its writers lock the table, one after the other")


ALIKE_HERE = ALIKE | {"marten-6", "marten-optional", "marten-binary", "emmett-0.41"}
"""What is special in these is in columns, and not in how positions come."""


@pytest.fixture(params=kits(LAYOUTS, ALIKE_HERE))
def postgres_kit(request, layout_databases):
    yield from layout_databases.kit(request.param)


@pytest.fixture(params=kits([*LAYOUTS, *NODES]))
def kit(request):
    yield from any_kit(request, request.param)


class TestEveryStore(StoreContract):
    """The kit that other packages get too."""


def test_an_empty_store_has_no_head_and_no_events(postgres_kit):
    assert postgres_kit.store.head().position is None
    assert postgres_kit.read() == []
    assert list(postgres_kit.store.streams()) == []
    assert postgres_kit.store.counts.between(None, None) == 0


def test_archived_streams_are_out_of_sight_unless_asked_for(postgres_kit):
    if postgres_kit.archive is None:
        pytest.skip("this library archives no streams")
    gone, stays = postgres_kit.stream(), postgres_kit.stream()
    postgres_kit.store.append(gone, postgres_kit.events("a", "b"))
    postgres_kit.store.append(stays, postgres_kit.events("c"))
    postgres_kit.archive(gone)
    assert [e.type for e in postgres_kit.read()] == ["c"]
    assert [e.type for e in postgres_kit.read(archived=True)] == ["a", "b", "c"]
    assert postgres_kit.store.stream_info(gone).archived
    with pytest.raises(Refused, match="archived"):
        postgres_kit.store.append(gone, postgres_kit.events("d"))


def test_an_uncommitted_event_holds_the_head_and_is_never_skipped(postgres_kit):
    """The heart of it: a writer draws a number, another one commits a higher number first."""
    skip_where_writers_queue(postgres_kit)
    postgres_kit.store.append(postgres_kit.stream(), postgres_kit.events("before"))
    settled = postgres_kit.store.head(PATIENCE).position
    with open_store("slow", PostgresSettings(dsn=postgres_kit.connection.info.dsn)) as slow:
        control = slow._connections.shared()
        with control.transaction():
            slow.layout.append(control, postgres_kit.stream(), postgres_kit.events("slow"), None)
            postgres_kit.store.append(postgres_kit.stream("order"), postgres_kit.events("fast"))
            short = postgres_kit.store.head(timedelta(milliseconds=100))
            held = short.position
            assert [
                e.type for b in postgres_kit.store.read_all(settled, held) for e in b.events
            ] == []
            assert str(control.info.backend_pid) in short.held_back_by[0].who
    after = postgres_kit.store.head(PATIENCE).position
    assert [e.type for b in postgres_kit.store.read_all(held, after) for e in b.events] == [
        "slow",
        "fast",
    ]


def test_a_prepared_transaction_holds_the_head(postgres_kit):
    skip_where_writers_queue(postgres_kit)
    postgres_kit.store.append(postgres_kit.stream(), postgres_kit.events("before"))
    settled = postgres_kit.store.head(PATIENCE).position
    with open_store("two-phase", PostgresSettings(dsn=postgres_kit.connection.info.dsn)) as slow:
        control = slow._connections.shared()
        control.autocommit = False
        slow.layout.append(control, postgres_kit.stream(), postgres_kit.events("prepared"), None)
        postgres_kit.store.head(timedelta(0))
        control.execute("PREPARE TRANSACTION 'later'")
        control.rollback()
    postgres_kit.store.append(postgres_kit.stream("order"), postgres_kit.events("fast"))
    held = postgres_kit.store.head(timedelta(milliseconds=300)).position
    assert [e.type for b in postgres_kit.store.read_all(settled, held) for e in b.events] == []
    postgres_kit.connection.execute("COMMIT PREPARED 'later'")
    assert [
        e.type
        for b in postgres_kit.store.read_all(held, postgres_kit.store.head(PATIENCE).position)
        for e in b.events
    ] == [
        "prepared",
        "fast",
    ]


def test_a_rolled_back_writer_leaves_no_gap_behind_that_holds_readers(postgres_kit):
    postgres_kit.store.append(postgres_kit.stream(), postgres_kit.events("a"))
    with open_store("fails", PostgresSettings(dsn=postgres_kit.connection.info.dsn)) as failing:
        control = failing._connections.shared()
        with control.transaction(force_rollback=True):
            failing.layout.append(
                control, postgres_kit.stream(), postgres_kit.events("never", "never"), None
            )
    last = postgres_kit.store.append(postgres_kit.stream(), postgres_kit.events("b"))
    assert postgres_kit.store.head(PATIENCE).position >= last
    assert [e.type for e in postgres_kit.read()] == ["a", "b"]


def test_reading_leaves_no_transaction_open_and_takes_no_lock_that_blocks(postgres_kit):
    postgres_kit.store.append(postgres_kit.stream(), postgres_kit.events(*"abc"))
    reader = iter(postgres_kit.store.read_all())
    next(reader)
    rows = postgres_kit.connection.execute(
        "SELECT a.state, l.mode FROM pg_stat_activity a LEFT JOIN pg_locks l USING (pid) "
        "WHERE a.application_name LIKE 'esops %%' AND l.locktype = 'relation' AND l.mode NOT IN "
        "('AccessShareLock')"
    ).fetchall()
    reader.close()
    assert rows == []
    time.sleep(0.05)
    idle = postgres_kit.connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'esops %%' AND state = "
        "'idle in transaction'"
    ).fetchone()
    assert idle == (0,)


def test_checkpoints_of_the_application(postgres_kit):
    assert postgres_kit.store.checkpoints() == []
