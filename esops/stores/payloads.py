"""Payloads that a library wraps: plain JSON is made of them wherever their events are read.

A store gives out plain JSON. An archive keeps payloads as the library wrote them, and names their
layout; so whoever reads it finds here what to do with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson

from esops.moments import microseconds_of

Decode = Callable[[bytes], tuple[bytes, int | None]]
"""Makes plain JSON of a payload and tells the time inside it, in microseconds since 1970: None
where there is none.
"""

_TIME_FIRST = b'{"timestamp":{"_type_":"datetime_iso","_data_":"'
"""How the library's own events begin."""
_AT = len(_TIME_FIRST)


def decode_state(state: bytes) -> tuple[bytes, int | None]:
    """A state of the Python library eventsourcing as plain JSON, and its timestamp in microseconds.

    What is no JSON, since it is compressed or encrypted, stays as it is, at no time.

    Most states begin with their timestamp and wrap nothing else: those are handled as bytes, in
    half the time.
    """
    if state.startswith(_TIME_FIRST):
        end = state.find(b'"}', _AT)
        at, rest = state[_AT:end], state[end + 2 :]
        if end > 0 and b'"_type_"' not in rest and b"\\" not in at:
            return b'{"timestamp":"' + at + b'"' + rest, _microseconds(
                at.decode("ascii", "replace")
            )
    try:
        value = orjson.loads(state)
    except orjson.JSONDecodeError:
        return state, None
    if b'"_type_"' in state:
        value = _unwrapped(value)
        state = orjson.dumps(value)
    return state, _microseconds(value.get("timestamp") if isinstance(value, dict) else None)


def _microseconds(at: object) -> int | None:
    try:
        return microseconds_of(datetime.fromisoformat(at)) if isinstance(at, str) else None
    except ValueError:
        return None


def _unwrapped(value: Any) -> Any:
    """What the transcoder wrapped as {"_type_": …, "_data_": …}, without the wrapping."""
    if isinstance(value, dict):
        if value.keys() == {"_type_", "_data_"}:
            return _unwrapped(value["_data_"])
        return {key: _unwrapped(inner) for key, inner in value.items()}
    return [_unwrapped(inner) for inner in value] if isinstance(value, list) else value


DECODERS: Mapping[str, Decode] = {"eventsourcing": decode_state}
"""By layout; payloads of all other layouts are plain."""
