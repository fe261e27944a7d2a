"""Shapes of payloads, against a plain walk of each payload."""

from __future__ import annotations

import json
import tracemalloc

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esops.json_paths import Wild, written
from esops.schema import shapes
from esops.schema.shapes import Shapes, is_data

NAMES = st.sampled_from(["a", "b", "c.d", "it's", "7", "2026-01-01", "id"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
MAPS = [(), ("a",), ("a", "b"), ("a", Wild.EVERY), (Wild.EVERY, "id"), ("c.d", Wild.EVERY, "a")]
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def walked(value, at=()):
    """Each path of a value with its type, and the names that each object at a path has."""
    if isinstance(value, dict):
        yield at, "object"
        for name, each in value.items():
            yield from walked(each, (*at, Wild.EVERY if is_data(name) else name))
    elif isinstance(value, list):
        yield at, "array"
        for each in value:
            yield from walked(each, (*at, Wild.EVERY))
    else:
        yield at, TYPES[type(value)]


def objects(value, at=()):
    if isinstance(value, dict):
        names = {Wild.EVERY if is_data(name) else name for name in value}
        yield at, names
        for name, each in value.items():
            yield from objects(each, (*at, Wild.EVERY if is_data(name) else name))
    elif isinstance(value, list):
        for each in value:
            yield from objects(each, (*at, Wild.EVERY))


def missing(value):
    """The members that only some of the objects at a path have."""
    found: dict = {}
    for at, names in objects(value):
        found.setdefault(at, []).append(names)
    return {
        (*at, name)
        for at, several in found.items()
        for name in set().union(*several)
        if name is not Wild.EVERY and not all(name in names for names in several)
    }


@given(st.lists(VALUES, min_size=1, max_size=6), st.booleans())
def test_a_shape_has_each_path_with_its_types(payloads, forget):
    known = Shapes()
    for value in [*payloads, *payloads]:
        found = known.of(orjson.dumps(value))
        assert found.fields == set(walked(value))
        assert found.partial == missing(value)
        if forget:
            known._plans.clear()
            known._nodes.clear()
            known._variants.clear()
            known._interned.clear()


@given(VALUES, st.randoms())
def test_the_order_of_members_and_elements_says_nothing(value, random):
    def shuffled(each):
        if isinstance(each, dict):
            pairs = [(name, shuffled(inner)) for name, inner in each.items()]
            random.shuffle(pairs)
            return dict(pairs)
        if isinstance(each, list):
            return random.sample([shuffled(inner) for inner in each], len(each))
        return each

    known = Shapes()
    assert known.of_value(value) is known.of_value(shuffled(value))


def test_numbers_are_one_type_in_a_shape_and_two_in_variants():
    known = Shapes()
    whole, broken = known.of(b'{"price": 10}'), known.of(b'{"price": 10.5}')
    assert whole.shape is broken.shape
    assert whole is not broken
    assert whole.shape.listed == [("$", "object"), ("$.price", "number")]
    # What every process and every version of Python must say.
    assert whole.shape.hash == "c4ee052d9c94"


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"", "empty"), (b"\xff\x00", "binary"), (b"{", "binary"), (b"[" * 100_000, "binary")],
)  # fmt: skip
def test_what_is_no_json(data, kind):
    assert Shapes().of(data).shape.listed == [("$", kind)]


def test_what_json_cannot_hold_but_libraries_write():
    assert Shapes().of(b'{"rate": NaN}').shape.listed[1] == ("$.rate", "number")
    assert Shapes().of(b'{"name": "\\ud800"}').shape.listed[1] == ("$.name", "string")


def test_names_that_are_data_are_one_member():
    ids = {
        "3f0c6f3e-0c5f-4b57-9c7f-6f0f5f3c8a11": 1,
        "7f0c6f3e-0c5f-4b57-9c7f-6f0f5f3c8a12": None,
    }
    assert Shapes().of_value({"stock": ids}).shape.listed == [
        ("$", "object"),
        ("$.stock", "object"),
        ("$.stock[*]", "null"),
        ("$.stock[*]", "number"),
    ]
    many = {f"sku{number}": 1 for number in range(shapes.MOST_MEMBERS + 1)}
    assert len(Shapes().of_value(many).fields) == 2


def test_a_deep_payload_is_looked_at_down_to_a_depth():
    known = Shapes()

    def nested(depth):
        value: object = {"end": 1}
        for _ in range(depth):
            value = {"in": value}
        return known.of(json.dumps(value).encode())

    assert nested(70).fields == nested(300).fields
    assert (("in",) * 40 + ("end",), "integer") in nested(40).fields
    assert written(("in", Wild.EVERY, "x")) == "$.in[*].x"


def peaks(payloads):
    """Megabytes at most after half of some payloads, and after all."""
    known, half = Shapes(), len(payloads) // 2
    tracemalloc.start()
    try:
        for each in payloads[:half]:
            known.of(each)
        before = tracemalloc.get_traced_memory()[1]
        for each in payloads[half:]:
            known.of(each)
        return before, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_many_names_in_one_payload_take_no_time_of_their_square():
    """Where all were compared with all, this payload alone took minutes."""
    items = [{f"n{letters(number)}": 1, "same": 1} for number in range(10_000)]
    found = Shapes().of(json.dumps({"items": items}).encode())
    assert len(found.partial) == len(items)
    assert ("items", Wild.EVERY, "same") not in found.partial


def letters(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "abcdefghij"))


def test_memory_is_bound_by_the_names_that_are_held(monkeypatch):
    monkeypatch.setattr(shapes, "MOST_NAMES", 3_000, raising=False)
    stocks = [
        json.dumps({"at": n, "stock": {f"sku_{n}_{k}": k for k in range(50)}}).encode()
        for n in range(200)
    ]
    before, after = peaks(stocks)
    assert after < 1.3 * before


@given(st.lists(VALUES, min_size=1, max_size=6), st.sets(st.sampled_from(MAPS), max_size=3))
def test_names_of_a_known_map_are_in_no_shape(payloads, maps):
    from esops.schema.dynamic_names import DynamicNames
    from esops.schema.mapped_shapes import MappedShapes

    names, plain, mapped = DynamicNames(maps), Shapes(), MappedShapes(maps)
    for value in payloads:
        expected = names.shape(plain.of_value(value).shape)
        assert mapped.of_value(value).shape == expected
        assert mapped.of(orjson.dumps(value)).shape == expected
