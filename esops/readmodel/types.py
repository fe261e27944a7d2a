"""The words that rows are spoken of with: a row, a key, and the Python types in a column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]
Key = Any
"""A value, or a tuple for a key of several columns."""

CHECKPOINT = "checkpoint "
"""How the fingerprint of a version begins that the application builds; its checkpoint's name
follows.
"""

_NUMBERS = ("bool", "int", "float", "Decimal")
"""From narrow to wide: a value of each can be read back as one of the next."""


def wider(known: str | None, new: str) -> str:
    """The Python type as which a column's values come back, where it holds values of two types."""
    if known in {None, "None"} or known == new:
        return new
    if new == "None":  # a process that loads a part may have seen no value
        return str(known)
    if known in _NUMBERS and new in _NUMBERS:
        return max(known, new, key=_NUMBERS.index)
    return "str" if "str" in {known, new} else new


def widest(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """The columns of both, each with its widest type."""
    return {**one, **{name: wider(one.get(name), kind) for name, kind in other.items()}}
