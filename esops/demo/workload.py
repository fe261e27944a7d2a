"""The load on the shop: a writer that places orders, and a reader that queries the read model, each
in a process of its own.

Run as `python -m esops.demo.workload writer|reader DSN …` until SIGTERM; the last line of output is
a JSON report.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time
from typing import Any

import orjson
import psycopg

from esops.demo import store as shop
from esops.settings import PostgresSettings
from esops.stores.postgres.store import PostgresStore


def write(
    dsn: str, stop: threading.Event, *, seed: int, rate: float, schema: str = shop.SCHEMA
) -> dict[str, Any]:
    """Place orders in 20 carts at once, at about `rate` requests a second (0: as fast as it can).

    Returns the number of events and the seconds of the slowest request.
    """
    chance = random.Random(seed)
    carts: list[tuple[str, Any, int]] = []
    written, slowest, number = 0, 0.0, 0
    with PostgresStore("shop", PostgresSettings(dsn=dsn, schema=schema, append="quick")) as store:
        while not stop.is_set():
            if len(carts) < 20:
                number += 1
                carts.append(
                    (
                        f"cart-{seed:03d}{chance.randrange(10**9):09d}-{number}",
                        shop.a_cart(chance),
                        0,
                    )
                )
            # Any of the open carts, so that events of many streams mix as they do in life.
            at = chance.randrange(len(carts))
            name, requests, version = carts[at]
            events = next(requests, None)
            if events is None:
                del carts[at]
                continue
            begin = time.monotonic()
            store.append(name, events, version)
            slowest = max(slowest, time.monotonic() - begin)
            carts[at] = (name, requests, version + len(events))
            written += len(events)
            if rate:
                stop.wait(chance.expovariate(rate))
    return {"who": "writer", "events": written, "slowest_seconds": round(slowest, 4)}


def read(
    dsn: str, stop: threading.Event, *, query: str, prepared: bool, pause: float = 0.0
) -> dict[str, Any]:
    """Run a query that gives one number, over and over, until stopped.

    Returns how often it failed, how often the number was smaller than the one before, and the
    seconds of the slowest answer.
    """
    reads, failures, steps_back, slowest = 0, [], 0, 0.0
    last: Any = None
    with psycopg.connect(dsn, autocommit=True, application_name="shop reader") as connection:
        while not stop.is_set():
            begin = time.monotonic()
            try:
                row = connection.execute(query.encode(), prepare=prepared).fetchone()
                value = row[0] if row else None
                # The newest position only grows, unless an older version is served in between.
                if last is not None and (value is None or value < last):
                    steps_back += 1
                last = value
            except psycopg.Error as error:
                failures.append(str(error).splitlines()[0])
            reads += 1
            slowest = max(slowest, time.monotonic() - begin)
            if pause:
                stop.wait(pause)
    return {
        "who": "reader",
        "reads": reads,
        "failures": len(failures),
        "first_failures": failures[:3],
        "steps_back": steps_back,
        "slowest_seconds": round(slowest, 4),
        "last": last,
    }


def main() -> None:
    """Run a writer or a reader, as the arguments say, and print its report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=["writer", "reader"])
    parser.add_argument("dsn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--schema", default=shop.SCHEMA)
    parser.add_argument("--query", default="SELECT count(*) FROM cart_summary")
    parser.add_argument("--prepared", action="store_true")
    parser.add_argument("--pause", type=float, default=0)
    given = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # Ctrl-C goes to the whole group; the one who started us ends us, and wants the report.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if given.who == "writer":
        report = write(given.dsn, stop, seed=given.seed, rate=given.rate, schema=given.schema)
    else:
        report = read(
            given.dsn, stop, query=given.query, prepared=given.prepared, pause=given.pause
        )
    sys.stdout.write(orjson.dumps(report).decode() + "\n")


if __name__ == "__main__":
    main()
