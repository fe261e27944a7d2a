"""What differs between two rows, by column, and in JSON by path; and rows as JSON has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

from esops.readmodel.types import Row
from esops.rebuild.verification.paths import MISSING, differences, generalised, written

_PATHS = 200
"""The most paths that are shown of one column."""
_EXACT = 2**63


@dataclass(frozen=True, slots=True)
class RowChange:
    """A column, or a path into one, that differs; MISSING where one side does not have it."""

    path: str
    before: Any
    after: Any
    general: str
    """The path with `[*]` for each place in an array, as `verify.ignore` has it."""

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names; a side that does not have it is left out."""
        sides = {"before": self.before, "after": self.after}
        return {"path": self.path} | {
            name: shown(value) for name, value in sides.items() if value is not MISSING
        }


def changes(before: Row | None, after: Row | None) -> list[RowChange]:
    """What differs between a row and the next one; None is no row, and has no column."""
    old, new = before or {}, after or {}
    names = dict.fromkeys((*old, *new))
    return [
        each
        for name in names
        for each in islice(_of(name, old.get(name, MISSING), new.get(name, MISSING)), _PATHS)
    ]


def counted(found: Sequence[RowChange], ignore: Sequence[str]) -> list[RowChange]:
    """The changes that are not in `verify.ignore`, whose entries are columns or paths."""
    return [
        each
        for each in found
        if not any(
            each.general == entry or each.general.startswith((f"{entry}.", f"{entry}["))
            for entry in ignore
        )
    ]


def _of(name: str, old: Any, new: Any) -> Iterator[RowChange]:
    if isinstance(old, dict | list) and isinstance(new, dict | list):
        for steps, was, now in differences(old, new):
            yield RowChange(written(name, steps), was, now, written(name, generalised(steps)))
    elif type(old) is not type(new) or old != new or str(old) != str(new):
        # 1 and True are equal in Python, and so are Decimal("1.0") and Decimal("1.00").
        yield RowChange(name, old, new, name)


def shown_row(row: Row | None) -> dict[str, Any] | None:
    """A row as JSON has it."""
    return None if row is None else {name: shown(value) for name, value in row.items()}


def shown(value: Any) -> Any:
    """A value as JSON has it; a number that JSON cannot say exactly as text."""
    match value:
        case bool():
            return value
        case Mapping():
            return {str(key): shown(each) for key, each in value.items()}
        case list() | tuple():
            return [shown(each) for each in value]
        case Decimal():
            near = float(value)
            return near if value.is_finite() and Decimal(repr(near)) == value else str(value)
        case int():
            return value if abs(value) < _EXACT else str(value)
        case bytes():
            return "\\x" + value.hex()
        case timedelta():
            return str(value)
    return value
