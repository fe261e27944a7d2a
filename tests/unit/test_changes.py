"""What differs between two rows, by column and by path into JSON."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from esops.check.changes import changes, counted, shown_row


def test_what_differs_is_named_by_column_and_by_path():
    before = {"n": 1, "data": {"items": [{"qty": 1}, {"qty": 2}], "by": "a"}, "same": "x"}
    after = {"n": 2, "data": {"items": [{"qty": 1}, {"qty": 3}, {}]}, "same": "x"}
    assert [each.as_dict() for each in changes(before, after)] == [
        {"path": "n", "before": 1, "after": 2},
        {"path": "data.by", "before": "a"},
        {"path": "data.items[1].qty", "before": 2, "after": 3},
        {"path": "data.items[2]", "after": {}},
    ]
    ignored = counted(changes(before, after), ["n", "data.items[*].qty", "data.by"])
    assert [each.path for each in ignored] == ["data.items[2]"]


def test_a_row_that_comes_or_goes_has_all_its_columns():
    row = {"id": "a", "n": None}
    assert [each.as_dict() for each in changes(None, row)] == [
        {"path": "id", "after": "a"},
        {"path": "n", "after": None},
    ]
    assert [each.as_dict() for each in changes(row, None)] == [
        {"path": "id", "before": "a"},
        {"path": "n", "before": None},
    ]


def test_values_that_are_equal_in_python_and_look_otherwise_differ():
    pairs = [(1, True), (Decimal("1.0"), Decimal("1.00")), (0.0, -0.0), (1, 1.0)]
    for one, other in pairs:
        assert len(changes({"n": one}, {"n": other})) == 1
    assert changes({"n": Decimal("1.0")}, {"n": Decimal("1.0")}) == []


def test_values_are_shown_as_json_can_say_them_exactly():
    row = {
        "a": Decimal("12.50"),
        "b": Decimal("0.1000000000000000000001"),
        "c": 2**70,
        "d": b"\x00\xff",
        "e": timedelta(hours=1),
        "f": [{"g": Decimal("NaN")}],
    }
    assert shown_row(row) == {
        "a": 12.5,
        "b": "0.1000000000000000000001",
        "c": str(2**70),
        "d": "\\x00ff",
        "e": "1:00:00",
        "f": [{"g": "NaN"}],
    }
