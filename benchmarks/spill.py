"""A load of a fold with more live keys than fit into memory, against the plain loop that keeps them
all: seconds, peak memory of both, and the size of the spill.

Event n belongs to stream n mod LIVE, so each key comes back after LIVE events. Aims: at least 1.0
times the rate of the plain loop, and memory that does not grow with the number of keys. The row
tables are compared with the plain loop's. Exits with 1 if an aim is missed or a table is wrong.

    python -m benchmarks.spill [--sizes 1000000:500000 10000000:2000000 …] [--cache 256MB]
        [--runs 3] [--store FOLDER] [--by-stream]

`--by-stream` measures the other way that needs no state at all as well: reading the events by
stream and version through the index, in short ranges of streams, with the data cached and, where
this process may drop the system's caches, cold.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg

from benchmarks import rebuild
from benchmarks.shapes import STATEMENT
from esops.demo import store
from esops.demo.server import EmbeddedServer
from esops.running.spill.directory import PREFIX

SIZES = ("1000000:500000", "10000000:2000000")
RANGE = 2_000
"""Streams that are read by one statement."""


def ensure(connection: psycopg.Connection, events: int, live: int) -> str:
    """Make the store, unless it is there. Returns its schema's name."""
    schema = f"live_{events}_{live}"
    there = connection.execute("SELECT to_regclass(%s)", (f"{schema}.made",)).fetchone()
    if there == (None,):
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())
        store.create(connection, schema)
        text = STATEMENT.read_text(encoding="utf-8")
        values = {"schema": schema, "events": str(events), "of": f"n % {live}"}
        for key, value in values.items():
            text = text.replace("{" + key + "}", value)
        with connection.transaction():
            connection.execute(text.encode())
        connection.execute(f"VACUUM ANALYZE {schema}.mt_events, {schema}.mt_streams".encode())
        connection.execute(f"CREATE TABLE {schema}.made ()".encode())
    return schema


@contextlib.contextmanager
def watched(folder: Path):
    """The largest size, in MB, that the spill has while this lasts."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            with contextlib.suppress(OSError):
                files = folder.glob(f"{PREFIX}*/*")
                peak[0] = max(peak[0], sum(each.stat().st_size for each in files) / 1_048_576)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def measure(folder: Path, dsn: str, size: str, cache: str, runs: int) -> bool:
    """Measure one size and print the figures. Returns whether they are as they should be."""
    events, live = map(int, size.split(":"))
    with psycopg.connect(dsn, autocommit=True) as connection:
        schema = ensure(connection, events, live)
    print(f"\n{events:,} events of {live:,} live keys, cache {cache}", flush=True)
    plains, ours, spilled = [], [], 0.0
    spill = folder / "spill"
    rebuild.OPTIONS = f'cache = "{cache}"\nspill = "{spill}"\n'
    for _ in range(runs):
        plain = rebuild.hand_loop(folder, dsn, "fold", schema, events)
        with watched(spill) as peak:
            esops = rebuild.rebuild(folder, dsn, schema, events)
        spilled = max(spilled, peak[0])
        plains.append(plain)
        ours.append(esops)
        print(
            f"  plain {plain.seconds:.1f} s ({plain.memory:,.0f} MB, {plain.cpu:.1f} s CPU), "
            f"esops {esops.seconds:.1f} s ({esops.memory:,.0f} MB, {esops.cpu:.1f} s CPU), "
            f"spill {peak[0]:,.0f} MB",
            flush=True,
        )
    ratio = statistics.median(
        one.seconds / other.seconds for one, other in zip(plains, ours, strict=True)
    )
    memory = statistics.median(each.memory for each in ours)
    wrong = rebuild.differing(folder, dsn, schema)
    print(
        f"  {ratio:.2f} times the plain loop (median of {runs}, aim 1.0); memory {memory:,.0f} MB "
        f"against {statistics.median(each.memory for each in plains):,.0f} MB; spill "
        f"{spilled:,.0f} MB; rows: {'those of the plain loop' if not wrong else f'{wrong} DIFFER'}"
    )
    return ratio >= 1.0 and not wrong and spilled > 0


def by_stream(dsn: str, size: str) -> None:
    """Read all events by stream and version, in ranges of streams."""
    events, live = map(int, size.split(":"))
    schema = f"live_{events}_{live}"
    query = (
        "SELECT seq_id, stream_id, version, type, data, timestamp FROM {s}.mt_events "
        "WHERE stream_id > %s AND stream_id <= %s ORDER BY stream_id, version"
    ).replace("{s}", schema)
    for kind in ("cached", "cold"):
        if kind == "cold":
            os.sync()
            try:
                Path("/proc/sys/vm/drop_caches").write_text("3")
            except OSError as error:
                print(f"  by stream, cold: not measured ({error})")
                return
        with psycopg.connect(dsn) as connection:
            names = [
                row[0]
                for row in connection.execute(
                    f"SELECT id FROM {schema}.mt_streams ORDER BY id".encode()
                )
            ]
            begin, count, most = time.monotonic(), 0, 120.0
            last = ""
            for at in range(RANGE - 1, len(names) + RANGE - 1, RANGE):
                until = names[min(at, len(names) - 1)]
                count += len(connection.execute(query.encode(), (last, until)).fetchall())
                last = until
                if time.monotonic() - begin > most:
                    break
            seconds = time.monotonic() - begin
        print(
            f"  by stream through the index, {kind}: {count:,} events in {seconds:.1f} s, "
            f"{1e6 * seconds / count:.1f} µs each, nothing folded or written",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spill")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="EVENTS:LIVE")
    parser.add_argument("--cache", default="256MB")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--store", type=Path, help="keep the server's data in this folder")
    parser.add_argument("--by-stream", action="store_true")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="esops-bench-"))
    folder.chmod(0o755)
    shutil.copy(rebuild.HERE / "project" / "bench_projection.py", folder)
    (folder / "carts.sql").write_text(rebuild.DDL)
    server = EmbeddedServer(given.store or folder / "pg").start()
    fine = True
    try:
        for size in given.sizes:
            fine = measure(folder, server.dsn(), size, given.cache, given.runs) and fine
            if given.by_stream:
                by_stream(server.dsn(), size)
    finally:
        if given.store:
            server.stop()
        else:
            server.remove()
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
