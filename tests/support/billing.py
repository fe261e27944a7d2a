"""Carts on EventStoreDB and their totals in Postgres: the configuration, the projection, and the
truth by a plain fold.
"""

from __future__ import annotations

import json

from tests.support.esdb import Nodes

PROJECTION = """
from esops import fold

@fold(key="stream")
def cart_totals(row, event):
    row = row or {"cart": event.stream, "items": 0, "total": 0, "version": 0}
    sign = 1 if event.type == "item_added" else -1
    return {**row, "items": row["items"] + sign, "total": row["total"] + sign * event.json()["amount"], "version": event.version}
"""
DDL = (
    "CREATE TABLE {table} (cart text PRIMARY KEY, items integer NOT NULL, total integer NOT "
    "NULL, version bigint NOT NULL);\n"
)
TYPES = ("item_added", "item_removed")


def configure(project, uri: str, dsn: str, more: str = "") -> None:
    project.write(
        "esops.toml",
        f"""
[stores.billing]
backend = "eventstoredb"
uri = {json.dumps(uri)}

[readmodels.main]
dsn = {json.dumps(dsn)}

[projections.cart_totals]
store = "billing"
python = "totals:cart_totals"
events = ["item_added", "item_removed"]
tables = ["cart_totals"]
ddl = "cart_totals.sql"
{more}
""",
    )
    project.write("totals.py", PROJECTION)
    project.write("cart_totals.sql", DDL)


def truth(nodes: Nodes) -> tuple[dict[str, tuple[int, int, int]], int]:
    """Each cart by a fold over all events that can be read, and how many events there are, by
    esdbclient alone.
    """
    carts: dict[str, tuple[int, int, int]] = {}
    count = 0
    client = nodes.client()
    for event in client.read_all():
        count += 1
        if event.type in TYPES:
            items, total, _ = carts.get(event.stream_name, (0, 0, 0))
            sign = 1 if event.type == "item_added" else -1
            carts[event.stream_name] = (
                items + sign,
                total + sign * json.loads(event.data)["amount"],
                event.stream_position,
            )
    client.close()
    return carts, count


def table(connection, name: str) -> dict[str, tuple[int, int, int]]:
    rows = connection.execute(f"SELECT cart, items, total, version FROM {name}").fetchall()
    assert len({row[0] for row in rows}) == len(rows), "rows were doubled"
    return {row[0]: tuple(row[1:]) for row in rows}
