"""read_all over EventStoreDB against a bare loop over esdbclient's read_all, in whole processes in
turn; and its memory at two sizes.

Limits (docs/explanation/speed.md): at least 0.9 times the events a second of the bare loop, peak
memory at 200,000 events at most
1.1 times that at 20,000. Also tells what two reads of half the log each, side by side, would bring.
The node is the one in tests/,
on this machine, so the events a second are its own: only ratios count.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from uuid import uuid4

from esdbclient import EventStoreDBClient, NewEvent, StreamState

from esops.events import Position
from esops.settings import EventStoreDBSettings
from esops.stores import open_store
from esops.stores.base import EventStore
from tests.support.esdb import Nodes

EVENTS, FEW = 200_000, 20_000
RUNS = 5
SPEED_LIMIT, MEMORY_LIMIT = 0.9, 1.1


def open_(uri: str) -> EventStore:
    return open_store("bench", EventStoreDBSettings(uri=uri))


def fill(nodes: Nodes, count: int) -> None:
    client = nodes.client()
    data = json.dumps(
        {
            "ClientId": str(uuid4()),
            "Quantity": 3,
            "UnitPrice": 12.5,
            "Product": "a thing of some length",
        }
    ).encode()
    for number in range(count // 500):
        events = [NewEvent("product_item_added", data) for _ in range(500)]
        client.append_to_stream(f"cart-{number}", current_version=StreamState.ANY, events=events)
    client.close()


def read_bare(uri: str) -> int:
    client = EventStoreDBClient(uri)
    count = 0
    for _ in client.read_all():
        count += 1
    client.close()
    return count


def read_esops(uri: str) -> int:
    with open_(uri) as store:
        return sum(len(batch.events) for batch in store.read_all())


def read_halves(uri: str) -> int:
    """Two reads side by side, each with a connection of its own, of the two halves of the log."""
    with open_(uri) as store:
        positions = [batch.position for batch in store.read_all()]
    middle, counts = positions[len(positions) // 2], [0, 0]

    def read(number: int, after: Position | None, until: Position | None) -> None:
        with open_(uri) as store:
            counts[number] = sum(len(batch.events) for batch in store.read_all(after, until))

    begin = time.perf_counter()
    threads = [
        threading.Thread(target=read, args=args) for args in ((0, None, middle), (1, middle, None))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"seconds": time.perf_counter() - begin}))
    return sum(counts)


WAYS = {"bare": read_bare, "esops": read_esops, "halves": read_halves}


def child(way: str, uri: str) -> None:
    begin = time.perf_counter()
    count = WAYS[way](uri)
    seconds = time.perf_counter() - begin
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"events": count, "seconds": seconds, "memory": memory}), flush=True)
    os._exit(0)


def run(way: str, uri: str, expected: int) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.eventstoredb", way, uri]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    told = [json.loads(line) for line in output.splitlines()]
    assert told[-1]["events"] == expected
    return told


def main() -> int:
    with Nodes() as few, Nodes() as many:
        fill(few, FEW)
        fill(many, EVENTS)
        pairs = [
            (run("esops", many.uri, EVENTS)[-1], run("bare", many.uri, EVENTS)[-1])
            for _ in range(RUNS)
        ]
        halves = [run("halves", many.uri, EVENTS)[0]["seconds"] for _ in range(3)]
        small = [run("esops", few.uri, FEW)[-1]["memory"] for _ in range(3)]
    speed = statistics.median(bare["seconds"] / esops["seconds"] for esops, bare in pairs)
    whole = statistics.median(esops["seconds"] for esops, _ in pairs)
    memory = statistics.median(esops["memory"] for esops, _ in pairs) / statistics.median(small)
    print(
        f"read_all {EVENTS / whole:,.0f} events a second, {speed:.2f} times the bare loop (median "
        f"of {RUNS} pairs, limit {SPEED_LIMIT})"
    )
    print(
        f"peak memory at {EVENTS:,} events {memory:.2f} times that at {FEW:,} (medians, limit "
        f"{MEMORY_LIMIT})"
    )
    print(f"two halves side by side: {whole / statistics.median(halves):.2f} times one read")
    return 0 if speed >= SPEED_LIMIT and memory <= MEMORY_LIMIT else 1


if __name__ == "__main__":
    if len(sys.argv) == 3:
        child(*sys.argv[1:])
    raise SystemExit(main())
