"""How long commands take that do nearly nothing, as whole processes in turn with what they are
compared with.

Limits: `esops --help` at most 1.3 times `python -c "import typer"`; `esops projection list` at most
0.35 s more than a process that connects with psycopg. `esops trace event` by an id that has an
index is shown beside a process that asks for that event by psycopg, without a limit. Prints the
figures, and the CPU that the processes themselves took, which says more on a machine with other
work; exits with 1 if a limit is not kept.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psycopg

from esops.demo import store
from esops.demo.server import EmbeddedServer

HERE = Path(__file__).parent
RUNS, HELP_LIMIT, LIST_LIMIT_SECONDS = 21, 1.3, 0.35
ESOPS = str(Path(sys.executable).with_name("esops"))
DDL = """CREATE TABLE {table} (cart_id text PRIMARY KEY, client text, items integer,
    total numeric(12, 2), status text, position bigint)"""


class Took(NamedTuple):
    """Seconds of a process."""

    wall: float
    cpu: float


def took(command: list[str], folder: Path) -> Took:
    begin, before = time.perf_counter(), _cpu()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=folder)
    return Took(time.perf_counter() - begin, _cpu() - before)


def _cpu() -> float:
    """Seconds of all processes that this one has waited for; servers are none of them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def in_turn(folder: Path, *commands: list[str]) -> list[list[Took]]:
    """What each command took, run after run."""
    runs = [[took(each, folder) for each in commands] for _ in range(RUNS)]
    return [list(each) for each in zip(*runs, strict=True)]


def compared(folder: Path, ours: tuple[str, list[str]], theirs: tuple[str, list[str]]) -> Took:
    """Print what two commands took, each with its name, and return how much longer ours takes."""
    both = in_turn(folder, ours[1], theirs[1])
    medians = [
        Took(*(statistics.median(each) for each in zip(*runs, strict=True))) for runs in both
    ]
    more = Took(*(a - b for a, b in zip(*medians, strict=True)))
    for (name, _), median in zip((ours, theirs), medians, strict=True):
        print(f"{name}: {median.wall * 1000:.0f} ms, {median.cpu * 1000:.0f} ms of CPU")
    print(f"  {more.wall * 1000:.0f} ms more, {more.cpu * 1000:.0f} ms of CPU", flush=True)
    return more


def help_ratio(folder: Path) -> float:
    helps, bare = in_turn(folder, [ESOPS, "--help"], [sys.executable, "-c", "import typer"])
    wall, cpu = (
        statistics.median(a[at] / b[at] for a, b in zip(helps, bare, strict=True)) for at in (0, 1)
    )
    print(
        f"esops --help against import typer: {wall:.2f} times, {cpu:.2f} times the CPU (medians of "
        f"{RUNS} pairs, limit at most {HELP_LIMIT})",
        flush=True,
    )
    return wall


def with_database(folder: Path, dsn: str) -> float:
    """How many seconds longer `esops projection list` takes than to connect."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        store.create(connection)
        store.generate(connection, 1_000)
        # Without it, a trace by id reads the whole log.
        connection.execute(f"CREATE UNIQUE INDEX ON {store.SCHEMA}.mt_events (id)")
        row = connection.execute(
            f"SELECT id::text FROM {store.SCHEMA}.mt_events ORDER BY seq_id LIMIT 1"
        ).fetchone()
    assert row is not None
    shutil.copy(HERE / "project" / "bench_projection.py", folder)
    (folder / "carts.sql").write_text(DDL)
    (folder / "esops.toml").write_text(
        f'[stores.shop]\ndsn = {json.dumps(dsn)}\nschema = "{store.SCHEMA}"\n[projections.carts]\n'
        'python = "bench_projection:carts"\ntables = ["carts"]\nddl = "carts.sql"\n'
    )
    took([ESOPS, "rebuild", "carts", "--blue-green", "--quiet"], folder)
    bare = f"import psycopg; connection = psycopg.connect({dsn!r})"
    query = f"SELECT * FROM {store.SCHEMA}.mt_events WHERE id = '{row[0]}'"
    more = compared(
        folder,
        ("esops projection list", [ESOPS, "projection", "list"]),
        ("psycopg connects", [sys.executable, "-c", bare]),
    )
    print(f"  (medians of {RUNS} pairs, limit at most {LIST_LIMIT_SECONDS * 1000:.0f} ms)")
    compared(
        folder,
        ("esops trace event", [ESOPS, "trace", "event", row[0]]),
        (
            "psycopg asks for the event",
            [sys.executable, "-c", f"{bare}; connection.execute({query!r}).fetchall()"],
        ),
    )
    return more.wall


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="esops-bench-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "pg").start()
    try:
        ratio, more = help_ratio(folder), with_database(folder, server.dsn())
    finally:
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if ratio <= HELP_LIMIT and more <= LIST_LIMIT_SECONDS else 1


if __name__ == "__main__":
    raise SystemExit(main())
