"""A writer process as an application would be: many events a transaction, committing late, rolling
back, drawing numbers early.

Run as `python -m tests.support.writers '<json>'` until SIGTERM; prints how many events it committed
and its slowest statement.
Its lock_timeout is short, so that whoever makes it wait for a lock makes it fail, with the error in
its output.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg

from tests.support.waiting import finish


def main(options: dict) -> None:
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    chance = random.Random(options["seed"])
    committed, slowest, errors = 0, 0.0, []
    with psycopg.connect(options["dsn"], autocommit=True) as connection:
        connection.execute("SET lock_timeout = '300ms'")
        run = {"marten": marten, "emmett": emmett}[options["layout"]]
        while not stop:
            try:
                count, took = run(connection, chance, options)
                time.sleep(options["pause"] * chance.random())
                committed += count
                slowest = max(slowest, took)
            except psycopg.Error as error:
                errors.append(str(error))
                if connection.closed:
                    break
    print(json.dumps({"committed": committed, "slowest": slowest, "errors": errors[:5]}))


def marten(connection, chance, options) -> tuple[int, float]:
    count = chance.randrange(1, options["batch"])
    reserved_outside = chance.random() < options["outside"]
    slowest = 0.0

    def timed(statement, *parameters):
        nonlocal slowest
        begin = time.perf_counter()
        result = connection.execute(statement, parameters)
        slowest = max(slowest, time.perf_counter() - begin)
        return result

    draw = "SELECT nextval('mt_events_sequence') FROM generate_series(1, %s)"
    numbers = []
    if reserved_outside:
        numbers = [row[0] for row in timed(draw, count).fetchall()]
        time.sleep(chance.random() * options["late"])
    with connection.transaction(
        force_rollback=chance.random() < options["rollback"]
    ) as transaction:
        if not reserved_outside:
            numbers = [row[0] for row in timed(draw, count).fetchall()]
            if chance.random() < 0.3:
                time.sleep(chance.random() * options["late"])
        timed(
            "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type) SELECT n, "
            "gen_random_uuid(), %s, v, '{}', 'x' "
            "FROM unnest(%s::bigint[]) WITH ORDINALITY AS t(n, v)",
            f"s-{os.getpid()}-{numbers[0]}",
            numbers,
        )
        if chance.random() < 0.5:
            time.sleep(chance.random() * options["late"])
        rolled_back = transaction.force_rollback
    return (0 if rolled_back else count), slowest


def emmett(connection, chance, options) -> tuple[int, float]:
    count = chance.randrange(1, options["batch"])
    begin = time.perf_counter()
    slowest = 0.0
    with connection.transaction(
        force_rollback=chance.random() < options["rollback"]
    ) as transaction:
        for part in range(2):
            begin = time.perf_counter()
            connection.execute(
                "INSERT INTO emt_messages (stream_id, stream_position, message_schema_version, "
                "message_id, message_type, "
                "message_data, message_metadata, transaction_id) "
                "SELECT %s, v, '1', gen_random_uuid()::text, 'x', '{}', '{}', pg_current_xact_id() "
                "FROM generate_series(1, %s) v",
                (f"s-{os.getpid()}-{chance.random()}", count),
            )
            slowest = max(slowest, time.perf_counter() - begin)
            if part == 0 or chance.random() < 0.5:
                time.sleep(chance.random() * options["late"])
        rolled_back = transaction.force_rollback
    return (0 if rolled_back else 2 * count), slowest


class Writers:
    """Several writer processes; now and then one is killed and replaced."""

    def __init__(self, dsn: str, layout: str, count: int, **options) -> None:
        self._base = {
            "dsn": dsn,
            "layout": layout,
            "batch": 60,
            "late": 0.05,
            "rollback": 0.15,
            "outside": 0.0,
            "pause": 0.0,
            **options,
        }
        self._seed = 0
        self.killed = 0
        self._running = [self._start() for _ in range(count)]

    def _start(self) -> subprocess.Popen:
        self._seed += 1
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.writers",
                json.dumps({**self._base, "seed": self._seed}),
            ],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )

    def kill_one(self) -> None:
        victim = self._running.pop(0)
        victim.kill()
        victim.communicate()
        self.killed += 1
        self._running.append(self._start())

    def stop(self) -> list[dict]:
        for process in self._running:
            process.terminate()
        told = []
        for process in self._running:
            text = finish(process)[0]
            too_young = (
                process.returncode == -signal.SIGTERM
            )  # it had not come to its first statement
            told.append(
                {"committed": 0, "slowest": 0.0, "errors": []}
                if too_young and not text
                else json.loads(text)
            )
        return told


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
