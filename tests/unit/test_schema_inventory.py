"""The inventory of types, versions and shapes, and of the streams that are still open, against a
plain fold over the same events.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from esops.config import Config
from esops.errors import NothingFound
from esops.events import Position, RecordedEvent, StreamKey
from esops.schema import open_streams
from esops.schema.closing import ClosingRule, closing_rule
from esops.schema.forecast import closing_note, sentences
from esops.schema.history import history_of, inventory_of
from esops.schema.inventory import InventoryReader
from esops.schema.open_streams import OpenStreams, StreamState
from esops.schema.reading import EventSelection
from esops.schema.shape_fields import fields_of_shapes, short_kind
from esops.stores.base import Batch, EventStore, Head

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
CLOSED = ClosingRule(frozenset({"closed"}), sources=("--closed-by",))


class ListedEvents(EventStore):
    """A store of events in a list."""

    name = "s"

    def __init__(self, events, archived=()):
        self.events = events
        self.archived = SimpleNamespace(
            streams=lambda: map(StreamKey, archived), first_readable=dict, used_again=lambda *_: []
        )

    def ping(self):
        raise NotImplementedError

    def streams(self, filter=None, limit=None, *, closed_by=(), measured=False):
        raise NotImplementedError

    def read_stream(self, stream, after_version=None, backwards=False, limit=None):
        return (each for each in self.events if each.stream == stream)

    def head(self, patience=None, after=None, stop=None):
        return Head(self.events[-1].position)

    def read_all(self, after=None, until=None, filter=None, limit=None):
        for at in range(0, len(self.events), 10):
            page = self.events[at : at + 10]
            yield Batch(page, page[-1].position)


def event(number, stream, type_, payload, metadata=b"", at=None):
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    at = BEGAN + timedelta(days=number) if at is None else at
    return RecordedEvent(
        str(number), stream, number, Position((number,)), type_, data, metadata, at
    )


def events_at_random(seed, number=400):
    """Streams of several categories, in which anything happens."""
    chance = random.Random(seed)
    for n in range(1, number + 1):
        stream = f"{chance.choice(['order', 'cart'])}-{chance.randrange(60)}"
        type_ = chance.choice(["opened", "opened_v2", "changed", "closed"])
        payload = chance.choice([{"a": 1}, {"a": 1, "b": "x"}, {"a": None}, b"\xff", {"a": 2.5}])
        metadata = chance.choice([b"", b'{"schemaVersion": 2}'])
        yield event(n, stream, type_, payload, metadata)


def folded(events, archived):
    """Events, streams and open streams of each version."""
    found, streams, last = Counter(), {}, {}
    for each in events:
        key = key_of(each)
        found[key] += 1
        streams.setdefault(key, set()).add(each.stream)
        last[each.stream] = each.type
    alive = {name for name, type_ in last.items() if type_ != "closed"} - set(archived)
    return {key: (n, len(streams[key]), len(streams[key] & alive)) for key, n in found.items()}


def key_of(each):
    base, _, suffix = each.type.partition("_v")
    explicit = suffix or ("2" if each.metadata else None)
    try:
        payload = json.loads(each.data)
        types = {name: type(value) for name, value in payload.items()}
        shape = tuple(sorted((k, "number" if t in (int, float) else t.__name__)
                             for k, t in types.items()))  # fmt: skip
    except ValueError:
        shape = "binary"
    return base, each.stream.partition("-")[0], each.type, explicit, shape


@pytest.mark.parametrize("in_memory", [5, 1000])
@pytest.mark.parametrize("seed", [1, 2])
def test_inventory_is_that_of_a_plain_fold(seed, in_memory):
    events, archived = list(events_at_random(seed)), ["order-1", "cart-2", "order-999"]
    reader = InventoryReader(ListedEvents(events, archived), CLOSED, in_memory=in_memory)
    found = reader.read(EventSelection())
    expected = Counter(folded(events, archived).values())
    got = Counter(
        (version.events, version.streams, version.open_streams)
        for type_ in found.types.values()
        for version in type_.versions.values()
    )
    assert got == expected
    assert found.events == len(events)
    firsts = {}
    for each in events:
        firsts.setdefault(key_of(each), each.position)
    assert {v.first.position for t in found.types.values() for v in t.versions.values()} == set(
        firsts.values()
    )


def test_a_stream_counts_once_however_often_it_is_written_away():
    shapes = [StreamKey(f"s-{n % 40}") for n in range(400)]
    with OpenStreams(in_memory=3) as streams:
        for n, key in enumerate(shapes):
            if key not in streams.held:
                streams.make_room(lambda key: key)
            state = streams.held.setdefault(key, StreamState(None))
            state.shapes |= 1 << n // 200
            if n >= 380:
                state.close(n)
        counts = streams.count([StreamKey("s-0")], 390, lambda mask: mask, lambda key: key)
    assert counts.streams == {0: 40, 1: 40}
    assert counts.open == {0: 19, 1: 19}
    assert counts.closed_since == {0: 10, 1: 10}


def test_streams_in_memory_are_bound_by_their_shapes_too(monkeypatch):
    """Each has few shapes of very many."""
    monkeypatch.setattr(open_streams, "_MOST_BYTES", 20_000)
    monkeypatch.setattr(open_streams, "_MEASURED_EVERY", 10)
    with OpenStreams() as streams:
        for n in range(300):
            streams.make_room(lambda key: key)
            assert sum(each.shapes.bit_length() for each in streams.held.values()) < 500_000
            state = streams.held.setdefault(StreamKey(f"s-{n % 200}"), StreamState(None))
            state.shapes |= (1 << 20_000 + n) | (1 << n % 200)
        counts = streams.count([], 0, lambda mask: mask, lambda key: key)
    assert counts.streams[0] == 1
    assert counts.streams == {**dict.fromkeys(range(200), 1), **{20_000 + n: 1 for n in range(300)}}


def replaced(each, at):
    return event(each.version, each.stream, each.type, each.data, each.metadata, at)


def old_and_new(closing):
    """Twenty streams with the old shape, of which some close lately, one a day."""
    yield from (event(n, f"order-{n}", "opened", {"a": 1}) for n in range(1, 21))
    yield from (event(n, f"order-{n}", "opened", {"a": 1, "b": 2}) for n in range(21, 61))
    yield from (event(60 + n, f"order-{n}", "closed", {}) for n in range(1, closing + 1))


def test_when_the_last_open_stream_of_an_old_shape_closes():
    found = inventory_of(ListedEvents(list(old_and_new(10))), CLOSED)
    (said,) = sentences(found)
    assert "10 open streams have it" in said
    assert "10 closed in 30 days) the last one closes in 30 days" in said
    assert closing_note(found) == "A stream is closed by the types of --closed-by, or archived."


def test_a_stream_is_closed_by_an_event_of_a_type_that_was_not_asked_for():
    store = ListedEvents(list(old_and_new(10)))
    for found in (
        inventory_of(store, CLOSED, types=("opened",)),
        history_of(store, "opened", CLOSED).inventory,
    ):
        ((old, new),) = (each.ordered() for each in found.types.values())
        assert (old.open_streams, new.open_streams) == (10, 40)


@pytest.mark.parametrize("canaries", [1, 20, 40])
def test_the_first_events_of_a_deployment_do_not_end_the_old_shape(canaries):
    """Neither a few new events in a long time, nor many within a day."""
    events = [event(n, f"order-{n}", "opened", {"a": 1}) for n in range(1, 51)]
    last = events[-1].recorded_at
    step = timedelta(minutes=30) if canaries > 20 else timedelta(days=3)
    for n in range(1, canaries + 1):
        new = event(50 + n, f"order-{50 + n}", "opened", {"a": 1, "b": 2})
        events.append(replaced(new, last + step * n))
    found = inventory_of(ListedEvents(events), CLOSED)
    assert not list(sentences(found))
    (type_,) = found.types.values()
    assert not any(type_.superseded(each) for each in type_.versions.values())


def test_what_holds_for_several_shapes_is_said_once():
    events = list(old_and_new(0))
    events += [event(70 + n, f"order-{n}", "opened", {"c": "x"}) for n in range(30)]
    (said,) = sentences(inventory_of(ListedEvents(events), CLOSED))
    assert said.startswith("2 old versions and shapes are in open streams (opened); none of them")
    events += [event(200 + n, f"order-{n}", "closed", {}) for n in range(100)]
    said = list(sentences(inventory_of(ListedEvents(events), CLOSED)))
    assert len(said) == 1
    assert "no open stream has them any more; rebuilds, and whoever loads a closed" in said[0]


def test_a_type_that_closes_streams_and_is_in_no_event():
    store = ListedEvents(list(old_and_new(10)))
    rule = ClosingRule(frozenset({"clozed"}), sources=("--closed-by",), given=("clozed",))
    with pytest.raises(NothingFound, match="--closed-by: no event of type 'clozed'") as caught:
        inventory_of(store, rule)
    assert "closed" in (caught.value.hint or "")


def test_what_is_in_each_shape():
    payloads = [{"a": 1, "b": {"c": None}}, {"a": 1.5}, {"a": "x", "d": [1]}, b"\xff", {"a": 1}]
    events = [event(n, "s-1", "t", each) for n, each in enumerate(payloads, 1)]
    (type_,) = inventory_of(ListedEvents(events), CLOSED).types.values()
    shapes = fields_of_shapes(type_)
    assert [(each.like, each.fields) for each in shapes] == [
        (None, "$.a number, $.b object, $.b.c null"),
        (shapes[0].hash, "without $.b, $.b.c"),
        (shapes[1].hash, "with $.d array, $.d[*] number; $.a is string, not number"),
        (None, "$ binary"),
    ]
    assert [short_kind(each.shape) for each in type_.ordered()] == ["", "", "", "binary"]


def test_nothing_is_foretold_where_nothing_closes():
    (said,) = sentences(inventory_of(ListedEvents(list(old_and_new(0))), CLOSED))
    assert "it is not known when the last one will" in said
    found = inventory_of(ListedEvents(list(old_and_new(0))), ClosingRule())
    assert list(sentences(found)) == []
    assert "that is not archived counts as open" in closing_note(found)


def test_shape_that_alternates_with_another_is_not_an_old_one():
    events = [event(n, "order-1", "opened", {"a": n % 2 or None}) for n in range(1, 20)]
    assert list(sentences(inventory_of(ListedEvents(events), CLOSED))) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_names_that_are_data_are_found_in_any_order(seed, monkeypatch):
    from esops.schema import dynamic_names, type_inventory

    monkeypatch.setattr(type_inventory, "MANY", 50)
    monkeypatch.setattr(dynamic_names, "NAMES", 20)
    names = [f"name{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(100)]
    payloads = [{"votes": {name: {"n": 1}}, "kind": "x"} for name in names] * 2
    random.Random(seed).shuffle(payloads)
    events = [event(n, f"p-{n}", "voted", each) for n, each in enumerate(payloads, 1)]
    found = inventory_of(ListedEvents(events), CLOSED)
    (type_,) = found.types.values()
    (version,) = type_.versions.values()
    assert type_.maps == ["$.votes"]
    assert ("$.votes[*].n", "number") in version.shape.listed
    assert (version.events, version.streams, version.first.position) == (200, 200, Position((1,)))


def test_too_many_shapes_are_one(monkeypatch):
    from esops.schema import type_inventory

    monkeypatch.setattr(type_inventory, "MANY", 8)
    monkeypatch.setattr(type_inventory, "TOO_MANY", 16)
    events = [
        event(n, f"p-{n % 9}", "t", {f"f{bit}": 1 for bit in range(6) if n >> bit & 1})
        for n in range(1, 64)
    ]
    found = inventory_of(ListedEvents(events), CLOSED)
    (type_,) = found.types.values()
    (version,) = type_.versions.values()
    assert type_.names.everything
    assert (version.events, version.streams) == (63, 9)


def test_changes_do_not_name_members_whose_names_are_data(monkeypatch):
    """Nor does anything that was found before this was known of them."""
    from esops.schema import type_inventory

    monkeypatch.setattr(type_inventory, "MANY", 250)
    events = [
        event(
            n, "s-1", "voted", {"by": {f"voter {n}": {"n": 1, **({"why": "x"} if n > 700 else {})}}}
        )
        for n in range(1, 900)
    ]
    (found,) = history_of(ListedEvents(events), "voted", CLOSED).changes
    type_, changes = found
    assert type_.maps == ["$.by"]
    assert [(each.kind, each.path, each.at.version) for each in changes] == [
        ("added", "$.by[*].why", 701)
    ]


def test_changes_that_are_not_told_are_said(monkeypatch):
    from esops.schema import changes

    monkeypatch.setattr(changes, "_MOST_PATHS", 3)
    events = [event(n, "s-1", "t", {f"f{k}": 1 for k in range(n)}) for n in (1, 2, 3)]
    (category,) = history_of(ListedEvents(events), "t", CLOSED).as_dict()["categories"]
    assert category["fields_left_out"]


def test_many_shapes_with_very_many_names_are_maps_before_there_are_many_shapes(monkeypatch):
    from esops.schema import type_inventory

    monkeypatch.setattr(type_inventory, "MANY_PATHS", 2_000)
    events = [
        event(n, "s-1", "counted", {f"sku {n} {k}": k for k in range(100)}) for n in range(1, 40)
    ]
    (type_,) = inventory_of(ListedEvents(events), CLOSED).types.values()
    assert (type_.maps, len(type_.versions)) == (["$"], 1)


def test_type_that_there_is_not():
    store = ListedEvents(list(old_and_new(0)))
    with pytest.raises(NothingFound, match="no event of type 'open'") as caught:
        history_of(store, "open", CLOSED)
    assert "opened" in (caught.value.hint or "")
    with pytest.raises(NothingFound):
        inventory_of(store, CLOSED, types=("nope_v2",))


def test_type_is_found_by_either_name():
    events = [event(1, "o-1", "paid", {"a": 1}), event(2, "o-1", "paid_v2", {"b": 1})]
    for name in ("paid", "paid_v2"):
        document = history_of(ListedEvents(events), name, CLOSED).as_dict()
        assert document["type"] == "paid"
        assert [(each["kind"], each["path"], each["position"]) for each in document["changes"]] == [
            ("removed", "$.a", "2"),
            ("added", "$.b", "2"),
        ]


def test_rule_of_what_closes_a_stream():
    config = Config.model_validate(
        {
            "stores": {"shop": {"backend": "memory"}},
            "audit": {"closed_by": ["ended"]},
            "archives": {
                "cold": {
                    "repository": "/tmp/cold",
                    "policies": {
                        "old": {"store": "shop", "category": "order", "closed_by": ["closed"]},
                        "carts": {"stream": "cart-*", "closed_by": ["paid"]},
                        "odd": {"stream": "*-eu", "closed_by": ["x"]},
                        "other": {"store": "billing", "stream": "*", "closed_by": ["y"]},
                    },
                }
            },
        }
    )
    rule = closing_rule(config, {"shop"}, ["done"])
    assert rule.types("order") == {"ended", "done", "closed"}
    assert rule.types("cart") == {"ended", "done", "paid"}
    assert rule.types(None) == {"ended", "done"}
    assert rule.closes("closed_v2", "order")
    assert not rule.closes("closed_v2", "cart")
    assert rule.sources == ("--closed-by", "[audit]", "policy old", "policy carts")
    assert rule.not_used == ("odd",)
