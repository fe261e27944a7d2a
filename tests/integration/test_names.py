"""Names that nobody foresaw: of schemas, tables, columns, types and streams, with percent signs,
quotes, dots, wildcards, reserved words and 63 bytes, and columns that are named as esops' own aliases.
"""

from __future__ import annotations

import json
import uuid

import pytest
from psycopg import sql

from esops.config import load_config
from esops.events import EventFilter, NewEvent
from esops.stores import open_store
from tests.support import emmett, eventsourcing, marten, messagedb
from tests.support.cases import thorough_but

SCHEMA, TABLE = '10% "off"', "ev.ents%s_{x}"
STREAMS = ["100%-a_b", "O'Hara\"-1", "a_b-%s", "a%b-2", "x" * 3_000]
LONG = "c" * 63
COLUMNS = {
    "100%": "text NOT NULL",
    "UP per": "int NOT NULL",
    **dict.fromkeys(("h", "b", "g", "t", "k", "w", "d", "s", "bucket", "rows", "x"), "int"),
    **dict.fromkeys(("pair", "hashed", "excluded", "number", "at", "esops_n", "k0"), "int"),
    'a"b': "text",
    "select": "text",
    LONG: "text",
    "%s": "int",
    "%(x)s": "int",
    "{x}": "int",
    "price": "money_",
    "doc": "doc_",
    "docs": "jsonb[]",
    "mood": '"mo%od"',
    "seen": "moment_",
}
TYPES = """
CREATE DOMAIN doc_ AS jsonb; CREATE DOMAIN doc2_ AS doc_; CREATE DOMAIN money_ AS numeric;
CREATE DOMAIN moment_ AS timestamptz; CREATE DOMAIN line_ AS int;
CREATE TYPE "mo%od" AS ENUM ('happy', 'sad%');
"""
CODE = """
from esops import fold, Handlers

def row_of(row, event):
    row = row or {"h": 0, "docs": []}
    line = event.version
    names = ("b", "g", "t", "k", "w", "d", "s", "bucket", "rows", "x", "pair", "hashed", "excluded", "number", "at", "esops_n", "k0", "%s", "%(x)s", "{x}")
    return {
        "100%": event.stream[:50], "UP per": line % 2, "h": row["h"] + line, **dict.fromkeys(names, line),
        'a"b': event.type, "select": event.stream[:9], LONG: "long", "price": f"{line}.50",
        "doc": event.json(), "docs": [*row["docs"], {"n": line}, [1, 2]], "mood": "sad%", "seen": event.recorded_at,
    }

LONG = "c" * 63

@fold(key=lambda event: (event.version % 2, event.stream[:50]))
def odd(row, event):
    return row_of(row, event)

handled = Handlers()

@handled.on("happy", "sad%")
def write(event, write):
    key = {"100%": event.stream[:50], "UP per": event.version % 2}
    before = write.get("hand%led", key)
    write.upsert("hand%led", row_of(before, event))
    write.update("hand%led", key, {"%s": event.version, "docs": [{"u": 1}]})
    write.increment("hand%led", key, {"h": 0})
    write.execute("UPDATE {hand%led} SET \\"k0\\" = %s WHERE \\"100%%\\" = %s", 7, event.stream[:50])
"""


@pytest.fixture
def store(dsn, connection, project):
    """A table with odd names and types, and the read models over it."""
    connection.execute(TYPES)
    name = sql.Identifier(SCHEMA, TABLE)
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
    connection.execute(
        sql.SQL(
            'CREATE TABLE {} (id bigserial PRIMARY KEY, "h%" text, "b" line_, "g" "mo%od", '
            '"payl""oad" doc2_, "meta%data" doc_, at moment_ DEFAULT now(), "SELECT" text, '
            '"many" jsonb[])'
        ).format(name)
    )
    for line in (1, 2, 3):
        for stream in STREAMS:
            connection.execute(
                sql.SQL(
                    'INSERT INTO {} ("h%%", "b", "g", "payl""oad", "meta%%data", "SELECT", "many") '
                    "VALUES (%s, %s, %s, %s, %s, %s, %s)"
                ).format(sql.SQL(name.as_string().replace("%", "%%"))),
                (stream, line, "sad%", json.dumps({"n": line}), '{"correlationId": "50%"}',
                 "c%", ['{"m": 1}']),
            )  # fmt: skip
    table = {
        "name": '"10% ""off"""."ev.ents%s_{x}"',
        "stream": "h%",
        "version": "b",
        "position": "id",
        "id": "id",
        "type": "g",
        "data": 'payl"oad',
        "metadata": "meta%data",
        "time": "at",
        "category": "SELECT",
    }
    columns = ", ".join(f"{sql.Identifier(n).as_string()} {kind}" for n, kind in COLUMNS.items())
    ddl = f'CREATE TABLE {{table}} ({columns}, PRIMARY KEY ("UP per", "100%"))'
    project.write("p.py", CODE)
    project.write("odd.sql", ddl)
    project.configure(
        stores={
            "s": {"dsn": dsn, "append": "quick", "table": table},
            "many": {"dsn": dsn, "append": "quick", "table": {**table, "data": "many"}},
        },
        projections={
            "odd": {"store": "s", "python": "p:odd", "tables": ["odd%_{x}"], "ddl": "odd.sql"},
            "handled": {
                "store": "s",
                "kind": "handlers",
                "python": "p:handled",
                "tables": ["hand%led"],
                "ddl": "odd.sql",
            },
        },
    )
    return name


def test_a_table_with_odd_names_is_read_as_any_other(store, project, connection):
    with open_store(*load_config(project.folder / "esops.toml").store("s")) as opened:
        events = [event for batch in opened.read_all() for event in batch.events]
        assert [event.id for event in events] == [str(n) for n in range(1, 16)]
        assert events[0].json() == {"n": 1}
        for stream in STREAMS:
            assert [event.version for event in opened.read_stream(stream)] == [1, 2, 3]
            found = [
                e for b in opened.read_all(filter=EventFilter(stream=stream)) for e in b.events
            ]
            assert len(found) == 3
        assert sorted(info.name for info in opened.streams()) == sorted(STREAMS)
        assert [info.length for info in opened.lengths.longest(9)] == [3] * 5
        assert len(list(opened.search.find(correlation_id="50%").events)) == 15
        assert list(opened.search.find(correlation_id="\0").events) == []
        for nothing in (
            EventFilter(stream="a\0b"),
            EventFilter(category="\0"),
            EventFilter(("\0",)),
        ):
            assert [e for b in opened.read_all(filter=nothing) for e in b.events] == []
        assert list(opened.read_stream("a_b-_s")) == []
    with open_store(*load_config(project.folder / "esops.toml").store("many")) as opened:
        assert next(iter(opened.read_stream(STREAMS[0]))).json() == [{"m": 1}]
    for command in (
        ("events", "--store", "s", "--category", "c%", "--type", "sad%", "--limit", "3"),
        ("audit", "streams", "--store", "s", "--growth", "--report", "r.html"),
        ("audit", "events", "--store", "s"),
        ("trace", "stream", "100%-a_b", "--store", "s", "--scan"),
    ):
        project.ok(*command)
    assert project.run("doctor").code in (0, 1)


def test_read_models_with_odd_names_are_rebuilt_and_compared(store, project, connection):
    project.ok("rebuild", "odd", "--blue-green")
    table = sql.Identifier("odd%_{x}")
    everything = sql.SQL("SELECT count(*), sum(h), sum(b), min(price), max(k0) FROM {}").format(
        table
    )
    assert connection.execute(everything).fetchone() == (10, 30, 25, 2.5, 3)
    again = project.ok("rebuild", "odd", "--blue-green", "--compare", "exact", "--output", "json")
    assert again.json["verification"]["differing"] == 0
    # What comes later is folded on rows that are read back.
    connection.execute(
        sql.SQL(
            """INSERT INTO {} ("h%", "b", "g", "payl""oad") VALUES ('100%-a_b', 4, 'happy', '{{}}')"""
        ).format(store)
    )
    project.ok("run", "odd", "--until-caught-up")
    row = connection.execute(
        sql.SQL(
            """SELECT h, docs[1], "%s" FROM {} WHERE "100%" = '100%-a_b' AND "UP per" = 0"""
        ).format(table)
    ).fetchone()
    assert row == (6, {"n": 2}, 4)


@pytest.mark.thorough
def test_rows_with_odd_names_that_differ_are_shown(store, project, connection):
    project.ok("rebuild", "odd", "--blue-green")
    # New logic: every row differs in two columns, also where only a sample is compared.
    project.write("p.py", CODE.replace('"h": row["h"] + line', '"h": row["h"] + line + 1'))
    for method in ("columns", "sample"):
        compared = ("--compare", method, "--max-diff", "100%", "--output", "json")
        differing = project.run("rebuild", "odd", "--blue-green", *compared)
        assert differing.code == 0, differing.err
        found = differing.json["verification"]
        assert (found["method"], found["columns"].get("h", 0) > 0) == (method, method == "columns")
        if method == "columns":
            assert set(found["samples"][0]["blue"]) == {"h"}
    project.ok("rebuild", "odd", "--yes")
    table = sql.Identifier("odd%_{x}")
    counted = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(table))
    assert counted.fetchone() == (10,)
    assert project.ok("projection", "show", "odd").out


def test_handlers_write_into_odd_names(store, project, connection):
    project.ok("rebuild", "handled", "--blue-green")
    rows = connection.execute('SELECT count(*), sum("%s"), min(k0) FROM "hand%led"').fetchone()
    assert rows == (10, 25, 7)


def made(layout: str, connection, schema: str) -> str:
    """A library's tables in a schema with an odd name, and the column of the stream."""
    quoted = sql.Identifier(schema).as_string()
    match layout:
        case "marten":
            marten.create(connection, marten.Variant(schema=schema, text_ids=True))
        case "emmett":
            emmett.create(connection, schema)
        case "messagedb":
            messagedb.create(connection, quoted)
        case _:
            connection.execute(f"CREATE SCHEMA {quoted}")
            eventsourcing.create(connection, schema=quoted)
    return layout


@pytest.mark.parametrize(
    "layout",
    thorough_but(["marten", "emmett", "messagedb", "eventsourcing"], "marten"),
)
def test_a_library_may_be_in_a_schema_with_any_name(layout, dsn, connection, project):
    schema = '50%s "x" {y}\''
    made(layout, connection, schema)
    if layout != "eventsourcing":
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD {} text DEFAULT '1%'").format(
                sql.Identifier(schema, {"marten": "mt_events", "emmett": "emt_messages"}.get(layout, "messages")),
                sql.Identifier('ex%tra "x"'),
            )
        )  # fmt: skip
    policy = {"store": "s", "stream": "*", "remove": "delete", "never_younger_than": "0s"}
    project.configure(
        stores={"s": {"dsn": dsn, "schema": schema}},
        archives={"cold": {"repository": "cold", "policies": {"all": policy}}},
    )
    stream = str(uuid.uuid4()) if layout == "eventsourcing" else "100%_a'b-{x}"
    with open_store(*load_config(project.folder / "esops.toml").store("s")) as store:
        events = [NewEvent(str(uuid.uuid4()), "k%", b'{"n": 1}') for _ in range(3)]
        store.append(stream, events)
        before = list(store.read_stream(stream))
        assert len(before) == 3
        assert store.checkpoints() == [] or layout == "marten"
        assert [info.length for info in store.streams()] == [3]
        found = store.search.find(event_id=before[0].id)
        assert [event.id for event in found.events] == [before[0].id]
    project.ok("archive", "run", "all", "--despite-checkpoints")
    run = project.ok("archive", "list", "--output", "json").json[0]["run"]
    project.ok("archive", "restore", run, "--yes")
    with open_store(*load_config(project.folder / "esops.toml").store("s")) as store:
        assert list(store.read_stream(stream)) == before
    project.ok("status")
    project.ok("audit", "streams")
