"""Events, positions, names: the small words that everything is built of."""

from __future__ import annotations

import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esops import fold
from esops.errors import ConnectionLost, UsageError, nearest
from esops.events import Position, RecordedEvent, category_of
from esops.postgres.connection import translated
from esops.projections.kinds.fold import Bloom
from esops.readmodel.names import ReadModelName, parse_name, physical_name
from esops.readmodel.types import wider
from esops.term import duration
from esops.wording import count


def event(**changes):
    fields = {
        "id": "e-1",
        "stream": "cart-1",
        "version": 1,
        "position": Position((1,)),
        "type": "x",
        "data": b'{"a": 1}',
        "metadata": b"",
        "recorded_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return RecordedEvent(**{**fields, **changes})


@given(st.lists(st.tuples(st.integers(0, 2**63), st.integers(0, 2**63)), min_size=2, max_size=2))
def test_positions_are_text_and_back_and_keep_their_order(pairs):
    first, second = map(Position, pairs)
    assert Position.parse(str(first)) == first
    assert (first < second) == (pairs[0] < pairs[1])


@pytest.mark.parametrize("text", ["", "x", "1:", "1:x", "1 2:"])
def test_what_is_no_position_is_a_value_error(text):
    with pytest.raises(ValueError):
        Position.parse(text)


def test_an_event_decodes_what_it_is_asked_for():
    one = event(metadata=b'{"$correlationId": "c", "causation_id": 7}')
    assert one.json() == {"a": 1}
    assert (one.correlation_id, one.causation_id) == ("c", "7")
    assert event().meta() == {}
    assert event(metadata=b"[1]").meta() == {}
    assert event().correlation_id is None
    with pytest.raises(ValueError):
        event(data=b"\x00").json()


def test_a_category_is_what_stands_before_the_dash_and_a_uuid_has_none():
    assert category_of("cart-1-2") == "cart"
    assert category_of("cart") == "cart"
    assert category_of("0b2f5a1c-0000-4000-8000-000000000000") is None


@given(st.sets(st.text() | st.integers() | st.tuples(st.text(), st.text()), max_size=200))
def test_a_bloom_filter_never_forgets(keys):
    bloom = Bloom(1 << 12)
    bloom.update(keys)
    assert all(key in bloom for key in keys)


def test_a_bloom_filter_seldom_claims_what_was_never_added():
    bloom = Bloom(1 << 16)
    bloom.update(f"key-{number}" for number in range(20_000))
    assert sum(f"other-{number}" in bloom for number in range(20_000)) < 1_500


@given(
    st.text(string.ascii_letters + '" .;ü', min_size=1, max_size=30),
    st.text(string.ascii_letters + '" .;', min_size=1, max_size=30),
)
def test_quoted_names_are_read_back_whatever_they_hold(schema, name):
    text = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name))
    assert parse_name(text, "other") == ReadModelName(schema, name)
    assert parse_name(
        text.partition(".")[0] if False else '"' + name.replace('"', '""') + '"', "other"
    ) == ReadModelName("other", name)


def test_plain_names_need_no_quotes():
    assert parse_name("Cart Summary", "public") == ReadModelName("public", "Cart Summary")
    assert parse_name('we"ird', "public") == ReadModelName("public", 'we"ird')
    assert parse_name("shop.carts", "public") == ReadModelName("shop", "carts")
    for wrong in ("", "a.b.c", '"a', '"a"b', "a.", ".a"):
        with pytest.raises(UsageError):
            parse_name(wrong, "public")


@given(
    st.text(min_size=1, max_size=80).filter(lambda text: "\x00" not in text), st.integers(1, 9999)
)
def test_physical_names_fit_and_tell_versions_apart(name, version):
    physical = physical_name(name, version)
    assert len(physical.encode()) <= 63
    assert physical.endswith(f"__v{version}")
    assert physical != physical_name(name, version + 1)


def test_long_names_that_begin_alike_stay_apart():
    assert physical_name("x" * 70 + "a", 1) != physical_name("x" * 70 + "b", 1)


def test_a_fold_can_be_called_as_it_is():
    @fold(key="stream")
    def count(row, event):
        return {"n": (row or {"n": 0})["n"] + 1}

    assert count(count(None, event()), event()) == {"n": 2}
    with pytest.raises(UsageError):
        fold(key="streams")


def test_the_widest_type_of_a_column_is_kept():
    assert wider(None, "int") == "int"
    assert wider("None", "str") == "str"
    assert wider("int", "float") == "float"
    assert wider("Decimal", "int") == "Decimal"
    assert wider("datetime", "str") == "str"


def test_the_nearest_word():
    assert nearest("stor", ["store", "schema"]) == "Did you mean 'store'?"
    assert nearest("zzz", ["store", "schema"]) == "There is: schema, store."
    assert nearest("x", []) == "There is none."


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "stream", "1 stream"),
        (0, "stream", "0 streams"),
        (1204, "event", "1,204 events"),
        (2, "process", "2 processes"),
        (3, "category", "3 categories"),
        (2, "day", "2 days"),
    ],
)
def test_a_number_agrees_with_its_noun(number, noun, text):
    assert count(number, noun) == text


def test_a_connection_that_is_lost_while_a_result_is_fetched_is_lost():
    """Arrow raises what the driver says as an OSError of its own."""
    with pytest.raises(ConnectionLost), translated():
        raise OSError(
            "[libpq] PQgetCopyData() failed: server closed the connection unexpectedly\n\tThis"
        )
    with pytest.raises(FileNotFoundError), translated():
        raise FileNotFoundError(2, "No such file")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (46.2, "46 s"),
        (754, "12 min 34 s"),
        (7_320, "2 h 2 min"),
        (12_414_064, "143 d 16 h"),
    ],
)
def test_a_duration_can_be_read_at_night(seconds, text):
    assert duration(seconds) == text
