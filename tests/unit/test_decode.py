"""What a round trip changes, and messages without the values of events."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esops.events import Position, RecordedEvent
from esops.schema.decode.batches import packed, unpacked
from esops.schema.decode.comparing import RoundTripComparer
from esops.schema.decode.masking import masked

EVERYTHING = RoundTripComparer()


def changes(stored: str, encoded: object, *ignored: str) -> list[tuple]:
    found = RoundTripComparer.ignoring(ignored).compare(stored.encode(), encoded)
    return [(each.kind, each.path, each.stored, each.encoded) for each in found]


@pytest.mark.parametrize(
    ("stored", "encoded", "found"),
    [
        ('{"a": 1}', {"a": 1}, []),
        ('{"a": 10}', '{"a": 10.0}', []),
        ('{"a": 1e1}', b'{"a": 10}', []),
        ('{"a": 0.1}', {"a": Decimal("0.1")}, []),
        # What a double makes of an id of 17 digits and of a price of many.
        ('{"a": 9007199254740993}', '{"a": 9007199254740992}', [("changed", "$.a", "number", "number")]),
        ('{"a": 0.1000000000000000055}', {"a": 0.1}, [("changed", "$.a", "number", "number")]),
        ('{"a": 12345678901234567890123}', {"a": 12345678901234567890123}, []),
        ('{"a": 1}', {"a": True}, [("changed", "$.a", "number", "boolean")]),
        ('{"a": 1}', {"a": "1"}, [("changed", "$.a", "number", "string")]),
        ('{"a": null, "b": 1}', {"b": 1}, [("lost", "$.a", "null", None)]),
        ('{"b": 1}', {"b": 1, "c": None}, [("added", "$.c", None, "null")]),
        ('{"a": [1, 2]}', {"a": [1]}, [("lost", "$.a[*]", "number", None)]),
        (
            '{"a": [{"n": 1, "x": 2}, {"n": 1, "x": 3}]}',
            {"a": [{"n": 1}, {"n": 2}]},
            [("lost", "$.a[*].x", "number", None), ("changed", "$.a[*].n", "number", "number")],
        ),
        # Members that are data are one place.
        (
            '{"by": {"0f21ddb6-6cad-4a26-8d11-6ece1738f7d9": 1, "0f21ddb6-6cad-4a26-8d11-6ece1738f7d8": 2}}',
            {"by": {}},
            [("lost", "$.by[*]", "number", None)],
        ),
        # Times are texts: the same moment in other words is another text.
        (
            '{"at": "2026-01-02T03:04:05Z"}',
            {"at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)},
            [("changed", "$.at", "string", "string")],
        ),
        ('"text"', '"text"', []),
        # Beyond what even Decimal holds.
        ('{"n": 1e9999999999999999999}', '{"n": 1e9999999999999999999}', []),
        (
            '{"n": 1e9999999999999999999}',
            '{"n": 1e9999999999999999998}',
            [("changed", "$.n", "number", "number")],
        ),
    ],
)  # fmt: skip
def test_a_round_trip_says_what_is_lost_added_and_changed(stored, encoded, found):
    assert changes(stored, encoded) == found


def test_what_is_added_does_not_hide_what_is_lost():
    many = {f"n{number}": 1 for number in range(60)}
    found = changes('{"a": {"x": 1}, "b": 1, "c": 2}', {"a": {"x": 1, **many}, "c": 3})
    assert {each[:2] for each in found if each[0] != "added"} == {
        ("lost", "$.b"),
        ("changed", "$.c"),
    }
    assert len(found) == 52
    assert len(changes(json.dumps(many), {})) == 50


@pytest.mark.parametrize(
    ("stored", "encoded", "same"),
    [
        ("2026-01-15T10:00:00Z", "2026-01-15T10:00:00.000Z", True),
        ("2026-01-15T10:00:00Z", "2026-01-15T11:00:00+01:00", True),
        ("2026-01-15T10:00:00.1234567Z", "2026-01-15T10:00:00.123456Z", False),
        ("2026-01-15T10:00:00Z", "2026-01-15T10:00:00", False),
        ("2026-01-15T10:00:00Z", "2026-01-15T10:00:01Z", False),
        ("2026-01-15", "2026-01-15T00:00:00", False),
        ("2026-13-15T10:00:00Z", "2026-13-15T10:00:00.0Z", False),
    ],
)
def test_a_moment_in_another_form_is_the_same_on_request(stored, encoded, same):
    payloads = json.dumps({"at": stored}).encode(), {"at": encoded}
    assert (RoundTripComparer.ignoring([], moments=True).compare(*payloads) == []) is same
    assert EVERYTHING.compare(*payloads)


def test_what_may_change_is_left_out_with_all_below():
    stored = '{"a": {"b": 1}, "items": [{"note": 1, "n": 2}]}'
    assert changes(stored, {"items": [{"n": 2}]}, "$.a", "$.items[*].note") == []
    assert changes(stored, {"items": [{"n": 2}]}, "$..note") == [("lost", "$.a", "object", None)]
    with pytest.raises(ValueError, match="no path into the payload|not a path into the payload"):
        RoundTripComparer.ignoring(["metadata:$.a"])


def test_values_of_the_applications_own_classes():
    @dataclass
    class Opened:
        client: str
        at: datetime

    stored = '{"client": "c", "at": "2026-01-02T03:04:05+00:00"}'
    assert changes(stored, Opened("c", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))) == []
    with pytest.raises(TypeError):
        EVERYTHING.compare(b"{}", {"a": object()})


def test_what_is_no_json_must_come_back_as_it_was():
    assert EVERYTHING.compare(b"\x00\x01", b"\x00\x01") == []
    assert [each.stored for each in EVERYTHING.compare(b"\x00\x01", b"\x00")] == ["binary"]
    with pytest.raises(TypeError, match="must return bytes"):
        EVERYTHING.compare(b"\x00\x01", {"a": 1})


PAYLOADS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(PAYLOADS)
def test_a_payload_is_the_same_as_itself(value):
    text = json.dumps(value).encode()
    assert EVERYTHING.compare(text, json.dumps(value, indent=1)) == []


@given(st.dictionaries(st.text(min_size=1, max_size=5), PAYLOADS, min_size=1), st.data())
def test_a_member_that_is_gone_is_found(value, data):
    gone = data.draw(st.sampled_from(sorted(value)))
    less = {name: inner for name, inner in value.items() if name != gone}
    assert {each.kind for each in EVERYTHING.compare(json.dumps(value).encode(), less)} == {"lost"}
    assert {each.kind for each in EVERYTHING.compare(json.dumps(less).encode(), value)} == {"added"}


def event(*, stream: str = "cart-17", **data) -> RecordedEvent:
    text = json.dumps(data).encode()
    return RecordedEvent(
        "id-1", stream, 3, Position((4,)), "opened", text, b'{"user": "mia"}', None
    )


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("'currency'", "'currency'"),
        ("missing required property 'items[*].price'", "missing required property 'items[*].price'"),
        ("cannot read Jane Doe of cart-17", "cannot read … of …"),
        ("'Jane'", "'…'"),
        ("user MIA may not", "user … may not"),
        ("Unexpected token 'J' in \"Jane D\"", "Unexpected token 'J' in '…'"),
        ("invalid literal for int() with base 10: '12x'", "invalid literal for int() with base N: '…'"),
        ("got {'name': {'first': 'Jane'}, 'n': 3}", "got …"),
        ("no row 0f21ddb6-6cad-4a26-8d11-6ece1738f7d9 at 2026-01-02T03:04:05Z", "no row … at N"),
        ("jane.other@example.com is no member", "… is no member"),
        ("<Cart object at 0x7f3a2c> failed\n  on two lines", "<Cart object at …> failed on two lines"),
        ("OrderPlacedV2 has no 'total'", "OrderPlacedV2 has no 'total'"),
    ],
)  # fmt: skip
def test_a_message_keeps_names_and_no_values(message, found):
    assert masked(message, event(name="Jane Doe", kind="x")) == found


@pytest.mark.parametrize(
    ("message", "data", "found"),
    [
        ("Anna Müller", {"name": "Anna\n Müller"}, "…"),
        ("unknown customer Xi in Bo", {"name": "Xi", "city": "Bo"}, "unknown customer … in …"),
        ("unknown member Ann Smith", {"votes": {"Ann Smith": 3}}, "unknown member …"),
        ("no customer anna-smith", {"stream": "customer-anna-smith"}, "no customer …"),
        ("bad STRASSE", {"street": "straße"}, "bad …"),
        ("bad Mu\u0308ller", {"name": "Müller"}, "bad …"),
        (r"bad M\u00fcller", {"name": "Müller"}, "bad …"),
        ("code 123456789a is wrong", {}, "code N is wrong"),
        ("not in list name2400x", {"all": [f"name{each}x" for each in range(3_000)]}, "not in list …"),
        ("too much", {"all": ["x" * 3_000_000]}, "…"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_message_has_no_value_in_another_form(message, data, found):
    one = event(**data)
    assert masked(message, one) == found


def test_a_message_is_short():
    assert len(masked("word " * 10_000, event())) <= 300


def test_events_are_the_same_in_another_process():
    whole = [event(n=1), event(n=2)]
    assert unpacked(packed(whole)) == whole
