"""What a fold returns gets the form of the table at once: a row from the cache is the row that is
read, bit for bit, and a key is one row however it is written.
"""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from esops.errors import Refused
from esops.events import Position, RecordedEvent
from esops.moments import INFINITY, FarTime
from esops.postgres import catalog
from esops.postgres.connection import connect
from esops.projections.definition import FoldDefinition
from esops.projections.kinds import fold as fold_kind
from esops.projections.kinds.fold import Fold
from esops.projections.kinds.fold_key import check_key
from esops.projections.projector import VersionTables
from esops.readmodel.rows import BadEvent
from tests.support.cases import thorough_but
from tests.support.soak import rounds
from tests.unit.test_building_blocks import event


class Table:
    """A table of a fold, and what a version would note of it."""

    def __init__(self, dsn: str, ddl: str) -> None:
        self.connection = connect(dsn, "test")
        self.connection.execute("DROP TABLE IF EXISTS rows")
        self.connection.execute(f"CREATE TABLE rows ({ddl})".encode())
        found = catalog.find_table(self.connection, "public", "rows")
        assert found is not None
        self.table, self.written = found, {}

    def fold(self, evolve: Callable[..., Any], key: Callable[..., Any], cache: int) -> Fold:
        tables = VersionTables(
            projection="rows", version=1, by_name={"rows": self.table},
            keys={"rows": self.table.key}, value_types=self.written, conjoined=False,
            empty=not self.written, loading=not self.written, cache=cache,
            ensure_keys=lambda: None,
        )  # fmt: skip
        return Fold(FoldDefinition(evolve, key), tables)

    def flush(self, fold: Fold) -> None:
        with self.connection.transaction():
            fold.flush(self.connection)
        fold.flushed()
        self.written = dict(fold.value_types)

    def run(self, steps: list[Any], evolve: Callable[..., Any], *, restart: bool) -> list[str]:
        """Fold the steps, (key, …) each, with a new process for each or in one go; gives what the
        function has seen. With restarts, a step that is refused is dropped from the list.
        """
        seen: list[str] = []

        def evolved(row: Any, at: RecordedEvent) -> Any:
            seen.append(repr(row))
            return evolve(row, steps[at.version])

        fold = self.fold(evolved, lambda at: steps[at.version][0], 64 << 20)
        n = 0
        while n < len(steps):
            before = len(seen)
            try:
                fold.apply([event(version=n, position=Position((n,)))], self.connection)
                if restart:
                    self.flush(fold)
                n += 1
            except BadEvent:
                assert restart, f"only with a long cache {steps[n]} is refused"
                del seen[before:], steps[n]
            if restart:
                fold = self.fold(evolved, lambda at: steps[at.version][0], 2)
        self.flush(fold)
        return seen

    def rows(self) -> list[Any]:
        """What is in the table, as text."""
        return self.connection.execute("SELECT t::text FROM rows t ORDER BY 1").fetchall()


ALL_TYPES = {
    "a_text": "text", "a_varchar": "varchar(4)", "a_char": "char(4)", "a_name": "name",
    "a_smallint": "smallint", "a_integer": "integer", "a_bigint": "bigint",
    "a_numeric": "numeric", "a_price": "numeric(12, 2)", "a_long": "numeric(40, 10)",
    "a_real": "real", "a_double": "double precision", "a_boolean": "boolean", "a_uuid": "uuid",
    "a_timestamptz": "timestamptz", "a_timestamp": "timestamp", "a_short": "timestamptz(3)",
    "a_date": "date", "a_time": "time", "a_timetz": "timetz", "a_interval": "interval",
    "a_bytea": "bytea", "a_json": "json", "a_jsonb": "jsonb", "texts": "text[]",
    "numbers": "integer[]", "prices": "numeric(12, 2)[]", "times": "timestamptz[]",
    "documents": "jsonb[]", "a_inet": "inet", "a_cidr": "cidr", "a_bit": "bit(3)",
    "a_point": "point", "a_range": "int4range", "a_money": "money",
    "a_vector": "tsvector", "a_mac": "macaddr", "a_domain": "small", "a_doc": "doc",
}  # fmt: skip
DDL = "id bigint PRIMARY KEY, " + ", ".join(f"{name} {kind}" for name, kind in ALL_TYPES.items())


class Colour(Enum):
    RED = "red"


zones = st.sampled_from([None, UTC, timezone(timedelta(hours=2))])
moments = st.datetimes(timezones=zones)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.sampled_from([2**31, 2**63, 2**64, 2**70, -(2**63), 10**17])
    | st.floats()
    | st.sampled_from([0.1 + 0.2, 1e16, 1e22, 1e300, 5e-324, -0.0, 12.345, 12.5, 0.1])
    | st.decimals(allow_nan=True, places=2)
    | st.decimals()
    | st.sampled_from([Decimal("1E+3"), Decimal("-0.00"), Decimal("12.5"), Decimal("12.345")])
    | st.text(max_size=6)
    | st.sampled_from(["\0", "\ud800", "f", "t", "abcd", "a ", "ab\\\"'(,)", "", "NaN", "12.50"])
    | st.sampled_from(["10.0.0.1", "10.0.0.0/8", "101", "(1,2)", "[1,5)", "<a/>", "$1.50", "(3,3]"])
    | st.sampled_from(["1 day 2 hours", "1 mon", "08:00:2b:01:02:03", "a b", "infinity", "24:00"])
    | st.sampled_from(["2026-07-15T10:00:00.1234567Z", "2026-07-15", "2026-07-15T10:00:00+02:00"])
    | st.sampled_from([FarTime(INFINITY), FarTime(-INFINITY), ip_address("10.0.0.1"), Colour.RED])
    | moments
    | st.dates()
    | st.times()
    | st.timedeltas(timedelta(days=-10_000), timedelta(days=10_000))
    | st.uuids()
    | st.uuids().map(lambda each: str(each).upper())
    | st.binary(max_size=4)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.thorough
@settings(max_examples=rounds(12, 300), suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from(list(ALL_TYPES)), values), max_size=40),
    st.booleans(),
)
def test_a_row_of_the_cache_is_the_row_that_is_read(dsn, connection, steps, in_place):
    # Once for all examples: the temporary tables of the one before may still use them, since the
    # server ends a session some time after it was closed.
    if connection.execute("SELECT to_regtype('doc')").fetchone() == (None,):
        connection.execute("CREATE DOMAIN small AS numeric(5, 1) CHECK (VALUE < 100)")
        connection.execute("CREATE DOMAIN doc AS jsonb")
    compare(dsn, DDL, steps, in_place)


def compare(
    dsn: str,
    ddl: str,
    steps: list[Any],
    in_place: bool = False,
    evolve: Callable[[Any, Any], Any] | None = None,
) -> list[str]:
    """A process for each event, and one with all rows in memory: both see and write the same."""

    def sets(row: Any, step: Any) -> Any:
        _, column, value = step
        if in_place and row is not None:
            row[column] = value
            return row
        return {**(row or {}), column: value}

    evolve = evolve or sets
    table = Table(dsn, ddl)
    restarted = table.run(steps, evolve, restart=True)
    rows = table.rows()
    table.connection.close()
    again = Table(dsn, ddl)
    assert again.run(steps, evolve, restart=False) == restarted
    assert again.rows() == rows
    again.connection.close()
    return restarted


PAIRS: dict[str, list[Any]] = {
    "text": ["x", 5, UUID(int=7), Decimal("1.50"), 0.5],
    "varchar(4)": ["abcd"],
    "char(4)": ["ab", "ab  "],
    "numeric(12, 2)": [5, 0.1 + 0.2, 12.5, Decimal("12.5"), "12.5", 9999999999.99],
    "numeric": [5, 1e300, Decimal("1E+3"), Decimal("1.50"), 0.1, 2**70],
    "real": [1, 0.1, 1e20],
    "double precision": [1, 0.1, Decimal("0.5"), 1e300, math.inf],
    "bigint": [5, 5.0, "5"],
    "boolean": [True, 0, "f", "yes"],
    "uuid": [UUID(int=7), str(UUID(int=0xABC)).upper()],
    "timestamptz": [
        "2026-07-15T10:00:00Z", "2026-07-15T10:00:00.1234567Z", "2026-07-15T12:00:00+02:00",
        datetime(2026, 7, 15, 12, tzinfo=timezone(timedelta(hours=2))), datetime(2026, 7, 15),
        date(2026, 7, 15), "infinity", FarTime(INFINITY),
    ],
    "timestamp": ["2026-07-15T10:00:00Z", datetime(2026, 7, 15, tzinfo=UTC), datetime(2026, 7, 15)],
    "date": ["2026-07-15", date(2026, 7, 15)],
    "time": [time(1, 2), "24:00"],
    "interval": [timedelta(days=1, seconds=7), "1 day"],
    "jsonb": [
        {"b": 1, "a": [datetime(2026, 7, 15, tzinfo=UTC), UUID(int=7), (1, 2)]}, 1e300, 2**70,
        [2**64, -0.0, 1e16, 0.1], {"bb": 1, "a": 2, "ä": Colour.RED}, "f", True, 0,
    ],
    "json": [{"b": 1, "a": (1, 1e300)}, 2**70],
    "numeric[]": [[0.1, 1, Decimal("2.50")]],
    "double precision[]": [[1, 0.5]],
    "text[]": [["a", None, 'b"'], ("x",), []],
    "integer[]": [[[1, 2], [3, 4]]],
    "jsonb[]": [[{"b": 1, "a": [1]}, None]],
    "timestamptz[]": [["2020-01-01T00:00:00Z", "infinity", None]],
    "timestamp[]": [["2020-01-01", "-infinity"], [[datetime(2020, 1, 1)], [FarTime(INFINITY)]]],
    "date[]": [["2020-01-01", "infinity"], ["20000-01-01"]],
    "time[]": [["01:00", "24:00"]],
    "bytea": [b"\0", bytearray(b"a")],
    "inet": ["10.0.0.1", ip_address("10.0.0.1")],
    "money": ["$1,000.50", "1.5"],
    "small": ["1.5", 1.3, Decimal("1.50")],
    "pair": ["(1,1.5)"],
    "interval(0)": ["1 day", timedelta(seconds=5)],
}  # fmt: skip


def test_each_type_that_a_function_may_return_for_each_column(dsn, connection):
    connection.execute("CREATE DOMAIN small AS numeric(5, 1) CHECK (VALUE < 100)")
    connection.execute("CREATE TYPE pair AS (a int, b numeric(5, 1))")
    names = {kind: f"c{n}" for n, kind in enumerate(PAIRS)}
    ddl = "id text PRIMARY KEY, " + ", ".join(f"{name} {kind}" for kind, name in names.items())
    steps = [
        (f"k{n}", names[kind], value)
        for kind, column in PAIRS.items()
        for value in column
        for n in (1, 2, 1)
    ]
    wanted = len(steps)
    compare(dsn, ddl, steps)
    assert len(steps) == wanted, "all of them are accepted"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("numeric(12, 2)", 12.345),
        ("numeric(12, 2)", Decimal("0.001")),
        ("numeric(12, 2)", 10**10),
        ("numeric(12, 2)", True),
        ("text", True),
        ("text", datetime(2026, 7, 15)),
        ("text", "a\0"),
        ("text", "\ud800"),
        ("varchar(4)", "abcde"),
        ("char(4)", "abcde"),
        ("bigint", 2**63),
        ("bigint", 0.5),
        ("real", 0.1 + 0.2),
        ("double precision", 2**53 + 1),
        ("date", datetime(2026, 7, 15, 10)),
        ("timestamp", "2026-07-15T10:00:00+02:00"),
        ("timestamptz(3)", datetime(2026, 7, 15, 1, 1, 1, 1)),
        ("interval", "1 mon"),
        ("jsonb", [math.nan]),
        ("jsonb", {"a": Decimal("0.1")}),
        ("jsonb", {1: 2}),
        ("jsonb", "\0"),
        ("small", 100),
        ("tsvector", time(0, 0)),
        ("small", "1.23"),
        ("small[]", "{1.23}"),
        ("pair", "(1,1.23)"),
        ("name", "x" * 64),
        ("name[]", ["x" * 64]),
        ('"char"', "ab"),
        ("money", "1.239"),
        ("interval(0)", "1.6 s"),
        ("time(0)", "10:00:00.6"),
        ("boolean", 2),
    ],
)
def test_what_a_column_cannot_hold_is_an_error_at_its_event(dsn, connection, kind, value):
    connection.execute("CREATE DOMAIN small AS numeric(5, 1) CHECK (VALUE < 100)")
    connection.execute("CREATE TYPE pair AS (a int, b numeric(5, 1))")
    table = Table(dsn, f"id text PRIMARY KEY, value {kind}")
    kept = [{"value": value}, {"value": None}]
    fold = table.fold(lambda _, at: kept[at.version], lambda _: "k", 100)
    with pytest.raises(BadEvent) as bad:
        # The next event would mend the row, but whether it is in time is a matter of the commits.
        fold.apply([event(version=0), event(version=1)], table.connection)
    assert "value = " in bad.value.reason
    assert type(value).__name__ in bad.value.reason
    table.connection.close()


KEYS: list[tuple[str, list[Any]]] = [
    ("text", ["42", 42, "42"]),
    ("bigint", ["42", 42, 42.0, Decimal(42)]),
    ("numeric", [Decimal("1.50"), 1.5, "1.5", Decimal("1.5")]),
    ("numeric(6, 2)", [Decimal("1.50"), 1.5, "1.5"]),
    ("uuid", [UUID(int=0xABC), str(UUID(int=0xABC)), str(UUID(int=0xABC)).upper()]),
    ("date", [date(2026, 7, 15), "2026-07-15"]),
    ("timestamptz", [datetime(2026, 7, 15, 10, tzinfo=UTC), "2026-07-15T12:00:00+02:00"]),
    ("char(4)", ["ab", "ab ", "ab  "]),
    ("boolean", [True, 1, "yes"]),
    ("bytea", [b"a", bytearray(b"a").hex().join(["\\x", ""])]),
    ("inet", ["10.0.0.1", ip_address("10.0.0.1"), "10.0.0.1/32"]),
    ("double precision", [0.0, -0.0, 0]),
]


@pytest.mark.parametrize(("kind", "keys"), KEYS)
@pytest.mark.parametrize("composite", thorough_but([False, True], False))
def test_a_key_is_one_row_however_it_is_written(dsn, kind, keys, composite):
    ddl = (
        f"t text, id {kind}, n int, PRIMARY KEY (t, id)" if composite else
        f"id {kind} PRIMARY KEY, n int"
    )  # fmt: skip
    steps = [(("x", key) if composite else key, n) for n, key in enumerate([*keys, *keys])]

    def counts(row: Any, step: Any) -> Any:
        return {**(row or {}), "n": (row or {"n": 0})["n"] + 1}

    for restart in (False, True):
        table = Table(dsn, ddl)
        table.run(steps, counts, restart=restart)
        assert table.connection.execute("SELECT n FROM rows").fetchall() == [(2 * len(keys),)]
        table.connection.close()


@pytest.mark.parametrize(
    ("kind", "key"),
    [("bigint", "x"), ("bigint", None), ("double precision", math.nan), ("text", True),
     ("text", "\0"), ("text", ("a", "b")), ("varchar(2)", "abc"), ("integer", 2**40)],
)  # fmt: skip
def test_a_key_that_the_column_cannot_hold(dsn, kind, key):
    table = Table(dsn, f"id {kind} PRIMARY KEY, n int")
    with pytest.raises(BadEvent):
        table.fold(lambda row, _: {"n": 1}, lambda _: key, 10).apply([event()], table.connection)
    table.connection.close()


def test_columns_that_take_keys_that_differ_for_equal_are_refused(dsn, connection):
    # The embedded server knows neither ICU nor citext, so the catalogue is made to say it.
    connection.execute('CREATE COLLATION blind FROM "C"')
    table = Table(dsn, "id text COLLATE blind PRIMARY KEY, at timetz UNIQUE, n int")
    connection.execute(
        "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'blind'"
    )
    found = catalog.find_table(connection, "public", "rows")
    assert found is not None
    by_stream = FoldDefinition(lambda row, _: row, None)
    with pytest.raises(Refused, match="for equal"):
        check_key(by_stream, found, ("id",), conjoined=False)
    with pytest.raises(Refused, match="for equal"):
        check_key(by_stream, found, ("at",), conjoined=False)
    insensitive = catalog.Column("id", "public.citext", "citext")
    with pytest.raises(Refused, match="for equal"):
        check_key(by_stream, replace(found, columns=(insensitive,)), ("id",), conjoined=False)
    check_key(by_stream, table.table, ("id",), conjoined=False)
    table.connection.close()


@pytest.mark.parametrize(
    ("kind", "possible"),
    [
        ("pair", False), ("over_pair", False), ("amount", False), ("numeric[]", False),
        ("pair[]", False), ("numrange", False), ("jsonb", False), ("bpchar", False),
        ("loose_char", False), ("int[]", False), ("few", False),
        ("plain", True), ("code", True), ("char(3)", True), ("int4range", True),
        ("numeric(5, 2)", True), ("real", True), ("name", True), ("short", True),
    ],
)  # fmt: skip
def test_types_whose_equal_values_look_different_are_no_keys(dsn, connection, kind, possible):
    for made in (
        "TYPE pair AS (a int, b numeric)", "DOMAIN over_pair AS pair", "TYPE plain AS (a int)",
        "DOMAIN amount AS numeric(5, 2)", "DOMAIN code AS char(3)", "DOMAIN loose_char AS bpchar",
        "DOMAIN short AS varchar(3)", "DOMAIN few AS real",
    ):  # fmt: skip
        connection.execute(f"CREATE {made}")
    table = Table(dsn, f"id {kind} PRIMARY KEY, n int")
    definition = FoldDefinition(lambda row, _: row, lambda _: "k")
    if possible:
        check_key(definition, table.table, ("id",), conjoined=False)
    else:
        with pytest.raises(Refused, match="id"):
            check_key(definition, table.table, ("id",), conjoined=False)
    table.connection.close()


def test_columns_that_a_row_leaves_out_have_their_default(dsn):
    ddl = (
        "id text PRIMARY KEY, n int DEFAULT 7, note text DEFAULT 'none', tags jsonb DEFAULT "
        "'[]'::jsonb, price numeric(8, 2) DEFAULT 1.5, never text DEFAULT 'x'"
    )
    rows: list[Any] = [{"n": 1}, {"n": 2, "note": "a"}, {"n": 3}, {"tags": [1]}, {"price": 2}, {}]
    steps = [(key, row) for row in rows for key in "ab"]
    seen = []
    for restart in (True, False):
        table = Table(dsn, ddl)
        seen.append(table.run(steps, lambda _, step: dict(step[1]), restart=restart))
        assert table.rows() == [("(a,7,none,[],1.50,x)",), ("(b,7,none,[],1.50,x)",)]
        table.connection.close()
    assert seen[0] == seen[1]


def test_a_default_that_changes_is_not_left_to_chance(dsn):
    table = Table(dsn, "id text PRIMARY KEY, n int, at timestamptz DEFAULT now()")
    rows = [{"n": 1}, {"n": 1, "at": datetime(2026, 7, 15)}]
    for order in (rows, rows[::-1]):
        fold = table.fold(lambda _, at, order=order: order[at.version], lambda _: "k", 10)
        with pytest.raises(BadEvent, match="not the same for all rows"):
            fold.apply([event(version=0), event(version=1)], table.connection)
    table.connection.close()


def test_rows_share_nothing_that_can_be_changed(dsn):
    table = Table(dsn, "id text PRIMARY KEY, tags jsonb, names text[]")
    common: Any = {"tags": [], "names": []}
    steps = [(key, key) for key in "abab"]

    def evolve(row: Any, step: Any) -> Any:
        row = row or common
        row["tags"].append(step[1])
        row["names"].append(step[1])
        return row

    table.run(steps, evolve, restart=False)
    rows = table.connection.execute("SELECT id, tags, names FROM rows ORDER BY 1").fetchall()
    assert [row[1] == row[2] for row in rows] == [True, True]
    assert rows[0][1][-1] == "a"
    table.connection.close()


def test_rows_share_no_part_of_a_value_that_the_server_was_asked_for(dsn):
    ddl = "id text PRIMARY KEY, grid int[], spans int4multirange, names text[]"

    def evolve(row: Any, step: Any) -> Any:
        if row is None:
            spans = Multirange([Range(1, 3)])
            return {"grid": [[0, 0], [0, 0]], "spans": spans, "names": [["5"]]}
        row["grid"][0][0] += 1
        row["spans"].append(Range(10 * step[1], 10 * step[1] + 1))
        return row

    steps = [(key, n) for n in range(3) for key in "abc"]
    compare(dsn, ddl, steps, evolve=evolve)
    # [["t"]] has the same text as what was asked for before.
    table = Table(dsn, "id text PRIMARY KEY, flags boolean[]")
    flags = [{"flags": [[True]]}, {"flags": [["t"]]}]
    fold = table.fold(lambda _, at: flags[at.version], lambda _: "k", 10)
    fold.apply([event(version=0)], table.connection)
    with pytest.raises(BadEvent, match="come back"):
        fold.apply([event(version=1)], table.connection)
    table.connection.close()


class AnyCase(str):
    """A text that takes others for equal."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str(self).lower() == str(other).lower()

    def __hash__(self) -> int:
        return hash(str(self).lower())


def test_the_keys_of_a_document_may_be_texts_of_a_class_of_their_own(dsn):
    documents = [{"zz": 1, "b": 2}, {AnyCase("ZZ"): 1, AnyCase("B"): 2}]
    steps = [(str(n % 2), "doc", documents[n % 2]) for n in range(4)]
    seen = compare(dsn, "id text PRIMARY KEY, doc jsonb", steps)
    assert seen[2:] == [
        "{'id': '0', 'doc': {'b': 2, 'zz': 1}}",
        "{'id': '1', 'doc': {'B': 2, 'ZZ': 1}}",
    ]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("text", [Decimal("1.0"), Decimal("1.00"), Decimal("1.0")]),
        ("text", [0.0, -0.0]),
        ("text", [AnyCase("a"), AnyCase("A")]),
        ("timestamp", [datetime(2026, 1, 1, 12, tzinfo=UTC),
                       datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))]),
        ("bytea", [bytearray(b"a"), b"a"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("composite", thorough_but([False, True], False))
def test_a_key_is_the_one_that_its_value_has_by_itself(dsn, kind, keys, composite):
    ddl = f"t text, id {kind}, n int, PRIMARY KEY (t, id)"
    steps: list[Any] = [(("x", key), 0) for key in keys]
    if not composite:
        ddl, steps = f"id {kind} PRIMARY KEY, n int", [(key, 0) for key in keys]
    found = []
    for restart in (True, False):
        table = Table(dsn, ddl)
        table.run(steps, lambda row, _: {"n": (row or {"n": 0})["n"] + 1}, restart=restart)
        found.append(table.rows())
        table.connection.close()
    assert found[0] == found[1]


@pytest.mark.parametrize("column", ["text", "jsonb"])
def test_rows_that_are_large_are_kept_in_a_bounded_number_of_bytes(dsn, monkeypatch, column):
    most, size = 2 << 20, 50_000
    monkeypatch.setattr(fold_kind, "_FIRST", 16)
    table = Table(dsn, f"id text PRIMARY KEY, body {column}, n int")

    def evolve(row: Any, at: RecordedEvent) -> Any:
        row = row or {"body": "", "n": 0}
        return {"body": f"{at.version} " + "x" * size, "n": row["n"] + 1}

    fold = table.fold(evolve, lambda at: f"k{at.version % 150}", most)
    events = [event(version=n, position=Position((n,))) for n in range(300)]
    tracemalloc.start()
    while events:
        part, events = events[: fold.most_at_once], events[fold.most_at_once :]
        fold.apply(part, table.connection)
        if fold.full:
            table.flush(fold)
    table.flush(fold)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * most, f"{peak:,} bytes for rows of {150 * size:,}"
    assert table.connection.execute("SELECT count(*), min(n), max(n) FROM rows").fetchall() == [
        (150, 2, 2)
    ]
    table.connection.close()
