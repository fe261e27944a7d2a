"""The plain loop that one would write by hand: psycopg, pages of 20,000 by key, orjson, the same fold, nothing written."""

from __future__ import annotations

import sys
from typing import Any

import orjson
import psycopg
from psycopg.types.json import set_json_loads

PAGE = 20_000


def main(dsn: str, schema: str) -> int:
    connection = psycopg.connect(dsn, autocommit=True)
    set_json_loads(orjson.loads, connection)
    state: dict[str, dict[str, Any]] = {}
    last = count = 0
    while True:
        rows = connection.execute(
            f"SELECT seq_id, stream_id, type, data FROM {schema}.mt_events WHERE seq_id > %s ORDER BY seq_id LIMIT {PAGE}".encode(),
            (last,),
        ).fetchall()
        if not rows:
            return count
        for number, stream, kind, data in rows:
            row = state.get(stream)
            if kind == "product_item_added":
                assert row is not None
                quantity = data["Quantity"]
                row = {
                    **row,
                    "items": row["items"] + quantity,
                    "total": row["total"] + quantity * data["UnitPrice"],
                    "position": number,
                }
            elif kind == "product_item_removed":
                assert row is not None
                quantity = -data["Quantity"]
                row = {
                    **row,
                    "items": row["items"] + quantity,
                    "total": row["total"] + quantity * data["UnitPrice"],
                    "position": number,
                }
            elif kind == "shopping_cart_opened":
                row = {
                    "cart_id": stream,
                    "client": data["ClientId"],
                    "items": 0,
                    "total": 0,
                    "status": "open",
                    "position": number,
                }
            else:
                row = {**(row or {}), "status": kind.rpartition("_")[2], "position": number}
            state[stream] = row
        last = rows[-1][0]
        count += len(rows)


if __name__ == "__main__":
    sys.stdout.write(f"{main(sys.argv[1], sys.argv[2])}\n")
