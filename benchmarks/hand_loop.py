"""The plain loop that one would write by hand: psycopg, pages of 20,000 by key, orjson, the same
fold, nothing written.

`fold` calls the fold with an event for each row, as a projection is written. `bare` takes the four
columns that this one fold
needs as plain arguments: the least that any loop in Python can do, and of use to this one fold
alone. `write` does what `fold` does and writes the rows into a table, for others to compare with.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any, NamedTuple

import orjson
import psycopg
from psycopg.types.json import set_json_loads

PAGE = 20_000
Row = dict[str, Any]


class Event(NamedTuple):
    """What one would make of a row."""

    position: int
    stream: str
    version: int
    type: str
    data: dict[str, Any]
    recorded_at: datetime


def fold(row: Row | None, event: Event) -> Row:
    kind, number = event.type, event.position
    if row is None:
        return {
            "cart_id": event.stream,
            "client": event.data["ClientId"],
            "items": 0,
            "total": 0,
            "status": "open",
            "position": number,
        }
    if kind == "product_item_added":
        quantity = event.data["Quantity"]
        return {
            **row,
            "items": row["items"] + quantity,
            "total": row["total"] + quantity * event.data["UnitPrice"],
            "position": number,
        }
    if kind == "product_item_removed":
        quantity = -event.data["Quantity"]
        return {
            **row,
            "items": row["items"] + quantity,
            "total": row["total"] + quantity * event.data["UnitPrice"],
            "position": number,
        }
    return {**row, "status": kind.rpartition("_")[2], "position": number}


def bare(row: Row | None, number: int, stream: str, kind: str, data: dict[str, Any]) -> Row:
    if row is None:
        return {
            "cart_id": stream,
            "client": data["ClientId"],
            "items": 0,
            "total": 0,
            "status": "open",
            "position": number,
        }
    if kind == "product_item_added":
        quantity = data["Quantity"]
        return {
            **row,
            "items": row["items"] + quantity,
            "total": row["total"] + quantity * data["UnitPrice"],
            "position": number,
        }
    if kind == "product_item_removed":
        quantity = -data["Quantity"]
        return {
            **row,
            "items": row["items"] + quantity,
            "total": row["total"] + quantity * data["UnitPrice"],
            "position": number,
        }
    return {**row, "status": kind.rpartition("_")[2], "position": number}


def pages(dsn: str, columns: str, schema: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        set_json_loads(orjson.loads, connection)
        last = 0
        query = (
            f"SELECT {columns} FROM {schema}.mt_events WHERE seq_id > %s ORDER BY seq_id "
            f"LIMIT {PAGE}"
        )
        while rows := connection.execute(query.encode(), (last,)).fetchall():
            yield rows
            last = rows[-1][0]


def main(how: str, dsn: str, schema: str) -> int:
    state: dict[str, Row] = {}
    count = 0
    if how == "bare":
        for rows in pages(dsn, "seq_id, stream_id, type, data", schema):
            for number, stream, kind, data in rows:
                state[stream] = bare(state.get(stream), number, stream, kind, data)
            count += len(rows)
        return count
    for rows in pages(dsn, "seq_id, stream_id, version, type, data, timestamp", schema):
        for event in map(Event._make, rows):
            state[event.stream] = fold(state.get(event.stream), event)
        count += len(rows)
    if how == "write":
        write(dsn, schema, state)
    return count


def write(dsn: str, schema: str, state: dict[str, Row]) -> None:
    """The rows as a table beside the events."""
    table = f"{schema}.by_hand"
    with psycopg.connect(dsn) as connection:
        connection.execute(f"DROP TABLE IF EXISTS {table}".encode())
        connection.execute(
            f"CREATE TABLE {table} (cart_id text, client text, items integer, "
            "total numeric(12, 2), status text, position bigint)".encode()
        )
        with connection.cursor().copy(f"COPY {table} FROM STDIN".encode()) as copy:
            for row in state.values():
                copy.write_row(tuple(row.values()))


if __name__ == "__main__":
    sys.stdout.write(f"{main(*sys.argv[1:])}\n")
