"""Events against the schemas of their types: which rules they break, where, and nothing of what they say."""

from __future__ import annotations

import json

import orjson
import pytest

from esops.events import Position, RecordedEvent
from esops.schema.checking import violations
from esops.schema.checking.history import HistoryCheck, SchemaCheckResult
from esops.schema.checking.metrics import text
from esops.schema.checking.rules import TypeRules
from esops.schema.checking.sarif import sarif
from esops.schema.files import parse_schemas

SECRET = "ann.secret@example.com"
ORDER = """{
  "type": "object",
  "properties": {
    "id": {"type": "string", "format": "uuid"},
    "items": {"type": "array", "items": {"$ref": "_parts/item.json"}},
    "by_day": {"type": "object", "additionalProperties": {"type": "number"}}
  },
  "required": ["id"],
  "additionalProperties": false
}"""
ITEM = '{"type": "object",\n "properties": {"price": {"minimum": 0}},\n "required": ["price"]}'
FILES = {"Order.json": ORDER, "_parts/item.json": ITEM}


def checked(files: dict[str, str], *payloads, type: str = "Order") -> HistoryCheck:
    check = HistoryCheck(parse_schemas("schemas", {k: v.encode() for k, v in files.items()}))
    check.take(
        [
            RecordedEvent(
                f"e{n}", "order-1", n, Position((n,)), type,
                each if isinstance(each, bytes) else orjson.dumps(each), b"", None,
            )
            for n, each in enumerate(payloads, 1)
        ]
    )  # fmt: skip
    return check


def groups(check: HistoryCheck) -> dict[tuple[str, str], tuple[int, str]]:
    return {
        (each.path, each.rule): (each.events, f"{each.file}:{each.line}")
        for each in check.violations.listed()
    }


def test_what_events_break_is_grouped_by_path_and_rule_and_counted_once_for_each_event():
    good = {"id": "0af76519-16cd-43dd-8448-eb211c80319c", "items": [{"price": 1}]}
    check = checked(
        FILES,
        good,
        {},
        {**good, "items": [{"price": -1}, {"price": -2}, {}]},
        {**good, "items": [{"price": -3}]},
        {**good, "id": SECRET, "extra": SECRET},
        {**good, "by_day": {"2024-01-31": SECRET}},
        [],
    )
    assert groups(check) == {
        ("$", "type"): (1, "schemas/Order.json:2"),
        ("$.id", "required"): (1, "schemas/Order.json:8"),
        ("$.id", "format"): (1, "schemas/Order.json:4"),
        ("$.extra", "additionalProperties"): (1, "schemas/Order.json:9"),
        ("$.by_day[*]", "type"): (1, "schemas/Order.json:6"),
        ("$.items[*].price", "minimum"): (2, "schemas/_parts/item.json:2"),
        ("$.items[*].price", "required"): (1, "schemas/_parts/item.json:3"),
    }
    [minimum] = [each for each in check.violations.listed() if each.rule == "minimum"]
    assert [(s.stream, s.version, s.position) for s in minimum.samples] == [
        ("order-1", 3, "3"),
        ("order-1", 4, "4"),
    ]
    found = SchemaCheckResult("shop", "schemas", 7, 7, check.violations.listed(), [], [], None)
    log = sarif(found, schemaless=True)
    assert SECRET not in json.dumps([found.as_dict(), log]) + text(found)
    for each in log["runs"][0]["results"]:
        rule = log["runs"][0]["tool"]["driver"]["rules"][each["ruleIndex"]]["id"]
        assert each["ruleId"] == rule
        assert each["locations"][0]["physicalLocation"]["region"]["startLine"] > 0
    assert (
        'esops_schema_violations{path="$.id",rule="format",store="shop",type="Order"} 1.0'
        in text(found)
    )


def test_of_alternatives_the_nearest_one_is_what_an_event_breaks():
    old = '{"x-event-type": "Order", "required": ["a", "b", "c"]}'
    new = (
        '{"x-event-type": "Order", "required": ["d", "e"], "properties": {"d": {"type": "string"}}}'
    )
    check = checked({"Order/old.json": old, "Order/new.json": new},
                    {"a": 1, "b": 1, "c": 1}, {"d": "", "e": 1}, {"a": 1, "b": 1}, {"d": ""})  # fmt: skip
    assert {key: events for key, (events, _) in groups(check).items()} == {
        ("$.c", "required"): 1,
        ("$.e", "required"): 1,
    }


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "json"), (b"\x93NUMPY", "json"), (b'{"n": NaN}', "json"), (b"{", "json"),
        (b'{"n": 1e400}', None), (b'{"n": 123456789012345678901234567890}', None),
        (b'{"n": 1, "t": "\\ud800"}', None), (b'{"n": 1, "n": 2}', None),
        (b'{"n": 1, "t": ' + b"[" * 300 + b"]" * 300 + b"}", None),
        (b"[" * 100_000, "json"),
    ],
)  # fmt: skip
def test_payloads_that_few_decoders_take(data, rule):
    check = checked({"Order.json": '{"properties": {"n": {"type": "number"}}}'}, data)
    assert set(groups(check)) == (set() if rule is None else {("$", rule)})


def test_a_file_says_that_events_are_no_json():
    binary = {"Order.json": '{"x-payload": "binary", "not": {}}'}
    check = checked({**binary, "b.json": '{"x-event-type": "Order", "type": "array"}'},
                    b"\xff", [], b"", {})  # fmt: skip
    assert {key: events for key, (events, _) in groups(check).items()} == {
        ("$", "json"): 1,
        ("$", "not"): 1,
    } or groups(check).keys() == {("$", "json"), ("$", "type")}


def test_names_of_members_that_no_schema_names_are_data():
    """Those of maps, such as names of persons; also behind a reference, and in each other."""
    schema = {
        "properties": {
            "by": {"additionalProperties": {"$ref": "_parts/map.json"}},
            "seen": {"patternProperties": {"^A": {"properties": {"properties": {"type": "null"}}}}},
            "rest": {"allOf": [{"unevaluatedProperties": {"items": {"type": "null"}}}]},
            "no": {"unevaluatedProperties": False},
        }
    }
    part = {"additionalProperties": {"properties": {"n": {"type": "integer"}}}}
    check = checked(
        {"Order.json": json.dumps(schema), "_parts/map.json": json.dumps(part)},
        {
            "by": {SECRET: {"Ann Secret": {"n": "x"}}},
            "seen": {"Ann": {"properties": 1}},
            "rest": {"Ann": [1]},
            "no": {"Ann": 1},
        },
    )
    assert sorted(path for path, _ in groups(check)) == [
        "$.by[*][*].n", "$.no.Ann", "$.rest[*]", "$.seen[*].properties",
    ]  # fmt: skip


def test_json_does_not_fit_a_file_that_is_for_other_payloads():
    empty = {"old/Order.json": '{\n "x-payload": "empty"}'}
    fresh = {"Order.json": '{"properties": {"price": {"minimum": 0}}}'}
    check = checked({**empty, **fresh}, b"", {"price": -1})
    assert groups(check) == {("$.price", "minimum"): (1, "schemas/Order.json:1")}
    assert groups(checked(empty, b"", {})) == {("$", "x-payload"): (1, "schemas/old/Order.json:2")}


def test_the_fingerprint_of_a_type_is_another_when_any_file_is_that_its_references_reach():
    def fingerprint(low: int) -> str:
        files = {
            "Order.json": '{"properties": {"price": {"$ref": "money.json"}}}',
            "_c.json": json.dumps({"$defs": {"m": {"$id": "money.json", "minimum": low}}}),
        }
        found = parse_schemas("schemas", {name: each.encode() for name, each in files.items()})
        return TypeRules(found, "Order").fingerprint

    assert fingerprint(-5) != fingerprint(0)
    assert fingerprint(0) == fingerprint(0)


def test_types_without_a_schema_are_counted_and_groups_are_bounded(monkeypatch):
    assert checked(FILES, {}, b"", type="Other").schemaless["Other"].events == 2
    monkeypatch.setattr(violations, "MOST_PATHS", 10)
    check = checked(FILES, *({"id": "", f"name{n}": 1} for n in range(40)))
    extra = {key: events for key, (events, _) in groups(check).items() if key[1] != "format"}
    assert len(extra) == 11
    assert extra["$", "additionalProperties"] == 30


def test_sarif_names_files_as_code_hosts_find_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b c").mkdir()

    def place(where: str) -> str:
        check = HistoryCheck(parse_schemas(where, {"Order.json": b'{"not": {}}'}))
        check.take([RecordedEvent("e", "o", 1, Position((1,)), "Order", b"{}", b"", None)])
        groups = check.violations.listed()
        found = SchemaCheckResult("shop", where, 1, 1, groups, [], [], Position((1,)))
        [result] = sarif(found, schemaless=True)["runs"][0]["results"]
        return str(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])

    assert place("./b c/../schemas") == place(str(tmp_path / "schemas")) == "schemas/Order.json"
    assert place("/b c") == "file:///b%20c/Order.json"
