"""What a value in JSON says, beside what was asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

from esops.erasing.forms import composed
from esops.erasing.spans import JsonNode

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_EXPONENT = re.compile(r"\d[eE][+-]?\d+\s*(?:[,}\]]|$)")


def scalars(node: JsonNode, wrapped: bool) -> Iterable[JsonNode]:
    """A scalar itself, those of a list at any depth, and what the library has wrapped."""
    inner = node.wrapped if wrapped else None
    node = inner or node
    if node.text is None and not node.object:
        return [each for _, _, member in node.members for each in scalars(member, wrapped)]
    return () if node.text is None or node.null else (node,)


def says(node: JsonNode, value: str) -> bool:
    """Whether a scalar is what was asked for; numbers however they are written."""
    if node.string or node.text == value or node.text is None:
        return node.text is not None and composed(node.text) == composed(value)
    try:
        return _NUMBER.fullmatch(value) is not None and Decimal(node.text) == Decimal(value)
    except ArithmeticError:
        return False


def may_be_number(value: str, text: str) -> bool:
    """Whether a number that is written in another way may be in a text."""
    if _NUMBER.fullmatch(value) is None:
        return False
    whole = value.rstrip("0").rstrip(".") if "." in value else value
    return whole in text or _EXPONENT.search(text) is not None
