"""What handlers and programs write finds its row, makes it, or is an error."""

from __future__ import annotations

from decimal import Decimal

import pytest

from esops.postgres import catalog
from esops.postgres.connection import connect
from esops.projections.kinds.writes import Write, operations
from esops.projections.projector import VersionTables
from esops.readmodel.rows import BadEvent


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
    tables = VersionTables(
        projection="t", version=1, by_name=found,
        keys={name: table.key for name, table in found.items()}, value_types={}, conjoined=False,
        empty=True, cache_rows=10, ensure_keys=lambda: None,
    )  # fmt: skip
    made = Write(tables)
    made.open(connection)
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
