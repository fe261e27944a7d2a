"""Heals that are killed at any moment, beside writers and an `esops run` whose process dies too: in
the end the table is the fold.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.support import shop
from tests.support.soak import rounds
from tests.support.waiting import end, kill, until

pytestmark = pytest.mark.slow
TABLE = "cart_summary__v1"
ROUNDS = rounds(3, 60)


EMPTY = '{"cart_id": event.stream, "client": "", "items": 0, "total": 0, "status": "open"}'
CODE = shop.PROJECTION.replace(
    "at = event.position[0]\n", f"at = event.position[0]\n    row = row or {EMPTY}\n"
)
"""It does not fail on a row that is missing, and makes a wrong one of it."""


def spoil(connection, chance: random.Random, names: list[str]) -> None:
    """Rows that are missing, with other values, and one too many; by somebody who knows nothing of
    esops.
    """
    share = "WHERE cart_id = ANY(%(some)s)"
    for statement in (
        f"DELETE FROM {TABLE} {share}",
        f"UPDATE {TABLE} SET total = total + {chance.randint(1, 9)} {share}",
        f"UPDATE {TABLE} SET status = 'open', items = items - 1 {share}",
        (
            f"INSERT INTO {TABLE} SELECT 'nobody' || cart_id, client, items, 0, '', 0 FROM {TABLE} "
            f"{share} ON CONFLICT DO NOTHING"
        ),
    ):
        connection.execute(statement, {"some": chance.sample(names, 20)})


def followers(connection) -> list[int]:
    rows = connection.execute(
        "SELECT DISTINCT split_part(split_part(application_name, ' ', 2), ':', 2)::int FROM "
        "pg_stat_activity JOIN pg_locks USING (pid) WHERE locktype = 'advisory' AND mode = "
        "'ExclusiveLock' AND application_name LIKE 'esops % run'"
    )
    return [row[0] for row in rows]


def test_the_table_is_the_fold_in_the_end(dsn, connection, project):
    chance = random.Random(4)
    shop.make(dsn, 1_500)
    shop.configure(project, dsn, code=CODE)
    project.ok("rebuild", "cart_summary", "--blue-green")
    command = ("rebuild", "cart_summary", "--keys-from", "keys.txt", "--yes")

    def spoil_newest() -> None:
        """Of the carts that are still open, so that events come to what is spoiled."""
        names = [
            row[0]
            for row in connection.execute(
                "SELECT stream_id FROM shop.mt_events GROUP BY 1 ORDER BY max(seq_id) DESC"
            )
        ]
        project.write("keys.txt", "\n".join([*names, *(f"nobody{each}" for each in names)]))
        spoil(connection, chance, names[:200])

    host = project.start("run")
    try:
        with shop.Workload() as workload:
            workload.add("writer", dsn, seed=4, rate=rounds(100, 300))
            for number in range(ROUNDS):
                spoil_newest()
                heal = project.start(*command)
                time.sleep(chance.random() * 0.8)
                if number % 2 and (running := followers(connection)):
                    os.kill(running[0], signal.SIGKILL)
                    time.sleep(chance.random() * 0.2)
                kill(heal)
            until(lambda: followers(connection))
            spoil_newest()
            done = until(lambda: (found := project.run(*command)).code != 4 and found)
            # Of the carts that nobody knows most have no row to be deleted.
            assert (done.code, "left as it is" in done.out) == (1, False), done.err
            workload.stop()
    finally:
        end(host)
    project.ok("run", "--until-caught-up")
    (reached,) = connection.execute("SELECT position::bigint FROM esops.versions").fetchone()
    assert shop.table(connection, TABLE) == shop.truth(connection, reached)
