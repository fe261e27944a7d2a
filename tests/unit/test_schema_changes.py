"""Changes of fields over random histories, against a judge that looks at all events for each path;
new values of fields with few; versions in names and metadata.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esops.events import Position, RecordedEvent
from esops.json_paths import Wild, written
from esops.schema.changes import FieldChanges
from esops.schema.enum_values import FEW, SEEN, EnumValues
from esops.schema.shapes import Shapes
from esops.schema.versions import class_version, version_in, versioned

AT = datetime(2026, 1, 1, tzinfo=UTC)
SCALARS = st.sampled_from([None, 1, 2.5, "x", True])
MEMBERS = st.dictionaries(st.sampled_from("abc"), SCALARS, max_size=3)
PAYLOADS = st.dictionaries(
    st.sampled_from("abcd"), SCALARS | MEMBERS | st.lists(MEMBERS | SCALARS, max_size=2), max_size=4
)
# Long stretches of few payloads, as deployments make them, and any order of them.
HISTORIES = st.lists(PAYLOADS, min_size=1, max_size=5).flatmap(
    lambda few: st.lists(st.sampled_from(few), min_size=1, max_size=25)
)


def recorded(payloads):
    return [
        RecordedEvent(str(n), "s-1", n, Position((n,)), "t", json.dumps(each).encode(), b"", AT)
        for n, each in enumerate(payloads, 1)
    ]


def found_in(payloads):
    shapes, changes = Shapes(), FieldChanges()
    for event in recorded(payloads):
        changes.see(shapes.of(event.data), event)
        if event.version % 7 == 0:
            changes.end_batch()
    return {
        (each.kind, each.path, each.at.version, tuple(each.detail["new"]))
        for each in changes.changes()
    }


TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def walk(value, at=()):
    """Each value of a payload with its path."""
    yield at, value
    if isinstance(value, dict):
        for name, each in value.items():
            yield from walk(each, (*at, name))
    elif isinstance(value, list):
        for each in value:
            yield from walk(each, (*at, Wild.EVERY))


def type_of(value):
    return {dict: "object", list: "array"}.get(type(value)) or TYPES[type(value)]


class Looked:
    """One payload: the types at each path, and of each member how many of its objects have it."""

    def __init__(self, payload):
        self.types, self.objects = {}, {}
        for path, value in walk(payload):
            self.types.setdefault(path, set()).add(type_of(value))
            if isinstance(value, dict):
                self.objects.setdefault(path, []).append(set(value))

    def lacks(self, path):
        """Whether no object has the member, and there is one that could."""
        objects = self.objects.get(path[:-1], [])
        return bool(objects) and not any(path[-1] in each for each in objects)

    def misses(self, path):
        """Whether some object that could have the member has it not."""
        return not all(path[-1] in each for each in self.objects.get(path[:-1], []))


def judged(payloads):
    """The changes by their definitions, one path after the other."""
    looked = [Looked(each) for each in payloads]
    result = set()
    for path in {path for each in looked for path in each.types}:
        has = [n for n, each in enumerate(looked) if path in each.types]
        result |= new_types(path, looked, has)
        if not path or path[-1] is Wild.EVERY:
            continue
        lacking = [n for n, each in enumerate(looked) if each.lacks(path)]
        if any(n < has[0] for n in lacking):
            result.add(("added", path, has[0], tuple(sorted(looked[has[0]].types[path]))))
        result |= gone(path, looked, has, lacking)
    return {(kind, written(path), n + 1, new) for kind, path, n, new in result}


def new_types(path, looked, has):
    result, known = set(), set()
    for n in has:
        new = looked[n].types[path] - known
        values = known - {"null"}
        if values and "null" in new:
            result.add(("nullable", path, n, ("null",)))
        others = new - {"null"} - ({"integer"} if "number" in known else set())
        if values and others:
            result.add(("type", path, n, tuple(sorted(others))))
        known |= looked[n].types[path]
    return result


def gone(path, looked, has, lacking):
    after = [n for n in lacking if n > has[-1]]
    longest = 0
    for n, before in zip(has[1:], has, strict=False):
        between = [each for each in lacking if before < each < n]
        if between:
            longest = max(longest, n - between[0])
    if after and len(looked) - after[0] > longest:
        return {("removed", path, after[0], ())}
    missing = [n for n in range(has[0], len(looked)) if looked[n].misses(path)]
    always = all(n > has[0] for n in lacking) and not looked[has[0]].misses(path)
    return {("nullable", path, missing[0], ("absent",))} if missing and always else set()


@given(HISTORIES)
def test_changes_are_those_of_a_plain_judge(payloads):
    assert found_in(payloads) == judged(payloads)


def test_old_and_new_code_side_by_side():
    old, new = {"id": "a", "note": "n"}, {"id": "a", "text": "n"}
    assert found_in([old, old, new, old, new, old, new, new, new, new]) == {
        ("added", "$.text", 3, ("string",)),
        ("removed", "$.note", 7, ()),
    }


def test_field_that_comes_and_goes_is_optional_and_not_removed():
    both = [{"id": 1, "note": "n"}, {"id": 1}]
    assert found_in([*both, *both, *both]) == {("nullable", "$.note", 2, ("absent",))}


def test_members_of_a_new_object_are_no_changes_of_their_own():
    assert found_in([{"a": 1}, {"a": 1, "b": {"c": {"d": 1}}}]) == {
        ("added", "$.b", 2, ("object",))
    }


def values_in(texts, **options):
    shapes, values = Shapes(), EnumValues(**options)
    for event in recorded([{"items": [{"status": text}]} for text in texts]):
        values.see(shapes.of(event.data), event)
    return [(each.path, each.at.version, dict(each.detail)) for each in values.changes()]


def test_new_value_of_a_field_with_few():
    texts = ["new", "paid"] * SEEN + ["lost", "new", "lost"]
    path, number = "$.items[*].status", 2 * SEEN + 1
    assert values_in(texts) == [(path, number, {"values_before": 2})]
    assert values_in(texts, shown=True) == [
        (path, number, {"values_before": 2, "previous": ["new", "paid"], "new": "lost"})
    ]


def test_values_beside_what_few_decoders_take():
    shapes, values, number = Shapes(), EnumValues(), 0
    for text in ("1", "1e400", "NaN", "\\ud800"):
        data = (
            f'{{"s": "{text}", "n": {text}}}' if text[0] != "\\" else f'{{"s": "{text}"}}'
        ).encode()
        for _ in range(2 * SEEN):
            number += 1
            at = Position((number,))
            event = RecordedEvent(str(number), "s-1", number, at, "t", data, b"", AT)
            values.see(shapes.of(data), event)
    assert [each.at.version for each in values.changes()] == [41, 81, 121]


@pytest.mark.parametrize(
    "texts",
    [
        ["new"] * (SEEN - 1) + ["paid"],
        ["new"] * SEEN + ["paid"] + [str(n) for n in range(FEW)],
        ["new"] * SEEN + ["a long text " * 9],
    ],
    ids=["seen too seldom", "too many values", "prose"],
)
def test_what_is_no_new_value(texts):
    assert values_in(texts) == []


@pytest.mark.parametrize(
    ("stored", "base", "version"),
    [
        ("order_placed_v2", "order_placed", "2"),
        ("order-placed:v12", "order-placed", "12"),
        ("com.shop.order.v1.2", "com.shop.order", "1.2"),
        ("OrderPlaced-V3", "OrderPlaced", "3"),
        ("OrderPlacedV2", "OrderPlaced", "2"),
        ("order_placed", "order_placed", None),
        ("AddressIPV4", "AddressIPV4", None),
        ("shopv2", "shopv2", None),
        ("_v2", "_v2", None),
    ],
)
def test_version_that_a_name_ends_in(stored, base, version):
    assert versioned(stored) == (base, version)


@pytest.mark.parametrize(
    ("metadata", "version"),
    [
        (b'{"schemaVersion": "2.1"}', "2.1"),
        (b'{"$schemaVersion": 3, "eventVersion": 4}', "3"),
        (b'{"headers": {"schemaVersion": "4"}, "correlationId": "x"}', "4"),
        (b'{"schema_version": true}', None),
        (b'{"schemaVersion": 2, "cost": 1e400, "by": "\\ud800"}', "2"),
        (b'{"conversion": 2}', None),
        (b"\x01ersion", None),
        (b'["schemaVersion"]', None),
        (b"", None),
    ],
)
def test_version_in_the_metadata(metadata, version):
    assert version_in(metadata) == version


def test_version_of_the_class_in_a_state():
    assert class_version(b'{"class_version":2,"name":"a"}') == "2"
    assert class_version(b'{"class_version":2,"rate":1e400}') == "2"
    assert class_version(b'{"name":"\\"class_version\\""}') is None
