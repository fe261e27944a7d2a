"""`esops schema check` on real stores: what it finds, and that `--since-last` finds the same."""

from __future__ import annotations

import json
import random
import uuid
from datetime import timedelta

import orjson
import psycopg
import pytest
from esdbclient import EventStoreDBClient, StreamState
from psycopg import sql
from psycopg.conninfo import make_conninfo

from esops.archive.run import RunRequest
from esops.archive.run import run as run_policy
from esops.config import load_config
from esops.events import NewEvent
from esops.schema.checking import run as checking
from esops.schema.checking.run import JOB, SchemaCheck
from esops.schema.files import parse_schemas
from esops.schema.progress import progress_of
from esops.schema.reading import EventSelection
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import emmett, marten
from tests.support.restoring import backups

SCHEMA = {"properties": {"price": {"minimum": 0}}, "required": ["price"]}


def event(price, kind: str = "added", **more) -> NewEvent:
    return NewEvent(str(uuid.uuid4()), kind, orjson.dumps({"price": price, **more}))


def check(project, *options: str, code: int, store: str = "shop") -> dict:
    done = project.run(
        "--store", store, "schema", "check", "--against", "schemas", "--output", "json", *options
    )
    assert done.code == code, done.err + done.out
    return done.json


def write_schema(project, schema: dict, name: str = "added.json") -> None:
    (project.folder / "schemas").mkdir(exist_ok=True)
    project.write(f"schemas/{name}", json.dumps(schema))


def found(document: dict) -> dict[tuple[str, str, str], int]:
    return {(v["type"], v["path"], v["rule"]): v["events"] for v in document["violations"]}


@pytest.fixture(params=["marten", "emmett", "eventstoredb"])
def store_section(request):
    """A store to append to, as a section of esops.toml."""
    if request.param == "eventstoredb":
        return {"backend": "eventstoredb", "uri": request.getfixturevalue("node").uri}
    connection = request.getfixturevalue("connection")
    if request.param == "emmett":
        emmett.create(connection)
    else:
        marten.create(connection, marten.VARIANTS["marten-optional"])
    return {"dsn": request.getfixturevalue("dsn"), "hole_threshold": "0.2s"}


def test_since_last_reads_what_is_new_and_what_a_changed_schema_is_about(project, store_section):
    kind, other = f"added_{uuid.uuid4().hex[:8]}", f"opened_{uuid.uuid4().hex[:8]}"
    project.configure(stores={"shop": store_section})
    write_schema(project, {**SCHEMA, "x-event-type": kind})
    write_schema(project, {"x-event-type": other}, "opened.json")
    settings = load_config(project.folder / "esops.toml").stores["shop"]
    only = ("--type", kind, "--type", other, "--since-last")
    stream = f"cart-{uuid.uuid4()}"
    with open_store("shop", settings) as store:
        store.append(stream, [event(1, kind), event(-1, kind), event(2, other)])
        first = check(project, *only, code=1)
        assert (first["events"], first["since"]) == (3, None)
        assert found(first) == {(kind, "$.price", "minimum"): 1}
        [sample] = first["violations"][0]["samples"]
        version = store.capabilities.first_version + 1
        assert (sample["stream"], sample["version"]) == (stream, version)
        again = check(project, *only, code=1)
        assert (again["events"], again["total_events"], again["since"]) == (0, 3, first["position"])
        assert again["violations"] == first["violations"]
        store.append(stream, [event("x", kind), event(-3, kind), event(4, other)])
        third = check(project, *only, code=1)
        assert (third["events"], third["total_events"]) == (3, 6)
        assert found(third) == {(kind, "$.price", "minimum"): 2}
        # The schema of one type changes: its history alone is read again.
        write_schema(
            project, {**SCHEMA, "x-event-type": kind, "properties": {"price": {"type": "number"}}}
        )
        changed = check(project, *only, code=1)
        assert changed["events"] == 4
        assert found(changed) == {(kind, "$.price", "type"): 1}
        assert "another schema than at the last check" in changed["notes"][0]
        if "uri" in store_section:  # the events of a deleted stream stay in the log
            client = EventStoreDBClient(uri=store_section["uri"])
            client.delete_stream(stream, current_version=StreamState.ANY)
            assert check(project, *only, code=1)["notes"] == []
    whole = check(project, *only[:-1], code=1)
    assert whole["violations"] == changed["violations"]
    assert whole["events"] == changed["total_events"] == 6


def test_a_finding_stays_until_the_event_or_the_schema_changes(project, dsn, connection):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    project.configure(stores={"shop": {"dsn": dsn}})
    write_schema(project, SCHEMA)
    settings = load_config(project.folder / "esops.toml").stores["shop"]
    with open_store("shop", settings) as store:
        store.append("cart-1", [event(-n) for n in range(1, 9)])
        store.append("cart-2", [event(1, "unknown")])
    assert found(check(project, "--since-last", code=1)) == {("added", "$.price", "minimum"): 8}
    [shown] = project.run("status", "--output", "json").json["schema_checks"]
    assert (shown["store"], shown["events"]) == ("shop", 9)
    labels = 'path="$.price",rule="minimum",store="shop",type="added"'
    assert f"esops_schema_violations{{{labels}}} 8.0" in project.run("metrics").out
    doctor = project.run("doctor", "--output", "json").json["findings"]
    [said] = [each["message"] for each in doctor if each["code"] == "ESOPS-D084"]
    assert "most often minimum at $.price of added (8 events)" in said
    connection.execute("UPDATE mt_events SET data = '{\"price\": 0}' WHERE version IN (3, 7)")
    healed = check(project, "--since-last", "--allow-unknown", code=1)
    assert found(healed) == {("added", "$.price", "minimum"): 6}
    assert "changed, erased or archived" in healed["notes"][0]
    connection.execute("DELETE FROM mt_events WHERE data->>'price' < '0'")
    last = check(project, "--since-last", code=1)
    assert (found(last), last["total_events"]) == ({}, 3)
    assert [each["type"] for each in last["types_without_schema"]] == ["unknown"]
    assert check(project, "--since-last", "--allow-unknown", code=0)["events"] == 0
    assert check(project, "--since-last", "--from-start", "--allow-unknown", code=0)["events"] == 3


def test_a_role_that_may_not_read_what_was_found_is_told_so(project, dsn, connection):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    project.configure(stores={"shop": {"dsn": dsn}})
    write_schema(project, SCHEMA)
    with open_store("shop", load_config(project.folder / "esops.toml").stores["shop"]) as store:
        store.append("cart-1", [event(-1)])
    check(project, "--since-last", code=1)
    role = f"looks_{uuid.uuid4().hex[:8]}"
    name = sql.Identifier(role)
    connection.execute(
        sql.SQL(
            "CREATE ROLE {0} LOGIN; GRANT USAGE ON SCHEMA esops TO {0}; "
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {0}; "
            "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {0}"
        ).format(name)
    )
    try:
        project.configure(stores={"shop": {"dsn": make_conninfo(dsn, user=role)}})
        status = project.run("status", "--output", "json").json
        assert status["schema_checks"] == []
        assert "permission denied for table schema_progress" in status["stores"][0]["detail"]
        findings = project.run("doctor", "--output", "json").json["findings"]
        [said] = [each for each in findings if "schema_progress" in each["message"]]
        assert said["code"] == "ESOPS-D001"
        connection.execute(said["fix"])
        project.configure(stores={"shop": {"dsn": dsn}})
        granted = project.ok("doctor", "--grants", role, "--output", "json").json["statements"]
        assert f'GRANT SELECT ON esops.schema_progress TO "{role}";' in granted
        project.configure(stores={"shop": {"dsn": make_conninfo(dsn, user=role)}})
        assert project.run("status", "--output", "json").json["schema_checks"]
    finally:
        connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))


def test_what_comes_or_goes_in_the_part_that_was_read_is_noticed(project, dsn, connection):
    """Rows that are restored, deleted, changed or given another type below the kept position."""
    marten.create(connection, marten.VARIANTS["marten-optional"])
    project.configure(stores={"shop": {"dsn": dsn}})
    write_schema(project, {"properties": {"price": {"type": "integer", "minimum": 0}}})
    with open_store("shop", PostgresSettings(dsn=dsn)) as store:
        store.append("cart-1", [event(-1), event(2), event(3)])
        store.append("cart-2", [event(1, "odd"), event(1, "odd"), event(1)])

    def agrees(code: int, **groups: int) -> dict:
        """The same with `--since-last` as without."""
        last, whole = check(project, "--since-last", code=code), check(project, code=code)
        assert {rule: events for (_, _, rule), events in found(last).items()} == groups
        same = ("violations", "types_without_schema", "total_events")
        assert [last[each] for each in same] == [whole[each] for each in same]
        return last

    agrees(1, minimum=1)
    connection.execute("CREATE TABLE kept AS SELECT * FROM mt_events WHERE seq_id IN (1, 4, 5)")
    connection.execute("DELETE FROM mt_events WHERE seq_id IN (1, 4, 5)")
    agrees(0)
    connection.execute("DELETE FROM mt_events WHERE seq_id = 3")
    # As many events of the type as before, and another one.
    connection.execute("INSERT INTO mt_events SELECT * FROM kept WHERE seq_id = 1")
    note = "1 event type has other events in the part of the log that was read than at that time"
    assert agrees(1, minimum=1)["notes"] == [f"{note}; their history is read again: added"]
    connection.execute('UPDATE mt_events SET data = \'{"price": "x"}\' WHERE seq_id = 1')
    agrees(1, type=1)
    connection.execute("UPDATE mt_events SET type = 'brandnew' WHERE seq_id = 2")
    assert agrees(1, type=1)["types_without_schema"][0]["type"] == "brandnew"
    assert check(project, "--since-last", code=1)["events"] == 0


def test_after_an_erasure_all_is_read_again(project, dsn, connection):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    project.configure(stores={"shop": {"dsn": dsn}})
    with (project.folder / "esops.toml").open("a") as config:
        config.write('[erase.names]\nstore = "shop"\nmask = { "$.name" = "null" }\n')
    write_schema(project, {"properties": {"name": {"type": "string"}}})
    with open_store("shop", PostgresSettings(dsn=dsn)) as store:
        store.append("cart-1", [event(1, name="Ann"), event(2, name="Ann")])
    check(project, "--since-last", code=0)
    erased = project.run("erase", "--stream", "cart-1", "--yes")
    assert connection.execute("SELECT data->>'name' FROM mt_events").fetchone() == (None,), (
        erased.err
    )
    last = check(project, "--since-last", code=1)
    assert found(last) == {("added", "$.name", "type"): 2}
    assert "personal data was erased" in last["notes"][0]
    assert check(project, "--since-last", code=1)["events"] == 0


def test_a_check_that_is_killed_anywhere_neither_skips_nor_doubles(dsn, connection, monkeypatch):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    settings = PostgresSettings(dsn=dsn)
    schemas = parse_schemas("schemas", {"added.json": json.dumps(SCHEMA).encode()})
    monkeypatch.setattr(checking, "KEPT_EVERY", timedelta(0))
    chance = random.Random(7)
    with open_store("shop", settings) as store:
        whole = store.read_all

        def in_small_batches(*args, **options):
            for batch in whole(*args, **options):
                for at in range(0, len(batch.events), 3):
                    part = batch.events[at : at + 3]
                    if chance.random() < 0.3:
                        raise KeyboardInterrupt
                    yield type(batch)(part, part[-1].position)

        killed = 0
        for _ in range(6):
            store.append("cart-1", [event(chance.choice([-1, 1])) for _ in range(20)])
            monkeypatch.setattr(store, "read_all", in_small_batches)
            while True:
                kept = progress_of(store, settings, JOB, {})
                try:
                    seen = SchemaCheck(store, schemas, EventSelection(), kept=kept).run()
                    break
                except KeyboardInterrupt:
                    killed += 1
            monkeypatch.setattr(store, "read_all", whole)
            truth = SchemaCheck(store, schemas, EventSelection()).run()
            assert seen.violations == truth.violations
            assert seen.total == truth.events
        assert killed > 5


@pytest.mark.thorough
def test_an_archive_and_a_joined_store_are_checked_as_the_store_was(project, dsn, connection):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    policy = {"store": "shop", "category": "cart", "never_younger_than": "0s", "remove": "delete"}
    project.configure(
        stores={
            "shop": {"dsn": dsn, "archive": "cold"},
            "old": {"backend": "archive", "archive": "cold"},
        },
        archives={"cold": {"repository": "archive", "policies": {"all": policy}}},
    )
    write_schema(project, SCHEMA)
    config = load_config(project.folder / "esops.toml")
    project.begin_archive("archive")
    with open_store("shop", config.stores["shop"].without_archive) as store:
        store.append("cart-1", [event(-1), event(1)])
        store.append("order-1", [event(None)])
    before = check(project, "--since-last", code=1)
    assert found(before) == {("added", "$.price", "minimum"): 1}
    assert run_policy(config, "all", RunRequest(new_archive=True)).state == "done"
    after = check(project, "--since-last", code=1)
    assert (after["events"], after["violations"]) == (0, before["violations"])
    old = check(project, "--since-last", code=1, store="old")
    assert 'rule="minimum",store="old"' in project.run("--store", "old", "metrics").out
    assert (old["events"], old["violations"]) == (2, before["violations"])
    assert check(project, "--since-last", code=1, store="old")["events"] == 0


def test_what_makes_no_answer_is_an_error(project, dsn, connection):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    project.configure(stores={"shop": {"dsn": dsn}})
    arguments = ("schema", "check", "--against", "schemas")
    assert project.run(*arguments).code == 2
    write_schema(project, {"type": "nothing"})
    assert "schemas/added.json:1" in project.run(*arguments).err
    write_schema(project, SCHEMA)
    with open_store("shop", PostgresSettings(dsn=dsn)) as store:
        store.append("cart-1", [event(1)])
    assert project.run(*arguments).code == 0
    typo = project.run(*arguments, "--type", "added", "--type", "aded")
    assert (typo.code, "'aded'" in typo.err) == (1, True)
    assert project.run(*arguments, "--from-start").code == 2
    assert project.run(*arguments, "--sarif", "found", "--metrics", "./found").code == 2
    write_schema(project, {"$ref": "added.json"}, "added2.json")
    lost = project.run(*arguments, "--allow-unknown", "--output", "json")
    assert lost.json["notes"] == [
        (
            "added has no schema: schemas/added.json counts as a part, since schemas/added2.json "
            'refers to it; "x-event-type": "added" in it makes it the schema of the type too'
        )
    ]


def test_an_event_that_came_late_is_checked_all_the_same(dsn, connection):
    """A writer that had its number before its transaction, and was taken for dead."""
    marten.create(connection, marten.VARIANTS["marten-optional"])
    settings = PostgresSettings(dsn=dsn, hole_threshold=timedelta(seconds=0.05))
    schemas = parse_schemas("schemas", {"added.json": json.dumps(SCHEMA).encode()})

    def run():
        with open_store("shop", settings) as store:
            kept = progress_of(store, settings, JOB, {})
            return SchemaCheck(store, schemas, EventSelection(), kept=kept).run()

    with open_store("shop", settings) as store:
        store.append("cart-1", [event(1), event(1)])
        late = connection.execute("SELECT nextval('mt_events_sequence')").fetchone()[0]
        store.append("cart-2", [event(1)])
    assert (run().total, run().events) == (3, 0)
    connection.execute(
        "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, timestamp, tenant_id) "
        "SELECT %s, gen_random_uuid(), stream_id, 3, '{}', type, now(), tenant_id FROM mt_events "
        "WHERE stream_id = 'cart-1' AND version = 2",
        (late,),
    )
    found = run()
    assert [(each.path, each.rule, each.events) for each in found.violations] == [
        ("$.price", "required", 1)
    ]
    assert found.total == 4
    assert "came late" in found.notes[0]
    assert (run().events, run().total) == (0, 4)


def test_a_store_that_was_restored_to_an_earlier_time_is_refused_until_from_start(
    project, server, dsn, connection
):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    connection.close()
    project.configure(stores={"shop": {"dsn": dsn}})
    write_schema(project, SCHEMA)

    def append(*events: NewEvent) -> None:
        with open_store("shop", PostgresSettings(dsn=dsn)) as store:
            store.append("cart-1", list(events))

    append(event(1))
    check(project, "--since-last", code=0)
    with backups(server, dsn) as backup:
        backup.take()
        append(event(-1))
        check(project, "--since-last", code=1)
        with psycopg.connect(dsn) as session:
            kept = session.execute("TABLE esops.schema_progress").fetchone()
        backup.restore()
    append(event(2))
    with psycopg.connect(dsn) as session:  # as where esops' tables were not restored
        session.execute("DELETE FROM esops.schema_progress")
        values = ", ".join(["%s"] * len(kept))
        session.execute(f"INSERT INTO esops.schema_progress VALUES ({values})", kept)
    arguments = ("schema", "check", "--since-last")
    refused = project.run(*arguments)
    assert refused.code == 6
    assert "begin again with --since-last --from-start" in refused.err
    assert check(project, "--since-last", "--from-start", code=0)["total_events"] == 2
    assert check(project, "--since-last", code=0)["events"] == 0
