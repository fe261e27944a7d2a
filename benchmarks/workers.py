"""`--workers 2` against one process, on this machine's cores, which the database needs too: folds
that do ever more for an event.

Limit (docs/explanation/speed.md), for 1,000,000 events: 1.6 times the events a second where the
fold is what takes the time. What the
server does for each event (reading it, writing its row) is not made less by a second worker, and
takes a core as long. Prints the figures of all folds, the number of workers that esops chooses by
default, and the CPU that all its processes take together: where other work keeps the machine busy,
it says more than the time. Exits with 1 if the last one does not keep the limit.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import psycopg

from benchmarks.rebuild import used
from esops.demo import store
from esops.demo.server import EmbeddedServer
from tests.support import shop

EVENTS = int(os.environ.get("ESOPS_BENCH_EVENTS", "1000000"))
RUNS = 3
LIMIT = 1.6
WORK = (0, 20, 10)
"""Microseconds of work for each event, beside the demo's fold."""


def code(microseconds: int) -> str:
    """The shop's fold with so much work before it."""
    work = f"    end = clock() + {microseconds}e-6\n    while clock() < end:\n        pass\n"
    text = shop.PROJECTION.replace(
        "def cart_summary(row, event):\n",
        "def cart_summary(row, event):\n" + (work if microseconds else ""),
    )
    return "from time import thread_time as clock\n" + text


def planned(folder: Path) -> str:
    """How many workers the plan names by default, and why."""
    command = [sys.executable, "-m", "esops", "rebuild", "--blue-green", "--dry-run"]
    told = json.loads(used([*command, "--output", "json"], folder).output)
    return f"{told['workers']} ({told['workers_reason']})"


def rate(folder: Path, workers: int) -> tuple[float, float]:
    """Events a second of a whole rebuild, by its own working time, and its seconds of CPU."""
    arguments = [
        "rebuild",
        "--blue-green",
        "--quiet",
        "--output",
        "json",
        "--compare",
        "none",
        "--workers",
        str(workers),
    ]
    usage = used([sys.executable, "-m", "esops", *arguments], folder)
    told = json.loads(usage.output)
    assert told["events"] == EVENTS
    return float(told["events_per_second"]), usage.cpu


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="esops-bench-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "pg").start()
    times = 0.0
    try:
        dsn = server.dsn()
        with psycopg.connect(dsn, autocommit=True) as connection:
            store.create(connection)
            store.generate(connection, EVENTS)
            connection.execute("VACUUM ANALYZE")
        project = SimpleNamespace(
            folder=folder, write=lambda name, text: (folder / name).write_text(text)
        )
        print("times by the wall clock; on a machine with other work they say little")
        for microseconds in WORK:
            shop.configure(project, dsn, code=code(microseconds))
            pairs = [(rate(folder, 2), rate(folder, 1)) for _ in range(RUNS)]
            times = statistics.median(two[0] / one[0] for two, one in pairs)
            each = ", ".join(f"{two[0]:,.0f} against {one[0]:,.0f}" for two, one in pairs)
            two, one = (statistics.median(run[at][1] for run in pairs) for at in (0, 1))
            print(
                f"{microseconds} µs more for an event: {times:.2f} times the events a second "
                f"({each}); {two:.1f} s and {one:.1f} s of CPU; by default {planned(folder)}",
                flush=True,
            )
        print(f"limit for the last: {LIMIT}")
        return int(times < LIMIT)
    finally:
        server.remove()


if __name__ == "__main__":
    sys.exit(main())
