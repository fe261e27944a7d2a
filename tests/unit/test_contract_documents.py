"""The documents about a contract: valid by their own specifications, and the same at every run."""

from __future__ import annotations

import json
from copy import deepcopy

import jsonschema_rs
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from esops.errors import UsageError
from esops.schema.contracts.contract import Contract
from esops.schema.contracts.documents.async_api import async_api
from esops.schema.contracts.documents.cloud_events import cloud_events
from esops.schema.contracts.documents.examples import example_of
from esops.schema.files import parse_schemas
from esops.settings import ContractSettings

MONEY = {
    "type": "object",
    "required": ["amount"],
    "properties": {
        "amount": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
        "currency": {"type": "string", "minLength": 3, "maxLength": 3},
        "tax": {"$ref": "#"},
    },
}
PLACED = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "x-event-type": "order/placed [v2]",
    "title": "Order placed",
    "type": "object",
    "required": ["id", "total"],
    "properties": {
        "id": {"type": "string", "format": "uuid", "x-personal-data": "id"},
        "total": {
            "$ref": "_parts/money.json",
            "maxProperties": 3,
            "properties": {"extra": True},
        },
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
        "pair": {"prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
        "second": {"$ref": "#/properties/pair/prefixItems/1"},
        "deep": {"$ref": "#/properties/total/properties/extra"},
        "note": {"type": ["string", "null"]},
        "at": {"type": "string", "format": "date-time"},
    },
    "dependentRequired": {"note": ["at"]},
    "$defs": {
        "line": {
            "type": "object",
            "required": ["sku"],
            "properties": {
                "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]+$"},
                "n": {"type": "integer", "minimum": 5, "multipleOf": 2},
            },
        }
    },
}
LINE = "placed.json#/$defs/line"
SHIPPED = [
    {"x-event-type": "shipped", "required": ["a"], "properties": {"a": {"$ref": LINE}}},
    {"x-event-type": "shipped", "required": ["b"], "properties": {"b": {"const": 1}}},
]


def contract(schemas=None, **settings):
    schemas = schemas or {
        "placed.json": PLACED,
        "_parts/money.json": MONEY,
        "shipped1.json": SHIPPED[0],
        "shipped2.json": SHIPPED[1],
    }
    files = {name: json.dumps(each).encode() for name, each in schemas.items()}
    settings = {"types": ["*"], **settings}
    return Contract("orders", ContractSettings(**settings), parse_schemas("contracts", files))


PLACES = {
    "categories": ["order", "x-*"],
    "streams": ["orders"],
    "outbox": ["kafka://me:word@broker/topic"],
    "server": "kafka://broker.example:9092/v1",
    "owner": "Team orders",
    "description": "What others may rely on.",
}


@pytest.fixture(scope="module")
def asyncapi_schema(request):
    path = request.path.parents[1] / "fixtures" / "asyncapi-3.0.0.json"
    return jsonschema_rs.validator_for(json.loads(path.read_text()))


@pytest.mark.parametrize("settings", [{}, PLACES], ids=["anywhere", "places"])
def test_asyncapi_is_valid_by_its_official_schema(asyncapi_schema, settings):
    made = async_api(contract(**settings))
    assert [error.message for error in asyncapi_schema.iter_errors(made)] == []
    assert "word" not in json.dumps(made)
    # Every reference leads somewhere, and nothing is described that is not referred to.
    referred = set(references(made))
    for each in referred:
        at = made
        for part in each.removeprefix("#/").split("/"):
            at = at[int(part)] if isinstance(at, list) else at[part]
    schemas = {f"#/components/schemas/{key}" for key in made["components"]["schemas"]}
    assert {each.split("/definitions/")[0] for each in referred} >= schemas
    wrong = deepcopy(made)
    next(iter(wrong["channels"].values()))["adress"] = "x"
    assert not asyncapi_schema.is_valid(wrong)


def references(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_asyncapi_names_each_place_as_a_channel_that_is_sent_to():
    made = async_api(contract(**PLACES), server_streams=True)
    assert {key: each["address"] for key, each in made["channels"].items()} == {
        "category.order": "$ce-order",
        "category.x-_": "$ce-x-{part1}",
        "stream.orders": "orders",
        "outbox.kafka_broker_topic": "kafka://broker/topic",
    }
    assert {each["action"] for each in made["operations"].values()} == {"send"}
    assert made["servers"] == {
        "default": {"host": "broker.example:9092", "protocol": "kafka", "pathname": "/v1"}
    }
    # A type's name may have signs that a key may not have.
    assert made["components"]["messages"]["order_placed_v2_"]["name"] == "order/placed [v2]"


def test_a_type_keeps_its_key_when_another_one_comes_that_looks_like_it():
    alike = {"1.json": {"x-event-type": "a_b"}, "2.json": {"x-event-type": "a b"}}
    for schemas in ({"1.json": alike["1.json"]}, alike):
        made = async_api(contract(schemas))["components"]
        assert made["messages"]["a_b"]["name"] == "a_b"
        assert made["messages"]["a_b"]["payload"] == {"$ref": "#/components/schemas/a_b"}
    assert made["messages"]["a_b_2"]["name"] == "a b"


def test_the_schemas_of_asyncapi_say_the_same_in_draft_07():
    made = async_api(contract())
    original = contract().schemas
    older = jsonschema_rs.validator_for(
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "allOf": [{"$ref": "#/components/schemas/order_placed_v2_"}],
            "components": made["components"],
        }
    )
    newer = original.validator("order/placed [v2]")
    good = example_of(original, "order/placed [v2]")
    for change in (
        {},
        {"total": {"amount": 1}},
        {"total": {"amount": 0.5, "a": 1, "b": 2, "c": 3}},
        {"total": {"amount": 0.5, "tax": {}}},
        {"lines": [{"n": 6}]},
        {"lines": [{"sku": "ABC-1", "n": 7}]},
        {"pair": ["a", 1, 2]},
        {"pair": [1]},
        {"at": None},
    ):
        value = {key: each for key, each in {**good, **change}.items() if each is not None}
        assert older.is_valid(value) == newer.is_valid(value) == (not change), change


def test_cloudevents_are_read_by_the_official_library():
    orders = contract(**PLACES, schema_url="https://schemas.example/orders/")
    made = cloud_events(orders)
    assert made == cloud_events(contract(**PLACES, schema_url="https://schemas.example/orders/"))
    placed, shipped = made
    for each in made:
        body = json.dumps(each).encode()
        headers = {"content-type": "application/cloudevents+json"}
        event = from_http_event(HTTPMessage(headers, body))
        assert (event.get_type(), event.get_source()) == (each["type"], "/orders")
        assert orders.schemas.validator(each["type"]).is_valid(event.get_data())
    assert placed["dataschema"] == "https://schemas.example/orders/placed.json"
    # Two files: no one address says it all.
    assert "dataschema" not in shipped
    assert placed["data"]["lines"] == [{"sku": "ABC-123", "n": 6}]


def test_a_schema_of_which_no_example_can_be_made_asks_for_one():
    odd = {"T.json": {"type": "string", "pattern": "^[QX]{7}$"}}
    with pytest.raises(UsageError, match="no example of T can be made") as caught:
        cloud_events(contract(odd))
    assert caught.value.hint == "Add one as `examples` to contracts/T.json."
    odd["T.json"]["examples"] = ["QXQXQXQ"]
    assert cloud_events(contract(odd))[0]["data"] == "QXQXQXQ"
