"""Who keeps rows in memory never writes them over rows that others have written since."""

from __future__ import annotations

import orjson
import pytest

from esops import fold
from esops.events import EventFilter, Position
from esops.postgres.connection import connect
from esops.readmodel import locks, migrations, registry
from esops.readmodel.dead_letters import positions_of
from esops.readmodel.fence import raise_fence, unfenced_holder
from esops.readmodel.registry import Version
from esops.running.runner import Runner
from esops.running.work import Work
from tests.integration.test_fold import ListStore
from tests.unit.test_building_blocks import event


@fold(key="stream")
def total(row, event):
    """Fails on a row that is not as the events make it."""
    amount = event.json()["amount"]
    if row is not None and row["amount"] >= 1_000:
        raise ValueError(row["amount"])
    return {"amount": (row["amount"] if row else 0) + amount}


@pytest.fixture
def store():
    events = [
        event(stream="s-1", version=n, position=Position((n,)), data=orjson.dumps({"amount": n}))
        for n in range(1, 7)
    ]
    return ListStore(events, 100)


@pytest.fixture
def opened(dsn, connection, store):
    connection.execute("CREATE TABLE total__v1 (id text PRIMARY KEY, amount int NOT NULL)")
    migrations.install(connection)
    tables = {"total": ("public", "total__v1")}
    new = Version("total", 1, "active", "s", None, 0, 0, tables, "x")
    registry.insert(connection, new)
    runners = []

    def open_(on_error="stop") -> Runner:
        work = Work("total", 1, total, EventFilter(), on_error, 64 << 20)
        runners.append(Runner(store, dsn, work))
        return runners[-1]

    yield open_
    for each in runners:
        each.close()


def write(connection, amount: int, *, fence: bool = True) -> None:
    with connection.transaction():
        registry.lock_checkpoint(connection, "total", 1)
        connection.execute("UPDATE total__v1 SET amount = %s", (amount,))
        if fence:
            raise_fence(connection, "total", 1)


def amount(connection) -> int:
    return connection.execute("SELECT amount FROM total__v1").fetchone()[0]


def test_rows_that_others_wrote_are_read_again_before_any_is_written(opened, connection):
    runner = opened()
    runner.run_until(Position((3,)))
    write(connection, 506)
    runner.run_until(Position((5,)))
    assert amount(connection) == 506 + 4 + 5
    # Until then it keeps what it has: one look is enough for both checkpoints.
    write(connection, 0, fence=False)
    runner.run_until(Position((6,)))
    assert amount(connection) == 506 + 4 + 5 + 6
    assert registry.version(connection, "total", 1).events == 6


def test_an_event_that_failed_on_a_row_that_others_made_right_is_no_dead_letter(
    opened, connection, monkeypatch
):
    before = opened()
    before.run_until(Position((3,)))
    before.close()
    write(connection, 1_000)
    first = opened("dead-letter")
    reset = first._reset

    def heal_first():
        write(connection, 6)
        monkeypatch.setattr(first, "_reset", reset)
        reset()

    monkeypatch.setattr(first, "_reset", heal_first)
    first.run_until(Position((4,)))
    assert amount(connection) == 6 + 4
    assert not positions_of(connection, "total", 1)


def test_a_session_says_that_it_compares_the_fence(opened, connection, dsn):
    lock = locks.version_lock("total", 1)
    assert unfenced_holder(connection, lock) is None
    with connect(dsn, "run total v1") as older:
        locks.take(older, lock)
        found = unfenced_holder(connection, lock)
        assert found is not None
        assert found.pid == older.info.backend_pid
        locks.give_back(older, lock)
    opened()
    assert locks.holder(connection, lock) is not None
    assert unfenced_holder(connection, lock) is None
