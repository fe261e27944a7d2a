"""Ids that say what caused an event, in the forms that libraries write, and W3C's trace context.

An id can be written in several ways (a UUID in capitals or without dashes), and can stand for other
things than an event: a span of OpenTelemetry, or a message that no store keeps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

_HEX = re.compile(r"[0-9a-f]{32}\Z")
_DASHED = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_SPAN_ID = re.compile(r"[0-9a-f]{16}\Z")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?\Z")

CORRELATION_KEYS = (
    "correlationId", "$correlationId", "correlation_id", "correlation-id", "CorrelationId",
    "correlationStreamName",
)  # fmt: skip
"""The last is message-db's, whose correlation is the name of a stream."""
CAUSATION_KEYS = ("causationId", "$causationId", "causation_id", "causation-id", "CausationId")
CAUSATION_STREAM, CAUSATION_VERSION = "causationMessageStreamName", "causationMessagePosition"
"""message-db's causation: not an id, but a stream and a position in it."""
TRACEPARENT = "traceparent"
TRACE_KEYS = ("traceId", "$traceId", "trace_id", "trace-id", "TraceId")
SPAN_KEYS = ("spanId", "$spanId", "span_id", "span-id", "SpanId")


class Span(NamedTuple):
    """A span of OpenTelemetry: both ids in lower-case hex, of 32 and 16 digits."""

    trace: str
    id: str


def one_writing(text: str) -> str:
    """An id in the writing that all writings of it share: a UUID as 32 hex digits."""
    lower = text.strip("{}").lower()
    plain = lower.replace("-", "") if _DASHED.match(lower) else lower
    return plain if _HEX.match(plain) else text


def looks_like_uuid(text: str) -> bool:
    """Whether an id is 32 hex digits, with or without the dashes of a UUID."""
    return _HEX.match(one_writing(text)) is not None


def writings(text: str) -> tuple[str, ...]:
    """The writings of an id that libraries use, beginning with the one that is given."""
    plain = one_writing(text)
    if not _HEX.match(plain):
        return (text,)
    dashed = "-".join((plain[:8], plain[8:12], plain[12:16], plain[16:20], plain[20:]))
    return tuple(dict.fromkeys((text, dashed, plain, dashed.upper(), plain.upper())))


def all_writings(values: Iterable[str]) -> tuple[str, ...]:
    """All writings of several ids, each once."""
    return tuple(dict.fromkeys(each for value in values for each in writings(value)))


def parse_traceparent(text: str) -> Span | None:
    """Read W3C's `version-traceid-parentid-flags`; None if it is something else."""
    found = _TRACEPARENT.match(text.lower())
    # W3C: version ff and ids of zeros are invalid; version 00 ends after the flags.
    if found is None or found[1] == "ff" or (found[1] == "00" and found[4]):
        return None
    return Span(found[2], found[3]) if found[2].strip("0") and found[3].strip("0") else None


def trace_id(text: str) -> str | None:
    """A trace id as 32 lower-case hex digits; None if the text is none. Some libraries write it
    with the dashes of a UUID.
    """
    plain = one_writing(text)
    return plain if _HEX.match(plain) and plain.strip("0") else None


def span_id(text: str) -> str | None:
    """A span id as 16 lower-case hex digits; None if the text is none."""
    lower = text.lower()
    return lower if _SPAN_ID.match(lower) and lower.strip("0") else None


def first_of(meta: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    """The first value under one of the keys, as text; None where there is none."""
    return next((str(meta[key]) for key in keys if meta.get(key) is not None), None)


def named_cause(meta: Mapping[str, Any], keys: Sequence[str] = ()) -> str | None:
    """What an event names as its cause: an id, or `stream/version` in message-db.

    `keys`: where to look; empty for those of the field's conventions.
    """
    cause = first_of(meta, keys or CAUSATION_KEYS)
    if cause is None and None not in (meta.get(CAUSATION_STREAM), meta.get(CAUSATION_VERSION)):
        return f"{meta[CAUSATION_STREAM]}/{meta[CAUSATION_VERSION]}"
    return cause


def recorded_in(meta: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The trace, and the span in it, that an event's metadata says it was written in.

    Emmett writes `traceId` and `spanId`; by W3C's convention there is a `traceparent`. The span is
    None where only the trace is known.
    """
    trace = trace_id(first_of(meta, TRACE_KEYS) or "")
    if trace is not None:
        return trace, span_id(first_of(meta, SPAN_KEYS) or "")
    return parse_traceparent(str(meta.get(TRACEPARENT, ""))) or (None, None)


def traces_of(meta: Mapping[str, Any], keys: Sequence[str] = ()) -> set[str]:
    """All trace ids that the metadata has, also those of a cause that is a span."""
    cause = parse_traceparent(first_of(meta, keys or CAUSATION_KEYS) or "")
    parent = parse_traceparent(str(meta.get(TRACEPARENT, "")))
    found = {trace_id(first_of(meta, TRACE_KEYS) or "")}
    found |= {each.trace for each in (cause, parent) if each is not None}
    return {each for each in found if each is not None}
