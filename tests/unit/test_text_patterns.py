"""Shapes that are recognised by their text, against those of the decoded payload: for texts that
differ a little from those before, in every way that JSON can be written, or be broken.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esops.schema.shapes import Shapes
from esops.schema.text_patterns import TextPatterns, pattern_of

TEXTS = st.sampled_from(["", "a", "b c", "ü", '"', "\\", "\n", "\ud800", "a,b", "[]", "{1:2}"])
NUMBERS = st.sampled_from(
    [0, -0.0, 7, -12, 1.5, 1e22, 1e-7, 2**63, 2**64, -(2**63) - 1, 10**30, 10**18, 10**17, 0.1]
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", 'b"', "7", "ü"]), inner)
    ),
    max_leaves=8,
)
STYLES = st.sampled_from(
    [{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False, "sort_keys": True}]
)
BITS = st.sampled_from(
    [b'"', b"\\", b",", b"[", b"]", b"{", b"}", b":", b"0", b"-", b".", b"e9", b" ", b"\x00",
     b"\xff", b"null", b"true", b"1E999", b"\xc3\xbc"]
)  # fmt: skip


def same(patterns: TextPatterns, shapes: Shapes, data: bytes) -> None:
    found, expected = patterns.of(data), shapes.of(data)
    assert (found.fields, found.partial) == (expected.fields, expected.partial), data


def written(value, style) -> bytes:
    return json.dumps(value, **style).encode("utf-8", "surrogatepass")


@given(st.lists(VALUES, min_size=1, max_size=4), STYLES, st.data())
def test_a_text_is_recognised_for_what_it_is(values, style, data):
    shapes = Shapes()
    patterns, texts = TextPatterns(shapes), [written(each, style) for each in values]
    for text in texts * 4:
        same(patterns, shapes, text)
    for _ in range(4):
        text = data.draw(st.sampled_from(texts))
        at, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        same(patterns, shapes, text[:at] + data.draw(BITS) + text[end:])


@pytest.mark.parametrize(
    ("sample", "other", "matches"),
    [
        (b'{"a": 1}', b'{"a": 22}', True),
        (b'{"a": 1}', b'{"a": 1.5}', False),
        (b'{"a": 1}', b'{"a": 9999999999999999999}', False),
        (b'{"a": 1.5}', b'{"a": -0.25e-3}', True),
        (b'{"a": 1.5}', b'{"a": 15}', False),
        (b'{"a": "x"}', b'{"a": "y, z"}', True),
        (b'{"a": "x"}', b'{"a": "\\u0000"}', False),
        (b'{"a": "x"}', b'{"a": "\n"}', False),
        (b'{"a": true}', b'{"a": false}', True),
        (b'{"a": null}', b'{"a": 0}', False),
        (b'{"a": [{"b": 1}]}', b'{"a": [{"b": 2}, {"b": 3}]}', False),
        (b'{"a": [{"b": 1}], "c": 1}', b'{"a": [{"b": 2}, {"b": 3}], "c": 1}', True),
        (b'{"a": [{"b": 1}], "c": 1}', b'{"a": [], "c": 1}', False),
        (b'{"a": [1, "x"]}', b'{"a": [2, "y"]}', True),
        (b'{"a": [1, "x"]}', b'{"a": [2, 3]}', False),
    ],
)
def test_what_a_pattern_matches(sample, other, matches):
    match = pattern_of(sample)
    assert match is not None
    assert match(sample)
    assert bool(match(other)) == matches


def test_patterns_are_given_up_where_they_match_little():
    shapes = Shapes()
    patterns = TextPatterns(shapes)
    for number in range(1_200):
        patterns.of(b'{"%d": 1, "name": "x%d"}' % (number, number))
    assert not patterns._used
    assert patterns.of(b'{"a": 1}') is shapes.of(b'{"a": 1}')


def test_very_deep_or_long_payloads_have_no_pattern():
    assert pattern_of(b"[" * 100 + b"1" + b"]" * 100) is None
    shapes = Shapes()
    patterns = TextPatterns(shapes)
    for _ in range(5):
        same(patterns, shapes, b'{"a": "' + b"x" * 5_000 + b'"}')
    assert not patterns._patterns
