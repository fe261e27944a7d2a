"""Payloads as a validator takes them, with the numbers and texts that few decoders take."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from enum import Enum
from typing import Any

import orjson


class NoJson(Enum):
    """What a payload is that has no value."""

    BINARY = "binary"
    """Bytes of another form, or JSON that no parser takes, such as NaN."""
    EMPTY = "empty"
    """No byte at all."""


def decoded(data: bytes) -> Any:
    """The value of a payload, or a NoJson. A number beyond a double is a Decimal, and half of a
    surrogate pair, which is no text, is a question mark.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _decoded_otherwise(data)


def _decoded_otherwise(data: bytes) -> Any:
    if not data:
        return NoJson.EMPTY
    try:
        value = json.loads(data, parse_float=_number, parse_constant=_refused)
        return _texts(value)
    except (ValueError, RecursionError):
        return NoJson.BINARY


def _number(text: str) -> float | Decimal:
    value = float(text)
    return value if math.isfinite(value) else Decimal(text)


def _refused(text: str) -> Any:
    raise ValueError(text)


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_texts(each) for each in value]
    if isinstance(value, dict):
        return {_texts(name): _texts(each) for name, each in value.items()}
    return value
