"""Random tables of every built-in type: rows that differ in one value are found, others never."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from tests.integration.test_equality import Comparing, careless  # noqa: F401 (a fixture)
from tests.support.cases import thorough_but
from tests.support.soak import rounds
from tests.support.typed_values import DDL, NULL, TYPES

HOSTILE = (
    "-c extra_float_digits=0 -c datestyle=German -c intervalstyle=iso_8601 -c timezone=Asia/Tokyo "
    "-c bytea_output=escape -c array_nulls=off"
)


@st.composite
def tables(draw, collations):
    """The columns' types, and rows of blue and green: a value of each column, or no row."""
    columns = [
        (each, draw(st.sampled_from(collations)) if each.ddl in {"text", "varchar(8)", "char(8)"} else "")
        for each in draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=8))
    ]  # fmt: skip
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        blue = [draw(kind.values | st.just(NULL)) for kind, _ in columns]
        green = [draw(kind.again(value)) for (kind, _), value in zip(columns, blue, strict=True)]
        for at in draw(st.sets(st.integers(0, len(columns) - 1), max_size=2)):
            green[at] = draw(columns[at][0].other(blue[at]))
        rows.append(draw(st.sampled_from([(blue, green)] * 6 + [(None, green), (blue, None)])))
    return columns, rows


def fill(connection, side, columns, rows) -> None:
    names = "".join(f', "c{at}" {kind.ddl}{rule}' for at, (kind, rule) in enumerate(columns))
    connection.execute(
        f"DROP TABLE IF EXISTS {side}; CREATE TABLE {side} (id int PRIMARY KEY{names})"
    )
    places = ", ".join(["%s", *(f"%s::{kind.ddl}" for kind, _ in columns)])
    for number, row in enumerate(rows):
        if row is not None:
            values = [spelling for _, spelling in row]
            connection.execute(f"INSERT INTO {side} VALUES ({places})", [number, *values])


def check(compare, connection, table) -> None:
    columns, rows = table
    for side, at in (("blue", 0), ("green", 1)):
        fill(connection, side, columns, [pair[at] for pair in rows])
    unlike: dict[str, int] = {}
    differing = 0
    for blue, green in rows:
        both = blue is not None and green is not None
        names = [f"c{at}" for at in range(len(columns)) if both and blue[at][0] != green[at][0]]
        differing += bool(names) or not both
        for name in names:
            unlike[name] = unlike.get(name, 0) + 1
    found = compare.again()
    assert (found.differing, found.columns) == (differing, unlike)
    assert len(found.samples) == differing
    for sample in found.samples:
        assert sample["blue"] != sample["green"]
    keys = compare.keys_that_differ()
    assert len(keys) == differing


@pytest.mark.timeout(rounds(300, 7_200))
@pytest.mark.parametrize("where", thorough_but(["embedded", "installed"], "embedded"))
def test_what_differs_is_found_and_nothing_else(where, request):
    if where == "installed":
        dsn, collations = (
            request.getfixturevalue("careless").dsn,
            ["", ' COLLATE "C"', " COLLATE careless"],
        )
    else:
        dsn, collations = request.getfixturevalue("dsn"), ["", ' COLLATE "C"']
    compare = Comparing(make_conninfo(dsn, options=HOSTILE))

    @settings(max_examples=rounds(12, 3_000))
    @given(table=tables(collations))
    def run(table):
        check(compare, connection, table)

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(DDL)
        run()
