"""JSON whose numbers are shown and compared as they are written.

Most parsers make a double of what is longer than that, so that an id of 23 digits is another one
afterwards. A projection gets such doubles; who looks for an event is to see what the store has.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, Self

import orjson

_LONG = re.compile(rb"[0-9.]{16}|[0-9.][eE][+-]?[0-9]{3}")
"""A double keeps 15 digits, and exponents of two."""
_SAFE_DIGITS = 18
"""An integer of up to this many characters is read exactly by everybody."""


class WrittenNumber(float):
    """A number that no double is, with its text; where only a double will do, the nearest one."""

    text: str

    def __new__(cls, text: str) -> Self:
        """Raises nothing for what JSON allows."""
        self = super().__new__(cls, text)
        self.text = text
        return self

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__


def loads(text: bytes) -> Any:
    """Decode JSON. Raises orjson.JSONDecodeError where it is none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        # Beyond the range of a double, which is no fault of the JSON.
        if "number is infinity" not in str(error):
            raise
        try:
            found = _exactly(text)
            json.dumps(found, ensure_ascii=False).encode()  # halves of characters are one
        except (ValueError, RecursionError):
            raise error from None
        return found
    if _LONG.search(text) is None:
        return value
    try:
        return _exactly(text)
    except (ValueError, RecursionError):
        return value


def _exactly(text: bytes) -> Any:
    return json.loads(text, parse_float=_decimal, parse_int=_integer, parse_constant=_refuse)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def fragment(value: object) -> Any:
    """What orjson is to write of a value that it does not know, for its `default`: of a number its
    text, of all others theirs as a string.
    """
    return orjson.Fragment(value.text) if isinstance(value, WrittenNumber) else str(value)


def _decimal(text: str) -> float:
    found = float(text)
    try:
        same = Decimal(repr(found)) == Decimal(text)
    except ArithmeticError:
        same = False
    return found if same else WrittenNumber(text)


def _integer(text: str) -> float:
    return int(text) if len(text) <= _SAFE_DIGITS else _long_integer(text)


def _long_integer(text: str) -> float:
    found = Decimal(text)
    return int(found) if -(2**63) <= found < 2**64 else WrittenNumber(text)
