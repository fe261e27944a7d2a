"""`esops schema diff` and `compat` as a person and a pipeline run them."""

from __future__ import annotations

import json

import pytest

from esops.schema.compare import compare_sets
from esops.schema.files import read_schemas
from esops.schema.inferring.job import InferenceRequest, infer_schemas
from esops.schema.observed import observe
from esops.schema.reading import EventSelection
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import emmett

OLD = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "status": {"enum": ["new", "paid"]}},
    "required": ["id", "status"],
}
NEW = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "status": {"enum": ["paid", "shipped"]},
        "note": {"type": "string"},
    },
    "required": ["id", "status"],
}


@pytest.fixture
def schemas(project):
    """A function that writes a directory of schemas."""

    def write(folder: str, **types) -> None:
        (project.folder / folder).mkdir()
        for name, schema in types.items():
            (project.folder / folder / f"{name}.json").write_text(json.dumps(schema))

    write("old", OrderPlaced=OLD, CartOpened={"type": "object"})
    write("new", OrderPlaced=NEW, CartOpened={"type": "object"})
    return write


def test_diff_names_each_change_and_says_what_to_do(project, schemas):
    found = project.run("schema", "diff", "old", "new")
    assert found.code == 1, found.err
    assert "OrderPlaced\n" in found.out
    assert (
        '$.status: some values are new and others are gone (enum, const) (no longer "new"; new: "shipped")'
        in found.out
    )
    assert "new code cannot read old events, and old code cannot read new events\n" in found.out
    assert "an old event that the new schema refuses (enum)" in found.out
    assert found.out.endswith(
        "2 changes of 1 event type, 1 breaking: not backward compatible because of OrderPlaced\n"
    )
    document = project.run("schema", "diff", "old", "new", "--output", "json").json
    assert document["compatible"] is False
    assert [
        (each["type"], each["path"], each["kind"], each["breaks"]) for each in document["changes"]
    ] == [
        ("OrderPlaced", "$.note", "field-added", "none"),
        ("OrderPlaced", "$.status", "values-changed", "both"),
    ]
    assert document["comparisons"][0]["witnesses"][0]["value"]["status"] == "new"


def test_exit_codes(project, schemas):
    schemas(
        "open",
        OrderPlaced={**NEW, "properties": {**NEW["properties"], "status": {"type": "string"}}},
        CartOpened={"type": "object"},
    )
    for arguments, code in [
        (("diff", "old", "old"), 0),
        (("diff", "old", "open"), 0),
        (("diff", "old", "open", "--exit-code"), 1),
        (("diff", "old", "open", "--mode", "full"), 1),
        (("diff", "old", "open", "--strict"), 1),
        (("compat", "old", "open"), 0),
        (("compat", "old", "open", "--mode", "forward"), 1),
        (("compat", "open", "old", "--mode", "forward"), 0),
        (("compat", "open", "open", "--also", "old", "--also", "new"), 0),
        (("compat", "new", "new", "--also", "old"), 1),
        (("compat", "old", "new", "--type", "CartOpened"), 0),
        (("compat", "old", "new", "--type", "CartOpen"), 2),
        (("compat", "old", "none"), 2),
        (("compat", "git:main:x", "new"), 2),
    ]:
        found = project.run("schema", *arguments)
        assert found.code == code, (arguments, found.out, found.err)


def test_a_mistyped_mode_is_said_in_plain_words(project, schemas):
    found = project.run("schema", "compat", "old", "new", "--mode", "backwards")
    assert found.err.startswith("error: Invalid value for '--mode': 'backwards' is not one of")


def test_compat_shows_only_what_breaks(project, schemas):
    found = project.run("schema", "compat", "old", "new")
    assert "$.note" not in found.out
    assert "$.status" in found.out
    rows = project.run("schema", "compat", "old", "new", "--output", "ndjson").out.splitlines()
    assert [json.loads(each)["kind"] for each in rows] == ["field-added", "values-changed"]


@pytest.mark.parametrize("name", ["emmett-0.42.0", "marten-9.58-v4", "eventsourcing-9.5.6"])
def test_a_store_is_compatible_with_what_was_inferred_from_it(
    dumps, dsn, connection, tmp_path, name
):
    emmett.restore(connection, (dumps / f"{name}.sql").read_text())
    with open_store("shop", PostgresSettings(dsn=dsn)) as store:
        infer_schemas(store, tmp_path, InferenceRequest(EventSelection(), strict=True))
        observed = observe(store)
    found = compare_sets(observed.schemas, read_schemas(tmp_path))
    assert found.compatible(["backward"]), [each.as_dict() for each in found.changes]
    assert len(observed.schemas.types) > 2


def test_the_events_of_a_store_against_schemas_that_somebody_wrote(dumps, dsn, connection, project):
    emmett.restore(connection, (dumps / "emmett-0.42.0.sql").read_text())
    project.configure(stores={"shop": {"dsn": dsn}})
    project.ok("schema", "infer", "-o", "schemas")
    assert project.ok("schema", "compat", "store:shop", "schemas").out.endswith(
        "backward compatible\n"
    )
    (kind, *_) = sorted(read_schemas(project.folder / "schemas").types)
    files = read_schemas(project.folder / "schemas").types[kind].files
    for each in files[1:]:
        (project.folder / each.where).unlink()
    (project.folder / files[0].where).write_text(
        json.dumps({"x-event-type": kind, "type": "object", "required": ["neverThere"]})
    )
    found = project.run("schema", "diff", "store:shop", "schemas", "--output", "json")
    assert found.code == 1, found.err
    broken = {
        (each["type"], each["path"], each["kind"])
        for each in found.json["changes"]
        if each["breaks"] in {"backward", "both"}
    }
    assert broken == {(kind, "$.neverThere", "required-field-added")}
    assert found.json["comparisons"][0]["old"] == "store:shop"
    # What proves it has values of real events in it.
    assert {each["value"] for each in found.json["comparisons"][0]["witnesses"]} == {None}
    assert "not shown" in project.run("schema", "diff", "store:shop", "schemas").out
    assert project.run("schema", "diff", "store:shopp", "schemas").code == 2
