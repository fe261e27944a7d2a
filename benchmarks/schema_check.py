"""`schema check` against a bare loop of jsonschema-rs over the same events, as a ratio.

    python -m benchmarks.schema_check --events 1000000
    python -m benchmarks.schema_check --dsn "service=evolved"

Both read a store with eight years of evolution (tests/support/evolution.py), inferred schemas
against which all events are valid, and take turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import psycopg

from esops.demo.server import EmbeddedServer
from esops.schema.checking.run import SchemaCheck
from esops.schema.files import SchemaSet, parse_schemas
from esops.schema.reading import EventSelection
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.stores.base import WITH_ARCHIVED, EventStore
from tests.support.evolution import Evolution, load

SCHEMA = orjson.dumps(
    {
        "type": "object",
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "amount": {"type": ["number", "string"]},
            "note": {"type": ["string", "null"]},
            "status": {"enum": ["new", "paid", "sent", "escalated"]},
            "customer": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "email": {"type": "string", "format": "email"},
                },
                "required": ["name"],
            },
            "items": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"sku": {"type": "string"}, "quantity": {"type": "integer"}},
                    "required": ["sku", "quantity"],
                },
            },
        },
        "required": ["id", "amount", "status", "customer", "items"],
    }
)


def bare(store: EventStore, schemas: SchemaSet) -> int:
    """What nobody can do without: read, decode, validate."""
    valid = {name: schemas.validator(name).is_valid for name in schemas.types}
    broken = 0
    for events, _ in store.read_all(filter=WITH_ARCHIVED):
        for event in events:
            if not valid[event.type](orjson.loads(event.data)):
                broken += 1
    return broken


def checked(store: EventStore, schemas: SchemaSet) -> int:
    return len(SchemaCheck(store, schemas, EventSelection()).run().violations)


@contextmanager
def evolved(dsn: str | None, events: int) -> Iterator[str]:
    if dsn is not None:
        yield dsn
        return
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "pg", {"fsync": "off", "max_wal_size": "'1GB'"})
        try:
            server.start()
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute("SET TIME ZONE 'UTC'")
                load(connection, Evolution(events))
            yield server.dsn()
        finally:
            server.remove()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dsn", help="a database that has such a store already")
    options = parser.parse_args()
    with evolved(options.dsn, options.events) as dsn:
        settings = PostgresSettings(dsn=dsn, schema="evolved")
        with psycopg.connect(dsn) as connection:
            types = connection.execute("SELECT DISTINCT type FROM evolved.mt_events").fetchall()
        schemas = parse_schemas("schemas", {f"{name}.json": SCHEMA for (name,) in types})
        seconds: dict[str, list[float]] = {"bare": [], "check": []}
        work: dict[str, list[float]] = {"bare": [], "check": []}
        for _ in range(options.rounds):
            for name, run in (("bare", bare), ("check", checked)):
                with open_store("evolved", settings) as store:
                    began, worked = time.perf_counter(), time.process_time()
                    assert run(store, schemas) == 0
                    work[name].append(time.process_time() - worked)
                    seconds[name].append(time.perf_counter() - began)
        for what, found in (("seconds", seconds), ("seconds of CPU", work)):
            print(what, {name: [round(each, 2) for each in them] for name, them in found.items()})
            ratio = statistics.median(found["bare"]) / statistics.median(found["check"])
            print(f"check is {ratio:.2f} x the bare loop")


if __name__ == "__main__":
    main()
