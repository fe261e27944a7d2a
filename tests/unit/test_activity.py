"""What other sessions' statements say without the values in them."""

from __future__ import annotations

import pytest

from esops.postgres.activity import without_values


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("begin; insert into a.b (c1) values ('it''s', 12.5)", "begin; insert into a.b (c1) values (…, …)"),
        (r"select E'a\'b', 1", "select …, …"),
        ("select $x$ it's $x$, $1", "select …, $1"),
        ("insert into t values ('cut off in the", "insert into t values (…"),
        ('update "Table1" set x = -3', 'update "Table1" set x = -…'),
        ("idle", "idle"),
    ],
)  # fmt: skip
def test_values_are_left_out(statement, shown):
    assert without_values(statement) == shown
