"""`esops run` over an idle store and under load: statements a second, connections, memory, and how
long after its commit an event is in every version.

Limits (docs/explanation/speed.md), for 20 projections with two versions each: at most 5 statements
a second over an idle store, 8 connections, and 400 MB of resident memory in all processes; under
500 events a second a lag of at most 250 ms (p99). Prints the figures, also for one projection with
two versions; exits with 1 if a limit is not kept. `--isolated` measures the same with
`isolate = true`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from esops.demo import store
from esops.demo.server import EmbeddedServer
from esops.events import NewEvent
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import shop

EVENTS = int(os.environ.get("ESOPS_BENCH_EVENTS", "10000"))
PROJECTIONS = 20
RATE, A_COMMIT = 500, 5
IDLE_SECONDS, LOAD_SECONDS = 60.0, 30.0
LIMITS = {"statements": 5.0, "connections": 8, "megabytes": 400.0, "p99": 0.25}
LOGGED = {
    "log_statement": "'all'",
    "log_line_prefix": "'%a|'",
    "max_connections": "300",
}
ESOPS = [sys.executable, "-m", "esops"]


@dataclass
class Figures:
    """Of one `esops run`."""

    statements: float
    connections: int
    megabytes: float
    lags: list[float]

    @property
    def p99(self) -> float:
        """The lag that one commit in a hundred exceeds, in seconds."""
        return statistics.quantiles(self.lags, n=100)[98]


def configure(folder: Path, dsn: str, projections: int, *, isolate: bool) -> list[str]:
    """The shop with so many projections, all of the same fold."""
    names = [f"carts_{n}" for n in range(projections)]
    text = f'[stores.shop]\ndsn = {json.dumps(dsn)}\nschema = "shop"\nappend = "quick"\n'
    for name in names:
        text += (
            f'[projections.{name}]\npython = "shop_projections:cart_summary"\n'
            f'tables = ["{name}"]\nddl = "carts.sql"\nisolate = {json.dumps(isolate)}\n'
        )
    (folder / "esops.toml").write_text(text)
    (folder / "shop_projections.py").write_text(shop.PROJECTION)
    (folder / "carts.sql").write_text(shop.DDL)
    return names


@contextmanager
def running(folder: Path) -> Iterator[int]:
    """`esops run`, for as long as the block lasts; its process id."""
    with (folder / "run.log").open("w") as said:
        process = subprocess.Popen(
            [*ESOPS, "run"], cwd=folder, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            yield process.pid
            assert process.poll() is None, (folder / "run.log").read_text()
        finally:
            process.terminate()
            process.wait()


def connections(on: psycopg.Connection) -> int:
    """Sessions of esops now."""
    return on.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'esops ')"
    ).fetchone()[0]


def megabytes(pid: int) -> float:
    """What a process and all that it started have in memory."""
    total = 0
    for each in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(
                line.split(":\t", 1) for line in each.read_text().splitlines() if ":\t" in line
            )
        except OSError:
            continue
        if pid in (int(each.parent.name), int(fields["PPid"])):
            total += int(fields.get("VmRSS", "0 kB").split()[0])
    return total / 1024


def logged(log: Path, since: int) -> int:
    """Statements of esops in the server's log after an offset."""
    with log.open("rb") as file:
        file.seek(since)
        return sum(
            line.startswith(b"esops ") and (b"statement: " in line or b"execute " in line)
            for line in file
        )


def reached(on: psycopg.Connection) -> int:
    """The position that all versions have reached."""
    return on.execute(
        "SELECT coalesce(min(position::bigint), 0) FROM esops.versions WHERE state IN "
        "('active', 'standby')"
    ).fetchone()[0]


def lags(dsn: str, seconds: float) -> list[float]:
    """For each commit at the rate, how long until all versions have it; looked at each 10 ms."""
    committed: list[tuple[int, float]] = []
    stop = threading.Event()

    def write() -> None:
        settings = PostgresSettings(dsn=dsn, db_schema="shop", append="quick")
        data = b'{"ProductId":"p","Quantity":1,"UnitPrice":2.5}'
        with open_store("shop", settings) as events:
            due = time.monotonic()
            while not stop.is_set():
                opened = NewEvent(
                    str(uuid.uuid4()), "shopping_cart_opened", b'{"ClientId":"benchmark"}'
                )
                more = [
                    NewEvent(str(uuid.uuid4()), "product_item_added", data)
                    for _ in range(A_COMMIT - 1)
                ]
                last = events.append(str(uuid.uuid4()), [opened, *more])
                committed.append((last[0], time.monotonic()))
                due += A_COMMIT / RATE
                time.sleep(max(0.0, due - time.monotonic()))

    writer = threading.Thread(target=write)
    writer.start()
    ends = time.monotonic() + seconds
    found, at = [], 0
    with psycopg.connect(dsn, autocommit=True, application_name="bench") as on:
        while time.monotonic() < ends or at < len(committed):
            if time.monotonic() >= ends:
                stop.set()
            position, now = reached(on), time.monotonic()
            while at < len(committed) and committed[at][0] <= position:
                found.append(max(0.0, now - committed[at][1]))
                at += 1
            time.sleep(0.01)
            assert now < ends + 60, "versions do not follow"
    stop.set()
    writer.join()
    # What comes while the store wakes up counts as well.
    return found


def measure(folder: Path, server: EmbeddedServer, projections: int, *, isolate: bool) -> Figures:
    """Build the projections, each in two versions, and follow them."""
    dsn = server.dsn()
    with psycopg.connect(dsn, autocommit=True, application_name="bench") as on:
        on.execute("DROP SCHEMA IF EXISTS shop CASCADE; DROP SCHEMA IF EXISTS esops CASCADE")
        on.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        store.create(on)
        store.generate(on, EVENTS)
        names = configure(folder, dsn, projections, isolate=isolate)
        on.execute("ALTER SYSTEM RESET log_statement")
        on.execute("SELECT pg_reload_conf()")
        for _ in range(2):
            for name in names:
                subprocess.run(
                    [*ESOPS, "rebuild", name, "--blue-green", "--quiet", "--yes"],
                    cwd=folder,
                    check=True,
                    capture_output=True,
                )
        with running(folder) as pid:
            deadline = time.monotonic() + 180
            while time.monotonic() < deadline:
                said = (folder / "run.log").read_text().count("following")
                if said > 2 * projections:  # with the sentence that it says first
                    break
                time.sleep(0.2)
            time.sleep(20)
            log, most = server.folder / "log", 0
            begin, since = log.stat().st_size, time.monotonic()
            while time.monotonic() - since < IDLE_SECONDS:
                most = max(most, connections(on))
                time.sleep(0.5)
            statements = logged(log, begin) / (time.monotonic() - since)
            # What it costs to write each statement to the log is no part of the lag.
            on.execute("ALTER SYSTEM SET log_statement = 'none'")
            on.execute("SELECT pg_reload_conf()")
            found: list[float] = []
            worker = threading.Thread(target=lambda: found.extend(lags(dsn, LOAD_SECONDS)))
            worker.start()
            memory = 0.0
            while worker.is_alive():
                most = max(most, connections(on))
                memory = max(memory, megabytes(pid))
                time.sleep(0.5)
            return Figures(statements, most, memory, found)


def told(figures: Figures, what: str) -> None:
    print(
        f"{what}: {figures.statements:.1f} statements a second when idle, {figures.connections} "
        f"connections, {figures.megabytes:.0f} MB, lag {statistics.median(figures.lags) * 1000:.0f}"
        f" ms (median), {figures.p99 * 1000:.0f} ms (p99) of {len(figures.lags)} commits",
        flush=True,
    )


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="esops-bench-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "pg", LOGGED).start()
    isolated = "--isolated" in sys.argv
    try:
        one = measure(folder, server, 1, isolate=isolated)
        told(one, "1 projection, 2 versions")
        many = measure(folder, server, PROJECTIONS, isolate=isolated)
        told(many, f"{PROJECTIONS} projections, {2 * PROJECTIONS} versions")
        kept = (
            max(one.statements, many.statements) <= LIMITS["statements"]
            and many.connections <= LIMITS["connections"]
            and many.megabytes <= LIMITS["megabytes"]
            and one.p99 <= LIMITS["p99"]
        )
        print(f"limits: {LIMITS}")
        return int(not kept)
    finally:
        server.remove()


if __name__ == "__main__":
    sys.exit(main())
