"""`esops rebuild` against the libraries' own rebuilds of the same projection, over the same events
in their own tables.

Limit (docs/explanation/speed.md): at least 100 times as many events a second as Emmett's rebuild
and as the runner of Python's
eventsourcing, for some 20,000 events. Of esops' time for so few most is fixed, and the runner's is
the same for each event: so esops is
measured over fifty times as many of its events, too. Takes node and npm, which gets Emmett. Prints
the figures, and how many rows each
made as they should be; exits with 1 if the limit is not kept (of eventsourcing, by the larger
number).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import orjson
import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.rebuild import timed
from esops.demo.server import EmbeddedServer
from esops.events import NewEvent
from esops.settings import PostgresSettings
from esops.stores import open_store

CARTS, EVENTS = 2_000, 10
LIMIT = 100
PACKAGES = ("@event-driven-io/emmett-postgresql@0.42.0", "@event-driven-io/emmett@0.42.0")
FOLD = """
from esops import fold

@fold(key="stream")
def carts(row, event):
    data = event.json()
    if event.type == "CartOpened":
        return {"client": data["client"], "items": 0, "total": 0, "status": "open"}
    if event.type == "ItemAdded":
        quantity = data["quantity"]
        total = row["total"] + quantity * data["price"]
        return {**row, "items": row["items"] + quantity, "total": total}
    return {**row, "status": "confirmed"}
"""
DDL = (
    "CREATE TABLE {table} (cart text PRIMARY KEY, client text NOT NULL, items int, total "
    "numeric, status text NOT NULL);"
)

BALANCES = """
from esops import fold

@fold(key="stream")
def balances(row, event):
    row = row or {"balance": 0, "deposits": 0}
    amount = event.json().get("amount")
    if amount is None:
        return row
    return {"balance": row["balance"] + amount, "deposits": row["deposits"] + 1}
"""
BALANCES_DDL = (
    "CREATE TABLE {table} (account uuid PRIMARY KEY, balance bigint NOT NULL, deposits "
    "bigint NOT NULL);"
)
MORE = 49
MULTIPLY = """
INSERT INTO accounts_events (originator_id, originator_version, topic, state)
SELECT md5(originator_id::text || n)::uuid, originator_version, topic, state
FROM accounts_events, generate_series(1, %s) AS n ORDER BY n, notification_id
"""
ROOT = Path(__file__).parents[1]


def events(cart: int) -> list[NewEvent]:
    """A cart's life."""
    bodies: list[tuple[str, dict[str, object]]] = [("CartOpened", {"client": f"client-{cart}"})]
    bodies += [("ItemAdded", {"quantity": 1 + n % 3, "price": 5 + n}) for n in range(EVENTS - 2)]
    bodies.append(("CartConfirmed", {}))
    return [NewEvent(str(uuid.uuid4()), kind, orjson.dumps(data)) for kind, data in bodies]


def rebuilt(
    folder: Path, dsn: str, schema: str, name: str, code: str, ddl: str
) -> tuple[dict[str, Any], float]:
    """What `esops rebuild` of one projection told, and the whole process's seconds."""
    (folder / f"{name}.py").write_text(code)
    (folder / f"{name}.sql").write_text(ddl)
    (folder / "esops.toml").write_text(
        f"[stores.s]\ndsn = {json.dumps(dsn)}\n{schema}[projections.{name}_by_esops]\npython = "
        f'"{name}:{name}"\n'
        f'tables = ["{name}_by_esops"]\nddl = "{name}.sql"\n'
    )
    whole, _, output = timed(
        [sys.executable, "-m", "esops", "rebuild", "--blue-green", "--quiet", "--output", "json"],
        folder,
    )
    told: dict[str, Any] = json.loads(output)
    return told, whole


def count(dsn: str, statement: str) -> int:
    """A number that the database tells."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(statement.encode()).fetchone()
    return int(row[0]) if row else 0


def compared(
    who: str, theirs: float, ours: dict[str, Any], whole: float, made: tuple[int, int]
) -> bool:
    """Print both; whether ours is so many times as fast."""
    rate = ours["events"] / theirs
    times = ours["events_per_second"] / rate
    print(
        f"{who}: {ours['events']:,} events in {theirs:.1f} s, {rate:,.0f} a second; esops: "
        f"{ours['seconds']:.2f} s of work",
        end=" ",
    )
    print(
        f"({whole:.2f} s with start-up), {ours['events_per_second']:,} a second: {times:.0f} times "
        f"(limit {LIMIT})",
        end="; ",
    )
    print(f"rows that are as they should be: {made[0]:,} and {made[1]:,}", flush=True)
    return times >= LIMIT


def emmett(folder: Path, dsn: str) -> bool:
    """Emmett from npm: carts of ten events, twenty side by side."""
    subprocess.run(
        [
            "npm",
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--prefix",
            str(folder),
            *PACKAGES,
        ],
        check=True,
    )
    script = shutil.copy(Path(__file__).with_name("node") / "emmett_rebuild.mjs", folder)
    parts = conninfo_to_dict(dsn)
    uri = f"postgresql://{parts['user']}@localhost/{parts['dbname']}?host={parts['host']}"
    subprocess.run(["node", script, uri, "tables"], check=True, timeout=60)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for start in range(0, CARTS, 20):
            lives = {cart: events(cart) for cart in range(start, start + 20)}
            for step in range(EVENTS):
                for cart, life in lives.items():
                    store.append(f"cart-{cart}", life[step : step + 1])
    theirs = json.loads(
        subprocess.run(
            ["node", script, uri, "rebuild"], check=True, capture_output=True, timeout=300
        ).stdout
    )
    ours, whole = rebuilt(folder, dsn, "", "carts", FOLD, DDL)
    made = (
        count(dsn, "SELECT count(*) FROM carts WHERE data ->> 'status' = 'confirmed'"),
        count(dsn, "SELECT count(*) FROM carts_by_esops WHERE status = 'confirmed'"),
    )
    return compared("Emmett 0.42's rebuild", theirs["seconds"], ours, whole, made)


def eventsourcing(folder: Path, dsn: str) -> bool:
    """The library's runner, over accounts that the library wrote."""
    parts = conninfo_to_dict(dsn)
    environment = {
        **os.environ,
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(parts["dbname"]),
        "POSTGRES_HOST": str(parts["host"]),
        "POSTGRES_PORT": str(parts.get("port", 5432)),
        "POSTGRES_USER": str(parts["user"]),
        "POSTGRES_PASSWORD": "none",
    }

    def run(*command: str) -> bytes:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            timeout=300,
        )
        return done.stdout

    run("benchmarks.eventsourcing_runner", "write", "4000")
    last = count(dsn, "SELECT max(notification_id) FROM accounts_events")
    theirs = json.loads(run("benchmarks.eventsourcing_runner", str(last)))
    ours, whole = rebuilt(
        folder, dsn, 'layout = "eventsourcing"\n', "balances", BALANCES, BALANCES_DDL
    )
    same = (
        "SELECT count(*) FROM balances b JOIN balances_by_esops e USING (account, balance, "
        "deposits)"
    )
    made = (count(dsn, "SELECT count(*) FROM balances"), count(dsn, same))
    compared("eventsourcing 9.5's runner", theirs["seconds"], ours, whole, made)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(MULTIPLY.encode(), (MORE,))
        connection.execute("VACUUM ANALYZE accounts_events")
    code = BALANCES.replace("def balances(", "def many_balances(")
    many, whole = rebuilt(
        folder, dsn, 'layout = "eventsourcing"\n', "many_balances", code, BALANCES_DDL
    )
    times = many["events_per_second"] / (ours["events"] / theirs["seconds"])
    print(
        f"esops over {many['events']:,} such events: {many['seconds']:.2f} s of work ({whole:.2f} "
        "s with start-up), "
        f"{many['events_per_second']:,} a second: {times:.0f} times the runner's rate (limit "
        f"{LIMIT}); rows: {many['rows']:,}",
        flush=True,
    )
    return times >= LIMIT


def main() -> int:
    if shutil.which("npm") is None:
        sys.exit("this takes node and npm")
    kept = []
    for peer in (eventsourcing, emmett):
        folder = Path(tempfile.mkdtemp(prefix="esops-bench-"))
        folder.chmod(0o755)
        server = EmbeddedServer(folder / "pg").start()
        try:
            kept.append(peer(folder, server.dsn()))
        finally:
            server.remove()
            shutil.rmtree(folder, ignore_errors=True)
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main())
