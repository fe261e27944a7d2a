"""What changed between two schemas of an event type, and what it breaks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from esops.schema.compare import compare_sets
from esops.schema.files import parse_schemas
from esops.term.values import to_json

S, I, N = {"type": "string"}, {"type": "integer"}, {"type": "number"}  # noqa: E741


def obj(required="", closed=None, **members):
    rest = {} if closed is None else {"additionalProperties": closed}
    return {"type": "object", "properties": members, "required": required.split(), **rest}


def parsed(**files):
    return parse_schemas("s", {f"{k}.json": json.dumps(v).encode() for k, v in files.items()})


def compared(old, new, *, strict=False):
    found = compare_sets(parsed(A=old), parsed(A=new), strict=strict)
    return [(each.path, each.kind, each.breaks) for each in found.changes], found


LIST = {"type": "array", "items": obj("price", price=N)}
UUID = {"type": "string", "format": "uuid"}


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        (obj("a", a=S), obj("a", a=S, b=I), [("$.b", "field-added", "none")]),
        (obj("a", False, a=S), obj("a", False, a=S, b=I), [("$.b", "field-added", "forward")]),
        (obj("a", a=S), obj("a b", a=S, b=I), [("$.b", "required-field-added", "backward")]),
        (obj("a", False, a=S), obj("a b", False, a=S, b=I), [("$.b", "required-field-added", "both")]),
        (obj(a=S, b=I), obj(a=S), [("$.b", "field-removed", "none")]),
        (obj(a=S, b=I), obj("", False, a=S), [("$.b", "field-removed", "backward"), ("$", "closed", "none")]),
        (obj("b", a=S, b=I), obj(a=S), [("$.b", "required-field-removed", "forward")]),
        (obj(a=S), obj("a", a=S), [("$.a", "field-required", "backward")]),
        (obj("a", a=S), obj(a=S), [("$.a", "field-optional", "forward")]),
        (obj(a=I), obj(a=N), [("$.a", "type-widened", "forward")]),
        (obj(a=N), obj(a=I), [("$.a", "type-narrowed", "backward")]),
        (obj(a=S), obj(a=I), [("$.a", "type-changed", "both")]),
        (obj(a=S), obj(a={"type": ["string", "null"]}), [("$.a", "null-allowed", "forward")]),
        (obj(a={"anyOf": [S, {"type": "null"}]}), obj(a=S), [("$.a", "null-refused", "backward")]),
        (obj(a={"enum": ["x", "y"]}), obj(a={"const": "x"}), [("$.a", "values-removed", "backward")]),
        (obj(a={"const": "x"}), obj(a={"enum": ["x", "y"]}), [("$.a", "values-added", "forward")]),
        (obj(a={"enum": ["x"]}), obj(a={"enum": ["y"]}), [("$.a", "values-changed", "both")]),
        (obj(a={"enum": ["x"]}), obj(a=S), [("$.a", "values-added", "forward")]),
        (obj(a=S), obj(a={"enum": ["x"]}), [("$.a", "values-removed", "backward")]),
        (obj(a={**N, "minimum": 0}), obj(a={**N, "minimum": 1}), [("$.a", "range-narrowed", "backward")]),
        (obj(a={**S, "maxLength": 5}), obj(a={**S, "maxLength": 9}), [("$.a", "range-widened", "forward")]),
        (obj(a={**N, "minimum": 0, "maximum": 9}), obj(a={**N, "minimum": 5, "maximum": 20}), [("$.a", "range-changed", "both")]),
        (obj(a=S), obj(a=UUID), [("$.a", "format-added", "backward")]),
        (obj(a=UUID), obj(a=S), [("$.a", "format-removed", "forward")]),
        (obj(a=UUID), obj(a={**S, "format": "date"}), [("$.a", "format-changed", "both")]),
        (obj(a=S), obj(a={**S, "pattern": "^a"}), [("$.a", "format-added", "backward")]),
        (obj("", False, a=S), obj(a=S), [("$", "opened", "none")]),
        (obj("", True, a=S), obj("", False, a=S), [("$", "closed", "backward")]),
        (obj("", True, a=S), obj("", True, a=S, b=I), [("$.b", "field-added", "backward")]),
        (obj(a=LIST), obj(a={**LIST, "items": obj("price", price=I)}), [("$.a[*].price", "type-narrowed", "backward")]),
        (obj(a={**LIST, "maxItems": 3}), obj(a=LIST), [("$.a", "range-widened", "forward")]),
        (obj(a={"type": "object", "additionalProperties": N}), obj(a={"type": "object", "additionalProperties": I}), [("$.a[*]", "type-narrowed", "backward")]),
        (obj(a={"type": "array", "uniqueItems": True}), obj(a={"type": "array"}), [("$.a", "rule-changed", "forward")]),
        (
            obj("customerId", customerId=UUID),
            obj("customer_id", customer_id=UUID),
            [
                ("$.customerId", "required-field-removed", "forward"),
                ("$.customer_id", "required-field-added", "backward"),
                ("$.customer_id", "rename-suspected", "none"),
            ],
        ),
        (
            obj(a=obj(street=S, n=I)),
            obj(a=obj(n=I), address=obj(street=S)),
            [("$.address", "field-added", "none"), ("$.a.street", "field-removed", "none"), ("$.address.street", "move-suspected", "none")],
        ),
    ],
)  # fmt: skip
def test_each_change_has_its_kind_and_what_it_breaks(old, new, changes):
    assert compared(old, new)[0] == changes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (obj(a={"const": "x"}), obj(a={"enum": ["x"], "title": "A", "x-note": 1})),
        (obj("a", a=S), {"allOf": [obj(a=S), {"required": ["a"]}]}),
        (obj(a={"type": ["string", "null"]}), obj(a={"anyOf": [{"type": "null"}, S]})),
        (obj(a={**I, "minimum": 1, "maximum": 1}), obj(a={"const": 1})),
        (obj(a=obj(b=S)), {**obj(a={"$ref": "#/$defs/x"}), "$defs": {"x": obj(b=S)}}),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [S], "additionalItems": False},
            {"type": "array", "prefixItems": [S], "items": False},
        ),
        # Two shapes in two files, and both in one.
        ({"anyOf": [obj("a", False, a=S), obj("a b", False, a=S, b=I)]}, obj("a", False, a=S, b=I)),
    ],
)  # fmt: skip
def test_the_same_values_in_other_words_are_no_change(old, new):
    assert compared(old, new)[0] == []
    assert compared(new, old)[0] == []


def tree(name, value):
    return {
        "$ref": f"#/$defs/{name}",
        "$defs": {name: obj(next={"$ref": f"#/$defs/{name}"}, v=value)},
    }


def test_a_schema_that_refers_to_itself_is_judged():
    changes, found = compared(tree("a", I), tree("b", N))
    assert ("$.v", "type-widened", "forward") in changes
    assert found.compatible(["backward"])
    assert compared(tree("a", I), tree("b", I))[1].compatible()


def test_strict_takes_open_objects_at_their_word_and_unknown_types_for_refused():
    changes, found = compared(obj(a=S), obj(a=S, b=I), strict=True)
    assert changes == [("$.b", "field-added", "backward")]
    assert found.types[0].refusals["backward"].path == ("b",)
    more = compare_sets(parsed(A=S), parsed(A=S, B=S))
    assert [(each.type, each.kind, each.breaks) for each in more.changes] == [
        ("B", "type-added", "none")
    ]
    assert compare_sets(parsed(A=S), parsed(A=S, B=S), strict=True).changes[0].breaks == "forward"


def test_a_type_that_is_gone_breaks_readers_of_its_events():
    found = compare_sets(parsed(OrderPlaced=S, B=S), parsed(OrderPlacedV2=S, B=S))
    assert [(each.type, each.kind, each.breaks) for each in found.changes] == [
        ("OrderPlaced", "type-removed", "backward"),
        ("OrderPlacedV2", "type-added", "none"),
    ]
    assert found.changes[0].detail == "looks like OrderPlacedV2, which is new"


def test_alternatives_that_go_together_differently_are_found_by_an_example():
    old = obj("k x", k={"enum": ["a", "b"]}, x={"type": ["string", "integer"]})
    new = {"anyOf": [obj("k x", k={"const": "a"}, x=S), obj("k x", k={"const": "b"}, x=I)]}
    changes, found = compared(old, new)
    assert {each[2] for each in changes} == {"backward"}
    assert found.types[0].refusals["backward"].value["k"] in {"a", "b"}


@pytest.mark.parametrize(
    "schemas",
    [
        ({"pattern": "^ab$", **S}, {"pattern": "^a", **S}),
        (obj("b", False, a=S), obj("b", False, a=S, c=S)),  # nothing is valid by it
    ],
)
def test_what_cannot_be_judged_is_never_compatible(schemas):
    found = compared(*schemas)[1]
    assert not found.compatible(["backward"])
    assert found.changes
    assert "backward" in set().union(*(each.unproven for each in found.changes))


def test_an_example_is_valid_by_the_one_and_refused_by_the_other():
    old, new = (
        parsed(A=obj("a", a=LIST)),
        parsed(A=obj("a", a={**LIST, "items": obj("price", price=I)})),
    )
    refusal = compare_sets(old, new).types[0].refusals["backward"]
    assert old.validator("A").is_valid(refusal.value)
    assert not new.validator("A").is_valid(refusal.value)
    assert refusal.path == ("a", 0, "price")


def test_documents_with_ids_and_definitions_are_followed():
    def two(n):
        versions = {
            "v1": obj("a", False, a=S),
            "v2": obj("a b", False, a=S, b={"$ref": "#/$defs/m"}),
            "m": obj("n", n=n),
        }
        union = [{"$ref": "#/$defs/v1"}, {"$ref": "#/$defs/v2"}]
        return {"$id": "https://shop.example/A.json", "anyOf": union, "$defs": versions}

    changes, found = compared(two(N), two(I))
    assert changes == [("$.b.n", "type-narrowed", "backward")]
    assert found.types[0].refusals["backward"].value["b"]["n"] == 1.5


def test_an_example_with_a_number_beyond_64_bits_can_be_written():
    found = compared(obj(a={"const": 12345678901234567890123}), obj(a={"const": 1.5}))[1]
    assert '{"a":12345678901234567890123}' in to_json(found.as_dict())


def test_payloads_that_are_no_json_are_compared_too():
    binary = {"x-payload": "binary", "not": {}}
    assert compared(binary, {**binary, "x-shape": "binary"})[0] == []
    assert compared(binary, obj(a=S))[0] == [("$", "type-changed", "both")]


D4, D7 = ("http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#")
NODE = {"$ref": "#/$defs/node"}
P = {"$defs": {"p": {"type": ["boolean", "number"]}}}


def both_sides(**members):
    node = {"anyOf": [{"type": "null"}, obj(left=NODE, right=NODE, **members)]}
    return {**NODE, "$defs": {"node": node}}


@pytest.mark.parametrize(
    ("old", "new", "backward", "forward"),
    [
        ({"const": 1}, {"const": True}, "no", "no"),
        (obj(a={"enum": [0, [1]]}), obj(a={"enum": [False, [True]]}), "no", "no"),
        ({**P, **obj(a={"$ref": "#/$defs/p"})}, {**P, **obj(a={"$ref": "#/$defs/p", "type": "number"})}, "no", "yes"),
        ({**P, "$ref": "#/$defs/p"}, {**P, "$ref": "#/$defs/p", "enum": [1]}, "no", "yes"),
        # What a draft does not know is no rule in it.
        ({"$schema": D7, **UUID}, UUID, "yes", "yes"),
        (S, {**S, "format": "date-tme"}, "yes", "yes"),
        ({"$schema": D7, **obj()}, {"$schema": D7, **obj(), "dependentRequired": {"a": ["b"]}}, "yes", "yes"),
        ({"$schema": D7, **S}, {"$schema": D7, **S, "contentEncoding": "base64"}, "no", "yes"),
        ({"$schema": D7, **S}, {"$schema": D7, **S, "contentMediaType": "application/json"}, "unknown", "unknown"),
        (S, {**S, "contentEncoding": "base64"}, "yes", "yes"),
        (I, {"$schema": D4, **I}, "unknown", "yes"),
        # Schemas that refer to themselves.
        (both_sides(v=I), both_sides(v=N), "yes", "no"),
        (both_sides(v=I), both_sides(v=I, w=S), "yes", "yes"),
        (both_sides(data=obj(x=I)), both_sides(more=NODE), "yes", "yes"),
        (obj(n={**I, "maximum": 10**30}), obj(n={**I, "maximum": 10**31}), "yes", "no"),
    ],
)  # fmt: skip
def test_what_old_drafts_references_and_equal_looking_values_mean(old, new, backward, forward):
    changes, found = compared(old, new)
    answers = [each.verdicts for each in found.types] or [{}]
    said = {key: each.value for key, each in answers[0].items()}
    assert said in ({"backward": backward, "forward": forward}, {})
    assert said or (backward, forward) == ("yes", "yes")
    assert len(changes) < 7  # a circle is named once for each way in


def test_types_that_refer_to_each_other_are_compared_in_a_few_steps():
    def mutual(leaf):
        names = [f"n{number}" for number in range(5)]
        members = {each: {"$ref": f"#/$defs/{each}"} for each in names}
        node = {"anyOf": [{"type": "null"}, obj(**members, v=leaf)]}
        return {"$ref": "#/$defs/n0", "$defs": dict.fromkeys(names, node)}

    changes, _ = compared(mutual(I), mutual(N))
    assert ("$.v", "type-widened", "forward") in changes


def test_a_part_with_an_id_of_its_own_in_another_file_is_compared():
    def with_least(number):
        part = {"$defs": {"m": {"$id": "m.json", "minimum": number}}}
        return parsed(A=obj(a={"$ref": "m.json"}), _parts=part)

    changes = compare_sets(with_least(0), with_least(5)).changes
    assert [(each.path, each.kind, each.breaks) for each in changes] == [
        ("$.a", "range-narrowed", "backward")
    ]


def test_values_of_a_store_are_counted_and_not_named():
    def observed(values, most):
        schema = obj(a={"enum": values}, b={**N, "maximum": most})
        return replace(parsed(A=schema), written=parsed(A=schema))

    found = compare_sets(observed(["Anna Meier", "x"], 4711), parsed(A=obj(a={"const": "x"}, b=N)))
    assert [each.detail for each in found.changes] == ["no longer 1 value", ""]
    shown = json.dumps(found.as_dict())
    assert "Anna" not in shown
    assert "4711" not in shown
    assert [each["rule"] for each in found.as_dict()["witnesses"]]
