"""A writer of message-db through its own function:

`python -m tests.support.messagedb_writer DSN SEED COUNT`.

Several messages a transaction, of several categories, some rolled back, so that numbers become
visible out of order.
"""

from __future__ import annotations

import random
import sys
import time
import uuid

import psycopg


def main(dsn: str, seed: int, count: int) -> None:
    chance = random.Random(seed)
    with psycopg.connect(dsn, options="-c search_path=message_store,public") as connection:
        for number in range(count):
            # in one order, since each message locks its category
            for category in sorted(chance.sample("abcdef", chance.randrange(1, 3))):
                connection.execute(
                    "SELECT write_message(%s, %s, 'Happened', %s::jsonb)",
                    (str(uuid.uuid4()), f"{category}{seed}-{number % 9}", '{"n": 1}'),
                )
                time.sleep(chance.random() * 0.004)
            connection.rollback() if chance.random() < 0.1 else connection.commit()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
