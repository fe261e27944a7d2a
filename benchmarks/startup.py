"""How long commands take that do nearly nothing, as whole processes in turn with what they are
compared with.

Limits: `esops --help` at most 1.3 times `python -c "import typer"`; `esops projection list` at most
0.35 s more than a process that connects with psycopg. Prints the figures; exits with 1 if a limit
is not kept.
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
RUNS, HELP_LIMIT, LIST_LIMIT_SECONDS = 21, 1.3, 0.35
ESOPS = str(Path(sys.executable).with_name("esops"))
DDL = """CREATE TABLE {table} (cart_id text PRIMARY KEY, client text, items integer,
    total numeric(12, 2), status text, position bigint)"""


def seconds(command: list[str], folder: Path) -> float:
    # A command that is installed has been compiled.
    compiled = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=compiled, cwd=folder)
    return time.perf_counter() - begin


def in_turn(folder: Path, *commands: list[str]) -> list[list[float]]:
    """The seconds of each command, run after run."""
    runs = [[seconds(each, folder) for each in commands] for _ in range(RUNS)]
    return [list(each) for each in zip(*runs, strict=True)]


def help_ratio(folder: Path) -> float:
    helps, bare = in_turn(folder, [ESOPS, "--help"], [sys.executable, "-c", "import typer"])
    ratio = statistics.median(first / second for first, second in zip(helps, bare, strict=True))
    print(
        f"esops --help {statistics.median(helps) * 1000:.0f} ms, import typer "
        f"{statistics.median(bare) * 1000:.0f} ms: {ratio:.2f} times (median of {RUNS} pairs, "
        f"limit at most {HELP_LIMIT})"
    )
    return ratio


def list_seconds(folder: Path, dsn: str) -> float:
    """How much longer `esops projection list` takes than to connect."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        store.create(connection)
        store.generate(connection, 1_000)
    shutil.copy(HERE / "project" / "bench_projection.py", folder)
    (folder / "carts.sql").write_text(DDL)
    (folder / "esops.toml").write_text(
        f'[stores.shop]\ndsn = {json.dumps(dsn)}\nschema = "{store.SCHEMA}"\n[projections.carts]\n'
        'python = "bench_projection:carts"\ntables = ["carts"]\nddl = "carts.sql"\n'
    )
    seconds([ESOPS, "rebuild", "carts", "--blue-green", "--quiet"], folder)
    connect = [sys.executable, "-c", f"import psycopg; psycopg.connect({dsn!r}).close()"]
    lists, bare = in_turn(folder, [ESOPS, "projection", "list"], connect)
    more = statistics.median(first - second for first, second in zip(lists, bare, strict=True))
    print(
        f"esops projection list {statistics.median(lists) * 1000:.0f} ms, psycopg connect "
        f"{statistics.median(bare) * 1000:.0f} ms: {more * 1000:.0f} ms more (median of {RUNS} "
        f"pairs, limit at most {LIST_LIMIT_SECONDS * 1000:.0f})"
    )
    return more


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="esops-bench-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "pg").start()
    try:
        ratio, more = help_ratio(folder), list_seconds(folder, server.dsn())
    finally:
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if ratio <= HELP_LIMIT and more <= LIST_LIMIT_SECONDS else 1


if __name__ == "__main__":
    raise SystemExit(main())
