"""`esops projection check` against the rebuild that made the rows: a full check that has to find
every fault that was planted, and one of 1 % of the keys.

ESOPS_BENCH_EVENTS is the number of events (ten a row); 1,000 faults of five kinds are planted, or
one for ten rows where there are few: rows that are missing, that have missed their last event, that
have counted one twice, that differ in one column, and that nobody's events make. 20 samples say how
often one finds a fault rate of 0.1 %, beside the probability that they state.

Limits: a full check takes at most 6 times as long as the rebuild, one of 1 % at most 0.4 times.
Exits with 1 where one is not kept, or where what is found is not what was planted.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg

from benchmarks.rebuild import used
from esops.demo import store
from esops.demo.server import EmbeddedServer
from tests.support import shop

EVENTS = int(os.environ.get("ESOPS_BENCH_EVENTS", "1000000"))
SAMPLES = int(os.environ.get("ESOPS_BENCH_SAMPLES", "20"))
FULL, PART = 6.0, 0.4
_CLEAN = 200_000
"""Rows up to which all are also checked before a fault is planted."""
TABLE = "cart_summary__v1"


def asked(folder: Path, *arguments: str) -> tuple[dict[str, Any], float, float]:
    """What a command says, how long it takes, and its seconds of CPU."""
    command = [sys.executable, "-m", "esops", *arguments, "--quiet", "--output", "json"]
    usage = used(command, folder, codes=(0, 1))
    return json.loads(usage.output), usage.seconds, usage.cpu


def check(folder: Path, *options: str) -> tuple[dict[str, Any], float, float]:
    return asked(folder, "projection", "check", "cart_summary", *options)


def plant(connection: psycopg.Connection, faults: int) -> set[str]:
    """Plant faults of five kinds; returns their keys."""
    each = faults // 5
    rows = connection.execute(
        f"SELECT cart_id FROM {TABLE} ORDER BY md5(cart_id) LIMIT %s", (4 * each,)
    ).fetchall()
    keys = [row[0] for row in rows]
    missing, stale, doubled, column = (keys[at * each : (at + 1) * each] for at in range(4))
    surplus = [f"surplus-{number}" for number in range(each)]
    connection.execute(f"DELETE FROM {TABLE} WHERE cart_id = ANY(%s)", (missing,))
    connection.execute(
        f"UPDATE {TABLE} SET status = 'open', position = position - 1 WHERE cart_id = ANY(%s)",
        (stale,),
    )
    connection.execute(
        f"UPDATE {TABLE} SET items = items + 1, total = total + 7 WHERE cart_id = ANY(%s)",
        (doubled,),
    )
    connection.execute(
        f"UPDATE {TABLE} SET client = client || '!' WHERE cart_id = ANY(%s)", (column,)
    )
    connection.execute(
        f"INSERT INTO {TABLE} SELECT k, 'x', 1, 1, 'open', 1 FROM unnest(%s::text[]) AS k",
        (surplus,),
    )
    return {*missing, *stale, *doubled, *column, *surplus}


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="esops-bench-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "pg").start()
    try:
        dsn = server.dsn()
        with psycopg.connect(dsn, autocommit=True) as connection:
            store.create(connection)
            store.generate(connection, EVENTS)
            connection.execute("VACUUM ANALYZE")
            project = SimpleNamespace(
                folder=folder, write=lambda name, text: (folder / name).write_text(text)
            )
            shop.configure(project, dsn)
            built, took, _ = asked(folder, "rebuild", "--blue-green")
            print(
                f"rebuild: {built['rows']:,} rows of {EVENTS:,} events in {took:.1f} s", flush=True
            )
            return measured(folder, connection, built["rows"], took)
    finally:
        server.remove()


def measured(folder: Path, connection: psycopg.Connection, rows: int, rebuild: float) -> int:
    if rows <= _CLEAN:
        clean, seconds, cpu = check(folder, "--sample", "all")
        print(
            f"full check, all well: {clean['keys']:,} keys in {seconds:.1f} s, {cpu:.1f} s of CPU"
        )
        assert clean["differing"] == 0
    part, of_part, cpu = check(folder, "--sample", "1%", "--seed", "one")
    print(
        f"1 %: {part['keys']:,} keys and {part['events']:,} events in {of_part:.1f} s, "
        f"{cpu:.1f} s of CPU",
        flush=True,
    )
    planted = plant(connection, min(1_000, rows // 10))
    wrong, seconds, cpu = check(folder, "--sample", "all")
    kept = connection.execute(
        "SELECT key[1] FROM esops.check_keys WHERE check_id = %s", (wrong["check"],)
    ).fetchall()
    exact = {row[0] for row in kept} == planted
    print(
        f"full check, {len(planted):,} faults planted: {wrong['differing']:,} found "
        f"({'exactly these' if exact else 'NOT these'}) in {seconds:.1f} s, {cpu:.1f} s of CPU",
        flush=True,
    )
    runs = [check(folder, "--sample", "1%")[0] for _ in range(SAMPLES)]
    found = sum(run["differing"] > 0 for run in runs)
    stated = sum(run["finds"]["probability"] for run in runs) / max(1, len(runs))
    print(f"{SAMPLES} samples of 1 %: {found} found faults; stated for 1 in 1,000: {stated:.4f}")
    full, part_of = seconds / rebuild, of_part / rebuild
    print(f"against the rebuild: full {full:.2f} times, 1 % {part_of:.2f} times", flush=True)
    print(f"limits: {FULL} and {PART}")
    return int(not exact or full > FULL or part_of > PART)


if __name__ == "__main__":
    sys.exit(main())
