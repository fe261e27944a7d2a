"""Erasing without a database: paths, places in JSON, what a rule makes of a row, traces."""

from __future__ import annotations

import itertools
import json
import unicodedata

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from esops.erasing.masker import Masker
from esops.erasing.rules import HASHED, ErasureRule, Person
from esops.erasing.spans import NotJson, found, scan, without
from esops.erasing.traces import Values
from esops.events import Position, StreamKey
from esops.json_paths import parse_path, split_condition, within
from esops.settings import EraseSettings
from esops.stores.masking import Document, StoredRow

SECRET = "0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("customerId", "$.customerId"),
        ("$.a.b", "$.a.b"),
        ("a[0].b", "$.a[0].b"),
        ("$.items[*].name", "$.items[*].name"),
        ("$.*.name", "$[*].name"),
        ("$..phone", "$..phone"),
        ("$['a.b'].c", "$['a.b'].c"),
        ("metadata:userName", "metadata:$.userName"),
    ],
)
def test_paths_are_read_and_written(text, read):
    assert str(parse_path(text)) == read
    assert parse_path(read) == parse_path(text)


@pytest.mark.parametrize("text", ["", "$", "$.", "a..", "a b", "a[", "$.a]", "[x]"])
def test_what_is_no_path_is_refused(text):
    with pytest.raises(ValueError, match="is not a path"):
        parse_path(text)


def test_a_condition_ends_its_path_at_the_first_equals_sign():
    assert split_condition("a.b=c=d") == (parse_path("a.b"), "c=d")
    assert split_condition("$['x=y']=1") == (parse_path("$['x=y']"), "1")
    for text in ("customerId", "customerId="):
        with pytest.raises(ValueError, match="="):
            split_condition(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_places_in_json_are_those_of_the_values(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    node = scan(text)
    assert (node.start, node.end) == (0, len(text))
    for key, begins, member in node.members:
        inner = json.loads(text[member.start : member.end])
        assert inner == value[key]
        assert begins <= member.start


@pytest.mark.parametrize("text", ["", "{", '{"a"}', "[1,]", "tru", "01", '"a', "1 2", "[" * 5000])
def test_what_is_no_json_is_told(text):
    with pytest.raises(NotJson):
        scan(text)


def test_members_go_with_their_commas():
    text = '{"a": 1, "b": {"c": 2}, "d": [{"a": 3}]}'
    assert without(text, parse_path("a").steps) == '{"b": {"c": 2}, "d": [{"a": 3}]}'
    assert without(text, parse_path("b.c").steps) == '{"a": 1, "b": {}, "d": [{"a": 3}]}'
    assert without(text, parse_path("d").steps) == '{"a": 1, "b": {"c": 2}}'
    assert without(text, parse_path("$..a").steps) == '{"b": {"c": 2}, "d": [{}]}'


def test_what_is_left_of_a_path_below_a_column():
    assert within(parse_path("headers.ip").steps, ("headers",)) == [("ip",)]
    assert within(parse_path("headers").steps, ("headers",)) == [()]
    assert within(parse_path("userName").steps, ("headers",)) == []
    assert len(within(parse_path("$..ip").steps, ("headers",))) == 1


def row(data: str | bytes | None, *, kind: str = "e", stream: str = "s-1", **more) -> StoredRow:
    columns = {"data": data, **more}
    return StoredRow(StreamKey(stream), 1, Position((1,)), kind, False, columns)


def masker(masks: dict[str, str], documents=None, where="id=7", wrapped=False, **more) -> Masker:
    rule = ErasureRule("r", EraseSettings(mask=masks, secret=SECRET, **more))
    conditions = [split_condition(where)] if where else []
    documents = documents or [Document("data", "data")]
    return Masker(Person(conditions, frozenset(), [rule]), documents, wrapped=wrapped)


def test_each_other_byte_stays_as_it_was():
    text = '{"id":7, "n": 1.10,"big":12345678901234567890.120 ,"mail":"\\u0061@b", "x":{"mail":1}}'
    made = masker({"mail": "null", "x.mail": "text:gone"}).masked(row(text))
    assert made.columns == {
        "data": '{"id":7, "n": 1.10,"big":12345678901234567890.120 ,"mail":null, "x":{"mail":"gone"}}'
    }
    assert set(made.values) == {"a@b", "1"}


def test_a_mask_is_put_on_once():
    masks = {"mail": "null", "name": "hash", "phone": "text:gone", "id": "hash"}
    rules = masker(masks, where="mail=a@b")
    first = rules.masked(row('{"id":7,"mail":"a@b","name":"Ann","phone":[1,"2"]}')).columns["data"]
    read = json.loads(first)
    assert read["mail"] is None
    assert read["phone"] == "gone"
    assert HASHED.fullmatch(read["name"])
    again = masker(masks, where="phone=gone").masked(row(first))
    assert again.own
    assert again.columns == {}
    other = masker({"name": "hash"}).masked(row('{"id":7,"name":"Ann"}')).columns["data"]
    assert json.loads(other)["name"] == read["name"], "the same value has the same hash"


def test_all_of_several_equal_keys_are_masked():
    made = masker({"m": "null"}).masked(row('{"id":7,"m":"a","m":"b"}'))
    assert made.columns["data"] == '{"id":7,"m":null,"m":null}'


def test_conditions_compare_what_a_value_says():
    rules = masker({"m": "null"}, where="id=Jürgen 7")
    for text in ('{"id":"Jürgen 7","m":1}', '{"id":"J\\u00fcrgen 7","m":1}'):
        assert rules.masked(row(text)).columns, text
    assert not rules.masked(row('{"id":"Jürgen 77","m":1}')).columns
    assert masker({"m": "null"}, where="id=7").masked(row('{"id":"7","m":1}')).columns
    assert not masker({"m": "null"}, where="id=7").masked(row('{"x":{"id":7},"m":1}')).columns


def test_values_in_the_wrappers_of_a_library():
    text = '{"at":{"_type_":"iso","_data_":"x"},"who":{"_type_":"P","_data_":{"id":7,"m":"a@b"}}}'
    made = masker({"who.m": "null"}, where="who.id=7", wrapped=True).masked(row(text.encode()))
    assert made.columns == {"data": text.replace('"a@b"', "null").encode()}


def test_metadata_that_is_spread_over_columns():
    documents = [
        Document("data", "data"),
        Document("headers", "metadata", ("headers",), drops_nulls=True),
        Document("user", "metadata", ("userName",), plain=True, drops_nulls=True),
    ]
    masks = {"metadata:headers.ip": "null", "metadata:userName": "hash"}
    rules = masker(masks, documents, where="metadata:userName=ann")
    made = rules.masked(row('{"a":1}', headers='{"ip": "::1", "b": 2}', user="ann"))
    assert made.columns["headers"] == '{"b": 2}'
    assert HASHED.fullmatch(made.columns["user"])
    assert rules.columns == ["headers", "user"]
    assert not rules.masked(row('{"a":1}', headers='{"b": 2}', user=made.columns["user"])).own


def test_what_cannot_be_read_is_named_where_a_rule_is_about_it():
    assert masker({"m": "null"}).masked(row(b"\xff\x00")).unreadable == ("data",)
    assert masker({"m": "null"}, types=["other"]).masked(row(b"\xff\x00")).unreadable == ()
    assert masker({"m": "null"}).masked(row(b"")).unreadable == ()


def test_values_are_found_as_words_and_short_ones_only_where_they_may_be_the_same():
    values = Values(["gone"], ["$.city"])
    values.add({"Anna Miller": ["$.n"], "NL": ["$.c"], "Berlin": ["$.city"], "gone": ["$.p"]})

    def places(document, own=False):
        return [path for path, _ in values.in_document(orjson.dumps(document).decode(), own=own)]

    assert places({"a": "to Anna Miller, NL", "b": ["Anna Millers"]}) == ["$.a"]
    assert places({"a": "NL", "b": "Berlin", "c": "gone"}) == []
    assert places({"a": "NL", "b": "Berlin"}, own=True) == ["$.a"]
    assert places({"Anna Miller": 1}) == ["a key"]
    escaped = json.dumps({"a": "Anna \u004diller"}).replace("M", "\\u004d")
    assert list(values.in_document(escaped, own=False))


def test_a_hash_needs_a_key():
    for settings in ({"mask": {"a": "hash"}}, {"mask": {"a": "hash"}, "secret": "short"}):
        with pytest.raises(ValidationError, match="secret"):
            EraseSettings(**settings)
    for mask in ({}, {"a": "nul"}, {"a b": "null"}):
        with pytest.raises(ValidationError):
            EraseSettings(mask=mask)
    assert SECRET not in repr(EraseSettings(mask={"a": "hash"}, secret=SECRET))


def test_places_are_found_once():
    node = scan('{"a":[{"b":1},{"b":2}]}')
    assert [each.text for each in found(node, parse_path("$..b").steps)] == ["1", "2"]
    assert [each.text for each in found(node, parse_path("a[1].b").steps)] == ["2"]


WORDS = st.text('ab_ .-"\\\n\u00fc', max_size=8)


@given(st.lists(WORDS, max_size=5), VALUES | WORDS, st.booleans())
def test_a_value_is_found_wherever_a_plain_search_finds_it(wanted, document, ascii_only):
    values = Values()
    many = {f"filler {number}": ["$.p"] for number in range(0 if ascii_only else 100)}
    values.add({value: ["$.p"] for value in wanted} | many)

    def has(text: str) -> bool:
        padded = f" {text} "
        return any(
            not padded[at - 1].isalnum() and not padded[at + len(value)].isalnum()
            for value in wanted
            if len(value) >= 4
            for at in range(1, len(padded) - len(value))
            if padded.startswith(value, at)
        )

    def texts(value):
        if isinstance(value, dict):
            return [*value, *(each for inner in value.values() for each in texts(inner))]
        if isinstance(value, list):
            return [each for inner in value for each in texts(inner)]
        return [] if value is None else [value if isinstance(value, str) else json.dumps(value)]

    text = json.dumps(document, ensure_ascii=ascii_only)
    expected = any(has(each) for each in texts(document))
    there = bool(list(values.in_document(text, own=False)))
    # Beside letters of scripts without blanks, a value is a word for esops.
    assert there == expected or (there and any(each > "\u0e00" for each in str(document)))
    assert values.may_be_in(text) or not expected


def test_conditions_and_values_have_any_form_of_unicode():
    nfd = unicodedata.normalize("NFD", "Jürgen")
    forms, escaped = ("Jürgen", nfd), (True, False)
    for asked, written, ascii_only in itertools.product(forms, forms, escaped):
        for key in ("größe", unicodedata.normalize("NFD", "größe")):
            document = json.dumps({"größe": written, "email": "x"}, ensure_ascii=ascii_only)
            found = masker({"$.email": "null"}, where=f"{key}={asked}").masked(row(document))
            assert found.matched, (asked, written, key)
        values = Values()
        values.add({asked: ["$.name"]})
        for text in (json.dumps({"n": f"an {written}"}), f'{{"n": "an {written}"}}'):
            assert [*values.in_document(text, own=False)] == [("$.n", "$.name")]
            assert values.may_be_in(text)
    named = Person([], frozenset([nfd]), [])
    assert named.has_stream("Jürgen")


UUID = "7d1c8f0a-1111-4222-8333-123456789abc"


@pytest.mark.parametrize(
    ("asked", "document", "near"),
    [
        ("customerId=42", {"CustomerId": 42, "Street": "x"}, True),
        ("customerId=42", {"customer_id": "42", "street": "x"}, True),
        ("customerId=42", {"CustomerId": [41, 42], "street": "x"}, True),
        ("customerId=42", {"CustomerId": 43, "street": "x"}, False),
        ("customerId=42", {"CustomerId": 42, "total": 5}, None),
        ("customerId=42", {"CustomerId": 42, "Street": None}, None),
        ("customerId=42", {"Id": 42, "street": "x"}, False),
        (f"customerId={UUID}", {"customerId": UUID.upper(), "street": "x"}, True),
        (f"customerId={UUID}", {"CustomerID": "{" + UUID + "}", "street": "x"}, True),
        ("customerId=Ann@example.com", {"customerId": "ann@Example.com", "street": "x"}, True),
        ("customerId=aB3", {"customerId": "ab3", "street": "x"}, False),
        ("$..customerId=42", {"a": [{"customer-id": 42}], "street": "x"}, True),
    ],
)
def test_events_that_nearly_have_what_was_asked_for_are_told(asked, document, near):
    """`near` is None where the rule masks nothing of such an event."""
    of = masker({"$.street": "null"}, where=asked)
    found = of.masked(row(json.dumps(document)))
    assert (found.own, found.columns) == (False, {})
    assert [each.counts for each in found.nearly] == ([] if near is False else [bool(near)])


def test_an_event_that_another_rule_masks_is_not_left():
    rules = [
        ErasureRule(name, EraseSettings(where=name, mask={path: "text:gone"}))
        for name, path in (("customerId", "street"), ("CustomerId", "Street"))
    ]
    asked = [(parse_path(each.name), "42") for each in rules]
    of = Masker(Person(asked, frozenset(), rules), [Document("data", "data")], wrapped=False)
    found = of.masked(row('{"CustomerId": 42, "Street": "x"}'))
    assert found.columns == {"data": '{"CustomerId": 42, "Street": "gone"}'}
    assert not any(each.counts for each in found.nearly)


def test_what_a_library_has_wrapped_or_put_into_a_column_is_nearly_found():
    of = masker({"$.name": "null"}, where="id=7", wrapped=True)
    text = '{"_type_": "T", "_data_": {"Id": {"_type_": "U", "_data_": "7"}, "Name": "x"}}'
    [left] = of.masked(row(text)).nearly
    assert (left.counts, left.near.at) == (True, ("_data_", "Id"))
    columns = [Document("data", "data"), Document("user", "metadata", ("userName",), plain=True)]
    of = masker({"metadata:$.username": "null"}, columns, where="metadata:$.username=ann")
    [left] = of.masked(row("{}", user="ann")).nearly
    assert (left.counts, left.near.column) == (True, "user")
