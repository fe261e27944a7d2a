"""A directory of schema files: which types it has, where references lead, and what is wrong."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from esops.errors import UsageError
from esops.schema.files import parse_schemas, read_schemas
from esops.schema.json_lines import line_of

MONEY = {"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]}


def schemas(**texts):
    return parse_schemas(
        "schemas",
        {
            name: text.encode() if isinstance(text, str) else json.dumps(text).encode()
            for name, text in texts.items()
        },
    )


def test_a_file_is_for_the_type_that_it_names_else_for_that_of_its_own_name(tmp_path):
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "OrderPlaced.schema.json").write_text('{"type": "object"}')
    (tmp_path / "Shop.CartOpened.json").write_text("\ufeff{}")
    (tmp_path / "a-3fe1.json").write_text('{"x-event-type": "a:v1/b", "x-shape": "3fe1"}')
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "no.json").write_text("no")
    (tmp_path / "README.md").write_text("# ours")
    found = read_schemas(tmp_path)
    assert list(found.types) == ["OrderPlaced", "Shop.CartOpened", "a:v1/b"]
    assert found.types["a:v1/b"].files[0].shape == "3fe1"
    assert found.validator("OrderPlaced").is_valid({})
    assert not found.validator("OrderPlaced").is_valid([])


def test_files_of_one_type_are_alternatives():
    found = schemas(
        **{
            "a.1.json": {
                "x-event-type": "a",
                "properties": {"x": {"type": "string"}},
                "required": ["x"],
            },
            "a.2.json": {
                "x-event-type": "a",
                "properties": {"y": {"format": "uuid"}},
                "required": ["y"],
            },
        }
    )
    valid = found.validator("a").is_valid
    assert valid({"x": "1"})
    assert valid({"y": "6f3b1f58-1c84-4d6c-9f3c-0d2d2f0f9a11"})
    assert not valid({"x": 1, "y": "2"})


@pytest.mark.parametrize("own", [None, "https://shop.example/events/OrderPlaced.json"])
def test_references_lead_to_other_files_which_are_no_types(own):
    placed = {
        "properties": {
            "total": {"$ref": "common/money.json"},
            "tax": {"$ref": "_tax.json#/$defs/tax"},
        }
    } | ({"$id": own} if own else {})
    found = schemas(
        **{
            "OrderPlaced.json": placed,
            "common/money.json": MONEY,
            "_tax.json": {"$defs": {"tax": {"type": "integer"}}},
            "_unused.json": {},
        }
    )
    assert list(found.types) == ["OrderPlaced"]
    assert [str(each.path) for each in found.parts] == [
        "_tax.json",
        "_unused.json",
        "common/money.json",
    ]
    valid = found.validator("OrderPlaced").is_valid
    assert valid({"total": {"amount": 1}, "tax": 2})
    assert not valid({"total": {}})
    assert not valid({"tax": "2"})
    import jsonschema_rs

    alone = jsonschema_rs.validator_for(found.standalone("OrderPlaced"), offline=True)
    assert alone.is_valid({"total": {"amount": 1}})
    assert not alone.is_valid({"total": {}})


def test_a_type_that_another_refers_to_stays_one_if_it_says_so():
    found = schemas(
        **{
            "OrderPlaced.json": {"x-event-type": "OrderPlaced"},
            "OrderImported.json": {"$ref": "OrderPlaced.json"},
        }
    )
    assert list(found.types) == ["OrderImported", "OrderPlaced"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"type": "object",\n "properties": }', "schemas/a.json:2: this is not JSON"),
        ('{\n\n "x": "\xe9"}'.encode("latin-1"), "schemas/a.json:3: this is not UTF-8"),
        ("[]", "schemas/a.json:1: a schema is an object"),
        ('{"type": "object",\n "required": [],\n "type": "array"}', "schemas/a.json:3: 'type' stands twice"),
        ('{\n "properties": {\n  "n": {"type": "strin"}}}', "schemas/a.json:3: properties.n.type: "),
        ('{\n "pattern": "(["}', "schemas/a.json:2: pattern: "),
        ('{\n "x-event-type": 3}', "schemas/a.json:2: x-event-type has to be a text"),
        ('{\n "$schema": "https://shop.example/dialect"}', "schemas/a.json:2: "),
        ('{\n "items": {\n "$ref": "b.json"}}', "schemas/a.json:3: $ref 'b.json' leads to no file"),
        ('{\n "$ref": "https://shop.example/b.json"}', "schemas/a.json:2: $ref 'https://shop.example/b.json' leads to no file"),
        ('{\n "allOf": [{}, {"$ref": "#/$defs/b"}]}', "schemas/a.json:2: $ref '#/$defs/b' leads to nothing"),
        ('{"minimum": NaN}', "schemas/a.json:1: this is not JSON"),
        ('{"$schema":\n "file:///etc/hostname"}', "schemas/a.json:1: $schema 'file:///etc/hostname' is no draft"),
        ('{"$defs": {\n "a": {"$schema": "http://json-schema.org/draft-03/schema#"}}}', "schemas/a.json:2: $schema "),
        ('{\n "x-payload": "binry"}', "schemas/a.json:2: x-payload is"),
    ],
)  # fmt: skip
def test_an_error_names_file_and_line(text, said):
    with pytest.raises(UsageError) as caught:
        parse_schemas("schemas", {"a.json": text if isinstance(text, bytes) else text.encode()})
    assert caught.value.message.startswith(said)


def test_a_reference_in_data_is_none():
    assert schemas(
        **{"a.json": {"const": {"$ref": "nowhere"}, "properties": {"$ref": {"type": "string"}}}}
    )


def test_what_is_no_directory_or_empty_is_said(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_schemas(tmp_path / "none")
    with pytest.raises(UsageError, match="no file in it ends with .json"):
        read_schemas(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UsageError, match="is a file"):
        read_schemas(tmp_path / "a.json")


def test_two_files_of_one_id_are_an_error():
    with pytest.raises(UsageError, match="has the same"):
        schemas(
            **{"a.json": {"$id": "https://x.example/a"}, "b.json": {"$id": "https://x.example/a"}}
        )


def test_lines_of_values():
    text = '{\n "a": [1,\n {"b": "x,{\\"y"}, []],\n "c": {}\n}'
    assert [line_of(text, path) for path in [(), ("a",), ("a", 1, "b"), ("c",), ("c", "none")]] == [
        1,
        2,
        3,
        4,
        4,
    ]


def test_what_a_schema_names_as_its_draft_is_never_fetched(tmp_path):
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        draft = f"http://127.0.0.1:{server.server_port}/meta"
        with pytest.raises(UsageError, match="no draft of JSON Schema that esops knows"):
            schemas(**{"a.json": {"$schema": draft}})
        server.shutdown()
    assert asked == []


def test_references_of_draft_4_begin_at_its_id():
    draft = {"$schema": "http://json-schema.org/draft-04/schema#"}
    found = schemas(
        **{
            "a.json": {
                **draft,
                "id": "https://x.example/e/A.json",
                "properties": {"p": {"$ref": "B.json"}, "id": {"type": "string"}},
            },
            "b.json": {**draft, "id": "https://x.example/e/B.json", "minimum": 0},
        }
    )
    assert list(found.types) == ["a"]
    assert [found.validator("a").is_valid({"p": each}) for each in (1, -1)] == [True, False]


def test_files_that_are_all_parts_are_an_error():
    circle = {"a.json": {"$ref": "b.json"}, "b.json": {"properties": {"a": {"$ref": "a.json"}}}}
    with pytest.raises(UsageError, match=r"schemas/a.json and schemas/b.json refer to each other"):
        schemas(**circle, **{"c.json": {}})
    assert list(schemas(**circle, **{"c.json": {"$ref": "a.json"}}).types) == ["c"]
    with pytest.raises(UsageError, match="no file in schemas is for an event type"):
        schemas(**{"_a.json": {}})


@pytest.mark.parametrize("draft", ["draft-04", "draft-06", "draft-07", "draft/2020-12"])
def test_a_format_is_a_rule_in_every_draft_or_a_remark_says_that_it_is_none(draft):
    schema = {
        "$schema": f"http://json-schema.org/{draft}/schema#",
        "properties": {"id": {"format": "uuid"}, "at": {"format": "date-tme"}},
    }
    found = schemas(**{"a.json": schema, "b.json": {"format": "uuid"}})
    assert not found.validator("a").is_valid({"id": "x"})
    assert found.validator("a").is_valid({"id": "6f3b1f58-1c84-4d6c-9f3c-0d2d2f0f9a11", "at": ""})
    assert found.remarks == [
        (
            "format 'date-tme' (schemas/a.json:1) is no rule: JSON Schema does not know it. "
            "Did you mean 'date-time'?"
        )
    ]


def test_what_no_rule_comes_of_is_said():
    old = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "properties": {"if": {"$ref": "#/definitions/a", "minimum": 3}},
        "definitions": {"a": {"title": "requird"}},
        "unevaluatedProperties": False,
    }
    new = {"requird": ["a"], "$comment": "", "x-types": 1, "properties": {"tpye": {}}, "kind": 1}
    assert schemas(**{"a.json": old, "b.json": new}).remarks == [
        "'minimum' (schemas/a.json:1) is no rule: in draft-07, nothing beside $ref counts",
        (
            "'requird' (schemas/b.json:1) is no rule: JSON Schema does not know it. "
            "Did you mean 'required'?"
        ),
        "'unevaluatedProperties' (schemas/a.json:1) is no rule: draft-07 does not know it",
    ]


def test_linked_folders_are_read_and_circles_of_links_end(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.json").write_text("{}")
    folder = tmp_path / "schemas"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder)
    assert list(read_schemas(folder).types) == ["a"]
