"""Code decodes what real libraries wrote, with their own deserialisers; a run is interrupted, and
resumed.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

import psycopg
import pytest

from esops.config import load_config
from esops.events import NewEvent
from esops.stores import open_store
from tests.support import emmett, marten
from tests.support.cases import thorough_but
from tests.support.databases import database
from tests.support.evolution import Evolution, load
from tests.support.waiting import end, until

PROTOCOL = Path(__file__).parents[2] / "docs" / "reference" / "decode-protocol.md"
EVENTS = 600
DECODE = ("schema", "decode", "--output", "json", "--python")


def configure(project, dsn: str, more: str = "") -> None:
    project.write("esops.toml", f'[stores.s]\ndsn = {json.dumps(dsn)}\nappend = "quick"\n{more}')


@pytest.fixture(scope="module")
def evolved(server):
    """Eight years of events; read by all tests of this file, and written by none."""
    with database(server) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            load(connection, Evolution(EVENTS))
        yield dsn


@pytest.fixture
def long(evolved, project):
    """A project whose runs are kept after each piece of 100 events."""
    configure(project, evolved, 'schema = "evolved"\n')
    project.patch(
        "from esops.schema.decode import kept, pool\nkept.KEEP_EVERY_SECONDS = 0\n"
        "pool._PIECE = 100\n"
    )
    project.write("code.py", CODE)
    yield project
    with psycopg.connect(evolved, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS esops CASCADE")


CODE = """
import pathlib, time
HERE = pathlib.Path(__file__).parent

def decode(event):
    with open(HERE / "decoded.txt", "a") as file:
        file.write(f"{event.position}\\n")
    while event.position[0] > 250 and (HERE / "wait").exists():
        (HERE / "waits").touch()
        time.sleep(0.01)
    if event.type.startswith("order_") and event.version % 3 == 0:
        raise ValueError(f"no {event.id}")
    if event.type == "product_closed" and event.position[0] % 2:
        raise KeyError("currency")
"""


def kept(connection) -> int:
    if connection.execute("SELECT to_regclass('esops.schema_progress')").fetchone()[0] is None:
        return 0
    rows = connection.execute("SELECT document::text FROM esops.schema_progress").fetchall()
    return max((json.loads(row[0]).get("events", 0) for row in rows), default=0)


@pytest.mark.parametrize("number", thorough_but([signal.SIGKILL, signal.SIGINT], signal.SIGKILL))
def test_a_run_that_is_interrupted_continues_with_the_same_counts(long, evolved, number):
    whole = long.run(*DECODE, "code:decode").json
    (long.folder / "wait").touch()
    (long.folder / "decoded.txt").unlink()
    process = long.start(*DECODE, "code:decode")
    with psycopg.connect(evolved, autocommit=True) as connection:
        # Among the samples of shapes, some are of the end of the log: the code waits there first.
        until(lambda: (long.folder / "waits").exists())
        (long.folder / "wait").unlink()
        until(lambda: kept(connection) >= 100 or process.poll() is not None)
        process.send_signal(number)
        _, err = end(process)
        before = kept(connection)
    if process.poll() == 1:
        pytest.skip("it was done before the signal came")
    if number == signal.SIGINT:
        assert process.poll() == 5, err
        assert "Resume it with --resume" in err
    assert 0 < before < EVENTS
    (long.folder / "decoded.txt").unlink()
    resumed = long.run(*DECODE, "code:decode", "--resume")
    assert f"resumed after {before:,} events" in resumed.err
    found = resumed.json
    assert {**found, "seconds": 0} == {**whole, "seconds": 0}
    assert len((long.folder / "decoded.txt").read_text().splitlines()) == EVENTS - before
    # Nothing is left that another run could continue.
    again = long.run(*DECODE, "code:decode", "--resume")
    assert "no run was interrupted" in again.err
    assert again.json["failures"] == whole["failures"]


@pytest.mark.thorough
def test_another_run_reads_only_what_is_new_to_the_same_code(long, evolved):
    fine = "def decode(event):\n    return event.json()\n"
    long.write("code.py", fine)
    first = long.ok(*DECODE, "code:decode", "--since-last").json
    assert (first["events"], first["since"]) == (EVENTS, None)
    second = long.ok(*DECODE, "code:decode", "--since-last").json
    assert (second["events"], second["since"]) == (0, first["position"])
    long.write("code.py", fine.replace("event.json()", "event.json()['nothing']"))
    failed = long.run(*DECODE, "code:decode", "--since-last")
    assert (failed.code, failed.json["failed"]) == (1, EVENTS)
    assert "the code has changed" in failed.err
    assert "begins where this one began" in failed.err
    # Its failures are not forgotten by the next night.
    again = long.run(*DECODE, "code:decode", "--since-last")
    assert (again.code, again.json["failed"]) == (1, EVENTS)
    long.write("code.py", fine)
    all_ = long.ok(*DECODE, "code:decode", "--since-last", "--from-start").json
    assert (all_["events"], all_["since"]) == (EVENTS, None)


@pytest.mark.thorough
def test_events_that_come_behind_the_last_run_are_read(long, evolved):
    long.write("code.py", "def decode(event):\n    return event.json()['id']\n")
    gone = "DELETE FROM evolved.mt_events WHERE seq_id = 200 RETURNING to_jsonb(mt_events)"
    back = "INSERT INTO evolved.mt_events SELECT * FROM jsonb_populate_record(NULL::evolved.mt_events, %s)"
    with psycopg.connect(evolved, autocommit=True) as connection:
        event = connection.execute(gone).fetchone()[0]
        long.ok(*DECODE, "code:decode", "--since-last")
        assert long.ok(*DECODE, "code:decode", "--since-last").json["events"] == 0
        bad = {**event, "data": {}}  # as a restored stream, or a number that came late
        connection.execute(back, [json.dumps(bad)])
        failed = long.run(*DECODE, "code:decode", "--since-last")
        connection.execute("DELETE FROM evolved.mt_events WHERE seq_id = 200")
        connection.execute(back, [json.dumps(event)])
    assert (failed.code, failed.json["failed"], failed.json["events"]) == (1, 1, EVENTS)
    assert "other events in the part of the log that was read" in failed.err


LOADS = """
import importlib, json, os, pathlib, signal
HERE = pathlib.Path(__file__).parent
calls = 0

def decode(event):
    global calls
    calls += 1
    if calls == STOPS:
        os.kill(os.getppid(), signal.SIGINT)
    for name in json.loads((HERE / "names.json").read_text()):
        event.json()[name]
    return importlib.import_module("shop.old").up(event)
"""


@pytest.mark.parametrize("what", thorough_but(["code", "data"], "code"))
def test_files_that_the_code_only_loads_as_it_runs_are_of_the_code(long, what):
    fine = "def up(event):\n    return event.json()\n"
    long.write("code.py", LOADS.replace("STOPS", "-1"))
    (long.folder / "shop").mkdir()
    long.write("shop/old.py", fine)
    long.write("names.json", "[]")
    long.ok(*DECODE, "code:decode", "--since-last")
    assert long.ok(*DECODE, "code:decode", "--since-last").json["events"] == 0
    file, content, was = {
        "code": ("shop/old.py", fine.replace("json()", "json()['nothing']"), fine),
        "data": ("names.json", '["nothing"]', "[]"),
    }[what]
    long.write(file, content)
    failed = long.run(*DECODE, "code:decode", "--since-last")
    assert (failed.code, failed.json["failed"]) == (1, EVENTS)
    assert f"{file} has changed since the last run" in failed.err
    # Its failures are not forgotten by the next night.
    again = long.run(*DECODE, "code:decode", "--since-last")
    assert (again.code, again.json["failed"]) == (1, EVENTS)
    if what == "code":
        return
    long.write(file, was)
    # New code is interrupted, where other code had come to the end before.
    long.write("code.py", LOADS.replace("STOPS", "400"))
    stopped = long.run(*DECODE, "code:decode", "--since-last")
    assert (stopped.code, "--resume" in stopped.err) == (5, True), stopped.err
    resumed = long.run(*DECODE, "code:decode", "--since-last", "--resume")
    assert (resumed.code, resumed.json["events"]) == (0, EVENTS), resumed.err
    assert long.ok(*DECODE, "code:decode", "--since-last").json["events"] == 0


@pytest.mark.thorough
def test_where_nothing_can_be_kept_a_run_says_so_and_is_done(long, evolved):
    with psycopg.connect(evolved, autocommit=True) as connection:
        connection.execute(
            "DROP ROLE IF EXISTS looks; CREATE ROLE looks LOGIN; GRANT pg_read_all_data TO looks"
        )
        for each in ("evolved",):
            connection.execute(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {each} TO looks".encode())
    configure(long, psycopg.conninfo.make_conninfo(evolved, user="looks"), 'schema = "evolved"\n')
    done = long.run(*DECODE, "code:decode")
    assert done.code == 1, done.err
    assert done.json["events"] == EVENTS
    assert "this run cannot be resumed" in done.err
    asked = long.run(*DECODE, "code:decode", "--resume")
    assert (asked.code, asked.out, "without --resume" in asked.err.lower()) == (3, "", True), (
        asked.err
    )


# -- real libraries


BANK = """
from eventsourcing.domain import Aggregate, event

class BankAccount(Aggregate):
    class Opened(Aggregate.Created):
        name: str

    class Deposited(Aggregate.Event):
        amount: int
        currency: str
        class_version = 2

        @staticmethod
        def upcast_v1_v2(state):
            state["currency"] = "EUR" if state["amount"] != 72 else 1 / 0

    class Withdrawn(Aggregate.Event):
        amount: int

    class Closed(Aggregate.Event):
        pass
"""
MAPPER = """
import json, uuid
from datetime import datetime
from eventsourcing.persistence import (
    DatetimeAsISO, DecimalAsStr, JSONTranscoder, Mapper, StoredEvent, UUIDAsHex,
)

transcoder = JSONTranscoder()
for each in (DatetimeAsISO(), DecimalAsStr(), UUIDAsHex()):
    transcoder.register(each)
mapper = Mapper(transcoder)

def decode(event):
    topic = event.meta()["topic"]
    stored = StoredEvent(uuid.UUID(event.stream), event.version, topic, event.data)
    made = mapper.to_domain_event(stored)
    assert isinstance(made.timestamp, datetime)
    return made

def encode(made):
    return mapper.to_stored_event(made).state
"""


def test_eventsourcings_own_mapper_and_upcasting(dumps, dsn, connection, project):
    emmett.restore(connection, (dumps / "eventsourcing-9.5.6.sql").read_text())
    configure(project, dsn)
    project.write("bank.py", BANK)
    project.write("code.py", MAPPER)
    events = "SELECT count(*) FROM bankaccounts_events WHERE {}"
    count = lambda where: connection.execute(events.format(where)).fetchone()[0]  # noqa: E731
    bad = count("""convert_from(state, 'UTF8') LIKE '%"amount":72}' AND topic LIKE '%Deposited'""")
    result = project.run(*DECODE, "code:decode", "--encode", "code:encode")
    found = result.json
    assert result.code == 1, result.err
    assert found["events"] == count("true")
    (failure,) = found["failures"]
    assert (failure["type"], failure["error"], failure["events"]) == (
        "Deposited",
        "ZeroDivisionError",
        bad,
    )
    assert "in upcast_v1_v2" not in failure["message"]
    added = [
        (each["type"], each["kind"], each["path"], each["finding"]) for each in found["differences"]
    ]
    assert added == [
        ("Deposited", "added", "$.class_version", False),
        ("Deposited", "added", "$.currency", False),
    ]  # fmt: skip


SCHEMA = """
const currencies = new Set(["EUR", "USD"]);
export const versioning = {
  upcast: (event) => {
    if (event.type !== "ProductItemAdded") return event;
    const currency = event.data.currency ?? "EUR";
    if (!currencies.has(currency)) throw new RangeError(`unknown currency ${currency}`);
    return { ...event, data: { ...event.data, price: { amount: event.data.unitPrice, currency } } };
  },
  downcast: (event) => {
    if (event.type !== "ProductItemAdded") return event;
    const { price, ...data } = event.data;
    return { ...event, data: { ...data, unitPrice: price.amount, currency: price.currency } };
  },
};
"""


@pytest.fixture
def emmett_decoder(emmett_writer, project):
    """The program of the docs, beside Emmett as npm has it."""
    text = PROTOCOL.read_text(encoding="utf-8").split("```typescript\n", 1)[1].partition("```")[0]
    # What TypeScript has and JavaScript has not.
    code = re.sub(r": unknown(?=\))| as Error(?=;)", "", text)
    (project.folder / "node_modules").symlink_to(Path(emmett_writer).parent / "node_modules")
    project.write("package.json", '{"type": "module"}')
    (project.folder / "decode.js").write_text(code, encoding="utf-8")
    project.write("shoppingCartSchema.js", SCHEMA)


@pytest.mark.thorough
def test_emmetts_own_upcasting(dumps, dsn, connection, project, emmett_decoder):
    emmett.restore(connection, (dumps / "emmett-0.42.0.sql").read_text())
    configure(project, dsn)
    options = ("schema", "decode", "--command", "node decode.js", "--output", "json")
    fine = project.ok(*options).json
    assert fine["events"] == 624
    kinds = dict(
        connection.execute(
            "SELECT message_data ? 'currency', count(*) FROM emt_messages WHERE "
            "message_type = 'ProductItemAdded' GROUP BY 1"
        ).fetchall()
    )
    both = project.ok(*options, "--round-trip").json["differences"]
    assert [(each["path"], each["kind"], each["events"]) for each in both] == [
        ("$.currency", "added", kinds[False])
    ]
    connection.execute(
        """UPDATE emt_messages SET message_data = message_data || '{"currency": "DEM"}' WHERE
        message_type = 'ProductItemAdded' AND stream_position = 2"""
    )
    failed = project.run(*options)
    (group,) = failed.json["failures"]
    assert (failed.code, group["error"], group["message"]) == (
        1,
        "RangeError",
        "unknown currency …",
    )
    assert "DEM" not in failed.out + failed.err


LAYOUTS = {
    "marten-9.58-v4": "schema = 'public'",
    "emmett-0.43.0-beta.39": "",
    "message-db-1.3.1": "",
}
ANY = "def decode(event):\n    return event.json()\n"


@pytest.mark.parametrize("name", thorough_but(LAYOUTS, "marten-9.58-v4"))
def test_all_events_of_a_layout_are_decoded(dumps, dsn, connection, project, name):
    emmett.restore(connection, (dumps / f"{name}.sql").read_text())
    configure(project, dsn)
    project.write("code.py", ANY)
    found = project.run(*DECODE, "code:decode").json
    read = project.ok("audit", "events", "--output", "json").json
    assert found["events"] >= read["events"] > 0
    assert found["shapes"] >= found["types"] >= len(read["types"])
    binary = {each["shape"] for each in found["failures"]}
    if name.startswith("marten"):
        # MemoryPack is no JSON.
        assert (len(binary), found["failed"]) == (1, 72)
    else:
        assert found["failures"] == []


JAVA = {
    "ShopJson.java": """
        public class ShopJson {
            static com.fasterxml.jackson.databind.ObjectMapper mapper() { return new com.fasterxml.jackson.databind.ObjectMapper(); }
        }""",
    "EventTypes.java": "public class EventTypes { static Class<?> of(String name) { return Object.class; } }",
    "Upcasters.java": "public class Upcasters { static Object apply(Object event) { return event; } }",
    "com/fasterxml/jackson/databind/ObjectMapper.java": """
        package com.fasterxml.jackson.databind;
        public class ObjectMapper {
            public JsonNode readTree(String text) throws Exception { return null; }
            public <T> T treeToValue(JsonNode node, Class<T> type) throws Exception { return null; }
            public String writeValueAsString(Object value) throws Exception { return ""; }
        }""",
    "com/fasterxml/jackson/databind/JsonNode.java": """
        package com.fasterxml.jackson.databind;
        public abstract class JsonNode implements Iterable<JsonNode> {
            public abstract JsonNode path(String name);
            public abstract String asText();
            public abstract boolean asBoolean();
        }""",
}  # fmt: skip


@pytest.mark.thorough
def test_the_java_program_of_the_docs_compiles(tmp_path):
    """Against stand-ins with the signatures of Jackson and of the application's classes."""
    if shutil.which("javac") is None:
        pytest.skip("there is no javac")
    text = PROTOCOL.read_text(encoding="utf-8").split("```java\n", 1)[1].partition("```")[0]
    for name, code in {**JAVA, "Decode.java": text}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
    files = sorted(map(str, tmp_path.rglob("*.java")))
    made = subprocess.run(
        ["javac", "-d", str(tmp_path / "out"), "-Xlint:all", *files], capture_output=True, text=True
    )
    assert (made.returncode, made.stderr) == (0, "")


@pytest.mark.thorough
def test_an_archive_and_a_joined_store(dsn, connection, project):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    project.configure(
        stores={
            "shop": {"dsn": dsn},
            "cold": {"backend": "archive", "archive": "cold"},
            "both": {"dsn": dsn, "archive": "cold", "of": "shop"},
        },
        archives={
            "cold": {
                "repository": "archive",
                "policies": {
                    "all": {
                        "store": "shop", "stream": "cart-1", "never_younger_than": "0s", "remove": "delete"
                    }
                },
            }
        },
    )  # fmt: skip
    project.write("code.py", ANY.replace("event.json()", "event.json()['n']"))
    config = load_config(project.folder / "esops.toml")
    with open_store("shop", config.stores["shop"]) as store:
        for stream, data in (
            ("cart-1", b'{"n": 1}'),
            ("cart-1", b'{"m": 1}'),
            ("cart-2", b'{"m": 2}'),
        ):
            store.append(stream, [NewEvent(str(uuid.uuid4()), "opened", data)])
    project.ok("archive", "run", "all", "--new-archive")
    for name, events, failed in (("cold", 2, 1), ("both", 3, 2)):
        result = project.run(*DECODE, "code:decode", "--store", name)
        assert result.code == 1, (name, result.err)
        found = result.json
        assert (found["events"], found["failed"]) == (events, failed), (name, result.err)
        assert found["failures"][0]["message"] == "'n'"
    project.write("code.py", ANY)
    options = (*DECODE, "code:decode", "--store", "cold", "--since-last")
    assert [project.ok(*options).json["events"] for _ in range(2)] == [2, 0]


def test_events_of_eventstoredb(node, project):
    category = f"d{uuid.uuid4().hex[:8]}"
    project.configure(stores={"s": {"backend": "eventstoredb", "uri": node.uri}})
    project.write("code.py", ANY)
    config = load_config(project.folder / "esops.toml")
    with open_store("s", config.stores["s"]) as store:
        for number in range(5):
            event = NewEvent(str(uuid.uuid4()), f"{category}ed", b'{"n": %d}' % number)
            store.append(f"{category}-{number % 2}", [event])
    options = (*DECODE, "code:decode", "--category", category)
    found = project.ok(*options, "--since-last").json
    assert (found["events"], found["shapes"]) == (5, 1)
    # What was kept is a stream of the node's, and no event.
    assert project.ok(*options, "--since-last").json["events"] == 0
