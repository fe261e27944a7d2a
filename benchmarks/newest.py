"""`esops events --last 20` and the like on a long log against the same on a short one.

Limits (docs/explanation/speed.md): the newest 20 of 1,000,000 events take at most 1.5 times what
they take of 200,000, in one process, also by `--reverse` and by a type; 100,000 of them take at
most 1.3 times the memory of 20,000 as a whole process. Prints the figures; exits with 1 if a limit
is not kept.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from benchmarks.audit import medians, told
from benchmarks.rebuild import timed
from esops.demo import store
from esops.demo.server import EmbeddedServer
from esops.events import EventFilter
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.trace.log import LogReader, LogRequest

SHORT, LONG = 200_000, 1_000_000
"""esops looks for missing numbers among the newest 100,000: a log of fewer is quicker."""
REQUESTS = {
    "--last 20": LogRequest(EventFilter(), last=20),
    "--reverse --limit 20": LogRequest(EventFilter(), limit=20, reverse=True),
    "--last 20 --type": LogRequest(EventFilter(types=("product_item_added",)), last=20),
}


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="esops-bench-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "pg").start()
    try:
        return measure(server.dsn(), folder)
    finally:
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)


def read(dsn: str, schema: str, request: LogRequest) -> int:
    """As a command does: open, find the settled head, read."""
    with open_store("s", PostgresSettings(dsn=dsn, schema=schema)) as opened:
        return sum(1 for _ in LogReader(opened, request))


def memory(folder: Path, dsn: str, number: int) -> float:
    """Peak memory in MB of a whole process that shows some of the newest events."""
    (folder / "esops.toml").write_text(
        f'[stores.s]\ndsn = {json.dumps(dsn)}\nschema = "long"\n', encoding="utf-8"
    )
    command = [sys.executable, "-m", "esops", "events", "--last", str(number)]
    return timed(command, folder)[1]


def measure(dsn: str, folder: Path) -> int:
    """Print the figures; returns 1 if a limit is not kept."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for schema, events in (("short", SHORT), ("long", LONG)):
            store.create(connection, schema)
            store.generate(connection, events, schema=schema)
        # As on any server that has run for five minutes: it says that what was written is old.
        connection.execute("CHECKPOINT")
        time.sleep(5)
    kept = True
    for what, request in REQUESTS.items():
        assert read(dsn, "long", request) == 20
        ours, short = medians(
            lambda request=request: read(dsn, "long", request),
            lambda request=request: read(dsn, "short", request),
        )
        kept &= told(
            f"{what} of {LONG:,} events, and of {SHORT:,} in the place of a way by hand",
            ours,
            short,
            1.5,
        )
    few, many = memory(folder, dsn, 20_000), memory(folder, dsn, 100_000)
    print(f"memory of --last 100000: {many:.0f} MB, of --last 20000: {few:.0f} MB (limit 1.3)")
    return 0 if kept and many <= 1.3 * few else 1


if __name__ == "__main__":
    sys.exit(main())
