"""Rows on their way into a table: what is written comes back, and what a column cannot hold is said."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest

from esops.postgres import catalog
from esops.readmodel.rows import BadEvent, Rows

TABLE = """
CREATE TABLE things (id text PRIMARY KEY, whole bigint, exact numeric(12, 2), real double precision,
    day date, at timestamptz, name uuid, document jsonb, words text[], yes boolean)
"""
VALUES = {
    "whole": 2**62,
    "exact": Decimal("12.34"),
    "real": 0.1,
    "day": date(2026, 2, 28),
    "at": datetime(2026, 2, 28, 1, 2, 3, 456789, tzinfo=UTC),
    "name": UUID("0b1c2a4e-8f6d-4c55-9d0e-3a2b1c0d9e01"),
    "document": {"a": [1, None, "ü\u2028"]},
    "words": ["a", 'b"\\', ""],
    "yes": True,
}


@pytest.fixture
def rows(connection):
    connection.execute(TABLE)
    table = catalog.find_table(connection, "public", "things")
    assert table is not None
    return Rows(table, ("id",), {}, lambda: None)


def test_a_row_comes_back_as_it_was_written(rows, connection):
    row = {"id": "a", **VALUES}
    rows.shape.open(connection)
    kept = {"a": None}
    while rows.shape.fold(iter([("a", row)]), kept, lambda _, given: given):
        pass
    assert kept == {"a": row}
    assert kept["a"] is not row
    rows.insert(connection, [row])
    assert list(rows.read(connection, ["a"])) == [("a", row)]


def test_a_row_is_written_over_and_deleted(rows, connection):
    rows.insert(connection, [{"id": name, **VALUES} for name in "abc"])
    changed = [{"id": "b", **VALUES, "whole": 1}, {"id": "d", **VALUES, "whole": 2}]
    with connection.transaction():
        rows.upsert(connection, changed)
        assert rows.delete(connection, ["a", "nobody"]) == 1
    assert connection.execute("SELECT id, whole FROM things ORDER BY id").fetchall() == [
        ("b", 1),
        ("c", 2**62),
        ("d", 2),
    ]


@pytest.mark.parametrize(
    ("column", "value"),
    [("whole", "ten"), ("whole", 2**70), ("day", "the day"), ("name", "x"), ("nothing", 1)],
)
def test_what_a_column_cannot_hold_is_an_error(rows, connection, column, value):
    with pytest.raises(Exception) as wrong, connection.transaction():
        rows.insert(connection, [{"id": "a", column: value}])
    assert isinstance(wrong.value, BadEvent) or "psycopg" in type(wrong.value).__module__
    assert connection.execute("SELECT count(*) FROM things").fetchone() == (0,)
