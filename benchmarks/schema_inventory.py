"""`schema list` against a bare loop that reads and decodes the same events, and its memory at more
events and streams.

    python -m benchmarks.schema_inventory
    python -m benchmarks.schema_inventory --events 200000 --rounds 3 --dsn "service=evolved"

Both read a store with eight years of evolution (tests/support/evolution.py: 30 types, 120 shapes)
and take turns. Seconds of CPU are those of the reading process. The memory of the whole command is
held against that for a fifth of the events.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import psycopg

from benchmarks.rebuild import timed
from esops.demo.server import EmbeddedServer
from esops.schema.closing import ClosingRule
from esops.schema.history import histories_of, inventory_of
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.stores.base import WITH_ARCHIVED, EventStore
from tests.support import evolution
from tests.support.evolution import Evolution, load

FEWER = 5


def bare(store: EventStore) -> int:
    """What nobody can do without: read and decode."""
    read = 0
    for events, _ in store.read_all(filter=WITH_ARCHIVED):
        for event in events:
            orjson.loads(event.data)
        read += len(events)
    return read


def listed(store: EventStore) -> int:
    found = inventory_of(store, ClosingRule())
    assert sum(len(each.versions) for each in found.types.values()) == evolution.SHAPES
    return found.events


@contextmanager
def evolved(dsn: str | None) -> Iterator[str]:
    if dsn is not None:
        yield dsn
        return
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "pg", {"fsync": "off", "max_wal_size": "'1GB'"})
        try:
            yield server.start().dsn()
        finally:
            server.remove()


def ensure(dsn: str, events: int) -> tuple[str, Evolution | None]:
    """The schema of a store of this size, which is made unless it is there; then with what
    changed in it.
    """
    schema = f"evolved_{events}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        row = connection.execute("SELECT to_regclass(%s)", (f"{schema}.mt_events",)).fetchone()
        if row is not None and row[0] is not None:
            return schema, None
        made = Evolution(events)
        load(connection, made, schema)
    return schema, made


def changes_found(store: EventStore, history: Evolution) -> None:
    """Every planted change at its very event, and no other."""
    _, changes = histories_of(store, ClosingRule())
    found = {
        (type_.base, each.kind, each.path, each.at.position[0], each.at.stream, each.at.version)
        for type_, several in changes
        for each in several
    }
    planted = {tuple(each) for each in history.changes.values()}
    print(
        f"{len(planted & found)} of {len(planted)} planted changes found at their events, "
        f"{len(found - planted)} others"
    )


def peak(dsn: str, schema: str, folder: Path) -> float:
    """Peak memory in MB of `esops schema list`."""
    (folder / "esops.toml").write_text(
        f'[stores.s]\ndsn = {json.dumps(dsn)}\nschema = "{schema}"\n'
    )
    command = [sys.executable, "-m", "esops", "schema", "list", "--quiet", "--output", "json"]
    return timed(command, folder)[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dsn", help="a database to put the stores into, or that has them")
    options = parser.parse_args()
    with evolved(options.dsn) as dsn, tempfile.TemporaryDirectory() as folder:
        few, _ = ensure(dsn, options.events // FEWER)
        many, history = ensure(dsn, options.events)
        settings = PostgresSettings(dsn=dsn, schema=many)
        if history is not None:
            with open_store("evolved", settings) as store:
                changes_found(store, history)
        seconds: dict[str, list[float]] = {"bare": [], "list": []}
        work: dict[str, list[float]] = {"bare": [], "list": []}
        for _ in range(options.rounds):
            for name, run in (("bare", bare), ("list", listed)):
                with open_store("evolved", settings) as store:
                    began, worked = time.perf_counter(), time.process_time()
                    assert run(store) == options.events
                    work[name].append(time.process_time() - worked)
                    seconds[name].append(time.perf_counter() - began)
        for what, found in (("seconds", seconds), ("seconds of CPU", work)):
            print(what, {name: [round(each, 2) for each in them] for name, them in found.items()})
            ratio = statistics.median(found["list"]) / statistics.median(found["bare"])
            print(f"list takes {ratio:.2f} x the bare loop")
        low, high = (peak(dsn, schema, Path(folder)) for schema in (few, many))
        print(f"memory at {FEWER} times the events: {high / low:.2f} x ({high:.0f} MB, {low:.0f})")


if __name__ == "__main__":
    main()
