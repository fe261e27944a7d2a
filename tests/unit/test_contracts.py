"""Contracts without a store: patterns, what a schema names, and esops.toml."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esops.config import parse_config
from esops.errors import UsageError
from esops.schema.contracts.findings import ContractFindings
from esops.schema.contracts.name_patterns import NamePatterns
from esops.schema.contracts.outboxes import unwrapped, without_user
from esops.schema.contracts.payloads import PayloadCheck
from esops.schema.files import parse_schemas
from esops.schema.shapes import Shapes
from esops.stores.readers import matching

OBJECT = {"type": "object"}
MONEY = {"type": "object", "properties": {"amount": {"type": "number"}, "next": {"$ref": "#"}}}


def found(schema, *payloads):
    files = {"T.json": json.dumps(schema).encode(), "_money.json": json.dumps(MONEY).encode()}
    findings = ContractFindings()
    check = PayloadCheck(findings, "T", parse_schemas("contracts", files), Shapes())
    counted: dict[tuple[str, ...], int] = {}

    def count(finding) -> None:
        key = tuple(filter(None, (finding.key.kind, finding.key.path, finding.key.rule)))
        counted[key] = counted.get(key, 0) + 1

    for each in payloads:
        check.check(each if isinstance(each, bytes) else json.dumps(each).encode(), count)
    return counted


def test_a_pattern_has_two_signs_and_everything_else_stands_for_itself():
    names = NamePatterns(["order.placed", "a[bc]*", "x?", "(d|e)+", "line\nbreak"])
    there = ["order.placed", "a[bc]", "a[bc]1", "xy", "(d|e)+", "line\nbreak"]
    assert [each for each in there if not names.match(each)] == []
    others = ["orderXplaced", "ab", "x", "xyz", "d", "e", "Order.placed", "order.placed\n"]
    assert [each for each in others if names.match(each)] == []
    assert names.exact == ("order.placed", "(d|e)+", "line\nbreak")
    assert not NamePatterns([]).match("")


def test_a_field_that_the_schema_does_not_name_is_found_at_its_highest_place():
    open_ = {"properties": {"a": {"$ref": "_money.json"}}, "additionalProperties": True}
    payload = {"a": {"amount": 1, "next": {"next": {"q": {"r": 1}}}}, "b": {"c": {"d": 1}}}
    assert found(open_, payload, payload) == {
        ("unnamed-field", "$.b"): 2,
        ("unnamed-field", "$.a.next.next.q"): 2,
    }


def test_what_a_schema_says_of_any_name_is_named():
    schema = {
        "properties": {
            "free": True,
            "opaque": {"type": "object"},
            "map": {"type": "object", "additionalProperties": {"type": "number"}},
            "items": {"items": {"properties": {"sku": {"description": "any"}}}},
            "years": {"properties": {"2024": {"properties": {"n": {}}}}},
        },
        "patternProperties": {"^x_": {}},
        "allOf": [{"properties": {"also": {}}}, {"description": "nothing of fields"}],
        "anyOf": [{"properties": {"one": {}}}, {"properties": {"two": {}}}],
        "if": {"required": ["free"]},
        "then": {"properties": {"three": {}}},
    }
    payload = {
        "free": {"a": 1},
        "opaque": {"b": 1},
        "map": {"c": 1},
        "items": [{"sku": {"a": 1}}, {"sku": 2, "new": 1}],
        "years": {"2024": {"n": 1, "m": 1}},
        **dict.fromkeys(("x_y", "also", "one", "two", "three", "other"), 1),
    }
    assert found(schema, payload) == {
        ("unnamed-field", "$.opaque[*]"): 1,
        ("unnamed-field", "$.items[*].new"): 1,
        ("unnamed-field", "$.years[*].m"): 1,
        ("unnamed-field", "$.other"): 1,
    }


def test_no_name_that_is_data_gets_into_a_path():
    schema = {
        "type": "object",
        "properties": {"by": {"additionalProperties": {"type": "number"}}, "who": OBJECT},
    }
    payload = {"by": {"Ada Lovelace": "x"}, "who": {"Ada Lovelace": 1, "Alan Turing": 2}}
    assert found(schema, payload) == {
        ("breaks-schema", "$.by[*]", "type"): 1,
        ("unnamed-field", "$.who[*]"): 1,
    }
    many = found({"properties": {"a": {}}}, *({f"name {each}": 1} for each in range(600)))
    assert len(many) == 501
    assert many["unnamed-field", "$[*]"] == 100


def test_a_payload_that_breaks_its_schema_counts_once_for_each_path_and_rule():
    schema = {
        "type": "object",
        "required": ["id"],
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "lines": {"items": {"properties": {"n": {"type": "number"}}}},
        },
    }
    assert found(schema, {"lines": [{"n": "1"}, {"n": "2"}]}, {"id": "x"}, b"\0", b"") == {
        ("breaks-schema", "$.id", "required"): 1,
        ("breaks-schema", "$.lines[*].n", "type"): 1,
        ("breaks-schema", "$.id", "format"): 1,
        ("not-json",): 2,
    }


@pytest.mark.parametrize("at", range(0, 30, 3))
def test_a_body_of_wolverine_that_is_cut_off_is_an_error_and_never_a_wrong_payload(at):
    body = bytes(8) + b"\x01\0\0\0" + b"\x01k" + b"\x02vv" + b"\x03\0\0\0" + b"{ }"
    assert unwrapped(body) == ({"k": "vv"}, b"{ }")
    if at < len(body):
        with pytest.raises((ValueError, IndexError)):
            unwrapped(body[:at])


def test_a_filter_that_python_would_read_as_another_is_one_that_nobody_knows():
    assert matching("^[a-z-[x]]+$") is None
    assert matching("^[a-z]+-[x]$")("ab-x")


def test_no_password_of_a_destination_is_shown():
    assert without_user("rabbitmq://me:pass@host/queue/a@b") == "rabbitmq://host/queue/a@b"
    assert without_user("orders") == "orders"
    assert without_user("amqp://u:p@ss@rabbit/q") == "amqp://rabbit/q"
    assert without_user("kafka://h/t?acks=1&sasl.password=hunter2") == (
        "kafka://h/t?acks=1&sasl.password=…"
    )
    assert "abc" not in without_user("Endpoint=sb://x/;SharedAccessKey=abc123=")


@pytest.mark.parametrize(
    ("contract", "message", "hint"),
    [
        ({"typs": ["a"]}, "contracts.c.typs: unknown key", "Did you mean 'types'?"),
        ({}, "contracts.c: a contract needs `types`, `streams`, `categories` or `outbox`", None),
        (
            {"types": ["a"], "source": "https://u:p@shop.example/"},
            "contracts.c.source: an address in",
            None,
        ),
        (
            {"types": ["a"], "schema_url": "https://x/?t=1"},
            "contracts.c.schema_url: an address in",
            None,
        ),
        ({"types": []}, "contracts.c.types: at least one is expected", None),
        ({"types": "a"}, "contracts.c.types: a list of texts is expected", None),
        (
            {"outbox_tables": [{"table": "t", "type": "k", "payld": "p"}]},
            "contracts.c.outbox_tables.0.payld: unknown key",
            "Did you mean 'payload'?",
        ),
        (
            {"types": ["a"], "server": "kafka://me:word@host"},
            "contracts.c.server: an address in a document that others read must have no user",
            None,
        ),
        ({"types": ["a"], "encode": "m:f"}, "contracts.c: `encode` names a Python function", None),
        (
            {"types": ["a"], "python": "m:f", "command": ["x"]},
            "contracts.c: `python` and `command` both decode the events: name one of them",
            None,
        ),
        ({"types": ["a"], "server": "host:1"}, "contracts.c.server: this is not an address", None),
    ],
)
def test_a_mistake_in_a_contract_is_named_by_its_key(contract, message, hint):
    with pytest.raises(UsageError) as caught:
        parse_config({"contracts": {"c": contract}}, Path("/x/esops.toml"))
    assert message in caught.value.message
    assert "me:word" not in caught.value.message
    assert hint is None or hint == caught.value.hint
