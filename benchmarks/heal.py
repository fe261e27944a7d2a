"""`esops rebuild NAME --keys-from FILE`: how long it takes to make 100 rows right, beside a read of
the whole log.

Limit, for 10,000,000 events of a store with an index by stream: at most 5 s, with the start of the
command, and at most a twentieth of the rebuild. Prints the figures; exits with 1 if a limit is not
kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import psycopg

from esops.demo import store
from esops.demo.server import EmbeddedServer
from tests.support import shop

EVENTS = int(os.environ.get("ESOPS_BENCH_EVENTS", "10000000"))
ROWS, RUNS = 100, 5
LIMIT_SECONDS, LIMIT_SHARE = 5.0, 0.05
ESOPS = [sys.executable, "-m", "esops"]


def run(folder: Path, *arguments: str) -> tuple[float, dict]:
    """A command's seconds, and what it says."""
    began = time.monotonic()
    done = subprocess.run(
        [*ESOPS, *arguments, "--quiet", "--output", "json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        check=True,
    )
    return time.monotonic() - began, json.loads(done.stdout)


def spoil(connection: psycopg.Connection, seed: int) -> list[str]:
    """Rows with another value; returns their keys."""
    rows = connection.execute(
        "UPDATE cart_summary__v1 SET total = total + 1 WHERE cart_id IN (SELECT cart_id FROM "
        "cart_summary__v1 ORDER BY md5(cart_id || %s) LIMIT %s) RETURNING cart_id",
        (str(seed), ROWS),
    )
    return [row[0] for row in rows]


def main() -> int:
    """Measure, and say whether the limits are kept."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = EmbeddedServer(folder / "pg").start()
        try:
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                store.create(connection)
                store.generate(connection, EVENTS)
                connection.execute("VACUUM ANALYZE")
                write = lambda at, text: (folder / at).write_text(text)  # noqa: E731
                shop.configure(SimpleNamespace(write=write), server.dsn())
                rebuilt, _ = run(folder, "rebuild", "--blue-green")
                took = []
                for number in range(RUNS):
                    keys = spoil(connection, number)
                    (folder / "keys.txt").write_text("\n".join(keys))
                    seconds, done = run(folder, "rebuild", "--keys-from", "keys.txt", "--yes")
                    assert done["healed"] == ROWS, done
                    took.append(seconds)
        finally:
            server.remove()
    median = sorted(took)[RUNS // 2]
    print(f"{EVENTS:,} events, rebuilt in {rebuilt:.1f} s")
    print(
        f"{ROWS} rows made right in {median:.2f} s ({min(took):.2f} to {max(took):.2f}), "
        f"1/{rebuilt / median:.0f} of the rebuild"
    )
    return 0 if median <= LIMIT_SECONDS and median <= LIMIT_SHARE * rebuilt else 1


if __name__ == "__main__":
    sys.exit(main())
