"""A trace as spans of OpenTelemetry, in OTLP's JSON form, which Jaeger and Tempo import."""

from __future__ import annotations

import hashlib
from typing import Any

from esops.causality import Span, one_writing, trace_id
from esops.moments import Moment, microseconds_of
from esops.trace.graph import Forest, Node
from esops.trace.render import clock
from esops.trace.search import Trace


def otlp(trace: Trace) -> dict[str, Any]:
    """Spans in OTLP's JSON form.

    Each event is a span that lasts from the time of its cause to its own. Span ids are derived from
    the events, so that another export gives the same spans. A span that an event was written in,
    or that it names as its cause, is its parent: the application's own export has that span, and
    several events can have the same one. Source: the JSON mapping of opentelemetry-proto (ids in
    hex, times as text in nanoseconds).
    """
    forest = trace.forest
    traces = _trace_ids(trace)
    by_store: dict[str, list[dict[str, Any]]] = {}
    for at, each in enumerate(forest.nodes):
        parent = forest.parent[at]
        ended = _nanoseconds(each.recorded_at) or 0
        cause = forest.nodes[parent].recorded_at if parent is not None else None
        began = _nanoseconds(cause)
        span: dict[str, Any] = {
            "traceId": traces[at],
            "spanId": _span_id(each),
            "name": each.type,
            "kind": 5 if parent is not None else 4,  # SPAN_KIND_CONSUMER, SPAN_KIND_PRODUCER
            # A clock may put an effect before its cause, and a span cannot end before it starts.
            "startTimeUnixNano": str(ended if began is None else min(began, ended)),
            "endTimeUnixNano": str(ended),
            "attributes": _attributes(forest, at),
        }
        causes = _causes(forest, traces, at)
        # A parent is in the same trace; to a span of another one a link leads.
        first = next((cause for cause in causes if cause.trace == traces[at]), None)
        if first is not None:
            span["parentSpanId"] = first.id
        links = [{"traceId": it.trace, "spanId": it.id} for it in causes if it != first]
        if links:
            span["links"] = links
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


def _trace_ids(trace: Trace) -> dict[int, str]:
    """The trace of each event: the one that it was written in, or else its correlation where that
    is a trace id, or else one that is derived from its correlation; without these its cause's, or
    else one that is derived from what it names as its cause, or from itself.

    Nothing depends on which other events the export has, but for an event without a correlation.
    """
    forest = trace.forest
    found: dict[int, str] = {}
    for at in forest.walk():
        each, parent = forest.nodes[at], forest.parent[at]
        if each.trace is not None:
            found[at] = each.trace
        elif each.correlation_id:
            found[at] = _derived(each.correlation_id)
        elif parent is not None:
            found[at] = found[parent]
        else:
            found[at] = _derived(each.cause or "\0".join(map(str, each.identity)))
    return found


def _derived(name: str) -> str:
    plain = one_writing(name)
    return trace_id(plain) or hashlib.sha256(plain.encode()).hexdigest()[:32]


def _causes(forest: Forest, traces: dict[int, str], at: int) -> list[Span]:
    """The spans that an event comes from, the nearest first."""
    each, parent = forest.nodes[at], forest.parent[at]
    found = []
    if parent is not None:
        found.append(Span(traces[parent], _span_id(forest.nodes[parent])))
    if each.trace is not None and each.span is not None:
        found.append(Span(each.trace, each.span))
    if each.cause_span is not None:
        found.append(each.cause_span)
    return list(dict.fromkeys(found))


def _attributes(forest: Forest, at: int) -> list[dict[str, Any]]:
    each, kind = forest.nodes[at], forest.kinds[at]
    values = {
        "event.id": each.id,
        "event.stream": each.stream,
        "event.version": str(each.version),
        "event.position": each.position,
        "event.correlation_id": each.correlation_id or "",
    }
    if each.tenant:
        values["event.tenant"] = each.tenant
    if each.cause is not None and kind is not None:
        values |= {"event.causation_id": each.cause, "event.cause_kind": kind}
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
