"""What `esops events` makes of its options, and how it shows and keeps events."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from esops.errors import UsageError
from esops.events import EventFilter, NewEvent, Position, RecordedEvent
from esops.moments import FarTime
from esops.stores.eventstoredb import backwards, live
from esops.term.values import csv_cell, to_json
from esops.testing.memory import MemoryStore
from esops.trace.backlog import Backlog
from esops.trace.conditions import fulfils, parse_condition
from esops.trace.log import LogReader, LogRequest, event_as_dict
from esops.trace.times import ago, clock, point_in_time

NOW = datetime(2026, 11, 28, 10, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("10m", NOW - timedelta(minutes=10)),
        ("2026-11-28T10:00", NOW.replace(minute=0, second=0)),
        ("2026-11-28T12:00+02:00", NOW.replace(minute=0, second=0)),
        ("2026-11-27", datetime(2026, 11, 27, tzinfo=UTC)),
        ("10:15", NOW.replace(second=0)),
        ("10:16", NOW.replace(day=27, minute=16, second=0)),
        ("99999999d", datetime.min.replace(tzinfo=UTC)),
    ],
)
def test_a_time_is_a_duration_ago_or_a_time_in_utc(text, at):
    assert point_in_time("--since", text, lambda: NOW) == at


def test_what_is_no_time_is_named_with_its_option():
    with pytest.raises(UsageError, match="--until: 'soon' is neither"):
        point_in_time("--until", "soon", lambda: NOW)
    for number in ("10", "1015"):  # an hour, and a time of day, to ISO 8601
        with pytest.raises(UsageError, match=f"--since: {number} is a number without a unit"):
            point_in_time("--since", number, lambda: NOW)


def test_times_for_a_person_and_for_a_program():
    at = NOW - timedelta(minutes=3, microseconds=1)
    assert clock(at) == "2026-11-28 10:12:29.999Z"
    assert csv_cell(at) == "2026-11-28T10:12:29.999999Z"
    assert [ago(NOW - timedelta(seconds=s), NOW) for s in (12, 200, 7_300, 700_000, -70)] == [
        "12s ago",
        "3m ago",
        "2h ago",
        "8d ago",
        "in 1m",
    ]
    assert (clock(None), clock(FarTime(1 << 64)), ago(None, NOW)) == ("-", "infinity", "")


def event(number: int, data: bytes = b"{}", metadata: bytes = b"{}") -> RecordedEvent:
    return RecordedEvent(
        f"i-{number}", "cart-1", number, Position((number,)), "added", data, metadata, NOW
    )


def test_a_backlog_gives_events_back_from_the_last_on_however_many():
    backlog = Backlog(in_memory=2_000)
    events = [event(number, b'{"n": "' + b"x" * 100 + b'"}') for number in range(20)]
    for each in events:
        backlog.add(each)
    assert len(backlog) == 20
    assert len(backlog._kept) < 5
    assert list(backlog.reversed()) == events[::-1]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("customer.email = jane@example.com", True),
        ("$.customer.email=jane@example.com", True),
        ("customer.email = jane", False),
        ("items[*].sku = b", True),
        ("items[0].sku = b", False),
        ("tags = new", True),
        ("$..sku = a", True),
        ("total = 12.50", True),
        ("total = 12.5e0", True),
        ("total = many", False),
        ("gift = true", True),
        ("note = null", True),
        ("metadata:$.userName = jane", True),
        ("userName = jane", False),
        ("no.such = 1", False),
    ],
)
def test_a_condition_on_a_value(condition, holds):
    one = event(
        1,
        b'{"customer": {"email": "jane@example.com"}, "items": [{"sku": "a"}, {"sku": "b"}], '
        b'"tags": ["new"], "total": 12.5, "gift": true, "note": null}',
        b'{"userName": "jane"}',
    )
    assert fulfils(one, [parse_condition(condition)]) is holds


LONG = "12345678901234567890123"


@pytest.mark.parametrize(
    "number", [LONG, "12345678901234567.89", "0.1234567890123456789", "1e-400", "-1E+999"]
)
def test_a_long_number_is_found_and_shown_as_it_is_written(number):
    """A double of it is another number."""
    one = event(1, f'{{"big": [{number}]}}'.encode(), f'{{"big": {number}}}'.encode())
    assert fulfils(
        one, [parse_condition(f"big = {number}"), parse_condition(f"metadata:big = {number}")]
    )
    assert not fulfils(one, [parse_condition("big = 12345678901234568000000")])
    row = event_as_dict(one)
    assert to_json(row["data"]) == f'{{"big":[{number}]}}'
    assert csv_cell(row["metadata"]) == f'{{"big":{number}}}'


@pytest.mark.parametrize(
    ("where", "code", "words"),
    [
        (["n = 3"], 0, "no event with that value"),
        (["kind = cart", "n = 3"], 0, "no event with that value"),
        (["data.n = 1"], 1, "such as $.n=…"),
        (["metadata.user = jane"], 1, "such as metadata:$.user=…"),
        (["n = 1", "nn = 1"], 1, "at the path $.nn"),
    ],
)
def test_a_path_that_leads_nowhere_is_no_answer(where, code, words):
    """What nobody's events have may be a wrong path, which is not the same as no such event."""
    store = MemoryStore()
    data = [NewEvent(f"i-{n}", "added", b'{"n": %d, "kind": "order"}' % n) for n in (1, 2)]
    store.append("cart-1", data)
    conditions = tuple(map(parse_condition, where))
    reader = LogReader(store, LogRequest(EventFilter(), where=conditions))
    assert list(reader) == []
    found = reader.nothing_found()
    said = (0, found) if isinstance(found, str) else (found.exit_code, f"{found}{found.hint}")
    assert said[0] == code
    assert words in said[1]


def test_an_event_that_is_no_json_has_no_value():
    assert not fulfils(event(1, b"\x00"), [parse_condition("a = 1")])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 3, "last": 3}, "--limit counts from the beginning"),
        ({"follow": True, "reverse": True}, "--follow waits"),
        ({"skew": timedelta(hours=1)}, "--skew"),
    ],
)
def test_options_that_exclude_each_other_say_so(options, words):
    with pytest.raises(UsageError, match=words):
        LogRequest(EventFilter(), **options)
    with pytest.raises(UsageError, match="--until ends"):
        LogRequest(EventFilter(before=NOW), follow=True)
    with pytest.raises(UsageError, match="is not before"):
        LogRequest(EventFilter(since=NOW, before=NOW))


def shop(*kinds: str) -> MemoryStore:
    store = MemoryStore()
    for number, kind in enumerate(kinds):
        store.append("cart-1", [NewEvent(f"i-{number}", kind, b"{}")])
    return store


def test_following_begins_now_unless_something_says_where():
    def followed(store: MemoryStore, **request) -> list[str]:
        """What is shown until the event that comes while it is waited for."""
        seen: list[str] = []
        reader = LogReader(store, LogRequest(EventFilter(), follow=True, **request))
        follow = store.follow

        def and_then(*arguments):
            store.append("cart-2", [NewEvent("new", "new", b"{}")])
            return follow(*arguments)

        store.follow = and_then
        for each in reader:
            seen.append(each.id)
            if each.id == "new":
                return seen
        return seen

    assert followed(shop("a", "b", "c")) == ["new"]
    assert followed(shop("a", "b", "c"), last=2) == ["i-1", "i-2", "new"]
    assert followed(shop("a", "b", "c"), after=Position((1,))) == ["i-1", "i-2", "new"]


def test_only_settled_events_are_among_the_last():
    store = shop("a", "b")
    store.log.hold()
    store.append("cart-1", [NewEvent("i-2", "c", b"{}")])
    reader = LogReader(store, LogRequest(EventFilter(), last=1))
    assert [each.id for each in reader] == ["i-1"]
    assert reader.incomplete is not None


def test_names_that_no_event_has_are_found_out_before_the_log_is_read():
    store = shop("opened", "closed")
    for more in ({"last": 5}, {"reverse": True}, {"where": [parse_condition("a = 1")]}):
        request = LogRequest(EventFilter(types=("opend",)), **more)
        error = LogReader(store, request).nobody_has_names()
        assert error is not None
        assert (error.exit_code, error.message) == (
            1,
            "store memory has no event of type 'opend'",
        )
        known = replace(request, filter=EventFilter(types=("opened", "opend")))
        assert LogReader(store, known).nobody_has_names() is None


def test_where_to_continue_is_known_while_events_are_waited_for():
    store = shop("a", "b", "c")
    reader = LogReader(store, LogRequest(EventFilter(), follow=True))
    assert str(reader.reached) == "3"  # whoever begins again would miss what comes from now on
    store.follow = lambda *_: store.read_all(None, Position((2,)))
    assert [each.id for each in reader] == ["i-0", "i-1"]
    assert str(reader.reached) == "2"
    assert LogReader(store, LogRequest(EventFilter(), follow=True, last=2)).reached is None


@pytest.mark.parametrize("module", [live, backwards])
def test_a_stream_of_another_category_has_no_event_of_this_one(module, monkeypatch):
    monkeypatch.setattr(module, "events_of_stream", lambda *_: iter([event(1)]))

    def found(category: str) -> int:
        filter = EventFilter(stream="cart-1", category=category)
        if module is live:
            return sum(len(each.events) for each in live.of_stream(None, None, None, filter))
        return len(list(backwards.of_stream(None, filter, None, None)))

    assert (found("cart"), found("order")) == (1, 0)


def test_what_is_said_where_nothing_is_found():
    def said(**filter) -> tuple[int, str]:
        request = LogRequest(EventFilter(**filter), filter.pop("after", None))
        reader = LogReader(shop("opened", "closed"), request)
        assert list(reader) == []
        found = reader.nothing_found()
        return (0, found) if isinstance(found, str) else (found.exit_code, found.message)

    assert said(types=("opend",)) == (1, "store memory has no event of type 'opend'")
    assert said(category="card") == (1, "store memory has no event of category 'card'")
    later = NOW + timedelta(days=365_000)
    assert said(types=("opened",), since=later) == (
        0,
        "store memory has no such event in that time",
    )
    assert said(types=("nope",), since=later)[0] == 1
    store = shop("opened")
    store.append("order-1", [NewEvent("o", "placed", b"{}")])
    reader = LogReader(store, LogRequest(EventFilter(types=("placed",), category="cart")))
    assert list(reader) == []
    error = reader.nothing_found()
    assert (error.exit_code, error.message) == (
        1,
        "store memory has no event of type 'placed' and category 'cart' together",
    )


def test_who_holds_the_newest_events_back_is_said_before_they_are_waited_for():
    """They come late and in the order of the log, which reads as if they were new."""
    store = shop("a", "b")
    store.capabilities = replace(store.capabilities, settling=timedelta(milliseconds=1))
    store.log.hold()
    store.append("cart-1", [NewEvent("i-2", "c", b"{}")])
    said: list[str] = []
    reader = LogReader(store, LogRequest(EventFilter(), follow=True, last=2), say=said.append)
    assert "was read up to 2 only" in said[-1]
    assert said[-1].endswith("; they come when that has ended")
    store.follow = lambda *_: iter(())
    assert [each.id for each in reader] == ["i-0", "i-1"]
