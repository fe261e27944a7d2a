"""What handlers and programs write, so that no column rounds or cuts it.

Postgres assigns 2.6 to an integer column as 3, and 12.345 to numeric(12, 2) as 12.35. Python looks
at the usual types; the server is asked where only it can tell. What a column refuses by itself is
not looked at here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from numbers import Real
from typing import Any

from esops.postgres.catalog import Column
from esops.postgres.types import TypedColumn
from esops.readmodel.asked import Asked
from esops.readmodel.form import Convert, Unfit
from esops.readmodel.forms import form_of, is_number, length_of
from esops.readmodel.wide import rounds

_INTEGERS = frozenset({"int2", "int4", "int8"})
_NUMBERS = frozenset({"numeric", "float4", "float8"})
_NATIVE = (int, float, Decimal)
_ZONE = re.compile(r":\d\d[\d.]*\s*(?:[+-]\d|z\b|utc\b|gmt\b)", re.IGNORECASE)
"""A time zone after a time, in text."""


def exact_value(column: Column, typed: TypedColumn, asked: Asked) -> Convert | None:
    """Makes of a value what is sent for a column; raises Unfit where that would be another value.

    None where no value can be changed by the column.
    """
    # The server checks a domain by itself.
    column = replace(column, type=typed.tree.below or typed.type)
    kind = column.kind
    if kind.startswith("_"):
        inner = typed.tree.parts[0][1] if typed.tree.parts else typed.tree
        element = Column(column.name, column.type.removesuffix("[]"), kind[1:])
        below = replace(typed, type=inner.below or element.type, tree=inner)
        return _elements(exact_value(element, below, asked), column, asked, typed)
    simple: dict[str, Convert] = {
        "json": _finite, "jsonb": _finite, "date": _day, "time": _time_of_day,
    }  # fmt: skip
    if kind in _INTEGERS:
        return _whole
    if kind in _NUMBERS:
        return _number(column, asked)
    if kind == "varchar":
        most = length_of(column)
        return None if most is None else lambda value: _short(value, most)
    unchanged = _unchanged(column, asked) if rounds(typed.tree) else None
    first = simple.get(kind)
    if first is None or unchanged is None:
        return first or unchanged
    return lambda value: unchanged(first(value))


def exact_step(column: Column, typed: TypedColumn, asked: Asked) -> Convert | None:
    """As `exact_value`, for what is added to a column: a span of time to a date, for example."""
    column = replace(column, type=typed.tree.below or typed.type)
    if column.kind == "date":
        return _days
    if column.kind in {"timestamp", "timestamptz", "time"} and rounds(typed.tree):
        digits = column.type.partition("(")[2][:1]
        return _unchanged(Column(column.name, f"interval({digits})", "interval"), asked)
    if column.kind in _INTEGERS | _NUMBERS | {"interval", "money"}:
        return exact_value(column, typed, asked)
    return None


def _unchanged(column: Column, asked: Asked) -> Convert:
    def convert(value: Any) -> Any:
        asked.check(column, value)
        return value

    return convert


def _whole(value: Any) -> Any:
    if isinstance(value, Real | Decimal) and not isinstance(value, int):
        number: Any = value
        if not math.isfinite(number) or number != int(number):
            raise Unfit("it is no integer")
        return int(number)
    return value


def _number(column: Column, asked: Asked) -> Convert:
    form, real = form_of(column, None, asked), column.kind == "float4"

    def convert(value: Any) -> Any:
        if (
            real
            and type(value) is float
            and 1e-30 < abs(value) < 1e30
            and float(f"{value:.6g}") == value
        ):
            return value
        if isinstance(value, bool) or not (isinstance(value, _NATIVE) or is_number(value)):
            if isinstance(value, str):  # such as Infinity
                asked.check(column, value)
            return value
        return form.convert(value)

    return convert


def _short(value: Any, most: int) -> Any:
    if isinstance(value, str) and len(value) > most:
        raise Unfit(f"it has {len(value)} characters")  # Postgres cuts blanks at the end
    return value


def _day(value: Any) -> Any:
    at = _moment(value) if isinstance(value, str) else value
    # As 3.0 is an integer, midnight is a day: many serializers write days so.
    if (
        isinstance(at, datetime)
        and at.timetz().replace(tzinfo=None) == time()
        and not at.utcoffset()
    ):
        return at.date()
    if isinstance(at, datetime) or (isinstance(value, str) and _has_time(value)):
        raise Unfit("it is a time, and a date has none; for the day of a time write its .date()")
    return value


def _moment(text: str) -> datetime | None:
    """A time that Python can read, and that is more than a date."""
    try:
        return datetime.fromisoformat(text) if _has_time(text) else None
    except ValueError:
        return None


def _has_time(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return ":" in text
    return False


def _time_of_day(value: Any) -> Any:
    day = timedelta(days=1)
    if isinstance(value, timedelta) and not timedelta() <= value < day:
        raise Unfit("it is no time of a day")
    if isinstance(value, datetime):
        raise Unfit("it has a date; write its .time()")
    zoned = isinstance(value, time) and value.tzinfo is not None
    if zoned or (isinstance(value, str) and _ZONE.search(value)):
        raise Unfit("it has a time zone, and the column has none")
    return value


def _days(value: Any) -> Any:
    if isinstance(value, timedelta) and value % timedelta(days=1):
        raise Unfit("a date has no time")
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Unfit(f"JSON has no number {value}")
    elif isinstance(value, dict):
        for each in value.values():
            _finite(each)
    elif isinstance(value, list | tuple):
        for each in value:
            _finite(each)
    return value


def _elements(
    inner: Convert | None, column: Column, asked: Asked, typed: TypedColumn
) -> Convert | None:
    if inner is None:
        return None
    whole = _unchanged(column, asked) if rounds(typed.tree) else None

    def convert(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [None if each is None else _inside(each, inner) for each in value]
        return value if whole is None else whole(value)

    return convert


def _inside(value: Any, inner: Callable[[Any], Any]) -> Any:
    if isinstance(value, list):
        return [None if each is None else _inside(each, inner) for each in value]
    return inner(value)
