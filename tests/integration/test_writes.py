"""What handlers and programs write finds its row, makes it, or is an error."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from esops.postgres import catalog
from esops.postgres.connection import connect
from esops.projections.kinds.writes import Write, operations
from esops.projections.projector import VersionTables
from esops.readmodel.rows import BadEvent


def opened(connection, tables) -> Write:
    """What handlers write to, over these tables by name."""
    made = Write(
        VersionTables(
            projection="t", version=1, by_name=tables,
            keys={name: table.key for name, table in tables.items()}, value_types={},
            conjoined=False, empty=True, cache=1 << 20, ensure_keys=lambda: None,
        )
    )  # fmt: skip
    made.open(connection)
    return made


@pytest.fixture
def write(dsn):
    connection = connect(dsn, "test")
    connection.execute(
        "CREATE TABLE t (id uuid, n int, PRIMARY KEY (id, n), a integer NOT NULL DEFAULT 10, "
        "b numeric(8, 2), must text NOT NULL DEFAULT 'x', c double precision DEFAULT NULL, "
        "given text, later timestamptz DEFAULT now())"
    )
    connection.execute("CREATE TABLE strict (id text PRIMARY KEY, n int, must text NOT NULL)")
    found = {name: catalog.find_table(connection, "public", name) for name in ("t", "strict")}
    made = opened(connection, found)
    yield made
    connection.close()


ID = "00000000-0000-0000-0000-000000000abc"


def test_an_increment_makes_the_row_with_its_defaults(write):
    key = {"id": ID, "n": 1}
    for _ in range(3):
        write.increment("t", key, {"a": 1, "b": 0.5, "c": 2})
        write.check()
    row = write.get("t", key)
    assert (row["a"], row["b"], row["c"], row["must"]) == (13, Decimal("1.50"), 6.0, "x")
    write.update("t", key, {"b": None})
    write.increment("t", key, {"b": Decimal("0.25")})
    assert write.get("t", key)["b"] == Decimal("0.25"), "NULL counts as none"


def test_an_increment_of_a_row_that_is_there_needs_nothing_else(write):
    write.insert("strict", {"id": "a", "n": 1, "must": "x"})
    write.increment("strict", {"id": "a"}, {"n": 2})
    assert write.get("strict", {"id": "a"})["n"] == 3


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "update", "table": "strict", "key": {"id": "no"}, "set": {"n": 1}},
        {"op": "increment", "table": "t", "key": {"id": ID}, "by": {"a": 1}},
        {"op": "increment", "table": "t", "key": {"id": ID, "n": 1}, "by": {"n": 1}},
    ],
)
def test_a_write_that_finds_no_row_is_an_error(write, operation):
    with pytest.raises(BadEvent):
        operations(write, [operation])
        write.check()


def test_what_may_be_missing(write):
    operations(
        write,
        [
            {"op": "update", "table": "strict", "key": {"id": "no"}, "set": {"n": 1},
             "optional": True},
            {"op": "delete", "table": "strict", "key": {"id": "no"}},
        ],
    )  # fmt: skip
    write.check()


COLUMNS = {
    "whole": "int", "price": "numeric(8, 2)", "own": "amount", "few": "real", "many": "float8",
    "label": "name", "cash": "money", "span": "interval(0)", "at": "timestamptz(0)", "day": "date",
    "clock": "time", "short": "varchar(3)", "doc": "jsonb", "list": "int[]",
    "prices": "numeric(8, 2)[]", "pair": "pair", "any": "numeric",
}  # fmt: skip
CHANGED = [
    ("whole", 2.6), ("whole", Decimal("0.5")), ("price", 12.345), ("price", "12.345"),
    ("own", "12.345"), ("own", Decimal("12.345")), ("few", 0.123456789), ("many", 2**53 + 1),
    ("label", "x" * 70), ("cash", "1.239"), ("span", "1.6 s"),
    ("span", timedelta(milliseconds=400)), ("at", "2026-01-01T00:00:00.4Z"),
    ("at", datetime(2026, 1, 1, 0, 0, 0, 400_000, UTC)), ("day", datetime(2026, 1, 1, 10)),
    ("day", "2026-01-01T10:00:00"), ("clock", datetime(2026, 1, 1, 10)),
    ("clock", "03:04:05+02:00"), ("clock", "03:04:05.5 Z"), ("day", "2026-01-01T00:00:00+02:00"),
    ("clock", timedelta(days=1)), ("short", "abc "), ("doc", {"a": [math.nan]}),
    ("list", [1, 2.6]), ("list", [[2.6]]), ("prices", "{12.345}"), ("prices", [12.345]),
    ("pair", "(1,12.345)"),
]  # fmt: skip
KEPT = [
    ("whole", 2.0), ("price", 0.1 + 0.2), ("price", "12.3"), ("own", 12.34), ("own", "12.3"),
    ("few", 0.1), ("many", 0.1), ("label", "x" * 63), ("cash", "$1,000.2"), ("cash", "1"),
    ("span", timedelta(seconds=1)), ("span", "1 mon"), ("at", "2026-01-01T00:00:00Z"),
    ("day", date(2026, 1, 1)), ("day", "2026-01-01"), ("day", "infinity"), ("clock", "24:00"),
    ("day", datetime(2026, 1, 1)), ("day", "2026-01-01T00:00:00Z"), ("clock", "03:04:05.5"),
    ("short", "abc"), ("doc", {"a": [0.1, None]}), ("list", [1, None, 2.0]), ("prices", "{12.3}"),
    ("pair", "(1,12.30)"), ("any", 0.1234567890123456), ("any", "Infinity"),
]  # fmt: skip


@pytest.fixture
def columns(dsn):
    connection = connect(dsn, "test")
    connection.execute("CREATE DOMAIN amount AS numeric(8, 2) CHECK (VALUE >= 0)")
    connection.execute("CREATE TYPE pair AS (a int, b numeric(8, 2))")
    ddl = ", ".join(f'"{name}" {kind}' for name, kind in COLUMNS.items())
    connection.execute(f"CREATE TABLE t (id int PRIMARY KEY, {ddl})".encode())
    table = catalog.find_table(connection, "public", "t")
    assert table is not None
    made = opened(connection, {"t": table})
    yield made, connection
    connection.close()


def test_a_value_that_its_column_would_change_is_an_error(columns):
    write, connection = columns
    with connection.pipeline():
        for name, value in CHANGED:
            for send in (
                lambda row: write.insert("t", {"id": 1, **row}),
                lambda row: write.upsert("t", {"id": 1, **row}),
                lambda row: write.update("t", {"id": 1}, row),
            ):
                with pytest.raises(BadEvent) as bad:
                    send({name: value})
                for told in (f"{name} = ", type(value).__name__, "cannot hold"):
                    assert told in bad.value.reason
    assert write.get("t", {"id": 1}) is None


def test_a_value_that_its_column_holds_is_written(columns):
    write, connection = columns
    with connection.pipeline():
        for n, (name, value) in enumerate(KEPT):
            write.insert("t", {"id": float(n), name: value})
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (len(KEPT),)
    assert connection.execute('SELECT "any"::text FROM t WHERE "any" < 1').fetchall() == [
        ("0.1234567890123456",)
    ]


@pytest.mark.parametrize("key", [{"id": 1}, {"whole": 1}])
def test_what_is_added_is_added_exactly(columns, key):
    write, _ = columns
    write.insert("t", {"id": 1, "whole": 1, "own": 5})
    for by in (
        {"few": 0.123456789}, {"price": 0.001}, {"own": "0.001"},
        {"span": timedelta(milliseconds=400)}, {"at": timedelta(milliseconds=400)},
        {"day": timedelta(hours=5)}, {"cash": "0.001"},
    ):  # fmt: skip
        with pytest.raises(BadEvent, match="cannot hold"):
            write.increment("t", key, by)
    with pytest.raises(BadEvent, match="whole = 0.4"):
        write.increment("t", {"id": 1}, {"whole": 0.4})
    with pytest.raises(BadEvent, match="id = 2.6"):
        write.increment("t", {"id": 2.6}, {"whole": 1})
    for _ in range(10):
        write.increment("t", key, {"price": 0.1, "own": -0.1, "many": 0.5})
    write.check()
    row = write.get("t", {"id": 1})
    assert (row["own"], row["price"], row["many"]) in {
        (Decimal("4.00"), Decimal("1.00"), 5.0),
        (Decimal("4.00"), None, None),  # NULL stays NULL where several rows may be meant
    }


def test_the_error_of_an_earlier_statement_is_its_own(columns):
    write, connection = columns
    with pytest.raises(psycopg.errors.UniqueViolation), connection.pipeline():
        write.insert("t", {"id": 1})
        write.insert("t", {"id": 1})
        write.insert("t", {"id": 2, "label": "x"})


def test_columns_that_a_key_includes_are_none_of_the_key(dsn):
    connection = connect(dsn, "test")
    connection.execute(
        "CREATE TABLE t (id text, client text, n int, PRIMARY KEY (id) INCLUDE (client))"
    )
    table = catalog.find_table(connection, "public", "t")
    assert table is not None
    assert table.key == ("id",)
    write = opened(connection, {"t": table})
    for client in ("x", "y"):
        write.upsert("t", {"id": "a", "client": client})
        write.increment("t", {"id": "a"}, {"n": 1})
    assert write.get("t", {"id": "a"}) == {"id": "a", "client": "y", "n": 2}
    connection.close()
