"""A trace as a tree, a timeline, JSON, Mermaid, DOT, or OTLP spans."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from esops.escaping import visible
from esops.moments import Moment, between, microseconds_of
from esops.trace.graph import Forest, Node
from esops.trace.search import Trace

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")
_ENTITIES = {'"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;", "&": "#amp;"}
_GAP = timedelta(seconds=1)
"""A longer time between two events of a timeline gets a line of its own."""


def as_dict(trace: Trace) -> dict[str, Any]:
    """The trace under the documented field names."""
    forest = trace.forest
    return {
        "trace": trace.about,
        "events": [
            {
                "store": each.store,
                "id": each.id,
                "stream": each.stream,
                "version": each.version,
                "position": each.position,
                "type": each.type,
                "recorded_at": each.recorded_at,
                "correlation_id": each.correlation_id,
                "causation_id": _cause(forest, at),
                "depth": forest.depth[at],
            }
            for at, each in enumerate(forest.nodes)
        ],
        "roots": [forest.nodes[at].id for at in forest.roots],
        "missing_causes": forest.missing,
        "circles": [[forest.nodes[at].id for at in circle] for circle in forest.circles],
        "duplicates": forest.duplicates,
        "limited": trace.limited,
        "searched": trace.how,
    }


def _cause(forest: Forest, at: int) -> str | None:
    """The id of an event's cause if it was found, otherwise what the event names as its cause."""
    parent = forest.parent[at]
    return forest.nodes[parent].id if parent is not None else forest.nodes[at].cause


def categories(forest: Forest, colours: Sequence[str] = COLOURS) -> dict[str, str]:
    """A colour for each category, in the order in which categories occur."""
    found = dict.fromkeys(each.category for each in forest.nodes)
    return {category: colours[at % len(colours)] for at, category in enumerate(found)}


def apart(delta: timedelta) -> str:
    """A time span in short: `+0.004 s`, `+2 m 05 s`, `+3 d 04 h`."""
    seconds = delta.total_seconds()
    sign, seconds = ("+" if seconds >= 0 else "-"), abs(seconds)
    if seconds < 60:
        return f"{sign}{seconds:.3f} s"
    if seconds < 3_600:
        return f"{sign}{int(seconds // 60)} m {int(seconds % 60):02} s"
    if seconds < 86_400:
        return f"{sign}{int(seconds // 3_600)} h {int(seconds % 3_600 // 60):02} m"
    return f"{sign}{int(seconds // 86_400)} d {int(seconds % 86_400 // 3_600):02} h"


def tree(forest: Forest) -> Iterator[tuple[str, Node, str]]:
    """Lines of a tree: the branches to draw, the event, and the time since its cause."""
    for root in forest.roots:
        waiting: list[tuple[int, str, str]] = [(root, "", "")]
        while waiting:
            at, before, below = waiting.pop()
            parent = forest.parent[at]
            since = _since(forest.nodes[parent], forest.nodes[at]) if parent is not None else ""
            yield before, forest.nodes[at], since
            children = forest.children[at]
            # Reversed, since the stack gives out the last one first.
            for number, child in reversed(list(enumerate(children))):
                last = number == len(children) - 1
                waiting.append(
                    (child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))
                )


def _since(earlier: Node, later: Node) -> str:
    span = between(earlier.recorded_at, later.recorded_at)
    return "" if span is None else apart(span)


def clock(at: Moment | None) -> str:
    """A time in UTC with its milliseconds; empty where it is not known."""
    if isinstance(at, datetime):
        return at.replace(tzinfo=None).isoformat(" ", "milliseconds")
    return "" if at is None else str(at)


def timeline(forest: Forest) -> Iterator[tuple[str, Node | None, int]]:
    """Lines of a timeline: the time since the first event, the event, and its depth.

    For a gap: its length, None, and 0.
    """
    first: Moment | None = None
    before: Moment | None = None
    for at, each in enumerate(forest.nodes):
        moment = each.recorded_at
        since = between(moment, moment)
        if since is not None:
            first = first or moment
            since = between(first, moment)
            gap = between(before, moment)
            if gap is not None and gap >= _GAP:
                yield apart(gap), None, 0
            before = moment
        yield clock(moment) or "?" if since is None else apart(since), each, forest.depth[at]


def mermaid(forest: Forest) -> Iterator[str]:
    """The lines of a Mermaid flow chart."""
    yield "flowchart TD"
    names = categories(forest)
    for at, each in enumerate(forest.nodes):
        label = f"{_entities(each.type)}<br/>{_entities(each.stream)} @{each.version}"
        yield f'    e{at}["{label}"]:::c{list(names).index(each.category)}'
    for number, cause in enumerate(forest.missing):
        yield f'    m{number}["missing: {_entities(cause)}"]:::missing'
    for source, target in _edges(forest):
        yield f"    {source} --> {target}"
    for number, colour in enumerate(names.values()):
        yield f"    classDef c{number} stroke:{colour},stroke-width:2px"
    yield "    classDef missing stroke:red,stroke-dasharray: 4"


def dot(forest: Forest) -> Iterator[str]:
    """The lines of a graph for Graphviz."""
    yield "digraph trace {"
    yield '    rankdir = "LR"; node [shape = "box", style = "rounded"];'
    names = categories(forest)
    for at, each in enumerate(forest.nodes):
        label = f"{_quoted(each.type)}\\n{_quoted(each.stream)} @{each.version}"
        yield f'    e{at} [label = "{label}", color = "{names[each.category]}"];'
    for number, cause in enumerate(forest.missing):
        yield (
            f'    m{number} [label = "missing: {_quoted(cause)}", style = "dashed", color = "red"];'
        )
    for source, target in _edges(forest):
        yield f"    {source} -> {target};"
    yield "}"


def _quoted(text: str) -> str:
    return visible(text).replace("\\", "\\\\").replace('"', '\\"')


def _entities(text: str) -> str:
    """Text for Mermaid, which has no other escape, and takes labels for HTML."""
    return "".join(_ENTITIES.get(character, character) for character in visible(text))


def _edges(forest: Forest) -> Iterator[tuple[str, str]]:
    for at, parent in enumerate(forest.parent):
        cause = forest.nodes[at].cause
        if parent is not None:
            yield f"e{parent}", f"e{at}"
        elif cause in forest.missing:
            yield f"m{forest.missing.index(cause)}", f"e{at}"


def otlp(trace: Trace) -> dict[str, Any]:
    """Spans in OTLP's JSON form, which Jaeger and Tempo import.

    Each event is a span that lasts from the time of its cause to its own. Span ids are derived from
    the events, so that another export gives the same spans. Source: the JSON mapping of
    opentelemetry-proto (ids in hex, times as text in nanoseconds).
    """
    forest = trace.forest
    correlation = next(
        (each.correlation_id for each in forest.nodes if each.correlation_id), trace.about
    )
    trace_id = (
        correlation
        if _is_hex(correlation, 32)
        else hashlib.sha256(correlation.encode()).hexdigest()[:32]
    )
    by_store: dict[str, list[dict[str, Any]]] = {}
    for at, each in enumerate(forest.nodes):
        parent = forest.parent[at]
        ended = _nanoseconds(each.recorded_at) or 0
        cause = forest.nodes[parent].recorded_at if parent is not None else None
        began = _nanoseconds(cause)
        span: dict[str, Any] = {
            "traceId": trace_id,
            "spanId": _span_id(each),
            "name": each.type,
            "kind": 5 if parent is not None else 4,  # SPAN_KIND_CONSUMER, SPAN_KIND_PRODUCER
            # A clock may put an effect before its cause, and a span cannot end before it starts.
            "startTimeUnixNano": str(ended if began is None else min(began, ended)),
            "endTimeUnixNano": str(ended),
            "attributes": _attributes(each),
        }
        if parent is not None:
            span["parentSpanId"] = _span_id(forest.nodes[parent])
        by_store.setdefault(each.store, []).append(span)
    return {
        "resourceSpans": [
            {
                "resource": {
                    "attributes": [{"key": "service.name", "value": {"stringValue": store}}]
                },
                "scopeSpans": [{"scope": {"name": "esops"}, "spans": spans}],
            }
            for store, spans in by_store.items()
        ]
    }


def _attributes(each: Node) -> list[dict[str, Any]]:
    values = {
        "event.id": each.id,
        "event.stream": each.stream,
        "event.version": str(each.version),
        "event.position": each.position,
        "event.correlation_id": each.correlation_id or "",
    }
    if each.recorded_at is not None and _nanoseconds(each.recorded_at) is None:
        values["event.recorded_at"] = clock(each.recorded_at)
    return [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]


def _span_id(each: Node) -> str:
    return hashlib.sha256(
        f"{each.store}\0{each.id}\0{each.stream}\0{each.version}".encode()
    ).hexdigest()[:16]


def _nanoseconds(at: Moment | None) -> int | None:
    """Nanoseconds since 1970; None for a time that OTLP's unsigned 64 bits cannot hold."""
    nanoseconds = -1 if at is None else microseconds_of(at) * 1_000
    return nanoseconds if 0 <= nanoseconds < 1 << 64 else None


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and all(character in "0123456789abcdef" for character in text)
