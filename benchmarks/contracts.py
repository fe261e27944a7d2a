"""`schema contracts check` against `schema check` over the same events, as a ratio of CPU time.

    python -m benchmarks.contracts --events 200000

Every event is public, and most have fields that the contract does not name: the most that there can
be to do. Both read a store with eight years of evolution (tests/support/evolution.py).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import orjson
import psycopg

from benchmarks.schema_check import SCHEMA, checked, evolved
from esops.config import parse_config
from esops.schema.contracts.check import check_contracts
from esops.schema.files import read_schemas
from esops.settings import PostgresSettings
from esops.stores import open_store


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with evolved(None, options.events) as dsn, tempfile.TemporaryDirectory() as folder:
        with psycopg.connect(dsn) as connection:
            types = connection.execute("SELECT DISTINCT type FROM evolved.mt_events").fetchall()
        for number, (name,) in enumerate(types):
            schema = {**orjson.loads(SCHEMA), "x-event-type": name}
            Path(folder, f"{number}.json").write_bytes(orjson.dumps(schema))
        config = parse_config(
            {
                "stores": {"evolved": {"dsn": dsn}},
                "contracts": {"all": {"types": ["*"], "schemas": folder}},
            },
            Path(folder, "esops.toml"),
        )
        schemas = read_schemas(Path(folder))
        work: dict[str, list[float]] = {"check": [], "contracts": []}
        for _ in range(options.rounds):
            began = time.process_time()
            with open_store("evolved", PostgresSettings(dsn=dsn)) as store:
                checked(store, schemas)
            between = time.process_time()
            assert check_contracts(config).events == options.events
            work["check"].append(between - began)
            work["contracts"].append(time.process_time() - between)
        print({name: [round(each, 2) for each in them] for name, them in work.items()})
        ratio = statistics.median(work["check"]) / statistics.median(work["contracts"])
        print(f"contracts check is {ratio:.2f} x schema check")


if __name__ == "__main__":
    main()
