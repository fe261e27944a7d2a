"""A whole `esops rebuild` against the loop that one would write by hand, over stores of several
shapes (see shapes.py), and its memory at two sizes.

Aims (docs/explanation/speed.md), as whole processes with their start-up, for each shape: 1.4 times
the events a second of the plain loop and 1.0 times those of the bare one at 1,000,000 events, 1.6
and 1.1 times from 5,000,000 on. Peak memory at 2,000,000 events of the shape `carts` at most 1.1
times that at 200,000. The runs alternate, so that a machine whose speed drifts slows all of them;
the row tables are compared with the plain loop's rows. Prints the figures; exits with 1 if an aim
is missed, or a table is wrong.

    python -m benchmarks.rebuild [--events 5000000] [--shape interleaved …] [--runs 3]
        [--store FOLDER] [--no-memory]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks import shapes
from esops.demo.server import EmbeddedServer

HERE = Path(__file__).parent
RUNS = 5
MEMORY_LIMIT = 1.1
OPTIONS = ""
"""Lines of esops.toml beside the defaults."""
MEMORY_SIZES = (200_000, 2_000_000)
DDL = """CREATE TABLE {table} (cart_id text PRIMARY KEY, client text NOT NULL, items integer NOT
    NULL,
    total numeric(12, 2) NOT NULL, status text NOT NULL, position bigint NOT NULL);
CREATE INDEX ON {table} (client); CREATE INDEX ON {table} (status);"""
_LOOK_EVERY_SECONDS = 0.05


@dataclass(frozen=True)
class Usage:
    """What a whole process took: seconds, seconds of CPU, and MB at the peak, with its children."""

    seconds: float
    cpu: float
    memory: float
    output: str


def used(command: list[str], folder: Path, codes: tuple[int, ...] = (0,)) -> Usage:
    """Run a command to its end. Exits where it ends with none of these codes."""
    begin = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_EVERY_SECONDS):
            peak[0] = max(peak[0], _resident(process.pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begin
    over.set()
    thread.join()
    if os.waitstatus_to_exitcode(status) not in codes:
        sys.exit(f"{command} ended with status {status}")
    # The largest single process is known exactly; the sum of several only as often as we look.
    memory = max(usage.ru_maxrss / 1024, peak[0])
    return Usage(seconds, usage.ru_utime + usage.ru_stime, memory, output)


def _resident(pid: int) -> float:
    """MB in memory of a process and all below it; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        below = "".join(
            each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/children")
        ).split()
    except OSError:
        return 0.0
    own = int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1_048_576
    return own + sum(_resident(int(each)) for each in below)


def timed(command: list[str], folder: Path) -> tuple[float, float, str]:
    """Seconds, peak memory in MB, and output of a whole process."""
    usage = used(command, folder)
    return usage.seconds, usage.memory, usage.output


def configure(folder: Path, dsn: str, schema: str) -> None:
    """A configuration for the store in that schema."""
    (folder / "esops.toml").write_text(
        f'[stores.s]\ndsn = {json.dumps(dsn)}\nschema = "{schema}"\nappend = "quick"\n'
        f'[projections.rows_{schema}]\npython = "bench_projection:carts"\n'
        f'tables = ["rows_{schema}"]\nddl = "carts.sql"\n{OPTIONS}'
    )


def hand_loop(folder: Path, dsn: str, how: str, schema: str, events: int) -> Usage:
    """The loop written by hand."""
    usage = used([sys.executable, str(HERE / "hand_loop.py"), how, dsn, schema], folder)
    assert int(usage.output) == events
    return usage


def rebuild(folder: Path, dsn: str, schema: str, events: int, *options: str) -> Usage:
    """A first build, with all defaults unless there are options: nothing to compare, as in the
    plain loop.
    """
    configure(folder, dsn, schema)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"DROP VIEW IF EXISTS rows_{schema}".encode())
        connection.execute("DROP SCHEMA IF EXISTS esops CASCADE")
        connection.execute(f"DROP TABLE IF EXISTS rows_{schema}__v1".encode())
        connection.execute("CHECKPOINT")
    usage = used(
        [
            *(sys.executable, "-m", "esops", "rebuild", "--blue-green"),
            *("--quiet", "--output", "json", *options),
        ],
        folder,
    )
    done = json.loads(usage.output)
    assert (done["events"], done["state"]) == (events, "switched")
    return usage


def differing(folder: Path, dsn: str, schema: str) -> int:
    """How many rows of esops' table are not those of the plain loop, and the other way round."""
    used([sys.executable, str(HERE / "hand_loop.py"), "write", dsn, schema], folder)
    names = "cart_id, client, items, total, status, position"
    ours, theirs = (
        f"(SELECT {names} FROM {table})" for table in (f"rows_{schema}", f"{schema}.by_hand")
    )
    query = (
        f"SELECT count(*) FROM (({ours} EXCEPT ALL {theirs}) UNION ALL "
        f"({theirs} EXCEPT ALL {ours})) AS parted"
    )
    with psycopg.connect(dsn) as connection:
        found = connection.execute(query.encode()).fetchone()
    assert found is not None
    return int(found[0])


def aims(events: int) -> tuple[float, float]:
    """How many times the rate of the plain and of the bare loop."""
    return (1.6, 1.1) if events >= 5_000_000 else (1.4, 1.0)


def measure(folder: Path, dsn: str, shape: str, events: int, runs: int) -> bool:
    """Measure one shape and print the figures. Returns whether they are as they should be."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        begin = time.monotonic()
        schema = shapes.ensure(connection, shape, events)
        counted = connection.execute(
            f"SELECT count(*), max(version) FROM {schema}.mt_streams".encode()
        ).fetchone()
        assert counted is not None
    print(
        f"\n{shape}: {events:,} events in {counted[0]:,} streams, the longest of {counted[1]:,} "
        f"(made in {time.monotonic() - begin:.0f} s)",
        flush=True,
    )
    all_runs = []
    for _ in range(runs):
        plain = hand_loop(folder, dsn, "fold", schema, events)
        bare = hand_loop(folder, dsn, "bare", schema, events)
        esops = rebuild(folder, dsn, schema, events)
        all_runs.append((plain, bare, esops))
        print(
            "  "
            + ", ".join(
                f"{name} {each.seconds:.2f} s ({each.cpu:.2f} s CPU, {each.memory:.0f} MB)"
                for name, each in (("plain", plain), ("bare", bare), ("esops", esops))
            ),
            flush=True,
        )
    rates = [
        events / statistics.median(each.seconds for each in one)
        for one in zip(*all_runs, strict=True)
    ]
    print(("  events a second, medians: plain {:,.0f}, bare {:,.0f}, esops {:,.0f}").format(*rates))
    fine = True
    for name, number, aim in zip(("plain", "bare"), (0, 1), aims(events), strict=True):
        ratio = statistics.median(run[number].seconds / run[2].seconds for run in all_runs)
        fine = fine and ratio >= aim
        print(
            f"  {ratio:.2f} times the {name} loop (median of {runs}, aim {aim}): "
            f"{'as it should be' if ratio >= aim else 'TOO SLOW'}"
        )
    peak = statistics.median(run[2].memory for run in all_runs)
    print(f"  peak memory of esops, all its processes: {peak:.0f} MB (median)")
    wrong = differing(folder, dsn, schema)
    print(f"  rows: {'those of the plain loop' if not wrong else f'{wrong:,} DIFFER'}", flush=True)
    return fine and not wrong


def memory(folder: Path, dsn: str) -> bool:
    """Measure the memory of one process at two sizes. Returns whether it is flat."""
    peaks = []
    for events in MEMORY_SIZES:
        with psycopg.connect(dsn, autocommit=True) as connection:
            schema = shapes.ensure(connection, "carts", events)
        peaks.append(
            statistics.median(
                # Of the larger store, esops might otherwise choose two processes.
                rebuild(folder, dsn, schema, events, "--workers", "1").memory
                for _ in range(3)
            )
        )
    ratio = peaks[1] / peaks[0]
    print(
        f"\nmemory, carts: {peaks[1]:.0f} MB at {MEMORY_SIZES[1]:,} events, {peaks[0]:.0f} MB at "
        f"{MEMORY_SIZES[0]:,}: {ratio:.2f} times (limit at most {MEMORY_LIMIT})"
    )
    return ratio <= MEMORY_LIMIT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rebuild")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--shape", nargs="+", choices=shapes.SHAPES, default=shapes.SHAPES)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the memory at two sizes"
    )
    parser.add_argument(
        "--store", type=Path, help="keep the server's data in this folder, for the next time"
    )
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="esops-bench-"))
    folder.chmod(0o755)
    shutil.copy(HERE / "project" / "bench_projection.py", folder)
    (folder / "carts.sql").write_text(DDL)
    server = EmbeddedServer(given.store or folder / "pg").start()
    try:
        fine = [
            measure(folder, server.dsn(), shape, given.events, given.runs) for shape in given.shape
        ]
        if not given.no_memory:
            fine.append(memory(folder, server.dsn()))
    finally:
        if given.store:
            server.stop()
        else:
            server.remove()
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if all(fine) else 1


if __name__ == "__main__":
    raise SystemExit(main())
