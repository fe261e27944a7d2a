"""A writer of tests.support.own_tables.ACURIS: several events a transaction, late commits, and now
and then a rollback, until it is ended or killed.

Run as `python -m tests.support.max_plus_one_writer DSN SEED LOCKS`.
"""

from __future__ import annotations

import random
import sys
import time

import psycopg
from psycopg import errors


def main(dsn: str, seed: int, locks: bool) -> None:
    chance = random.Random(seed)
    with psycopg.connect(dsn, autocommit=True) as connection:
        while True:
            roll_back = chance.random() < 0.2
            try:
                with connection.transaction(force_rollback=roll_back):
                    for _ in range(chance.randrange(1, 6)):
                        write(connection, f"{chance.randrange(50)}", locks=locks)
                        if chance.random() < 0.2:
                            time.sleep(chance.random() * 0.02)
                    if chance.random() < 0.3:
                        time.sleep(chance.random() * 0.05)
            except (errors.UniqueViolation, errors.DeadlockDetected):
                continue  # another one was faster: as an application would, again


def write(connection, stream: str, *, locks: bool) -> None:
    if locks:
        connection.execute(
            "SELECT es.write_event('cart', %s, 'added', '{\"n\": 1}', NULL, NULL)", (stream,)
        )
        return
    # Without the lock: only the unique index keeps two writers apart.
    number, version = connection.execute(
        "SELECT (SELECT coalesce(max(position), 0) + 1 FROM es.event), (SELECT "
        "coalesce(max(event_number), -1) + 1 FROM es.event WHERE stream_category = 'cart' AND "
        "stream_id = %s)",
        (stream,),
    ).fetchone()
    time.sleep(0.001)
    connection.execute(
        "INSERT INTO es.event VALUES (%s, 'cart', %s, %s, 'added', clock_timestamp(), "
        "'{\"n\": 1}', NULL)",
        (number, stream, version),
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "locks")
