"""The forms of times and dates: datetimes in UTC, or ISO 8601 where the function writes text."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from esops.moments import FarTime
from esops.postgres.catalog import Column
from esops.readmodel.form import Ask, Form, Unfit

TIMES = frozenset({"timestamp with time zone", "timestamp without time zone", "date"})
"""The types whose forms are here."""
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d)?)(?:\.(\d+))?\s?(Z|[+-]\d\d(?::?\d\d)?)?"
)
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


def time_form(
    column: Column, name: str, precision: int | None, written: str | None, ask: Ask
) -> Form:
    """The form of a timestamp, with `precision` digits of a second, or of a date."""
    zoned = name == "timestamp with time zone"

    def native(value: Any) -> Any:
        made = _as_day(value) if name == "date" else _as_time(value, zoned)
        if made is None:  # words such as infinity, and whatever else Postgres reads
            made = _in_utc(ask(column, value))
        elif precision is not None and precision < 6:
            exact = _in_utc(ask(column, made))
            if exact != made and not isinstance(value, str):
                raise Unfit(f"it has more than {precision} digits of a second")
            made = exact
        return made

    def as_text(value: Any) -> str:
        return str(_in_utc(value).isoformat())

    if written == "str":
        return Form(lambda value: as_text(native(value)), as_text)
    if name == "date":
        return Form(native, None, "type(v) is date", {"date": date})
    quick = None if precision is not None and precision < 6 else "type(v) is datetime and v.tzinfo"
    names = {"datetime": datetime, "UTC": UTC}
    return Form(
        native,
        _in_utc if zoned else None,
        None if quick is None else f"{quick} is {'UTC' if zoned else 'None'} and not v.fold",
        names,
    )


def _in_utc(value: Any) -> Any:
    """The time as Postgres gives it, with one object for UTC."""
    if type(value) is datetime and value.tzinfo is not None:
        return value.astimezone(UTC)
    return value


def _as_time(value: Any, zoned: bool) -> Any:
    """A datetime, or what else the column gives back; None where only the server can tell."""
    if isinstance(value, str):
        found = _ISO.fullmatch(value)
        if found is None and not _DAY.fullmatch(value):
            return None
        try:
            value = _parsed(value) if found is None else _parsed(*found.groups())
        except (ValueError, OverflowError):
            return None
    elif isinstance(value, FarTime):
        return None
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        raise Unfit("it is no time")
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC if zoned else None, fold=0)
    if not zoned and value.utcoffset():
        raise Unfit("the column has no time zone, and it is not in UTC")
    try:
        made = value.astimezone(UTC)
    except OverflowError:
        return None
    return made if zoned else made.replace(tzinfo=None)


def _parsed(
    day: str, clock: str = "00:00", fraction: str | None = None, zone: str | None = None
) -> datetime:
    whole = datetime.fromisoformat(f"{day}T{clock}{zone or ''}")
    # .NET writes tenths of a microsecond. They are rounded as Postgres does it.
    return whole + timedelta(0, 0, round(float(f"0.{fraction or 0}") * 1_000_000))


def _as_day(value: Any) -> Any:
    if isinstance(value, datetime) or not isinstance(value, date | str | FarTime):
        raise Unfit("it is no date; for the day of a time write its .date()")
    if isinstance(value, str):
        if not _DAY.fullmatch(value):
            if _ISO.fullmatch(value):
                raise Unfit("it is a time, and a date has none")
            return None
        try:
            return date.fromisoformat(value)
        except ValueError:
            return None
    return None if isinstance(value, FarTime) else date(value.year, value.month, value.day)
