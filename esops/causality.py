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
_VERSION = re.compile(r"[0-9]{1,18}\Z", re.ASCII)
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
    lower = text.strip().lower().removeprefix("urn:uuid:").strip("{}")
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


def may_be_trace(text: str) -> str | None:
    """The trace id that an id may be, though nothing says that it is one; None if it is no trace's.

    The UUIDs of RFC 9562 have marks that few random trace ids have. With dashes, such a one is
    taken for no trace id.
    """
    found = trace_id(text)
    if found is None or "-" not in text:
        return found
    return None if found[12] in "12345678" and found[16] in "89ab" else found


def span_id(text: str) -> str | None:
    """A span id as 16 lower-case hex digits; None if the text is none."""
    lower = text.lower()
    return lower if _SPAN_ID.match(lower) and lower.strip("0") else None


def first_of(meta: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    """The first value under one of the keys that can be an id, as text; None where there is none.

    A blank text, a list, an object, true and false say nothing.
    """
    return next((text for key in keys if (text := _id_text(meta.get(key))) is not None), None)


def _id_text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    text = str(value)
    return text if text.strip() else None


class Cause(NamedTuple):
    """What an event names as its cause, as it says so itself."""

    text: str
    """An id, or `stream/version`."""
    reference: tuple[str, int] | None = None
    """The stream, and the version in it; None where the text is an id."""


def cause_in(meta: Mapping[str, Any], keys: Sequence[str] = ()) -> Cause | None:
    """What an event names as its cause: an id, or a stream and a version in message-db.

    `keys`: where to look; empty for those of the field's conventions.
    """
    for key in keys or (*CAUSATION_KEYS, CAUSATION_STREAM):
        text = first_of(meta, (key,))
        if text is None:
            continue
        if key != CAUSATION_STREAM:
            return Cause(text)
        version = first_of(meta, (CAUSATION_VERSION,))
        if version is not None:
            named = f"{text}/{version}"
            return Cause(named, (text, int(version)) if _VERSION.match(version) else None)
    return None


def named_cause(meta: Mapping[str, Any], keys: Sequence[str] = ()) -> str | None:
    """The text of what an event names as its cause (see `cause_in`)."""
    cause = cause_in(meta, keys)
    return None if cause is None else cause.text


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
