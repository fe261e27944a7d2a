"""A stream that several columns name together: everything finds it back by its one name, and no two
streams have one name.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg import sql

from esops.archive.run import RunRequest, run
from esops.config import load_config
from esops.errors import UsageError
from esops.events import EventFilter, StreamKey
from esops.postgres.catalog import Column
from esops.settings import PostgresSettings, TableSettings
from esops.stores import open_store
from esops.stores.archiving import StreamPart
from esops.stores.postgres.layouts.stream_names import StreamColumns
from tests.support.own_tables import CASTORE_TABLE, castore
from tests.support.soak import SOAK, rounds

PAIRS = [
    ("cart", "1"),
    ("order", "1"),
    ("shopping-cart", "1"),
    ("shopping", "cart-1"),
    ("shopping~1cart", "1"),
    ("a~", "-b"),
    ("a", "~-b"),
    ("a~0", "b"),
    ("50%s", "x%"),
    ("", "e"),
    ("e", ""),
    ("é", "日本"),
]


def described(dsn: str, **changed) -> PostgresSettings:
    table = TableSettings(**{**CASTORE_TABLE, **changed})
    return PostgresSettings(dsn=dsn, table=table, append="quick")


@pytest.fixture
def configured(project, dsn, connection):
    castore(connection, PAIRS)
    table = json.loads(json.dumps(CASTORE_TABLE))
    project.configure(
        stores={
            "s": {"dsn": dsn, "append": "quick", "table": table},
            "cold": {"backend": "archive", "archive": "cold"},
        },
        archives={
            "cold": {
                "repository": "cold",
                "policies": {"all": {"store": "s", "stream": "*", "never_younger_than": "0s"}},
            }
        },
    )
    return project


def test_each_pair_is_a_stream_of_its_own(dsn, connection):
    castore(connection, PAIRS)
    with open_store("s", described(dsn)) as store:
        assert not store.ping().warnings
        events = [event for batch in store.read_all() for event in batch.events]
        assert len({event.id for event in events}) == len(events) == 3 * len(PAIRS)
        names = [event.stream for event in events[: len(PAIRS)]]
        assert names[:3] == ["cart-1", "order-1", "shopping~1cart-1"]
        assert len(set(names)) == len(PAIRS)
        for (category, _), name in zip(PAIRS, names, strict=True):
            mine = [event for event in events if event.stream == name]
            assert [event.version for event in mine] == [1, 2, 3]
            assert list(store.read_stream(name)) == mine
            found = store.stream_info(name)
            assert (found.category, found.length) == (category, 3)
            only = [
                event
                for batch in store.read_all(filter=EventFilter(stream=name))
                for event in batch.events
            ]
            assert only == mine
            sought = store.search.find(event_id=mine[1].id)
            assert list(sought.events) == [mine[1]]
        assert store.many_streams.has_events(events) == [True] * len(events)
        parts = [StreamPart(StreamKey(name), 2, 9) for name in names]
        assert store.many_streams.count_parts(parts) == [2] * len(PAIRS)
        # What is not written as esops writes it names nothing.
        for other in ("shopping-cart~1x", "shopping~2cart-1", "cart", "a~0-b", "nobody-1"):
            assert list(store.read_stream(other)) == []
            assert store.many_streams.count_parts([StreamPart(StreamKey(other), 1, 9)]) == [0]


def test_shards_hold_each_stream_once_and_whole(dsn, connection):
    castore(connection, [(f"kind-{n % 7}", str(n)) for n in range(200)])
    with open_store("s", described(dsn)) as store:
        shards = [
            [
                event.stream
                for batch in store.read_all(filter=EventFilter(shard=(number, 3)))
                for event in batch.events
            ]
            for number in range(3)
        ]
    assert all(shards)
    assert sum(map(len, shards)) == 600
    assert not set(shards[0]) & set(shards[1]) | set(shards[0]) & set(shards[2])


TYPES = {
    "uuid": ("uuid", "'2b2210d1-0000-4000-8000-00000000000' || n % 9"),
    "bigint": ("bigint", "9007199254740993 + n"),
    "int": ("int", "n - 20"),
    "smallint": ("smallint", "n"),
    "varchar": ("varchar(40)", "'v-' || n"),
    "char": ("char(12)", "'c' || n"),
    "enum": ("kind", "CASE n % 2 WHEN 0 THEN 'big cart' ELSE 'big-order' END"),
    "domain": ("label", "'d' || n"),
    "numeric": ("numeric", "n * 1.50"),
}


SOME = [*(("text", each) for each in TYPES), ("enum", "uuid"), ("uuid", "int"), ("int", "enum")]
"""Each type in each place where it may stand; all pairs in soak runs."""
PAIRS_OF_TYPES = [(a, b) for a in ("text", "enum", "uuid", "int") for b in TYPES] if SOAK else SOME


@pytest.mark.parametrize(("first", "second"), PAIRS_OF_TYPES)
def test_columns_of_any_type_find_their_streams(dsn, connection, first, second):
    types = {**TYPES, "text": ("text", "'t' || n % 3")}
    (one, of_one), (two, of_two) = types[first], types[second]
    rows = 400 if "smallint" in (one, two) else 2_000
    connection.execute(
        "CREATE TYPE kind AS ENUM ('big cart', 'big-order'); CREATE DOMAIN label AS text; "
        f"CREATE TABLE own (at bigserial PRIMARY KEY, a {one} NOT NULL, b {two} NOT NULL, "
        "v int NOT NULL, type text NOT NULL, body jsonb NOT NULL, UNIQUE (a, b, v)); "
        f"INSERT INTO own (a, b, v, type, body) SELECT a, b, row_number() OVER (PARTITION BY a, b "
        f"ORDER BY n), 'x', '{{}}' FROM (SELECT n, ({of_one})::{one} AS a, ({of_two})::{two} AS b "
        f"FROM generate_series(1, {rows}) n) AS made"
    )
    connection.execute("ANALYZE own")
    changed = {
        "name": "own",
        "stream": ["a", "b"],
        "version": "v",
        "data": "body",
        "metadata": None,
        "time": None,
    }
    with open_store("s", described(dsn, **changed)) as store:
        events = [event for batch in store.read_all() for event in batch.events]
        assert len({(event.stream, event.version) for event in events}) == len(events)
        names = sorted({event.stream for event in events})
        some = [names[0], names[-1], names[len(names) // 2]]
        for name in some:
            mine = [event for event in events if event.stream == name]
            assert list(store.read_stream(name)) == sorted(mine, key=lambda each: each.version)
        parts = [StreamPart(StreamKey(name), 1, 10**6) for name in some]
        wanted = [sum(event.stream == name for event in events) for name in some]
        assert store.many_streams.count_parts(parts) == wanted
        for nonsense in ("x", "x-y", "1-x", "-", "99999999999999999999-99999999999999999999"):
            assert list(store.read_stream(nonsense)) == []
        layout = store.layout
        for condition in (layout.stream_equals(some[0]), layout.any_stream(some[:1])):
            plan = "\n".join(
                row[0]
                for row in connection.execute(
                    sql.SQL("EXPLAIN SELECT FROM own WHERE {}").format(condition)
                )
            )
            if second != "numeric" and len(names) > 400:
                assert "own_a_b_v_key" in plan, plan


@given(
    st.lists(st.tuples(st.text("a-~01é"), st.text("a-~01")), unique=True, min_size=2, max_size=40)
)
@hypothesis_settings(max_examples=rounds(20, 600), deadline=None)
def test_no_two_pairs_have_one_name(anything, pairs):
    columns = [Column("a", "text", "text"), Column("b", "text", "text")]
    names = StreamColumns(columns)
    rows = anything.execute(
        sql.SQL(
            "WITH p AS (SELECT * FROM unnest(%s::text[], %s::text[]) AS t(a, b)), n AS (SELECT {} "
            "AS name FROM p) SELECT name, (SELECT array_agg(ARRAY[a, b]) FROM p WHERE {}) FROM n"
        ).format(names.name, names.same(sql.Identifier("n", "name"))),
        [[a for a, _ in pairs], [b for _, b in pairs]],
    ).fetchall()
    assert len({name for name, _ in rows}) == len(pairs)
    assert sorted(tuple(found[0]) for _, found in rows) == sorted(pairs)
    assert all(len(found) == 1 for _, found in rows)


@pytest.fixture(scope="module")
def anything(server):
    import psycopg

    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        yield connection


def test_a_column_twice_is_refused(dsn, connection):
    with pytest.raises(ValueError, match="names a column twice"):
        described(dsn, stream=["version", "version"])
    castore(connection, PAIRS)
    with pytest.raises(UsageError, match="no column 'aggregate_nam'") as error:
        open_store("s", described(dsn, stream=["aggregate_nam", "aggregate_id"]))
    assert "aggregate_name" in error.value.hint


def test_every_command_takes_the_name(configured, connection):
    shown = configured.ok(
        "events", "--stream", "shopping~1cart-1", "--store", "s", "--output", "json"
    ).json
    assert [each["version"] for each in shown] == [1, 2, 3]
    chosen = configured.ok(
        "events", "--category", "shopping-cart", "--store", "s", "--output", "json"
    ).json
    assert {each["stream"] for each in chosen} == {"shopping~1cart-1"}
    about = configured.ok(
        "audit", "stream", "shopping~1cart-1", "--store", "s", "--output", "json"
    ).json
    assert (about["category"], about["length"]) == ("shopping-cart", 3)
    traced = configured.ok(
        "trace", "stream", "shopping~1cart-1", "--store", "s", "--output", "json"
    )
    assert "shopping~1cart-1" in traced.out
    one = configured.ok("events", "show", shown[1]["id"], "--store", "s", "--output", "json").json
    assert (one["stream"], one["version"]) == ("shopping~1cart-1", 2)


def test_it_is_archived_and_read_from_there_and_joined(configured, connection):
    config = load_config(configured.folder / "esops.toml")
    with open_store("s", config.stores["s"]) as store:
        before = [event for batch in store.read_all() for event in batch.events]
    run(config, "all", RunRequest(removal="keep"))
    again = configured.ok("archive", "plan", "all", "--output", "json")
    assert again.code == 0
    with open_store("cold", config.stores["cold"]) as cold:
        archived = [event for batch in cold.read_all() for event in batch.events]
        assert archived == before
        assert list(cold.read_stream("shopping~1cart-1")) == [
            each for each in before if each.stream == "shopping~1cart-1"
        ]
        assert cold.stream_info("shopping~1cart-1").category == "shopping-cart"
        some = EventFilter(category="shopping-cart")
        found = [event.stream for batch in cold.read_all(filter=some) for event in batch.events]
        assert found == ["shopping~1cart-1"] * 3
    # Somebody deletes what was archived: the joined store still has it all.
    connection.execute("DELETE FROM castore WHERE aggregate_name IN ('shopping-cart', 'order')")
    joined = config.stores["s"].model_copy(update={"cold": config.archives["cold"]})
    with open_store("s", joined) as store:
        assert [event for batch in store.read_all() for event in batch.events] == before
        assert len(list(store.read_stream("shopping~1cart-1"))) == 3
        assert store.stream_info("order-1").category == "order"


@pytest.mark.thorough
def test_a_read_model_is_rebuilt_from_it_by_workers(configured, connection):
    text = (configured.folder / "esops.toml").read_text()
    projected = '\n[projections.carts]\nstore = "s"\npython = "carts:carts"\ntables = ["carts"]\n'
    configured.write("esops.toml", text + projected + 'ddl = "carts.sql"\n')
    configured.write("carts.py", CODE)
    configured.write("carts.sql", "CREATE TABLE {table} (stream text PRIMARY KEY, n int);")
    configured.ok("rebuild", "carts", "--blue-green", "--workers", "2", "--without-archived")
    found = connection.execute("SELECT count(*), sum(n), min(n) FROM carts").fetchone()
    assert found == (len(PAIRS), 3 * len(PAIRS), 3)


CODE = """
from esops import fold

@fold(key="stream")
def carts(row, event):
    return {"stream": event.stream, "n": (row or {"n": 0})["n"] + event.json()["n"]}
"""


def test_events_are_masked_by_it(project, dsn, connection):
    """The row is found by both columns, and no other stream is touched."""
    castore(connection, PAIRS)
    connection.execute(
        'UPDATE castore SET payload = \'{"who": "p-7", "mail": "ann@example.org"}\' WHERE '
        "(aggregate_name, aggregate_id) = ('shopping-cart', '1') AND version > 1"
    )
    project.configure(
        stores={"s": {"dsn": dsn, "append": "quick", "table": CASTORE_TABLE}},
        erase={"person": {"store": "s", "where": "who", "mask": {"$.mail": "null"}}},
    )
    done = project.ok("erase", "--where", "who=p-7", "--yes", "--output", "json")
    assert done.code == 0
    masked = connection.execute(
        "SELECT aggregate_name, version FROM castore WHERE payload = "
        '\'{"who": "p-7", "mail": null}\' ORDER BY 2'
    ).fetchall()
    assert masked == [("shopping-cart", 2), ("shopping-cart", 3)]
    rest = connection.execute("SELECT count(*) FROM castore WHERE payload = '{\"n\": 1}'")
    assert rest.fetchone() == (3 * len(PAIRS) - 2,)
