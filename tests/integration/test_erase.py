"""`esops erase` on real tables: what is masked in each layout, what is refused, what is proven."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import unicodedata
import uuid

import orjson
import psycopg
import pyarrow.parquet as pq
import pytest

from esops.archive_format.lease import Lease
from esops.archive_format.repository import Repository
from esops.erasing.rules import HASHED
from esops.events import NewEvent
from esops.settings import ArchiveSettings, PostgresSettings
from esops.stores import open_store
from tests.support import emmett, eventsourcing, marten, messagedb
from tests.support.cases import thorough_but, thorough_in
from tests.support.project import Result
from tests.support.waiting import DEADLINE, end, until

ANN = {"customerId": 42, "email": "ann@example.com", "name": "Ann Miller", "city": "Berlin"}
BOB = {"customerId": 43, "email": "bob@example.com", "name": "Bob Baker", "city": "Berlin"}
RULE = {
    "where": "customerId",
    "secret": "0123456789abcdef",
    "shared": ["city"],
    "mask": {"email": "null", "name": "hash", "phone": "text:erased", "city": "text:erased"},
}
MASKED = {"email": None, "city": "erased"}
VALUES = ("ann@example.com", "Ann Miller", "+49 30 12345")


def new(kind: str = "registered", **data) -> NewEvent:
    return NewEvent(str(uuid.uuid4()), kind, orjson.dumps(data))


def stream(number: int) -> str:
    return str(uuid.UUID(int=number))


def fill(dsn: str, **settings) -> None:
    with open_store("s", PostgresSettings(dsn=dsn, **settings)) as store:
        store.append(stream(1), [new(**ANN), new("moved", **ANN, phone="+49 30 12345")])
        store.append(stream(2), [new(**BOB), new("noted", price=1.10, customerId=43)])


def configure(project, dsn: str, rule: dict = RULE, store: dict | None = None, **more) -> None:
    project.configure(
        stores={"s": {"dsn": dsn, "append": "quick", **(store or {})}},
        erase={"customer": {"store": "s", **rule}},
        **more,
    )


def erase(project, *arguments: str) -> Result:
    result = project.run("erase", *arguments, "--output", "json")
    for text in (result.out, result.err):
        assert not any(value in text for value in VALUES), "a value was shown"
    return result


def everything(connection) -> str:
    """All rows of all tables, as text."""
    tables = connection.execute(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE relkind = 'r' AND nspname !~ '^(pg_|information_schema)'"
    ).fetchall()
    return "\n".join(
        bytes.fromhex(text[2:]).decode("utf-8", "replace") if text.startswith("\\x") else text
        for (table,) in tables
        for (row,) in connection.execute(f"SELECT to_jsonb(t) FROM {table} t").fetchall()
        for text in map(str, row.values())
    )


LAYOUTS = {
    "marten": lambda c: marten.create(c),
    "marten partitioned": lambda c: marten.create(
        c, marten.Variant(partitioned=True, conjoined=True, optional=True)
    ),
    "emmett": lambda c: emmett.create(c),
    "message-db": lambda c: messagedb.create(c),
    "eventsourcing": lambda c: eventsourcing.create(c),
}


@pytest.mark.parametrize(
    "layout",
    thorough_in(
        ["marten", "marten partitioned", "emmett", "message-db", "eventsourcing"],
        ["marten partitioned"],
    ),
)
def test_a_person_is_erased_from_each_layout(project, dsn, connection, layout):
    LAYOUTS[layout](connection)
    fill(dsn)
    configure(project, dsn)
    before = project.ok("events", "--output", "json").json
    planned = erase(project, "--where", "customerId=42", "--dry-run")
    assert planned.code == 0
    assert planned.json["events"] == 2
    assert project.ok("events", "--output", "json").json == before, "a plan changes nothing"
    assert erase(project, "--where", "customerId=42").code == 2, "it needs a confirmation"
    done = erase(project, "--where", "customerId=42", "--yes")
    assert done.code == 0, done.err
    told = {key: done.json[key] for key in ("events", "archives", "rows", "remaining")}
    assert told == {"events": 2, "archives": 0, "rows": 0, "remaining": 0}
    after = project.ok("events", "--output", "json").json
    for old, now in zip(before, after, strict=True):
        data = now.pop("data")
        if old["data"]["customerId"] == 42:
            assert {key: data[key] for key in MASKED} == MASKED
            assert HASHED.fullmatch(data["name"])
            assert data.get("phone", "erased") == "erased"
        else:
            assert data == old["data"]
        del old["data"]
        assert now == old
    assert not any(value in everything(connection) for value in VALUES)
    again = erase(project, "--where", "customerId=42")
    assert again.code == 0
    assert again.json["events"] == again.json["remaining"] == 0


def test_copies_of_a_value_are_named_and_never_shown(project, dsn, connection):
    marten.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append(stream(1), [new(**ANN, note="wrote as Ann Miller")])
        store.append(stream(2), [new("sent", to="ann@example.com", customerId=43)])
    connection.execute("CREATE TABLE mt_doc_customer (id int, data jsonb)")
    connection.execute("INSERT INTO mt_doc_customer VALUES (1, %s)", (json.dumps(ANN),))
    configure(project, dsn)
    done = erase(project, "--where", "customerId=42", "--yes")
    assert done.code == 1
    places = {(each["where"], each["path"]) for each in done.json["places"]}
    assert ("store s", "data $.note") in places
    assert ("store s", "data $.to") in places
    assert ("table public.mt_doc_customer", "$.data.email") in places
    assert done.json["remaining"] == len(done.json["places"])
    # A second run knows no value any more, and says so until somebody has looked.
    again = erase(project, "--where", "customerId=42", "--yes")
    assert (again.code, again.json["events"]) == (1, 0)
    assert again.json["remaining"] == done.json["remaining"]
    assert again.json["places"][1:] == done.json["places"]
    assert erase(project, "--where", "customerId=43", "--dry-run").json["places"] == []
    project.ok("erase", "--done", "1")
    assert erase(project, "--where", "customerId=42", "--yes").code == 0
    assert project.run("erase", "--done", "1").code == 2
    # Another rule takes what was left; what is asked for is looked for even if no event has it.
    connection.execute("DROP TABLE mt_doc_customer")
    more = {"where": "to", "mask": {"to": "null", "note": "null"}}
    configure(project, dsn, more)
    assert erase(project, "--where", "to=ann@example.com", "--yes").code == 0
    connection.execute('UPDATE mt_events SET data = data || \'{"cc": "ann@example.com"}\'')
    assert erase(project, "--where", "to=ann@example.com", "--yes").code == 1


def test_snapshots_and_other_tables_are_read_back(project, dsn, connection):
    eventsourcing.create(connection)
    fill(dsn)
    connection.execute(
        "INSERT INTO bankaccounts_snapshots SELECT originator_id, originator_version, topic, state "
        "FROM bankaccounts_events; CREATE TABLE people (who text, photo bytea);"
        "INSERT INTO people VALUES ('Ann Miller', NULL), ('x', 'of Ann Miller'), ('Ann', NULL)"
    )
    configure(project, dsn, {**RULE, "tables": ["people"]})
    done = erase(project, "--where", "customerId=42", "--yes")
    assert done.code == 1
    places = [each["where"] for each in done.json["places"]]
    assert places.count("table public.people") == 2
    assert set(places) == {"table public.people", "table public.bankaccounts_snapshots"}
    configure(project, dsn, {**RULE, "tables": ["absent"]})
    assert erase(project, "--where", "customerId=43", "--dry-run").code == 2


def test_streams_lists_and_whole_streams(project, dsn, connection):
    messagedb.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("customer-1", [new(**ANN), new("moved", address="Old Street 1")])
        store.append("customer-2", [new(**BOB), new("moved", address="Old Street 2")])
        store.append("customer-3", [new(**BOB), new("moved", address="Old Street 3")])
    mask = {"address": "null", "email": "null", "name": "null"}
    configure(project, dsn, {"mask": mask, "whole_streams": True})
    project.write("people", "email=ann@example.com\n")
    done = erase(project, "--list", "people", "--yes")
    assert (done.code, done.json["events"]) == (0, 2), done.json
    project.write("streams", "customer-2\n")
    done = erase(project, "--streams-from", "streams", "--stream", "customer-9", "--yes")
    assert done.json["events"] == 2
    left = connection.execute("SELECT data FROM message_store.messages ORDER BY 1").fetchall()
    assert [row[0]["address"] for row in left if "address" in row[0]] == [
        None,
        None,
        "Old Street 3",
    ]


def test_metadata_of_marten_goes_by_its_columns(project, dsn, connection):
    variant = marten.Variant(optional=True, text_ids=True)
    marten.create(connection, variant)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("a-1", [new(a=1), new(a=2)])
    connection.execute(
        'UPDATE mt_events SET user_name = \'ann.miller\', headers = \'{"ip": "10.1.2.3", "n": 1}\''
    )
    rule = {"mask": {"metadata:userName": "null", "metadata:headers.ip": "text:-"}}
    configure(project, dsn, rule)
    assert erase(project, "--where", "metadata:userName=ann.miller", "--yes").code == 0
    rows = connection.execute("SELECT DISTINCT user_name, headers FROM mt_events").fetchall()
    assert rows == [(None, {"ip": "-", "n": 1})]


def test_what_cannot_be_read_is_named(project, dsn, connection):
    marten.create(connection, marten.Variant(binary=True))
    fill(dsn)
    connection.execute("UPDATE mt_events SET bdata = '\\x00ff' WHERE seq_id = 3")
    configure(project, dsn)
    done = erase(project, "--where", "customerId=42", "--yes")
    assert (done.code, done.json["events"], done.json["remaining"]) == (1, 2, 1)
    assert done.json["places"][0]["path"] == "bdata"
    configure(project, dsn, {**RULE, "types": ["moved"]})
    assert erase(project, "--where", "customerId=42", "--yes").code == 0


def test_states_that_are_encrypted_are_named(project, dsn, connection):
    eventsourcing.create(connection)
    fill(dsn)
    connection.execute("UPDATE bankaccounts_events SET state = '\\x789c01' || state")
    configure(project, dsn)
    done = erase(project, "--where", "customerId=42", "--yes")
    assert (done.code, done.json["events"], done.json["remaining"]) == (1, 0, 5)


OBSTACLES = {
    "rights": "CREATE ROLE eraser_{n} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO eraser_{n};"
    "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO eraser_{n}",
    "rule": "CREATE RULE no AS ON UPDATE TO mt_events DO INSTEAD NOTHING",
    "constraint": "ALTER TABLE mt_events ADD CHECK (data ? 'price' OR data->>'email' IS NOT NULL)",
    "trigger": "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION "
    "'immutable: %', OLD.data; END $f$; CREATE TRIGGER no BEFORE UPDATE ON mt_events FOR EACH "
    "ROW EXECUTE FUNCTION no()",
}


def test_what_the_database_forbids_is_refused(project, dsn, connection):
    marten.create(connection)
    fill(dsn)
    before = everything(connection)
    for name, statement in OBSTACLES.items():
        role = f"eraser_{uuid.uuid4().hex[:8]}"
        with connection.transaction(force_rollback=False):
            connection.execute(statement.replace("eraser_{n}", role))
        own = psycopg.conninfo.make_conninfo(dsn, user=role) if name == "rights" else dsn
        configure(project, own)
        done = erase(project, "--where", "customerId=42", "--yes")
        assert done.code == 6, (name, done.err)
        assert everything(connection) == before
        if name == "rule":
            connection.execute("DROP RULE no ON mt_events")
        if name == "constraint":
            connection.execute("ALTER TABLE mt_events DROP CONSTRAINT mt_events_data_check")
        if name == "rights":
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_table_of_ones_own(project, dsn, connection):
    connection.execute(
        "CREATE TABLE log (n bigserial, s text, v int, kind text, body text, mail text "
        "GENERATED ALWAYS AS (body::json->>'email') STORED, PRIMARY KEY (s, v))"
    )
    for at, who in enumerate((ANN, BOB), 1):
        body = json.dumps(who, indent=1)
        connection.execute(
            "INSERT INTO log (s, v, kind, body) VALUES (%s, 1, 'k', %s)", (f"c-{at}", body)
        )
    table = {"name": "log", "stream": "s", "version": "v", "position": "n", "type": "kind"}
    store = {"layout": "custom", "table": {**table, "data": "body"}}
    configure(project, dsn, store=store)
    assert erase(project, "--where", "customerId=42", "--yes").code == 0
    rows = connection.execute("SELECT body, mail FROM log ORDER BY n").fetchall()
    assert rows[0][1] is None
    assert rows[0][0].startswith('{\n "customerId": 42,\n "email": null,\n "name": "erased:')
    assert rows[1][0] == json.dumps(BOB, indent=1)
    configure(project, dsn, store={**store, "table": {**table, "data": "mail"}})
    assert erase(project, "--where", "customerId=43", "--yes").code == 6


def test_eventstoredb_is_refused(project, node):
    project.configure(
        stores={"s": {"backend": "eventstoredb", "uri": node.uri}},
        erase={"customer": {"mask": {"email": "null"}}},
    )
    done = erase(project, "--stream", "customer-1", "--yes")
    assert done.code == 6
    assert "redactor" in done.err


def test_what_was_asked_for_has_to_fit_a_rule(project, dsn, connection):
    marten.create(connection)
    configure(project, dsn)
    for arguments in ((), ("--where", "email=x@y"), ("--where", "customerId"), ("--rule", "x")):
        assert erase(project, *arguments, "--yes").code == 2, arguments
    configure(project, dsn, {"mask": {"email": "hash"}})
    assert "secret" in erase(project, "--where", "customerId=42").err


# -- archives

ARCHIVE = {
    "cold": {
        "repository": "cold",
        "policies": {
            "old": {"store": "s", "stream": "*", "remove": "keep", "never_younger_than": "0s"}
        },
    }
}


def archived_text(project) -> str:
    """All that the repository has, decoded."""
    found = []
    for path in (project.folder / "cold").rglob("*"):
        if path.suffix == ".parquet":
            found.append(str(pq.read_table(path).to_pylist()))
        elif path.is_file():
            found.append(path.read_text())
    return "\n".join(found)


def listed_streams(folder) -> list:
    """What a run has of streams beside their events."""
    files = orjson.loads((folder / "manifest.json").read_bytes())["stream_files"]
    rows = [row for each in files for row in pq.read_table(folder / each["name"]).to_pylist()]
    return [(row["stream"], row["row"], row["categories"]) for row in rows]


@pytest.mark.thorough
def test_an_archive_whose_lists_tell_categories_keeps_them(project, dsn, connection):
    connection.execute(
        "CREATE TABLE log (n bigserial, s text, v int, kind text, body jsonb, grp text)"
    )
    connection.execute(
        "INSERT INTO log (s, v, kind, body, grp) VALUES ('a', 1, 'k', %s, 'customer')",
        (json.dumps(ANN),),
    )
    table = {"name": "log", "stream": "s", "version": "v", "position": "n", "type": "kind"}
    store = {"layout": "custom", "table": {**table, "data": "body", "category": "grp"}}
    configure(project, dsn, store=store, archives=ARCHIVE)
    run = project.ok("archive", "run", "old", "--output", "json").json["run"]
    folder = project.folder / "cold" / "runs" / run
    assert listed_streams(folder) == [("a", None, '["customer"]')]
    assert erase(project, "--where", "customerId=42", "--yes").json["archives"] == 1
    assert listed_streams(folder) == [("a", None, '["customer"]')]


# An archive is sealed in the same way whatever it is of; this layout has more columns in it.
@pytest.mark.parametrize(
    "layout",
    thorough_but(["marten partitioned", "emmett", "eventsourcing"], "marten partitioned"),
)
def test_archives_are_sealed_again(project, dsn, connection, layout):
    LAYOUTS[layout](connection)
    fill(dsn)
    if layout.startswith("marten"):
        connection.execute(
            "UPDATE mt_events SET user_name = 'ann.miller', headers = '{\"ip\": \"1.2.3.4\"}' "
            "WHERE seq_id < 3"
        )
    masks = {**RULE["mask"], "metadata:userName": "null", "metadata:headers.ip": "null"}
    configure(project, dsn, {**RULE, "mask": masks}, archives=ARCHIVE)
    kept = project.ok("archive", "run", "old", "--output", "json").json["run"]
    gone = project.ok("archive", "run", "old", "--remove", "delete", "--output", "json").json["run"]
    folder = project.folder / "cold" / "runs" / gone
    before = orjson.loads((folder / "manifest.json").read_bytes())
    listed = listed_streams(folder)
    planned = erase(project, "--where", "customerId=42", "--dry-run").json
    assert (planned["archives"], planned["archived_events"]) == (2, 4)
    done = erase(project, "--where", "customerId=42", "--yes", "--reason", "request 17")
    assert (done.code, done.json["archives"]) == (0, 2), done.json
    text = archived_text(project)
    assert not any(value in text for value in (*VALUES, "ann.miller", "1.2.3.4"))
    assert "bob@example.com" in text
    seal = orjson.loads((folder / "manifest.json").read_bytes())["reseals"][0]
    assert (seal["reason"], seal["events"]) == ("request 17", 2)
    assert set(seal["files"]) == {
        each["name"] for each in [*before["event_files"], *before["stream_files"]]
    }
    assert not any((folder / name).exists() for name in seal["files"])
    assert project.ok("archive", "verify").code == 0
    assert project.ok("archive", "verify", kept, "--against-store").code == 0
    assert listed_streams(folder) == listed
    again = erase(project, "--where", "customerId=42", "--yes")
    assert (again.code, again.json["archives"]) == (0, 0)
    # What comes back is what the archive has now.
    project.ok("archive", "restore", gone, "--yes")
    assert project.ok("archive", "verify", "--against-store").code == 0
    assert erase(project, "--where", "customerId=42", "--yes").json["events"] == 0
    assert not any(value in everything(connection) for value in VALUES)


def test_runs_that_are_not_sealed_and_files_that_do_not_count(project, dsn, connection):
    messagedb.create(connection)
    fill(dsn)
    configure(project, dsn, archives=ARCHIVE, store={"append": "auto"})
    run = project.ok("archive", "run", "old", "--output", "json").json["run"]
    folder = project.folder / "cold" / "runs" / run
    (file,) = folder.glob("*-events-*.parquet")
    stale = folder / "000000-events-00001.parquet"
    stale.write_bytes(file.read_bytes())
    other = folder.parent / "20200101T000000Z-old-abcdef"
    other.mkdir()
    (other / file.name).write_bytes(file.read_bytes())
    with Lease(Repository(ArchiveSettings(repository=str(project.folder / "cold"))), "cold/old"):
        assert erase(project, "--where", "customerId=42", "--yes").code == 4
    assert "ann@example.com" in everything(connection), "nothing was changed yet"
    done = erase(project, "--where", "customerId=42", "--yes")
    assert done.code == 1
    assert "not sealed" in done.json["places"][0]["of"]
    assert done.json["remaining"] == 1
    assert not stale.exists()
    project.ok("archive", "gc", "--older-than", "0s")
    (other / file.name).unlink(missing_ok=True)
    assert erase(project, "--where", "customerId=42", "--yes").code == 0
    project.configure(
        stores={"s": {"dsn": dsn}},
        erase={"customer": RULE},
        archives={"cold": {"repository": "absent"}},
    )
    assert erase(project, "--where", "customerId=42", "--yes").code == 3


# -- read models

PROJECTION = """
from esops import fold

@fold(key="stream")
def people(row, event):
    data = event.json()
    if data.get("boom"):
        raise ValueError(f"{data['email']} is no address")
    return {"id": event.stream, "email": data.get("email")}
"""


@pytest.mark.thorough
def test_rows_need_a_rebuild_until_which_nothing_is_proven(project, dsn, connection):
    marten.create(connection)
    fill(dsn)
    # Nobody but its author knows which events make a row of such a fold.
    project.write("people.py", PROJECTION.replace('"stream"', "lambda event: event.stream"))
    project.write("people.sql", "CREATE TABLE {table} (id text PRIMARY KEY, email text)")
    people = {
        "python": "people:people",
        "tables": ["people"],
        "ddl": "people.sql",
        "on_error": "dead-letter",
    }
    configure(project, dsn, projections={"people": people})
    project.ok("rebuild", "people", "--blue-green")
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append(stream(4), [new(**ANN, boom=True)])
    assert project.run("run", "--until-caught-up").code == 1
    assert connection.execute("SELECT error FROM esops.dead_letters").fetchone()
    connection.execute(
        "INSERT INTO esops.checks (projection, version, state, asked, host, pid, samples)"
        " VALUES ('people', 1, 'done', '{}', 'h', 1, '[{\"key\": \"ann@example.com\"}]');"
        "INSERT INTO esops.check_keys SELECT id, 'people', ARRAY['ann@example.com'], 'unlike'"
        " FROM esops.checks; INSERT INTO esops.check_keys"
        " SELECT id, 'people', ARRAY['other'], 'unlike' FROM esops.checks"
    )
    planned = erase(project, "--where", "customerId=42", "--dry-run").json
    assert (planned["events"], planned["rows"]) == (3, 1)
    done = erase(project, "--where", "customerId=42", "--yes")
    assert (done.code, done.json["rows"], done.json["remaining"]) == (1, 1, 1)
    assert done.json["places"][0]["of"] == "esops rebuild people --blue-green --compare counts"
    (error,) = connection.execute("SELECT error FROM esops.dead_letters").fetchone()
    assert error == "erased"
    kept = connection.execute("SELECT key, samples FROM esops.check_keys, esops.checks").fetchall()
    assert kept == [(["other"], [{"key": "erased"}])]
    findings = project.run("doctor", "--output", "json").json["findings"]
    (finding,) = [each for each in findings if each["code"] == "ESOPS-D085"]
    assert finding["fix"] == done.json["places"][0]["of"]
    # A second run knows of no value any more, and says the same, whatever esops.toml names.
    for named in ({}, {"people": people}):
        configure(project, dsn, projections=named)
        assert erase(project, "--where", "customerId=42", "--yes").code == 1
    assert project.run("rebuild", "people", "--blue-green", "--yes").code == 1  # compares rows
    project.ok("rebuild", "people", "--blue-green", "--abort", "--yes")
    rebuild = ("rebuild", "people", "--blue-green", "--yes", "--compare", "counts")
    assert (
        project.run(*rebuild, "--max-dead-letters", "1").code == 1
    )  # the dead letter is a finding
    done = erase(project, "--where", "customerId=42", "--yes")
    assert (done.code, done.json["rows"]) == (1, 1), "the version kept for a rollback has it"
    assert done.json["places"][0]["of"] == "esops projection retire people 1"
    project.ok("projection", "retire", "people", "1", "--yes")
    assert erase(project, "--where", "customerId=42", "--yes").code == 0
    assert "ann@example.com" not in everything(connection)


@pytest.mark.parametrize("elsewhere", thorough_but([False, True], True))
def test_what_a_paused_load_has_written_to_files_goes(
    project, dsn, connection, tmp_path, elsewhere
):
    """Or the erasure is refused, since it could not say that nothing is left."""
    marten.create(connection)
    fill(dsn)
    project.write("people.py", PROJECTION)
    project.write("people.sql", "CREATE TABLE {table} (id text PRIMARY KEY, email text)")
    people = {"python": "people:people", "tables": ["people"], "ddl": "people.sql"}
    configure(project, dsn, projections={"people": people})
    project.ok("rebuild", "people", "--blue-green", "--no-switch")
    files = tmp_path / "esops-spill-s"
    files.mkdir()
    (files / "0.events").write_bytes(b"ann@example.com")
    host = "another-machine" if elsewhere else socket.gethostname()
    connection.execute(
        "INSERT INTO esops.spills (projection, version, shard, spill, host, directory, fresh, "
        "partitions) VALUES ('people', 1, -1, 's', %s, %s, true, 16)",
        (host, str(files)),
    )
    done = erase(project, "--where", "customerId=42", "--yes")
    assert connection.execute("SELECT stale FROM esops.spills").fetchone() == (
        "events were erased since",
    )
    assert not files.exists()
    if not elsewhere:
        assert done.code in (0, 1)
        return
    assert done.code == 6
    assert f"{files} on another-machine" in done.err
    connection.execute("DELETE FROM esops.spills")  # as the end of that rebuild does
    assert erase(project, "--where", "customerId=42", "--yes").code in (0, 1)


def test_rows_of_a_stream_are_folded_again(project, dsn, connection):
    """Unless events are missing, or a process kept them fresh when they were erased."""
    marten.create(connection)
    fill(dsn)
    project.write("people.py", PROJECTION)
    project.write("people.sql", "CREATE TABLE {table} (id text PRIMARY KEY, email text)")
    people = {"python": "people:people", "tables": ["people"], "ddl": "people.sql"}
    configure(project, dsn, projections={"people": people})
    for _ in range(2):
        project.ok("rebuild", "people", "--blue-green")
    process = project.start("run")
    held = (
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
        "WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND application_name LIKE 'esops %'"
    )
    until(lambda: connection.execute(held).fetchone() == (2,))
    planned = erase(project, "--where", "customerId=42", "--dry-run").json
    assert sum("stop that before you erase" in note for note in planned["notes"]) == 2
    done = erase(project, "--where", "customerId=42", "--yes")
    assert done.out, done.err
    assert (done.code, done.json["rows"]) == (1, 2), "a process keeps rows in memory"
    assert any("kept fresh by" in note for note in done.json["notes"])
    end(process)
    done = erase(project, "--where", "customerId=43", "--yes")
    assert (done.code, done.json["rows"]) == (1, 2), "those of the person before"
    assert "bob@example.com" not in everything(connection)
    assert connection.execute("SELECT count(*) FROM people").fetchone() == (2,)
    project.ok("rebuild", "people", "--blue-green", "--yes", "--compare", "counts")
    for number in ("1", "2"):
        project.ok("projection", "retire", "people", number, "--yes")
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append(stream(5), [new(**ANN), new("moved", customerId=42, email="new@example.com")])
    project.ok("run", "--until-caught-up")
    planned = erase(project, "--where", "customerId=42", "--dry-run").json
    assert (planned["rows"], planned["remaining"], planned["places"]) == (1, 0, [])
    assert "1 row of people v3 will be folded again" in planned["notes"]
    done = erase(project, "--where", "customerId=42", "--yes")
    assert (done.code, done.json["notes"]) == (0, [])
    rows = connection.execute("SELECT id, email FROM people ORDER BY id").fetchall()
    assert rows == [(stream(1), None), (stream(2), None), (stream(5), None)]
    # Of a stream whose head is gone nobody can fold the row again.
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append(stream(6), [new(**BOB), new("moved", **BOB)])
    project.ok("run", "--until-caught-up")
    connection.execute("DELETE FROM mt_events WHERE stream_id = %s AND version = 1", (stream(6),))
    done = erase(project, "--where", "customerId=43", "--yes")
    assert (done.code, done.json["rows"]) == (1, 1)
    assert any("does not give all events" in note for note in done.json["notes"])
    row = "SELECT email FROM people WHERE id = %s"
    assert connection.execute(row, (stream(6),)).fetchone() == (BOB["email"],)
    recorded = (
        "SELECT DISTINCT command, subject, options FROM esops.actions WHERE command = 'erase'"
    )
    assert connection.execute(recorded).fetchall() == [("erase", "store s", "--where …")]


def test_a_log_is_recognised_although_all_its_events_changed(project, dsn, connection):
    """Events of Python's eventsourcing have no ids: a mark of the log tells of what is in them."""
    eventsourcing.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append(stream(1), [new(**ANN), new("moved", **ANN)])
    project.write("people.py", PROJECTION.replace('data.get("email")}', "None}"))
    project.write("people.sql", "CREATE TABLE {table} (id text PRIMARY KEY, email text)")
    people = {"python": "people:people", "tables": ["people"], "ddl": "people.sql"}
    configure(project, dsn, projections={"people": people})
    project.ok("rebuild", "people", "--blue-green")
    assert erase(project, "--where", "customerId=42", "--yes").code == 0
    # As after a restart of the server, when nothing else vouches for the log.
    connection.execute(
        "UPDATE esops.marks SET mark = jsonb_set(mark, '{log,started}', '\"2020-01-01\"')"
    )
    project.ok("run", "--until-caught-up")


LIBRARY = """
import sys
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

class Customer(Aggregate):
    @event("Registered")
    def __init__(self, number, name, born):
        self.number, self.name, self.born, self.moves = number, name, born, 0

    @event("Moved")
    def move(self, address):
        self.address, self.moves = address, self.moves + 1

class Customers(Application):
    pass

from datetime import datetime
from uuid import UUID
app = Customers()
if len(sys.argv) < 2:
    customer = Customer(42, "Ann Miller", datetime(1980, 5, 6))
    customer.move({"street": "Old Street 1", "zip": "10115"})
    app.save(customer)
    print(customer.id)
else:
    found = app.repository.get(UUID(sys.argv[1]))
    print([found.number, found.name, found.born, found.address, found.moves])
    found.move({"street": "x"})
    app.save(found)
"""


@pytest.mark.thorough
def test_the_library_loads_what_was_masked(project, dsn):
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    project.environment |= {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts["dbname"],
        "POSTGRES_HOST": parts["host"],
        "POSTGRES_PORT": str(parts.get("port", 5432)),
        "POSTGRES_USER": parts["user"],
        "POSTGRES_PASSWORD": "none",
    }
    library = project.write("customers.py", LIBRARY)

    def customers(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, str(library), *arguments],
            env=project.environ(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    written = customers()
    mask = {"name": "text:erased", "born": "null", "address.street": "null"}
    configure(project, dsn, {"where": "number", "whole_streams": True, "mask": mask})
    done = erase(project, "--where", "number=42", "--yes")
    assert (done.code, done.json["events"]) == (0, 2), done.out
    now = customers(written)
    assert now == "[42, 'erased', None, {'street': None, 'zip': '10115'}, 1]"


@pytest.mark.thorough
def test_tags_natural_keys_and_rows_of_streams_are_read_back(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("a-1", [new(**ANN)])
    connection.execute(
        "CREATE TABLE mt_event_tag_email (value varchar, seq_id bigint);"
        "INSERT INTO mt_event_tag_email VALUES ('ann@example.com', 1);"
        "CREATE TABLE mt_natural_key_customer (natural_key_value varchar, stream_id varchar);"
        "INSERT INTO mt_natural_key_customer VALUES ('Ann Miller', 'a-1');"
        "ALTER TABLE mt_streams ADD who text; UPDATE mt_streams SET who = 'Ann Miller'"
    )
    configure(project, dsn)
    done = erase(project, "--where", "customerId=42", "--yes")
    assert done.code == 1
    assert {(each["where"], each["path"]) for each in done.json["places"]} == {
        ("table public.mt_event_tag_email", "$.value"),
        ("table public.mt_natural_key_customer", "$.natural_key_value"),
        ("table public.mt_streams", "$.who"),
    }


@pytest.mark.thorough
def test_an_archived_run_of_all_tenants_is_masked_for_one(project, dsn, connection):
    """The other tenant's customer of the same number is another person."""
    marten.create(connection, marten.Variant(text_ids=True, conjoined=True))
    for tenant, who in (("red", ANN), ("blue", {**BOB, "customerId": 42})):
        with open_store("s", PostgresSettings(dsn=dsn, tenant=tenant)) as store:
            store.append("c-1", [new(**who)])
    configure(project, dsn, archives=ARCHIVE)
    project.ok("archive", "run", "old")
    configure(project, dsn, store={"tenant": "red"}, archives=ARCHIVE)
    done = erase(project, "--where", "customerId=42", "--yes")
    assert (done.code, done.json["events"], done.json["archived_events"]) == (0, 1, 1)
    for text in (archived_text(project), everything(connection)):
        assert "bob@example.com" in text
        assert "ann@example.com" not in text
    configure(project, dsn, archives=ARCHIVE)
    project.ok("archive", "verify", "--against-store")


SLOW_RESTORE = """
import os, time
if os.environ.get("SLOW"):
    from esops.archive.restoration import Restoration
    restore_group = Restoration._restore_group
    def slowly(self, group):
        group = group._replace(batches=iter(list(group.batches)))
        open("ready", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.05)
        return restore_group(self, group)
    Restoration._restore_group = slowly
"""


def test_a_restore_beside_an_erasure_brings_nothing_back(project, dsn, connection):
    """Whether it has read before the erasure, or has written and is not committed yet."""
    marten.create(connection)
    fill(dsn)
    configure(project, dsn, archives=ARCHIVE)
    run = project.ok("archive", "run", "old", "--remove", "delete", "--output", "json").json["run"]
    project.patch(SLOW_RESTORE)
    project.environment["SLOW"] = "1"
    process = project.start("archive", "restore", run, "--yes")
    del project.environment["SLOW"]
    until(lambda: (project.folder / "ready").exists())
    assert erase(project, "--where", "customerId=42", "--yes").code == 0
    (project.folder / "go").touch()
    _, told = process.communicate(timeout=DEADLINE)
    assert process.returncode == 4, told
    assert "sealed again" in told
    assert not any(value in everything(connection) for value in VALUES)
    project.ok("archive", "restore", run, "--yes")
    assert not any(value in everything(connection) for value in VALUES)
    with psycopg.connect(dsn) as writer:
        writer.execute(
            "UPDATE mt_events SET data = jsonb_set(data, '{email}', '\"x@example.org\"') "
            "WHERE seq_id = 2"
        )
        erasing = project.start("erase", "--where", "customerId=42", "--yes")
        with pytest.raises(Exception, match="timed out"):
            erasing.communicate(timeout=2)
        writer.commit()
    erasing.communicate(timeout=DEADLINE)
    assert erasing.returncode == 0
    assert (
        connection.execute("SELECT data->'email' FROM mt_events WHERE seq_id = 2").fetchone()[0]
        is None
    )


DERIVED = """
from esops import fold

@fold(key="stream")
def people(row, event):
    return {"id": event.stream, "email": (event.json().get("email") or "").upper()}
"""


def test_rows_of_a_stream_are_folded_again_whatever_they_have_made_of_a_value(
    project, dsn, connection
):
    marten.create(connection)
    fill(dsn)
    project.write("people.py", DERIVED)
    project.write("people.sql", "CREATE TABLE {table} (id text PRIMARY KEY, email text)")
    people = {"python": "people:people", "tables": ["people"], "ddl": "people.sql"}
    configure(project, dsn, projections={"people": people})
    project.ok("rebuild", "people", "--blue-green")
    assert erase(project, "--where", "customerId=42", "--yes").code == 0
    rows = connection.execute("SELECT email FROM people ORDER BY id").fetchall()
    assert rows[0] == ("",)
    assert "ANN@" not in everything(connection)
    # Where that cannot be done, nobody can say what is in the rows.
    project.write("people.py", DERIVED.replace("upper", "lower"))
    done = erase(project, "--where", "customerId=43", "--yes")
    assert (done.code, done.json["rows"]) == (1, 1)
    assert any("code of people has changed" in note for note in done.json["notes"])


KILLED_BEHIND_MASKING = """
import os, signal
if os.environ.get("KILL"):
    from esops.erasing.run import Erasure
    mask = Erasure._mask_store
    def deadly(self, outcome):
        mask(self, outcome)
        os.kill(os.getpid(), signal.SIGKILL)
    Erasure._mask_store = deadly
"""


def test_an_erasure_that_was_killed_has_noted_what_it_would_leave(project, dsn, connection):
    marten.create(connection)
    fill(dsn)
    connection.execute("CREATE TABLE mt_doc_customer (id int, data jsonb)")
    connection.execute("INSERT INTO mt_doc_customer VALUES (1, %s)", (json.dumps(ANN),))
    configure(project, dsn)
    project.patch(KILLED_BEHIND_MASKING)
    project.environment["KILL"] = "1"
    process = project.start("erase", "--where", "customerId=42", "--yes")
    process.communicate(timeout=DEADLINE)
    assert process.returncode == -9
    del project.environment["KILL"]
    done = erase(project, "--where", "customerId=42", "--yes")
    assert (done.code, done.json["events"]) == (1, 0)
    assert "did not end" in done.json["places"][0]["of"]
    assert done.json["places"][1]["where"] == "table public.mt_doc_customer"
    assert not any(
        value in str(connection.execute("SELECT * FROM esops.erasures").fetchall())
        for value in VALUES
    )


def places(done: Result) -> list[str]:
    return [each["path"] for each in done.json["places"]]


def test_values_in_keys_and_objects_and_without_blanks_are_found(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    mine = {"customerId": 42, "contacts": {"ann@example.com": True, "n": {"Ann Miller": 1}}}
    mine |= {"nick": "王小明", "note": "null"}
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("a-1", [new(**mine), new(customerId=42, contacts=None, note=None)])
        store.append("b-1", [new(by={"user:ann@example.com": {"x": "Ann Miller"}}, n=None)])
        store.append("b-2", [new(note="致王小明先生", name=None)])
    configure(project, dsn, {"mask": {"contacts": "null", "nick": "null", "note": "null"}})
    done = erase(project, "--where", "customerId=42", "--yes")
    assert done.code == 1
    assert sorted(places(done)) == ["data $.by.….x", "data $.note", "data a key"]
    assert not any("王" in text for text in (done.out, done.err))


def test_numbers_and_lists_that_have_the_value_are_the_persons(project, dsn, connection):
    connection.execute(
        "CREATE TABLE log (n bigserial, s text, v int, kind text, body json, PRIMARY KEY (s, v))"
    )
    bodies = ["42.0", "4.2e1", "[42, 43]", '[["42"]]', '"42"', "420", "43", '" 42"', '{"x": 42}']
    for at, body in enumerate(bodies, 1):
        connection.execute(
            "INSERT INTO log (s, v, kind, body) VALUES (%s, 1, 'k', %s)",
            (f"c-{at}", f'{{"customerId": {body}, "email": "p{at}@example.com"}}'),
        )
    table = {"name": "log", "stream": "s", "version": "v", "position": "n", "type": "kind"}
    store = {"layout": "custom", "append": "auto", "table": {**table, "data": "body"}}
    configure(project, dsn, store=store)
    done = erase(project, "--where", "customerId=42", "--yes")
    # A text that differs by its blanks alone is told, and left.
    assert (done.code, done.json["events"], len(places(done))) == (1, 5, 1)


@pytest.mark.thorough
def test_what_leads_nowhere_is_told(project, dsn, connection):
    """A path that is written in another way, JSON that is too deep, a stream that is nowhere."""
    marten.create(connection, marten.Variant(text_ids=True))
    deep = f'{{"customerId": 42, "email": "x@y.example", "d": {"[" * 401}{"]" * 401}}}'
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("a-1", [new(customerId=42, Email="ann@example.com", name="Ann Miller")])
        store.append("b-1", [NewEvent(str(uuid.uuid4()), "k", deep.encode())])
        store.append("c-1", [new(**BOB)])
    configure(project, dsn)
    done = erase(project, "--where", "customerId=42", "--yes")
    assert (done.code, done.json["events"]) == (1, 1)
    assert sorted(places(done)) == ["data", "data $.Email"]
    assert "$.phone of rule customer leads nowhere in any of these events" in done.json["notes"]
    (project.folder / "streams").write_bytes(b"\xef\xbb\xbfc-1\r\n")
    configure(project, dsn, {**RULE, "types": ["registered"]})
    done = erase(project, "--streams-from", "streams", "--yes")
    assert (done.code, done.json["events"]) == (0, 1)
    done = erase(project, "--stream", "C-1", "--yes")
    assert (done.code, done.json["remaining"]) == (1, 1)
    assert done.json["places"][0]["what"] == "stream C-1"


def test_events_that_nearly_have_what_was_asked_for_are_named_everywhere(project, dsn, connection):
    """Old events often write a key in another way: in the store, in archives, and in rows."""
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("a-1", [new(customerId=42, email="ann@example.com")])
        store.append("b-1", [new(CustomerId=42, Email="second@example.com")])
        store.append("c-1", [new(customer_id=42, total=5)])
    code = PROJECTION.replace('data.get("email")', 'data.get("email") or data.get("Email")')
    project.write("people.py", code)
    project.write("people.sql", "CREATE TABLE {table} (id text PRIMARY KEY, email text)")
    people = {"python": "people:people", "tables": ["people"], "ddl": "people.sql"}
    rule = {"where": "customerId", "mask": {"email": "null"}}
    project.begin_archive("cold")
    configure(project, dsn, rule, projections={"people": people}, archives=ARCHIVE)
    project.ok("rebuild", "people", "--blue-green", "--yes")
    run = project.ok("archive", "run", "old", "--output", "json").json["run"]
    planned = erase(project, "--where", "customerId=42", "--dry-run")
    assert any(
        note.startswith("2 events have what was asked for") for note in planned.json["notes"]
    )
    done = erase(project, "--where", "customerId=42", "--yes")
    assert (done.code, done.json["events"], done.json["archived_events"]) == (1, 1, 1)
    assert "second@example.com" not in done.out
    assert {(each["where"], each["path"]) for each in done.json["places"]} == {
        ("store s", "data $.CustomerId"),
        (f"archive cold, run {run}", "data $.CustomerId"),
        ("projection people v1", "1 rows"),
    }
    assert done.json["remaining"] == 3
    # A rule for that key, and both are asked for.
    rules = {"a": rule, "b": {"where": "CustomerId", "mask": {"Email": "null"}}}
    project.configure(
        stores={"s": {"dsn": dsn, "append": "quick"}},
        archives=ARCHIVE,
        projections={"people": people},
        erase={name: {"store": "s", **each} for name, each in rules.items()},
    )
    both = ("--where", "customerId=42", "--where", "CustomerId=42")
    done = erase(project, *both, "--yes")
    assert (done.code, done.json["remaining"]) == (0, 0), done.json
    assert "example.com" not in everything(connection)
    # Somebody whom no event names is no proof, unless the rule masks the name itself.
    nobody = erase(project, "--where", "customerId=4711", "--yes")
    assert (nobody.code, nobody.json["remaining"]) == (1, 1)
    configure(project, dsn, {"where": "customerId", "mask": {"customerId": "null"}})
    assert erase(project, "--where", "customerId=4711", "--yes").code == 0


def test_names_are_found_in_both_forms_of_unicode(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    forms = ("Jürgen Groß", unicodedata.normalize("NFD", "Jürgen Groß"))
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for number, name in enumerate(forms):
            store.append(f"c-{number}", [new(name=name, city="Berlin"), new(note=f"an {name}")])
            store.append(f"k-{name}", [new(name="x", city="Bonn")])
    configure(project, dsn, {"mask": {"name": "null", "city": "null"}, "shared": ["city"]})
    done = erase(project, "--where", f"name={forms[1]}", "--yes")
    assert (done.code, done.json["events"], done.json["remaining"]) == (1, 2, 6)
    done = erase(project, "--stream", f"k-{forms[0]}", "--yes")
    assert (done.code, done.json["events"]) == (0, 2)


@pytest.mark.parametrize("make", thorough_but([marten.create, emmett.create], marten.create))
def test_streams_in_an_archive_that_esops_does_not_know_are_no_proof(
    project, dsn, connection, make
):
    make(connection)
    fill(dsn)
    configure(project, dsn, archives=ARCHIVE)
    project.ok("archive", "run", "old", "--remove", "delete")
    assert erase(project, "--where", "customerId=42", "--yes").code == 0
    configure(project, dsn)  # the archive's section is gone
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append(stream(9), [new(**ANN)])
    done = erase(project, "--where", "customerId=42", "--yes")
    assert (done.code, done.json["remaining"]) == (1, 1)
    assert done.json["places"][0]["what"] == "2 archived streams without events"
