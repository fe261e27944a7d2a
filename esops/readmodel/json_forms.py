"""What json and jsonb give back for a document, without asking the server.

jsonb orders the keys of an object by length and then by bytes, and its numbers are decimals: 1e300
comes back as an integer with 300 zeros. A document that is put into this form before it is cached
equals the one that is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import orjson

from esops.readmodel.form import Unfit

MOST_DEPTH = 250
"""orjson writes documents that are nested up to 254 times."""
_EXACT = 1e16
"""From here on Python writes a float with an exponent, which jsonb turns into an integer."""
_MEMORY = 4_096
_TEXTS = frozenset({str})


def plain(value: Any) -> Any:
    """A document as a json column gives it back: a copy, whose parts are those that JSON has.

    Raises Unfit for what is no JSON.
    """
    return _plain(value, 0)


def binary(value: Any) -> Any:
    """A document as a jsonb column gives it back: as `plain`, with keys and numbers as jsonb has
    them.

    Raises Unfit for what jsonb cannot hold.
    """
    return _binary(value, 0)


def dumps(value: Any) -> bytes:
    """A document as JSON, with integers of any size."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def characters(text: str, *, zero: bool = False) -> str:
    """The text, if it can be stored. Raises Unfit for a NUL (unless `zero`) and for half a
    character.
    """
    if not zero and "\0" in text:
        raise Unfit("Postgres has no texts with the character NUL")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Unfit("it has half a surrogate pair, which is no character") from None
    return text


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() else characters(value, zero=True)
    if kind is int:
        return value if -(2**63) <= value < 2**63 else _big(value)
    if value is None or kind is bool:
        return value
    if kind is float:
        return _finite(value)
    if kind is dict:
        inner = _deeper(depth)
        return {
            (key if type(key) is str and key.isascii() else _key(key, zero=True)): _plain(
                each, inner
            )
            for key, each in value.items()
        }
    if kind is list:
        inner = _deeper(depth)
        return [_plain(each, inner) for each in value]
    return _plain(_as_json(value), depth)


def _binary(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() and "\0" not in value else characters(value)
    if kind is int:
        return value if -(2**63) <= value < 2**63 else _big(value)
    if value is None or kind is bool:
        return value
    if kind is float:
        if -_EXACT < value < _EXACT:
            return value or 0.0  # numeric has no negative zero
        return int(Decimal(repr(_finite(value))))
    if kind is dict:
        inner = _deeper(depth)
        keys = tuple(value)
        if not _TEXTS.issuperset(map(type, keys)):
            # A text of a class of its own may take others for equal.
            value = {_key(key): each for key, each in value.items()}
            keys = tuple(value)
        ordered = _orders.get(keys)
        if ordered is None:
            ordered = _ordered(keys)
        return {key: _binary(value[key], inner) for key in ordered}
    if kind is list:
        inner = _deeper(depth)
        return [_binary(each, inner) for each in value]
    return _binary(_as_json(value), depth)


_orders: dict[tuple[Any, ...], tuple[str, ...]] = {}
"""By the keys of an object, the same as jsonb orders them: most documents are of a few shapes."""


def _ordered(keys: tuple[Any, ...]) -> tuple[str, ...]:
    named = [_key(key) for key in keys]
    made = tuple(sorted(named, key=lambda key: (len(text := key.encode()), text)))
    if len(_orders) >= _MEMORY:
        _orders.clear()
    _orders[keys] = made
    return made


def _key(key: Any, *, zero: bool = False) -> str:
    if not isinstance(key, str):
        raise Unfit(f"the keys of a JSON object are texts, and {key!r} is {type(key).__name__}")
    return characters(key if type(key) is str else str.__str__(key), zero=zero)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise Unfit(f"JSON has no number {value}")
    return value


def _big(value: int) -> int:
    try:
        str(value)
    except ValueError:
        raise Unfit("it has an integer of more than 4,300 digits") from None
    return value


def _deeper(depth: int) -> int:
    if depth >= MOST_DEPTH:
        raise Unfit(f"it is nested more than {MOST_DEPTH} times")
    return depth + 1


_AS_TEXT: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (datetime, datetime.isoformat),
    (date, date.isoformat),
    (time, time.isoformat),
    (UUID, str),
)


def _as_json(value: Any) -> Any:
    """What JSON has for a value of another type. Raises Unfit where it has nothing."""
    if isinstance(value, Enum):
        return value.value
    for kind, text in _AS_TEXT:
        if isinstance(value, kind):
            return text(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, list | tuple):
        return list(value)
    raise Unfit(f"JSON has no form for {type(value).__name__}")
