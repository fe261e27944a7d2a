"""`esops audit streams` against the best SQL by hand, and `esops trace` against the bare query;
start-up aside.

Limits (docs/explanation/speed.md), for 1,000,000 events in 100,000 streams: 1.5 times the statement
by hand (which gives
the same, categories too) where the store has a list of its streams, 1.2 times where streams are
grouped through an index alone, 1.5 times
for a correlation id that is indexed, start-up included; memory for
1,000,000 streams at most 1.1 times that for 10,000, for the summary and for the list of all. Prints
the figures; exits with 1 if a
limit is not kept.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from benchmarks.rebuild import timed
from esops.audit.streams import StreamsRequest, audit_streams
from esops.demo import store
from esops.demo.server import EmbeddedServer
from esops.settings import AuditSettings, PostgresSettings
from esops.stores import open_store
from esops.trace.search import Tracer

RUNS = 9
BY_LIST = (
    "SELECT count(*), sum(version), percentile_disc(ARRAY[0.5, 0.75, 0.9, 0.95, 0.99]) WITHIN "
    "GROUP (ORDER BY version), max(version), "
    "count(*) FILTER (WHERE version > 9) FROM shop.mt_streams WHERE NOT is_archived"
)
BY_CATEGORY = (
    "SELECT split_part(id, '-', 1), count(*), sum(version), percentile_disc(ARRAY[0.5, 0.75, 0.9, "
    "0.95, 0.99]) WITHIN GROUP "
    "(ORDER BY version), max(version), count(*) FILTER (WHERE version > 9) FROM shop.mt_streams "
    "WHERE NOT is_archived "
    "GROUP BY GROUPING SETS ((), (1))"
)
"""What the audit gives: for each category too."""
BY_INDEX = (
    "SELECT count(*), sum(n), percentile_disc(ARRAY[0.5, 0.75, 0.9, 0.95, 0.99]) WITHIN GROUP "
    "(ORDER BY n), max(n), "
    "count(*) FILTER (WHERE n > 9) FROM (SELECT stream_name, count(*) AS n FROM "
    "message_store.messages GROUP BY 1) s"
)
MESSAGES = """
CREATE SCHEMA message_store;
CREATE TABLE message_store.messages (global_position bigserial PRIMARY KEY, position bigint NOT
NULL, time timestamp NOT NULL DEFAULT now(),
    stream_name text NOT NULL, type text NOT NULL, data jsonb, metadata jsonb, id uuid NOT NULL
    DEFAULT gen_random_uuid());
INSERT INTO message_store.messages (position, stream_name, type, data, metadata)
SELECT version - 1, stream_id, type, data, jsonb_build_object('correlationId', 'request-' || seq_id
/ 5)
FROM shop.mt_events ORDER BY seq_id;
CREATE UNIQUE INDEX ON message_store.messages (id);
CREATE UNIQUE INDEX ON message_store.messages (stream_name, position);
CREATE INDEX ON message_store.messages ((metadata ->> 'correlationId'));
"""

MORE = """
INSERT INTO s1000000.mt_streams (id, type, version) SELECT 'order-' || n, 'order', 1 FROM
generate_series(1, 900000) n;
INSERT INTO s1000000.mt_events (seq_id, id, stream_id, version, data, type)
SELECT 2000000 + n, gen_random_uuid(), 'order-' || n, 1, '{}', 'order_placed' FROM
generate_series(1, 900000) n;
"""
"""Beside a hundred thousand streams of ten events, nine hundred thousand of one."""


START_UP = """
from pathlib import Path
import esops.cli.trace, esops.trace.render, esops.trace.search
from esops.stores import open_store
from esops.config import load_config
with open_store("s", load_config(Path("esops.toml")).stores["s"]) as store:
    store.ping()
"""
"""What a trace takes before it asks for anything."""


def medians(ours: Callable[[], object], by_hand: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the middle of some runs of each, one after the other, after one to warm up."""
    found: tuple[list[float], list[float]] = ([], [])
    for run in range(RUNS + 1):
        for function, seconds in zip((ours, by_hand), found, strict=True):
            began = time.perf_counter()
            function()
            if run:
                seconds.append(time.perf_counter() - began)
    return statistics.median(found[0]), statistics.median(found[1])


def told(what: str, ours: float, by_hand: float, limit: float | None) -> bool:
    """Print a ratio; whether it is kept."""
    said = f" (limit {limit})" if limit else ""
    print(
        f"{what}: {ours * 1000:.1f} ms, by hand {by_hand * 1000:.1f} ms: "
        f"{ours / by_hand:.2f} x{said}",
        flush=True,
    )
    return limit is None or ours / by_hand <= limit


def memory(folder: Path, dsn: str, schema: str, *more: str) -> float:
    """Peak memory in MB of a whole process."""
    (folder / "esops.toml").write_text(
        f'[stores.s]\ndsn = {json.dumps(dsn)}\nschema = "{schema}"\n'
    )
    return timed([sys.executable, "-m", "esops", "audit", "streams", *more], folder)[1]


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="esops-bench-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "pg").start()
    try:
        return measure(server.dsn(), folder)
    finally:
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)


def measure(dsn: str, folder: Path) -> int:
    """Print the figures; returns 1 if a limit is not kept."""
    os.chdir(folder)
    with psycopg.connect(dsn, autocommit=True) as connection:
        store.create(connection)
        store.generate(connection, 1_000_000)
        connection.execute(MESSAGES)
        for streams in (10_000, 1_000_000):
            store.create(connection, f"s{streams}")
            store.generate(
                connection, streams * 10 if streams < 100_000 else streams, f"s{streams}"
            )
        connection.execute(MORE)
        connection.execute("VACUUM ANALYZE")
        kept = []
        settings = AuditSettings.model_validate({"budgets": {"*": 9}})
        for schema, what, statement, limit in (
            ("shop", "with a list of streams, by hand without categories,", BY_LIST, None),
            ("shop", "with a list of streams, by hand with categories,", BY_CATEGORY, 1.5),
            ("message_store", "grouped through the index", BY_INDEX, 1.2),
        ):
            with open_store("s", PostgresSettings(dsn=dsn, schema=schema)) as opened:
                quiet = settings.model_copy(
                    update={"budgets": AuditSettings.model_validate({"budgets": {"*": 10}}).budgets}
                )
                ours, by_hand = medians(
                    lambda opened=opened, quiet=quiet: audit_streams(
                        opened, quiet, StreamsRequest(longest=0)
                    ),
                    lambda statement=statement: connection.execute(statement).fetchall(),
                )
            kept.append(told(f"summary, percentiles and findings {what}", ours, by_hand, limit))
        bare = (
            "SELECT id::text, stream_name, position, type, data, metadata, time, global_position "
            "FROM message_store.messages "
            "WHERE metadata ->> 'correlationId' = 'request-1000' ORDER BY global_position"
        )
        with open_store("s", PostgresSettings(dsn=dsn, schema="message_store")) as opened:
            ours, by_hand = medians(
                lambda: Tracer([opened]).correlation("request-1000"),
                lambda: connection.execute(bare).fetchall(),
            )
        told("trace by an indexed correlation id, start-up aside", ours, by_hand, None)
        (folder / "esops.toml").write_text(
            f'[stores.s]\ndsn = {json.dumps(dsn)}\nschema = "message_store"\n'
        )
        command = [
            sys.executable,
            "-m",
            "esops",
            "trace",
            "correlation",
            "request-1000",
            "--output",
            "json",
        ]
        ours, start = medians(
            lambda: timed(command, folder), lambda: timed([sys.executable, "-c", START_UP], folder)
        )
        kept.append(
            told(
                "the same as a process, by hand: start-up and the bare query",
                ours,
                start + by_hand,
                1.5,
            )
        )
    for more in (("--output", "json"), ("--all", "--output", "ndjson")):
        few, many = (memory(folder, dsn, f"s{streams}", *more) for streams in (10_000, 1_000_000))
        print(
            f"memory of {' '.join(more)}: {many / few:.2f} x ({many:.0f} MB, {few:.0f} MB; "
            "limit 1.1)",
            flush=True,
        )
        kept.append(many / few <= 1.1)
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main())
