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
ROUNDS = rounds(6, 60)


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
        connection.execute(statement, {"some": chance.sample(names, len(names) // 20)})


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
    names = [row[0] for row in connection.execute(f"SELECT cart_id FROM {TABLE}")]
    everything = project.write(
        "keys.txt", "\n".join([*names, *(f"nobody{each}" for each in names)])
    )
    command = ("rebuild", "cart_summary", "--keys-from", str(everything), "--yes")
    host = project.start("run")
    try:
        with shop.Workload() as workload:
            workload.add("writer", dsn, seed=4, rate=150)
            for number in range(ROUNDS):
                spoil(connection, chance, names)
                heal = project.start(*command)
                time.sleep(chance.random() * 0.8)
                if number % 2 and (running := followers(connection)):
                    os.kill(running[0], signal.SIGKILL)
                    time.sleep(chance.random() * 0.2)
                kill(heal)
            until(lambda: followers(connection))
            done = until(lambda: (found := project.run(*command)).code != 4 and found)
            assert done.code == 0, done.err
            position = "SELECT position::bigint FROM esops.versions"
            before = connection.execute(position).fetchone()
            until(lambda: connection.execute(position).fetchone() > before)
            workload.stop()
    finally:
        end(host)
    project.ok("run", "--until-caught-up")
    carts = shop.table(connection, TABLE)
    (reached,) = connection.execute(position).fetchone()
    truth = shop.truth(connection, reached)
    # What was spoiled is of the carts that were there at the beginning.
    assert {name: carts.get(name) for name in names} == {name: truth[name] for name in names}
    assert not [name for name in carts if name.startswith("nobody")]
