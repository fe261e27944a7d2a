"""The shop for tests: its configuration, its projection, and the truth about its read model by a
plain fold.
"""

from __future__ import annotations

import json
import subprocess
from decimal import Decimal

import psycopg

from esops.demo import store
from tests.support.waiting import finish
from tests.support.warm import Forked, module

PROJECTION = """
from esops import fold

@fold(key="stream")
def cart_summary(row, event):
    data, kind = event.json(), event.type
    at = event.position[0]
    if kind == "shopping_cart_opened":
        return {"cart_id": event.stream, "client": data["ClientId"], "items": 0, "total": 0, "status": "open", "position": at}
    sign = {"product_item_added": 1, "product_item_removed": -1}.get(kind)
    if sign is not None:
        count = sign * data["Quantity"]
        return {**row, "items": row["items"] + count, "total": row["total"] + count * data["UnitPrice"], "position": at}
    return {**row, "status": kind.rpartition("_")[2], "position": at}
"""

DDL = """
CREATE TABLE {table} (
    cart_id text PRIMARY KEY, client text NOT NULL, items integer NOT NULL, total numeric(12, 2) NOT
    NULL,
    status text NOT NULL, position bigint NOT NULL
);
CREATE INDEX ON {table} (status, total);
COMMENT ON TABLE {table} IS 'what is in each cart';
"""


def configure(
    project,
    dsn: str,
    *,
    store_options: str = 'append = "quick"',
    projection_options: str = "",
    code: str = PROJECTION,
    ddl: str = DDL,
):
    quoted = json.dumps(dsn)
    project.write(
        "esops.toml",
        f"""
[stores.shop]
dsn = {quoted}
schema = "shop"
{store_options}

[projections.cart_summary]
python = "shop_projections:cart_summary"
tables = ["cart_summary"]
ddl = "cart_summary.sql"
{projection_options}
""",
    )
    project.write("shop_projections.py", code)
    project.write("cart_summary.sql", ddl)


def truth(connection, up_to: int, schema: str = "shop") -> dict[str, tuple]:
    """Each cart as the events up to a number say, folded one by one."""
    carts: dict[str, list] = {}
    for number, stream, kind, data in connection.execute(
        f"SELECT seq_id, stream_id, type, data FROM {schema}.mt_events WHERE seq_id <= %s ORDER "
        "BY seq_id",
        (up_to,),
    ):
        cart = carts.setdefault(stream, [None, 0, Decimal(0), "open", 0])
        if kind == "shopping_cart_opened":
            cart[0] = data["ClientId"]
        elif kind.startswith("product"):
            count = data["Quantity"] if kind.endswith("added") else -data["Quantity"]
            cart[1] += count
            cart[2] += count * data["UnitPrice"]
        else:
            cart[3] = kind.rpartition("_")[2]
        cart[4] = number
    return {name: tuple(cart) for name, cart in carts.items()}


def table(connection, name: str) -> dict[str, tuple]:
    rows = connection.execute(
        f"SELECT cart_id, client, items, total, status, position FROM {name}"
    ).fetchall()
    assert len({row[0] for row in rows}) == len(rows), "rows were doubled"
    return {row[0]: tuple(row[1:]) for row in rows}


def check_version(connection, version: int) -> int:
    """A version's table is the fold of exactly the events up to its checkpoint.

    Returns the number of rows.
    """
    with connection.transaction():
        position = connection.execute(
            "SELECT position FROM esops.versions WHERE projection = 'cart_summary' AND version = "
            "%s FOR UPDATE",
            (version,),
        ).fetchone()[0]
        found = table(connection, f"cart_summary__v{version}")
    expected = truth(connection, int(position))
    assert found == expected, (
        f"v{version} at {position}: {len(found)} rows, expected {len(expected)}"
    )
    count = connection.execute(
        "SELECT rows FROM esops.versions WHERE version = %s", (version,)
    ).fetchone()[0]
    assert count == len(expected)
    return len(found)


class Workload:
    """An application's writers and readers, in processes of their own."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen | Forked] = []

    def add(self, who: str, dsn: str, **options) -> None:
        arguments = [who, dsn]
        for name, value in options.items():
            arguments += (
                [f"--{name}"]
                if value is True
                else [f"--{name}", str(value)]
                if value is not False
                else []
            )
        process = module("esops.demo.workload", *arguments)
        assert process.stdout.readline() == "ready\n"
        self._running.append(process)

    def stop(self) -> list[dict]:
        for process in self._running:
            process.terminate()
        reports = [json.loads(finish(process)[0]) for process in self._running]
        self._running = []
        return reports

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._running:
            process.kill()


def make(dsn: str, events: int = 0) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        store.create(connection)
        if events:
            store.generate(connection, events)


def more(dsn: str, events: int) -> None:
    """Carts of new customers after all that there are."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        (last,) = connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()
        store.generate(connection, events, after=last, first_cart=last)
