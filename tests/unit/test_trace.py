"""Forests of causes against a builder that tries everything, on random events with circles, missing
and doubled causes.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esops.causality import looks_like_uuid, one_writing, parse_traceparent, writings
from esops.events import Position, RecordedEvent
from esops.trace import render
from esops.trace.graph import Keys, Node, build, node
from esops.trace.otlp import otlp
from esops.trace.related import connected
from esops.trace.search import Trace

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def made(number: int, identifier: str, cause: str | None) -> Node:
    at = BEGAN + timedelta(seconds=number)
    return Node(
        "s",
        identifier,
        f"cart-{number % 3}",
        number,
        str(number),
        "Happened",
        at,
        "c",
        cause,
        order=(number,),
    )


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 25))
    names = [f"e{draw(st.integers(0, count))}" for _ in range(count)]  # some of them twice
    causes = [
        draw(st.none() | st.sampled_from([f"e{number}" for number in range(count + 3)]))
        for _ in range(count)
    ]
    return [
        made(number, name, cause)
        for number, (name, cause) in enumerate(zip(names, causes, strict=True))
    ]


def brute_force(nodes: list[Node]) -> tuple[dict[int, int | None], set[str], set[frozenset[int]]]:
    """Parents, missing causes and circles, by following every chain from every event to its end."""
    first = {}
    for at, each in enumerate(nodes):
        first.setdefault(each.id, at)
    parent = {at: first.get(each.cause) if each.cause else None for at, each in enumerate(nodes)}
    missing = {each.cause for each in nodes if each.cause and each.cause not in first}
    circles = set()
    for start in parent:
        way, at = [], start
        while at is not None and at not in way:
            way.append(at)
            at = parent[at]
        if at == start:
            circles.add(frozenset(way))
    for circle in circles:
        parent[min(circle)] = None
    return parent, missing, circles


@given(graphs())
def test_a_forest_is_what_a_builder_that_tries_everything_builds(nodes):
    forest = build(nodes)
    parent, missing, circles = brute_force(nodes)
    assert forest.nodes == nodes
    assert dict(enumerate(forest.parent)) == parent
    assert set(forest.missing) == missing
    assert {frozenset(circle) for circle in forest.circles} == circles
    assert set(forest.roots) == {at for at, cause in parent.items() if cause is None}
    ids = [each.id for each in nodes]
    assert set(forest.duplicates) == {each for each in ids if ids.count(each) > 1}
    walked = list(forest.walk())
    assert sorted(walked) == list(range(len(nodes))), "each once"
    place = {at: number for number, at in enumerate(walked)}
    for at, cause in parent.items():
        assert forest.depth[at] == (0 if cause is None else forest.depth[cause] + 1)
        assert cause is None or place[cause] < place[at]


@given(graphs())
def test_every_form_shows_every_event_once(nodes):
    trace = Trace("correlation c", build(nodes))
    shown = [line.at for line in render.tree(trace.forest) if line.at is not None]
    assert sorted(shown) == list(range(len(nodes)))
    assert sum(each is not None for _, each, _ in render.timeline(trace.forest)) == len(nodes)
    document = render.as_dict(trace)
    assert [each["id"] for each in document["events"]] == [each.id for each in nodes]
    spans = otlp(trace)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    known = {span["spanId"] for span in spans}
    assert len(known) == len(spans) == len(nodes)
    assert all(span["parentSpanId"] in known for span in spans if "parentSpanId" in span)
    assert all(
        re.fullmatch("[0-9a-f]{16}", span["spanId"])
        and re.fullmatch("[0-9a-f]{32}", span["traceId"])
        for span in spans
    )
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in spans)
    edges = sum(each is not None for each in trace.forest.parent)
    assert (
        sum(
            " --> e" in line and not line.strip().startswith("o")
            for line in render.mermaid(trace.forest)
        )
        == edges
    )
    assert (
        sum(
            "-> e" in line and not line.strip().startswith("o") for line in render.dot(trace.forest)
        )
        == edges
    )


def event(metadata: object, number: int = 1, stream: str = "order-1") -> RecordedEvent:
    return RecordedEvent(
        "i", stream, number, Position((number,)), "Placed", b"{}", orjson.dumps(metadata), BEGAN
    )


def test_what_an_event_says_of_its_cause():
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert (
        node("s", event({"traceparent": parent}), Keys()).correlation_id
        == "4bf92f3577b34da6a3ce929d0e0e4736"
    )
    found = node(
        "s",
        event({"causationMessageStreamName": "account:command-1", "causationMessagePosition": 0}),
        Keys(),
    )
    assert found.cause == "account:command-1/0"
    assert (
        node("s", event({"$causationId": "x", "$correlationId": 7}), Keys()).correlation_id == "7"
    )
    assert (
        node("s", event({"flow": "f", "causationId": "x"}), Keys(("flow",), ("because",))).cause
        is None
    )
    assert node("s", event({})._replace(metadata=b"\xff"), Keys()).cause is None


def test_a_cause_by_stream_and_version_is_found():
    command = node("s", event({}, 0, "account:command-1"), Keys())
    effect = node(
        "s",
        event(
            {"causationMessageStreamName": "account:command-1", "causationMessagePosition": 0},
            3,
            "account-1",
        ),
        Keys(),
    )
    forest = build([effect, command])
    assert [each.stream for each in forest.nodes] == ["account:command-1", "account-1"]
    assert forest.depth == [0, 1]
    assert not forest.missing


def test_stretches_of_time_are_short_to_read():
    told = [
        render.apart(timedelta(seconds=seconds))
        for seconds in (0.0041, 59.9, 125, 3_700, 90_000, -2)
    ]
    assert told == ["+0.004 s", "+59.900 s", "+2 m 05 s", "+1 h 01 m", "+1 d 01 h", "-2.000 s"]


def test_names_with_quotes_do_not_break_a_graph():
    odd = Node("s", "i", 'cart-"1"', 1, "1", 'A "quoted" one', BEGAN, None, 'x"y', order=(1,))
    text = "\n".join(render.dot(build([odd])))
    assert len(re.findall(r'(?<!\\)"', text)) % 2 == 0
    assert '\\"quoted\\"' in text
    assert json.dumps(otlp(Trace("t", build([odd]))))


PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a command",
        PARENT[:-1],
        PARENT + "-x",
        PARENT.replace("00-", "ff-", 1),
        "00-" + "0" * 32 + PARENT[35:],
        PARENT[:36] + "0" * 16 + "-01",
        "cart-1/5",
    ],
)
def test_what_is_no_traceparent(text):
    assert parse_traceparent(text) is None


def test_a_traceparent_is_a_span():
    assert parse_traceparent(PARENT) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert parse_traceparent(PARENT.upper()) == parse_traceparent(PARENT)
    assert parse_traceparent("01" + PARENT[2:] + "-more") == parse_traceparent(PARENT)


@given(st.uuids(), st.integers(0, 4))
def test_an_id_has_one_writing_and_all_others_lead_to_it(identifier, which):
    text = str(identifier)
    every = writings(text)
    assert every[0] == text
    assert {one_writing(each) for each in every} == {identifier.hex}
    assert set(writings(every[which % len(every)])) == set(every)
    assert looks_like_uuid(every[which % len(every)])


def test_an_id_that_is_no_uuid_has_one_writing_only():
    for text in ("a command", "CART-1", "", "4bf92f35-77b3", "cart-1/5"):
        assert writings(text) == (text,)
        assert one_writing(text) == text
        assert not looks_like_uuid(text)


def named(number: int, identifier: str, cause: str | None, correlation: str | None) -> Node:
    return replace(made(number, identifier, cause), correlation_id=correlation)


def test_what_a_cause_is():
    ids = [f"{number:032x}" for number in range(1, 9)]
    dashed = f"{ids[0][:8]}-{ids[0][8:12]}-{ids[0][12:16]}-{ids[0][16:20]}-{ids[0][20:]}"
    forest = build(
        [
            # The first message of all by an old convention, and one that names it.
            named(0, ids[0], ids[0], ids[0]),
            named(1, ids[1], dashed.upper(), dashed),
            named(2, ids[2], PARENT, None),
            named(3, ids[3], ids[7].upper(), ids[7]),
            named(4, ids[4], "a command", None),
            named(5, ids[5], ids[6], None),
            named(6, "e", "f", None),
            named(7, "f", "e", None),
        ],
        {("s", "a command"): "message", ("s", ids[6]): "missing"},
    )
    assert forest.kinds == [
        "correlation", "event", "span", "correlation", "message", "missing", "circle", "event",
    ]  # fmt: skip
    assert forest.missing == [ids[6]]
    assert [(each.kind, each.name, each.events) for each in forest.outside] == [
        ("span", PARENT, [2]),
        ("message", "a command", [4]),
    ]
    assert forest.circles == [[6, 7]]
    lines = list(render.tree(forest))
    assert sorted(line.at for line in lines if line.at is not None) == list(range(8))


def test_a_span_of_another_trace_is_linked_and_no_parent():
    other = "a" * 32
    event = replace(named(1, "i", PARENT, None), trace=other, span="b" * 16)
    effect = replace(named(2, "j", "i", None), trace="c" * 32)
    spans = otlp(Trace("t", build([event, effect])))["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert [span["traceId"] for span in spans] == [other, "c" * 32]
    assert spans[0]["parentSpanId"] == "b" * 16
    assert spans[0]["links"] == [{"traceId": PARENT[3:35], "spanId": PARENT[36:52]}]
    assert "parentSpanId" not in spans[1]
    assert spans[1]["links"] == [{"traceId": other, "spanId": spans[0]["spanId"]}]


@st.composite
def stores(draw):
    """Stores with the same ids and streams, whose events name causes by either."""
    count = draw(st.integers(1, 12))
    found = []
    for store in ("one", "two", "three"):
        for number in range(count):
            if not draw(st.booleans()):
                continue
            cause = draw(st.none() | st.integers(0, count))
            by_id = draw(st.booleans())
            found.append(
                replace(
                    made(number, f"e{number}", None if cause is None else f"e{cause}"),
                    store=store,
                    stream=f"s-{number}",
                    refers=None if by_id or cause is None else (f"s-{cause}", cause),
                )
            )
    return found


@given(stores())
def test_an_events_parent_is_its_cause_in_its_own_store_if_that_has_it(nodes):
    forest = build(nodes)
    own = {(each.store, each.version) for each in nodes}
    circles = {at for circle in forest.circles for at in circle}
    for at, (each, parent) in enumerate(zip(forest.nodes, forest.parent, strict=True)):
        if each.cause is None:
            assert parent is None
            continue
        number = int(each.cause[1:])
        if parent is None:
            assert at in circles or all(it.version != number for it in nodes)
        else:
            assert forest.nodes[parent].version == number
            assert forest.nodes[parent].store == each.store or (each.store, number) not in own


def test_a_cause_that_the_limit_left_out_is_no_other_stores_event():
    cause = replace(made(0, "e", None), store="two")
    effect = made(1, "f", "e")
    forest = build([cause, effect], {("s", "e"): "not_loaded"})
    assert (forest.missing, forest.not_loaded) == ([], ["e"])
    assert forest.kinds[[each.id for each in forest.nodes].index("f")] == "not_loaded"
    assert all(each is None for each in forest.parent)
    for lines in (render.mermaid(forest), render.dot(forest)):
        assert "not loaded: e" in "\n".join(lines)


@pytest.mark.parametrize("value", ["", "  ", False, {"id": "x"}, ["x"], None])
def test_what_is_no_id_names_no_cause_and_hides_none(value):
    assert node("s", event({"causationId": value}), Keys()).cause is None
    assert node("s", event({"causationId": value, "$causationId": "x"}), Keys()).cause == "x"
    assert node("s", event({"correlationId": value}), Keys()).correlation_id is None


def test_only_what_is_written_as_a_stream_and_version_refers_to_one():
    for text in ("PUT /carts/12", "x/" + "9" * 5_000):
        assert node("s", event({"causationId": text}), Keys()).refers is None
    about = {"causationMessageStreamName": "job", "causationMessagePosition": 7}
    assert node("s", event(about), Keys()).refers == ("job", 7)
    for position in ("9" * 5_000, "x", None, True):
        assert (
            node("s", event(about | {"causationMessagePosition": position}), Keys()).refers is None
        )


def trace_ids(*nodes: Node) -> dict[str, str]:
    spans = otlp(Trace("t", build(nodes)))["resourceSpans"][0]["scopeSpans"][0]["spans"]
    return {each["name"]: each["traceId"] for each in spans}


def test_an_event_is_in_the_same_trace_in_every_export():
    first = replace(named(0, "f", None, "k1"), type="F")
    second = replace(named(1, "g", None, "k2"), type="G")
    together = trace_ids(first, second)
    assert together["F"] != together["G"]
    assert together == trace_ids(first) | trace_ids(second)


def test_a_correlation_of_zeros_is_no_trace_id_and_a_uuid_is_one_in_all_writings():
    zeros = trace_ids(named(0, "f", None, "0" * 32))
    assert set(zeros["Happened"]) != {"0"}
    dashed = "4BF92F35-77B3-4DA6-A3CE-929D0E0E4736"
    assert set(trace_ids(named(0, "f", None, dashed)).values()) == {
        "4bf92f3577b34da6a3ce929d0e0e4736"
    }


def test_a_long_chain_is_followed_once():
    """Each event was a start of its own, whose causes and effects were walked again."""
    nodes = [
        replace(made(number, f"e{number}", f"e{number - 1}" if number else None), stream="s")
        for number in range(20_000)
    ]
    forest = build(nodes)
    began = time.process_time()
    assert len(list(connected(forest, {each.identity for each in nodes}))) == len(nodes)
    assert time.process_time() - began < 2


def test_a_chain_of_hundreds_of_causes_stays_within_the_screen():
    chain = [
        replace(
            node("s", event({}, number), Keys()),
            id=f"i-{number}",
            cause=f"i-{number - 1}" if number > 1 else None,
        )
        for number in range(1, 240)
    ]
    lines = [line.before for line in render.tree(build(chain))]
    assert max(map(len, lines)) < 50
    assert lines[:3] == ["", "└─ ", "   └─ "]
    assert lines[-1].startswith("+225 ")
    assert render.levels_cut(render.LEVELS) == ""
