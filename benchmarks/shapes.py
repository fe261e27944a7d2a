"""Stores of the shapes that event logs have, each made by one statement of the server's.

`carts`: streams of ten events that live briefly, one after the other, as the demo's do.
`interleaved`: 100,000 live streams; event n belongs to stream n mod 100,000.
`zipf`: a stream's share of the events falls with its rank; the hottest have some 10,000 events
each, among very many short ones, and all are mixed.
"""

from __future__ import annotations

import math
from pathlib import Path

import psycopg

from esops.demo import store

SHAPES = ("carts", "interleaved", "zipf")
STATEMENT = Path(__file__).parent / "shapes.sql"
LIVE = 100_000
HOTTEST = 10_000
"""Events of the hottest stream of `zipf`."""


def schema_of(shape: str, events: int) -> str:
    """The schema that has the store."""
    return f"{shape}_{events}"


def ensure(connection: psycopg.Connection, shape: str, events: int) -> str:
    """Make the store, unless it is there. Returns its schema's name.

    The connection commits by itself.
    """
    schema = schema_of(shape, events)
    made = "SELECT to_regclass(%s) IS NOT NULL"
    if connection.execute(made, (f"{schema}.made",)).fetchone() == (True,):
        return schema
    connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())
    store.create(connection, schema)
    if shape == "carts":
        store.generate(connection, events, schema)
    else:
        text = STATEMENT.read_text(encoding="utf-8")
        values = {"schema": schema, "events": str(events), "of": _stream_of(shape, events)}
        for key, value in values.items():
            text = text.replace("{" + key + "}", value)
        with connection.transaction():
            connection.execute(text.encode())
        connection.execute(f"ANALYZE {schema}.mt_events, {schema}.mt_streams".encode())
    connection.execute(f"VACUUM {schema}.mt_events, {schema}.mt_streams".encode())
    connection.execute(f"CREATE TABLE {schema}.made ()".encode())
    return schema


def _stream_of(shape: str, events: int) -> str:
    """SQL for the number of the stream that the event n belongs to."""
    if shape == "interleaved":
        return f"n % {LIVE}"
    # Zipf-Mandelbrot with exponent 1: rank r has a share of 1 / (r + shift). The inverse of its
    # distribution is exponential in a number between 0 and 1, here a hash of n.
    shift = _shift(events)
    chance = "((hashint8extended(n, 1) & 1125899906842623)::float8 / 1125899906842624)"
    return f"floor({shift} * exp({chance} * {math.log((events + shift) / shift)}) - {shift})::int"


def _shift(events: int) -> float:
    """Which shift gives the hottest stream HOTTEST events, among as many streams as events."""
    shift = 1.0
    for _ in range(50):
        shift = max(0.1, events / HOTTEST / math.log((events + shift) / shift))
    return shift
