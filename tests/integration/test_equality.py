"""What is equal to a comparison: by type, whatever the collation says."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager

import psycopg
import pytest

from esops.errors import UsageError
from esops.postgres import catalog
from esops.postgres.connection import connect
from esops.postgres.session import READ
from esops.rebuild.verification import comparison
from esops.rebuild.verification.sides import Sides
from esops.settings import VerifySettings
from tests.support import installed_postgres
from tests.support.cases import thorough_but

COLLATION = """
CREATE COLLATION careless (provider = icu, locale = 'und-u-ks-level1', deterministic = false)
"""


class Comparing:
    """Two tables in a database, made and compared."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def __call__(self, columns: str, blue: str, green: str, method="exact", **verify):
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for side, rows in (("blue", blue), ("green", green)):
                connection.execute(
                    f"DROP TABLE IF EXISTS {side}; CREATE TABLE {side} ({columns});"
                    f"INSERT INTO {side} {rows}"
                )
        return self.again(method, **verify)

    @contextmanager
    def sides(self, **verify):
        with connect(self.dsn, "test", READ) as snapshot:
            tables = [catalog.find_table(snapshot, "public", side) for side in ("blue", "green")]
            yield snapshot, Sides.of(snapshot, tables, tables[1].key, VerifySettings(**verify))

    def again(self, method="exact", **verify):
        with self.sides(**verify) as (snapshot, sides):
            return comparison.compare(snapshot, sides, method)

    def keys_that_differ(self, **verify) -> list[tuple[str, ...]]:
        """By both ways: those that are found, of which the digests differ."""
        with self.sides(**verify) as (snapshot, sides):
            keys = comparison.keys_that_differ(snapshot, sides, 1_000)
            if keys:
                digests = comparison.digests_of_keys(snapshot, sides, keys)
                assert digests.keys() == set(keys)
                assert all(blue != green for blue, green in digests.values())
                found = comparison.compare_keys(snapshot, sides, keys, "exact")
                assert found.differing == len(keys)
        return keys


@pytest.fixture
def compare(dsn):
    return Comparing(dsn)


@pytest.fixture(scope="module")
def careless():
    """A server with ICU, which the embedded one lacks, and a collation in which Bob is BOB."""
    if not installed_postgres.versions():
        pytest.skip("no Postgres with ICU is installed")
    with installed_postgres.cluster(installed_postgres.versions()[-1]) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(COLLATION)
        yield Comparing(dsn)


@pytest.mark.parametrize("method", thorough_but(["exact", "sample"], "exact"))
def test_text_is_bytes_in_every_collation(careless, method):
    columns = "id int PRIMARY KEY, name text COLLATE careless"
    some = "SELECT n, 'Bob' FROM generate_series(1, 50) AS n"
    other = some.replace("Bob", "BOB")
    assert careless(columns, some, some, method).differing == 0
    found = careless(columns, some, other, method)
    seen = 2 if method == "sample" else 1
    assert (found.differing, found.columns) == (50 * seen, {"name": 50 * seen})
    assert found.samples[0]["blue"] == {"name": "Bob"}
    # As a key, too: a row of another name is another row.
    columns = "name text COLLATE careless PRIMARY KEY, id int"
    found = careless(columns, "VALUES ('Bob', 1)", "VALUES ('BOB', 1)", method)
    assert len(careless.keys_that_differ()) == 2
    assert (found.differing, found.only_blue, found.only_green) == (2, 1, 1)


EQUAL = [
    ("numeric", "1.0", "1.00"),
    ("numeric[]", "'{1.0,NULL,NaN}'", "'{1.00,NULL,NaN}'"),
    ("jsonb", """'{"a": [553.80, {"b": 1.0}]}'""", """'{"a": [553.8, {"b": 1}]}'"""),
    ("jsonb", """'{"a": 100, "1.10": "1.10 \\" 2.0"}'""", """'{"1.10": "1.10 \\" 2.0", "a": 1e2}'"""),
    ("json", """'{"a":1.0, "b":[ ]}'""", """'{"b":[],"a":1}'"""),
    ("json", """'{"a":"\\u0000"}'""", """'{"a":"\\u0000"}'"""),
    ("jsonb[]", """ARRAY['{"a": 1.50}'::jsonb]""", """ARRAY['{"a": 1.5}'::jsonb]"""),
    ("numrange", "'[1.0,2.50)'", "'[1.00,2.5)'"),
    ("nummultirange", "'{[1.0,2.50),[3,4]}'", "'{[1.00,2.5),[3,4.0]}'"),
    ("pair_", """'(1.0,"{2.0}")'""", """'(1,"{2}")'"""),
    ("pair_[]", """ARRAY['(1.0,"{2.0}")'::pair_, NULL]""", """ARRAY['(1,"{2}")'::pair_, NULL]"""),
    ("price_", "1.50", "1.5"),
    ("prices_", "'{1.50}'", "'{1.5}'"),
    ("float8", "'NaN'", "'NaN'"),
    ("char(5)", "'a'", "'a  '"),
    ("timestamptz", "'2020-01-01 00:00+00'", "'2020-01-01 01:00+01'"),
    ("xml", "'<a/>'", "'<a/>'"),
    ("point", "'(1,2)'", "'(1.0,2.0)'"),
]  # fmt: skip
UNLIKE = [
    ("text", "''", "NULL"),
    ("text", "'a'", "'a '"),
    ("bpchar", "'a'", "'a '"),
    ("float8", "0", "'-0'"),
    ("float8", "0.3", "0.1::float8 + 0.2::float8"),
    ("float4[]", "'{0}'", "'{-0}'"),
    ("numeric", "1", "1.0000000000000000000000000001"),
    ("jsonb", "'1'", "'\"1\"'"),
    ("jsonb", "'null'", "NULL"),
    ("jsonb", """'{"a": "1.0"}'""", """'{"a": "1.00"}'"""),
    ("jsonb", """'{"a": "\\"1.0"}'""", """'{"a": "\\"1.00"}'"""),
    ("jsonb", "'[[],[]]'", "'[]'"),
    ("jsonb", "'1.0'", "'1.01'"),
    ("jsonb", "'100'", "'1'"),
    ("json", """'{"a":"\\u0000"}'""", """'{"a":"\\u0000b"}'"""),
    ("numeric[]", "'{1,2}'", "'[0:1]={1,2}'"),
    ("numeric[]", "'{{1,2}}'", "'{1,2}'"),
    ("numeric[]", "'{}'", "NULL"),
    ("text[]", "'{NULL}'", "'{\"NULL\"}'"),
    ("text[]", "'{a,b}'", "'{\"a,b\"}'"),
    ("jsonb[]", "ARRAY['null'::jsonb]", "ARRAY[NULL::jsonb]"),
    ("pair_", "'(,)'", "NULL"),
    ("numrange", "'[1,2)'", "'[1,2]'"),
    ("numrange", "'empty'", "'(,)'"),
    ("interval", "'1 day'", "'24 hours'"),
    ("interval", "'1 month'", "'30 days'"),
    ("timetz", "'12:00+00'", "'13:00+01'"),
    ("timestamptz", "'2020-01-01 00:00:00.000001'", "'2020-01-01'"),
    ("time", "'24:00'", "'00:00'"),
    ("regproc[]", "ARRAY['lower(text)'::regprocedure::oid]::regproc[]",
     "ARRAY['lower(anyrange)'::regprocedure::oid]::regproc[]"),
    ("regproc", "'lower(text)'::regprocedure::oid", "'lower(anyrange)'::regprocedure::oid"),
    ("xml", "'<a/>'", "'<a></a>'"),
    ("point", "'(0,2)'", "'(-0,2)'"),
    ("path", "'((0,0),(1,1))'", "'[(0,0),(1,1)]'"),
    ("bytea", r"'\x00'", r"'\x0000'"),
    ("bit varying", "B'0'", "B'00'"),
    ("inet", "'10.0.0.1'", "'10.0.0.1/24'"),
    ("cased", "'a'", "'A'"),
]  # fmt: skip
TYPES = """
CREATE TYPE pair_ AS (one numeric, "many.d" numeric[]); CREATE DOMAIN price_ AS numeric;
CREATE DOMAIN prices_ AS numeric[]; CREATE DOMAIN cased AS text;
"""


@pytest.mark.parametrize("where", thorough_but(["compare", "careless"], "compare"))
def test_equality_by_type(where, request):
    """One table for all that is equal, one for all that is not: each column is found, and shown."""
    compare = request.getfixturevalue(where)
    with psycopg.connect(compare.dsn, autocommit=True) as connection:
        connection.execute(TYPES)
    for number, known in enumerate((EQUAL, UNLIKE)):
        # The embedded server has no XML.
        cases = [case for case in known if case[0] != "xml" or where == "careless"]
        columns = [f'"c{at}" {kind}' for at, (kind, _, _) in enumerate(cases)]
        sides = ["SELECT 1, " + ", ".join(case[at] for case in cases) for at in (1, 2)]
        found = compare(f"id int PRIMARY KEY, {', '.join(columns)}", *sides)
        wrong = [
            case for at, case in enumerate(cases) if (f"c{at}" in found.columns) is not bool(number)
        ]
        assert not wrong
        assert found.differing == number
        for shown in found.samples:
            names = set(found.columns)
            blue, green = shown["blue"], shown["green"]
            assert {re.split(r"[.\[]", name)[0] for name in {**blue, **green}} == names
            assert all(blue.get(name, "-") != green.get(name, "-") for name in {**blue, **green})
            json.dumps(shown)
        # A sample and single keys are compared in the same way.
        assert compare.again("sample").columns.keys() == found.columns.keys()
        assert compare.keys_that_differ() == ([("1", "1")] if number else [])


BLUE = """VALUES (1, '{"_version": 1, "client": "a", "items": [{"at": 1, "n": 553.80}, {"n": 2}]}'::jsonb),
                 (2, '{"_version": 1, "lines": {"x": {"at": 1, "n": 1}}}')"""
GREEN = """VALUES (1, '{"_version": 2, "client": "a", "items": [{"at": 2, "n": 553.8}, {"n": 2, "at": 7}]}'::jsonb),
                  (2, '{"_version": 2, "lines": {"x": {"at": 9, "n": 1}}}')"""


@pytest.mark.parametrize("kind", ["jsonb", "json", "doc_"])
def test_paths_into_json(compare, connection, kind):
    connection.execute("CREATE DOMAIN doc_ AS jsonb")
    columns = f'id int PRIMARY KEY, "my.data" {kind}'
    found = compare(columns, *(
        f"SELECT id, doc::text::{kind} FROM ({rows}) AS d (id, doc)" for rows in (BLUE, GREEN)
    ))  # fmt: skip
    assert (found.differing, found.columns) == (2, {"my.data": 2})
    assert found.paths == {
        "my.data._version": 2,
        "my.data.items[*].at": 1,
        "my.data.lines.x.at": 1,
    }
    assert found.paths_of == 2
    assert found.samples[0] == {
        "key": {"id": 1},
        "blue": {"my.data._version": 1, "my.data.items[0].at": 1},
        "green": {"my.data._version": 2, "my.data.items[0].at": 2, "my.data.items[1].at": 7},
    }
    paths = ["my.data._version", "my.data.items[*].at", "my.data.lines.*.at"]
    assert compare.again(ignore=paths).differing == 0
    assert compare.keys_that_differ(ignore=paths) == []
    expected = compare.again(expected=paths)
    assert expected.differing == 0
    assert expected.columns == {}
    assert expected.expected == dict(zip(paths, (2, 1, 1), strict=True))
    assert compare.keys_that_differ(expected=paths) == []
    # Less than all of it: the other row still differs.
    half = compare.again(ignore=paths[:1], expected=paths[1:2])
    assert (half.differing, half.columns, half.expected) == (1, {"my.data": 1}, {paths[1]: 1})
    assert compare.again(ignore=[paths[0], "my.data.items", "my.data.lines"]).differing == 0
    assert compare.again(ignore=[paths[0], "my.data.items[0]"]).differing == 2
    assert compare.again(ignore=paths, json="text").differing == 1
    assert compare.again("sample", expected=paths).expected.keys() == set(paths)
    with pytest.raises(UsageError, match="of the key"):
        compare.again(ignore=["id.x"])
    with pytest.raises(UsageError):
        compare.again(ignore=["my.data[x"])


def test_strict_text_of_json(compare):
    """As Marten writes a price, and as Python does."""
    columns = "id int PRIMARY KEY, data jsonb"
    some, other = (
        f"""SELECT n, '{{"price": {price}}}' FROM generate_series(1, 50) AS n"""
        for price in ("553.80", "553.8")
    )
    assert compare(columns, some, other).differing == 0
    found = compare.again(json="text")
    assert found.differing == 50
    assert found.samples[0]["blue"] == {"data": '{"price": 553.80}'}
    assert found.samples[0]["green"] == {"data": '{"price": 553.8}'}
