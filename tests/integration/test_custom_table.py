"""A table that nobody foresaw, described in esops.toml: read, rebuilt from, and told what is wrong
in its description.
"""

from __future__ import annotations

import json

import pytest

from esops.errors import Unavailable, UsageError
from esops.events import EventFilter, NewEvent, Position
from esops.settings import PostgresSettings, StoreSettings, TableSettings
from esops.stores import open_store

DESCRIBED = {
    "name": "ledger.entries",
    "stream": "book",
    "version": "line",
    "position": "number",
    "type": "kind",
    "data": "body",
    "metadata": "about",
    "time": "at",
    "id": "entry",
    "category": "shelf",
    "correlation": "request",
}


@pytest.fixture
def entries(connection):
    connection.execute(
        "CREATE SCHEMA ledger; CREATE TABLE ledger.entries (number bigserial PRIMARY KEY, entry "
        "uuid DEFAULT gen_random_uuid(), "
        "book text, line int, kind text, body text, about json, at timestamp DEFAULT now(), shelf "
        "text, request text)"
    )

    def write(book: str, line: int, kind: str, body: str = "{}", **more) -> None:
        columns = {"book": book, "line": line, "kind": kind, "body": body, **more}
        names = ", ".join(columns)
        connection.execute(
            f"INSERT INTO ledger.entries ({names}) VALUES ({', '.join(['%s'] * len(columns))})",
            list(columns.values()),
        )

    return write


def settings(dsn: str, **changed) -> StoreSettings:
    described = {key: value for key, value in {**DESCRIBED, **changed}.items() if value is not None}
    return PostgresSettings(dsn=dsn, table=TableSettings(**described), append="quick")


def test_it_is_read_as_any_store(dsn, entries):
    entries("a", 1, "opened", '{"n": 1}', about='{"user": "x"}', shelf="books", request="r-1")
    entries("b", 1, "opened", shelf="papers")
    entries("a", 2, "closed", shelf="books")
    with open_store("s", settings(dsn)) as store:
        events = [event for batch in store.read_all() for event in batch.events]
        assert [(e.stream, e.version, e.type, e.position) for e in events] == [
            ("a", 1, "opened", Position((1,))),
            ("b", 1, "opened", Position((2,))),
            ("a", 2, "closed", Position((3,))),
        ]
        assert events[0].json() == {"n": 1}
        assert events[0].meta() == {"user": "x", "correlationId": "r-1"}
        assert events[0].correlation_id == "r-1"
        assert events[1].meta() == {}
        assert events[0].recorded_at.year >= 2026
        found = [
            e.stream
            for batch in store.read_all(filter=EventFilter(category="papers"))
            for e in batch.events
        ]
        assert found == ["b"]
        assert store.ping().layout == "custom"
        assert not store.capabilities.append
        with pytest.raises(UsageError, match="takes no events"):
            store.append("a", [NewEvent("", "x", b"{}")])


def test_what_is_not_there_is_made_up_or_unknown(dsn, entries):
    entries("a", 1, "opened")
    bare = dict.fromkeys(("metadata", "time", "id", "category", "correlation"))
    with open_store("s", settings(dsn, **bare)) as store:
        (event,) = [event for batch in store.read_all() for event in batch.events]
        assert len(event.id) == 36
        assert (event.meta(), event.recorded_at) == ({}, None)


@pytest.mark.parametrize(
    ("changed", "message", "hint"),
    [
        (
            {"stream": "bok"},
            "stores.s.table.stream: ledger.entries has no column 'bok'",
            "Did you mean 'book'?",
        ),
        (
            {"position": "request"},
            "stores.s.table.position: column 'request' is of type text",
            "int2, int4, int8",
        ),
        ({"time": "line"}, "stores.s.table.time: column 'line' is of type int4", "timestamp"),
        (
            {"name": "ledger.entry"},
            "stores.s.table.name: there is no table ledger.entry",
            "schema.table",
        ),
        ({"sequence": "nothing"}, "stores.s.table.sequence: there is no sequence nothing", None),
    ],
)
def test_a_wrong_description_names_the_key(dsn, entries, changed, message, hint):
    with pytest.raises(UsageError) as error:
        open_store("s", settings(dsn, **changed))
    assert message in error.value.message
    assert hint is None or hint in error.value.hint


def test_a_table_without_a_sequence_cannot_say_what_is_settled(dsn, connection, entries):
    connection.execute(
        "ALTER TABLE ledger.entries ALTER number DROP DEFAULT; ALTER SEQUENCE "
        "ledger.entries_number_seq OWNED BY NONE"
    )
    with pytest.raises(Unavailable, match="what is settled"):
        open_store("s", settings(dsn))
    with open_store("s", settings(dsn, sequence="ledger.entries_number_seq")) as store:
        assert store.head().position is None


def test_a_read_model_is_rebuilt_from_it(project, dsn, connection, entries):
    for n in range(20):
        entries(f"book-{n % 4}", n // 4 + 1, "written", json.dumps({"pages": n}))
    described = "\n".join(f"{key} = {json.dumps(value)}" for key, value in DESCRIBED.items())
    project.write(
        "esops.toml",
        f"[stores.ledger]\ndsn = {json.dumps(dsn)}\n[stores.ledger.table]\n{described}\n"
        + PROJECTED,
    )
    project.write("books.py", CODE)
    project.write("books.sql", "CREATE TABLE {table} (book text PRIMARY KEY, pages int);")
    project.ok("rebuild", "books", "--blue-green")
    assert connection.execute("SELECT sum(pages) FROM books").fetchone() == (190,)
    wrong = project.run("events", "--store", "ledge")
    assert wrong.code == 2


PROJECTED = '\n[projections.books]\npython = "books:books"\ntables = ["books"]\nddl = "books.sql"\n'
CODE = """
from esops import fold

@fold(key="stream")
def books(row, event):
    return {"book": event.stream, "pages": (row or {"pages": 0})["pages"] + event.json()["pages"]}
"""
