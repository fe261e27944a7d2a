"""Compatibility of random schemas, against a judge that tries every value of a small universe."""

from __future__ import annotations

import itertools
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esops.schema.compare import compare_types
from esops.schema.containment import ComparedSchema, Verdict, takes_all
from esops.schema.files import parse_schemas
from esops.schema.writers import read_by, written_by
from tests.support.soak import rounds

NAMES = ("x", "y", "z")
ATOMS = ["a", "b", "ab", "", "2026-01-02", 0, 1, 2, 3, 0.5, -1, None, True]
FEW = ["a", "ab", 0, 1, 0.5, None]
quick = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def universe():
    """Some 400 values: scalars, objects of up to three members, arrays of two, and some nested."""
    objects = [{}]
    for size, values in ((1, ATOMS), (2, FEW), (3, ["a", 1, None])):
        for names in itertools.combinations((*NAMES, "other") if size < 3 else NAMES, size):
            objects += [
                dict(zip(names, each, strict=True))
                for each in itertools.product(values, repeat=size)
            ]
    arrays = [
        [],
        *([each] for each in ATOMS),
        *(list(each) for each in itertools.product(FEW, repeat=2)),
    ]
    inner = [
        {},
        {"x": 1},
        {"x": "a"},
        {"y": None},
        {"x": "a", "y": 1},
        {"other": 0},
        [],
        ["a"],
        [1],
    ]
    nested = [{name: each} for name in NAMES for each in inner] + [[each] for each in inner]
    return [*ATOMS, *objects, *arrays, *nested]


UNIVERSE = universe()

scalars = st.sampled_from([
    {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}, {"type": "null"},
    {"type": ["string", "null"]}, {"type": ["integer", "string"]}, {"enum": ["a", "b"]}, {"enum": ["a", 1, None]},
    {"const": "a"}, {"const": 0.5}, {"type": "integer", "minimum": 1}, {"type": "number", "exclusiveMinimum": 0},
    {"type": "number", "maximum": 1}, {"type": "string", "minLength": 1}, {"type": "string", "maxLength": 1},
    {"type": "string", "pattern": "^a"}, {"type": "string", "format": "date"}, {"multipleOf": 2}, {},
])  # fmt: skip


def _objects(inner):
    return st.fixed_dictionaries(
        {
            "type": st.just("object"),
            "properties": st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
        },
        optional={
            "required": st.lists(st.sampled_from(NAMES), unique=True, max_size=2),
            "additionalProperties": st.booleans() | inner,
            "patternProperties": st.fixed_dictionaries({"^x": inner}),
            "minProperties": st.just(1),
        },
    )


def _arrays(inner):
    return st.fixed_dictionaries(
        {"type": st.just("array"), "items": inner},
        optional={
            "minItems": st.integers(0, 2),
            "maxItems": st.integers(0, 2),
            "prefixItems": st.lists(inner, min_size=1, max_size=1),
        },
    )


def _unions(inner):
    several = st.lists(inner, min_size=2, max_size=2)
    return st.one_of(
        *(st.fixed_dictionaries({key: several}) for key in ("anyOf", "oneOf", "allOf"))
    )


schemas = st.recursive(
    scalars, lambda inner: _objects(inner) | _arrays(inner) | _unions(inner), max_leaves=5
)


@st.composite
def pairs(draw):
    """A schema, and one that differs at one place; sometimes two that have nothing in common."""
    old = draw(schemas)
    if draw(st.integers(0, 4)) == 0:
        return old, draw(schemas)
    new = json.loads(json.dumps(old))
    place = draw(st.sampled_from(list(places(new))))
    if place.get("type") == "object" and draw(st.booleans()):
        name = draw(st.sampled_from(NAMES))
        match draw(st.integers(0, 3)):
            case 0:
                place["properties"][name] = draw(scalars)
            case 1:
                place["properties"].pop(name, None)
            case 2:
                place["required"] = sorted({*place.get("required", [])} ^ {name})
            case 3:
                place["additionalProperties"] = draw(st.booleans())
    else:
        place.clear()
        place.update(draw(scalars))
    return old, new


def places(schema):
    if not isinstance(schema, dict):
        return
    yield schema
    for key in ("properties", "patternProperties"):
        for each in schema.get(key, {}).values():
            yield from places(each)
    for key in ("items", "additionalProperties"):
        yield from places(schema.get(key))
    for key in ("prefixItems", "anyOf", "oneOf", "allOf"):
        for each in schema.get(key, []):
            yield from places(each)


def parsed(schema):
    return parse_schemas("s", {"A.json": json.dumps(schema).encode()})


@given(pairs(), st.booleans())
@settings(quick, max_examples=rounds(100, 400))
def test_compatible_means_that_no_value_is_refused_and_its_contrary_has_one_that_is(pair, strict):
    old, new = map(parsed, pair)
    found = compare_types("A", old, new, strict=strict)
    for direction, writers, readers in (("backward", old, new), ("forward", new, old)):
        written = (read_by if strict else written_by)(writers, "A")
        may_write = ComparedSchema(written).validator.is_valid
        takes = readers.validator("A").is_valid
        refused = [each for each in UNIVERSE if may_write(each) and not takes(each)]
        verdict = found.verdicts[direction]
        if refused:
            assert verdict is not Verdict.YES, refused[0]
        if verdict is Verdict.NO:
            refusal = found.refusals[direction]
            assert may_write(refusal.value)
            assert writers.validator("A").is_valid(refusal.value)
            assert not takes(refusal.value)
        # What breaks is named, and what is named breaks.
        named = any(direction in each.breaking for each in found.changes)
        assert named == (verdict is not Verdict.YES)


SMALL = st.recursive(
    st.sampled_from(
        [{"type": "string"}, {"type": "integer"}, {"enum": ["a", 1]}, {"const": None}, {}]
    ),
    lambda inner: (
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
            },
            optional={
                "required": st.lists(st.sampled_from("xy"), unique=True, max_size=2),
                "additionalProperties": st.booleans(),
            },
        )
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner})
    ),
    max_leaves=4,
)


@given(SMALL, SMALL)
@settings(quick, max_examples=rounds(100, 300))
def test_in_a_small_world_there_is_no_doubt(old, new):
    written, reader = (
        ComparedSchema(written_by(parsed(old), "A")),
        ComparedSchema(read_by(parsed(new), "A")),
    )
    answer = takes_all(reader, written)
    if written.impossible:
        assert answer.verdict is Verdict.UNKNOWN
    else:
        assert answer.verdict is (Verdict.NO if answer.refusal else Verdict.YES)


def only_named(schema, value):
    """Whether all members of a value are named by its schema, said by hand for SMALL."""
    if schema.get("type") == "array":
        return not isinstance(value, list) or all(
            only_named(schema["items"], each) for each in value
        )
    if schema.get("type") != "object" or not isinstance(value, dict):
        return True
    names = {*schema["properties"], *schema.get("required", [])}
    if names and "additionalProperties" not in schema and not {*value} <= names:
        return False
    return all(
        only_named(each, value[name])
        for name, each in schema["properties"].items()
        if name in value
    )


@given(SMALL)
@settings(quick, max_examples=rounds(60, 200))
def test_writers_write_the_members_that_the_schema_names(schema):
    written = ComparedSchema(written_by(parsed(schema), "A")).validator
    read = parsed(schema).validator("A")
    for value in UNIVERSE:
        assert written.is_valid(value) == (read.is_valid(value) and only_named(schema, value)), (
            value
        )


@given(schemas)
@settings(quick, max_examples=rounds(60, 200))
def test_what_is_written_is_valid_and_a_schema_is_compatible_with_itself(schema):
    found = parsed(schema)
    assert compare_types("A", found, parsed({**schema, "title": "the same"})).compatible(
        ["backward", "forward"]
    )
    written, read = ComparedSchema(written_by(found, "A")).validator, found.validator("A")
    assert not [each for each in UNIVERSE if written.is_valid(each) and not read.is_valid(each)]
