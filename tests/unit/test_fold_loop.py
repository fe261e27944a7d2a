"""The loop of a fold: which rows it makes without looking at each column's form."""

from __future__ import annotations

import pytest

from esops.postgres.catalog import Column, Table
from esops.readmodel.shape import Shape

COLUMNS = (Column("name", "text", "text"), Column("number", "bigint", "int"))


@pytest.mark.parametrize("key", [("name", "number"), ("number", "name")], ids=",".join)
def test_a_key_takes_the_quick_way_in_whatever_order_its_columns_are(key, monkeypatch):
    slow = []
    made = Shape._slow
    monkeypatch.setattr(Shape, "_slow", lambda *given: slow.append(given) or made(*given))
    table = Table(1, "public", "t", "r", COLUMNS, key, (), "owner", False)
    shape = Shape(table, key, {"name": "value", "number": "int"})
    row = {"name": "a", "number": 7}
    rows = {}
    assert not shape.fold(iter([(tuple(row[name] for name in key), row)]), rows, lambda _, new: new)
    assert list(rows.values()) == [row]
    assert not slow
