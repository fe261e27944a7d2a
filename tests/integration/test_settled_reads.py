"""The first promise: a settled reader misses nothing, whatever writers do; and it makes no writer
wait.

Real writer processes commit late, roll back, are killed in the middle, draw a number in one
statement and insert in a later
one, and (Marten's rich append) draw numbers outside of any transaction, beside a report that keeps
a transaction open all
the time. A naive reader runs beside the settled one: if it misses nothing, the test proves nothing.
"""

from __future__ import annotations

import random
import threading
import time
from datetime import timedelta

import psycopg
import pytest

from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import emmett, marten
from tests.support.cases import thorough_but
from tests.support.soak import rounds
from tests.support.waiting import DEADLINE
from tests.support.writers import Writers

pytestmark = pytest.mark.slow
WRITERS = rounds(4, 6)
ENOUGH = rounds(1_000, 100_000)
"""Events that a case reads at least. It ends when the naive reader, too, has missed some."""
KILLS = rounds(3, 40)

CASES = {
    "drawn-in-the-transaction": ("marten", {"append": "quick"}, {}),
    "holes-watched": ("marten", {}, {}),
    "reserved-outside": ("marten", {}, {"outside": 0.3}),
    "emmett-transaction-ids": ("emmett", {}, {}),
    "emmett-by-position": ("emmett", {"ordering": "position"}, {}),
}

KEPT = [each for each in CASES if each != "emmett-by-position"]  # read as holes-watched is


class Sampler(threading.Thread):
    """Looks, many times a second, whether anybody waits for a session of esops, and what esops
    locks.
    """

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self.dsn, self.ended = dsn, threading.Event()
        self.blocked: list = []
        self.strong: list = []
        self.samples = 0

    def run(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while not self.ended.wait(0.02):
                self.samples += 1
                self.blocked += connection.execute(
                    "SELECT a.pid, e.query FROM pg_stat_activity a, LATERAL "
                    "unnest(pg_blocking_pids(a.pid)) AS b(pid) "
                    "JOIN pg_stat_activity e ON e.pid = b.pid WHERE a.wait_event_type = 'Lock' AND "
                    "e.application_name LIKE 'esops %%'"
                ).fetchall()
                self.strong += connection.execute(
                    "SELECT l.mode, l.relation::regclass::text FROM pg_locks l JOIN "
                    "pg_stat_activity a USING (pid) "
                    "WHERE a.application_name LIKE 'esops %%' AND l.locktype = 'relation' AND "
                    "l.mode <> 'AccessShareLock'"
                ).fetchall()

    def end(self) -> None:
        self.ended.set()
        self.join()


def naive(dsn: str, table: str, number: str, ended: threading.Event, seen: set) -> None:
    """What one would write at first: on from the highest number seen."""
    last = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        while not ended.is_set():
            rows = connection.execute(
                f"SELECT {number} FROM {table} WHERE {number} > %s ORDER BY 1", (last,)
            ).fetchall()
            seen.update(row[0] for row in rows)
            last = max([last, *(row[0] for row in rows)])
            time.sleep(0.005)


@pytest.mark.timeout(rounds(400, 900))
@pytest.mark.parametrize("case", thorough_but(CASES, *KEPT))
def test_settled_reader_misses_nothing_where_a_naive_one_does(case, dsn, connection):
    layout, settings, options = CASES[case]
    if layout == "marten":
        marten.create(connection, marten.Variant(text_ids=True, partitioned=True))
        table, number, truth = "mt_events", "seq_id", "SELECT seq_id FROM mt_events"
    else:
        emmett.create(connection)
        table, number, truth = (
            "emt_messages",
            "global_position",
            "SELECT global_position FROM emt_messages",
        )
    report = psycopg.connect(dsn)
    report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    report.execute(f"SELECT count(*) FROM {table}")
    naive_seen: set[int] = set()
    ended = threading.Event()
    naive_reader = threading.Thread(target=naive, args=(dsn, table, number, ended, naive_seen))
    sampler = Sampler(dsn)
    writers = Writers(dsn, layout, WRITERS, **options)
    naive_reader.start()
    sampler.start()
    seen: list[int] = []
    store = open_store("s", PostgresSettings(dsn=dsn, **settings))
    position = None
    chance = random.Random(1)
    kill_every = ENOUGH // (KILLS + 1)

    def proven() -> bool:
        """Enough was read, with writers killed, and a naive reader missed what it cannot get back."""
        return (
            len(seen) >= ENOUGH and writers.killed >= KILLS and bool(set(seen[:-500]) - naive_seen)
        )

    deadline = time.monotonic() + rounds(150, 400)

    def read(patience: timedelta) -> None:
        nonlocal position
        head = store.head(patience, position).position
        if head is not None and (position is None or head > position):
            for batch in store.read_all(position, head):
                seen.extend(event.position[-1] for event in batch.events)
            position = head

    while not proven() and time.monotonic() < deadline:
        read(timedelta(milliseconds=20))
        if len(seen) > kill_every * (writers.killed + chance.random()):
            writers.kill_one()
    told = writers.stop()
    ended.set()
    naive_reader.join()
    report_still_open = report.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    committed = {row[0] for row in connection.execute(truth).fetchall()}
    deadline = time.monotonic() + DEADLINE
    while len(seen) < len(committed) and time.monotonic() < deadline:
        read(timedelta(milliseconds=200))
    sampler.end()
    report.close()
    store.close()

    assert report_still_open
    assert len(seen) >= ENOUGH
    assert writers.killed >= KILLS
    assert len(seen) == len(set(seen)), "events were read twice"
    assert set(seen) == committed, f"{len(committed - set(seen))} of {len(committed)} missed"
    naive_missed = len(committed - naive_seen)
    assert naive_missed > 0, "the naive reader missed nothing, so this run proves nothing"
    assert [each["errors"] for each in told] == [[]] * WRITERS, "a writer had to wait for a lock"
    assert sampler.samples > 20
    assert sampler.blocked == []
    assert sampler.strong == []
    print(
        f"\n{case}: {len(committed):,} events, settled missed 0, naive missed {naive_missed:,}, "
        f"{writers.killed} writers killed"
    )
