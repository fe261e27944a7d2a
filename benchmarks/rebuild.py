"""A whole `esops rebuild` against the plain loop that one would write by hand, and its memory at
two sizes.

Limits (docs/explanation/speed.md): at least 1.2 times the events a second of the plain loop, as
whole processes with their
start-up; peak memory at 2,000,000 events at most 1.1 times that at 200,000. The runs alternate, so
that a machine whose speed
drifts slows both. Prints the figures; exits with 1 if a limit is not kept.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from esops.demo import store
from esops.demo.server import EmbeddedServer

HERE = Path(__file__).parent
RUNS = 5
SPEED_LIMIT, MEMORY_LIMIT = 1.2, 1.1
DDL = """CREATE TABLE {table} (cart_id text PRIMARY KEY, client text NOT NULL, items integer NOT
    NULL,
    total numeric(12, 2) NOT NULL, status text NOT NULL, position bigint NOT NULL);
CREATE INDEX ON {table} (client); CREATE INDEX ON {table} (status);"""


def timed(command: list[str], folder: Path) -> tuple[float, float, str]:
    """Seconds, peak memory in MB, and output of a whole process."""
    begin = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{command} ended with status {status}")
    return time.monotonic() - begin, usage.ru_maxrss / 1024, output


def configure(folder: Path, dsn: str, events: int, window: int) -> None:
    """A configuration for the store of that size."""
    name = f"carts_{events}_{window}"
    (folder / "esops.toml").write_text(
        f'[stores.s]\ndsn = {json.dumps(dsn)}\nschema = "s{events}_{window}"\nappend = "quick"\n'
        f'[projections.{name}]\npython = "bench_projection:carts"\ntables = ["{name}"]\nddl = '
        '"carts.sql"\n'
    )


def hand_loop(folder: Path, dsn: str, how: str) -> float:
    """Seconds of the loop written by hand."""
    seconds, _, output = timed(
        [sys.executable, str(HERE / "hand_loop.py"), how, dsn, "s1000000_2000"], folder
    )
    assert int(output) == 1_000_000
    return seconds


def rebuild(folder: Path, dsn: str, events: int, window: int) -> tuple[float, float, float]:
    """Seconds, peak memory in MB, and the rate that it reports, of a first build: nothing to
    compare, as in the plain loop.
    """
    configure(folder, dsn, events, window)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"DROP VIEW IF EXISTS carts_{events}_{window}".encode())
        connection.execute("DROP SCHEMA IF EXISTS esops CASCADE")
        connection.execute(f"DROP TABLE IF EXISTS carts_{events}_{window}__v1".encode())
        connection.execute("CHECKPOINT")
    seconds, memory, output = timed(
        [sys.executable, "-m", "esops", "rebuild", "--blue-green", "--quiet", "--output", "json"],
        folder,
    )
    done = json.loads(output)
    assert (done["events"], done["rows"], done["state"]) == (events, events // 10, "switched")
    return seconds, memory, done["events_per_second"]


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="esops-bench-"))
    folder.chmod(0o755)
    shutil.copy(HERE / "project" / "bench_projection.py", folder)
    (folder / "carts.sql").write_text(DDL)
    server = EmbeddedServer(folder / "pg").start()
    try:
        return measure(folder, server.dsn())
    finally:
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, dsn: str) -> int:
    sizes = [(200_000, 2_000), (1_000_000, 2_000), (2_000_000, 2_000)]
    with psycopg.connect(dsn, autocommit=True) as connection:
        for events, window in sizes:
            schema = f"s{events}_{window}"
            begin = time.monotonic()
            store.create(connection, schema)
            store.generate(connection, events, schema, window=window)
            print(f"generated {events:,} events in {time.monotonic() - begin:.0f} s")
    runs = []
    for _ in range(RUNS):
        plain, bare = (hand_loop(folder, dsn, how) for how in ("fold", "bare"))
        esops, _, reported = rebuild(folder, dsn, 1_000_000, 2_000)
        runs.append((plain, bare, esops))
        print(
            f"plain loop {plain:.2f} s, bare {bare:.2f} s, esops rebuild {esops:.2f} s (reports "
            f"{reported:,} events a second)"
        )
    rates = [1_000_000 / statistics.median(each) for each in zip(*runs, strict=True)]
    print(
        (
            "events a second as whole processes: plain loop {:,.0f}, bare {:,.0f}, esops {:,.0f}"
        ).format(*rates)
    )
    speed = statistics.median(plain / esops for plain, _, esops in runs)
    against_bare = statistics.median(bare / esops for _, bare, esops in runs)
    small = statistics.median(rebuild(folder, dsn, 200_000, 2_000)[1] for _ in range(3))
    large = statistics.median(rebuild(folder, dsn, 2_000_000, 2_000)[1] for _ in range(3))
    memory = large / small
    print(
        f"speed:  {speed:.2f} times the plain loop (median of {RUNS}, limit at least "
        f"{SPEED_LIMIT}); {against_bare:.2f} times the bare one"
    )
    print(
        f"memory: {large:.0f} MB at 2,000,000 events, {small:.0f} MB at 200,000: {memory:.2f} "
        f"times (limit at most {MEMORY_LIMIT})"
    )
    return 0 if speed >= SPEED_LIMIT and memory <= MEMORY_LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
