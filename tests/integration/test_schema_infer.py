"""`esops schema infer` on what the real libraries wrote: all events fit what was inferred from them,
a second run changes nothing, and what differs afterwards is found.
"""

from __future__ import annotations

import json
import uuid

import orjson
import pytest

from esops.events import NewEvent
from esops.schema.checking.run import JOB, SchemaCheck
from esops.schema.files import read_schemas
from esops.schema.inferring.job import InferenceRequest, infer_schemas
from esops.schema.progress import progress_of
from esops.schema.reading import EventSelection
from esops.settings import EventStoreDBSettings, PostgresSettings
from esops.stores import open_store
from tests.support import emmett, marten

DUMPS = (
    "marten-9.58-v1", "marten-9.58-v2", "marten-9.58-v3", "marten-9.58-v4", "emmett-0.42.0",
    "emmett-0.43.0-beta.39", "message-db-1.3.1", "eventsourcing-9.5.6",
)  # fmt: skip


@pytest.mark.parametrize("name", DUMPS)
def test_what_the_real_libraries_wrote_fits_what_is_inferred(
    dumps, dsn, connection, tmp_path, name
):
    emmett.restore(connection, (dumps / f"{name}.sql").read_text())
    settings = PostgresSettings(dsn=dsn)
    with open_store("shop", settings) as store:
        found = infer_schemas(store, tmp_path, InferenceRequest(EventSelection()))
        assert found.events > 400
        assert len(found.in_state("written")) == len(found.files) >= len(found.types) > 2
        kept = progress_of(store, settings, JOB, {})
        schemas = read_schemas(tmp_path)
        checked = SchemaCheck(store, schemas, EventSelection(), kept=kept).run()
        assert (checked.violations, checked.schemaless, checked.unused) == ([], [], [])
        assert checked.events == found.events
        # In each layout, the events that were read are those that the server counts.
        anew = SchemaCheck(store, schemas, EventSelection(), kept=kept).run()
        assert (anew.events, anew.total, anew.notes) == (0, found.events, [])
        again = infer_schemas(store, tmp_path, InferenceRequest(EventSelection()))
        assert {each.state for each in again.files} == {"unchanged"}
    if name == "marten-9.58-v4":  # MemoryPack
        documents = [orjson.loads(each.read_bytes()) for each in tmp_path.rglob("*.json")]
        assert any(each.get("x-payload") == "binary" for each in documents)


def test_events_that_differ_afterwards_are_found(project, node):
    """EventStoreDB, whose events may be no JSON or empty."""
    kind = f"Order.{uuid.uuid4().hex[:8]}"
    stream = f"order-{uuid.uuid4()}"
    settings = EventStoreDBSettings(uri=node.uri)
    with open_store("shop", settings) as store:

        def append(*payloads: bytes) -> None:
            store.append(stream, [NewEvent(str(uuid.uuid4()), kind, each) for each in payloads])

        append(*(orjson.dumps({"n": n, "state": "ab"[n % 2]}) for n in range(50)), b"", b"\xff")
        project.configure(stores={"shop": {"backend": "eventstoredb", "uri": node.uri}})
        arguments = ("--type", kind, "--output", "json")
        found = project.ok("schema", "infer", "-o", "schemas", *arguments).json
        assert len(found["files"]) == 3
        assert all((project.folder / each).is_file() for each in found["files"])
        assert [(t["type"], t["events"]) for t in found["types"]] == [(kind, 52)]
        check = ("schema", "check", "--against", "schemas", *arguments)
        assert project.ok(*check).json["violations"] == []
        append(b'{"n": 1}', b'{"n": 1, "state": "c"}', b'{"n": "1", "state": "a", "x": 1}')
        done = project.run(*check)
        assert done.code == 1
        assert {(v["path"], v["rule"]) for v in done.json["violations"]} == {
            ("$.state", "required"), ("$.state", "enum"), ("$.n", "type"),
            ("$.x", "additionalProperties"),
        }  # fmt: skip


def test_files_that_people_wrote_or_edited_stay(project, dsn, connection):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    project.configure(stores={"shop": {"dsn": dsn}})
    with open_store("shop", PostgresSettings(dsn=dsn)) as store:
        events = [NewEvent(str(uuid.uuid4()), kind, b'{"a": 1}') for kind in ("mine", "theirs")]
        store.append("s-1", events)
    (project.folder / "schemas").mkdir()
    own = project.write("schemas/mine.json", "{}")
    found = project.ok("schema", "infer", "--output", "json").json
    assert found["types_with_own_files"] == {"mine": "schemas/mine.json"}
    [made] = found["files"]
    assert made.startswith("schemas/theirs/")
    file = project.folder / made
    edited = {**json.loads(file.read_text()), "title": "Mine now"}
    file.write_text(json.dumps(edited))
    done = project.run("schema", "infer", "--type", "theirs")
    assert done.code == 1
    assert f"{made} was edited, and differs from the events" in done.err
    assert json.loads(file.read_text()) == edited
    project.ok("schema", "infer", "--force")
    assert "title" not in json.loads(file.read_text())
    assert own.read_text() == "{}"
    connection.execute("DELETE FROM mt_events WHERE type = 'theirs'")
    gone = project.ok("schema", "infer")
    assert "--prune removes the file" in gone.err
    assert project.ok("schema", "infer", "--prune", "--output", "json").json["removed"] == [made]
    assert not file.exists()
