"""Times as Postgres has them, also those that Python's datetime cannot hold: ±infinity, years
before 1 and after 9999.

A time is a datetime wherever that can hold it, and a `FarTime` where not. Both compare with each
other, and `str()` of a FarTime is what Postgres prints. Inside, a time is an integer: microseconds
since 1970 in UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import total_ordering

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INFINITY = 1 << 64
"""Microseconds that stand for the time after all others; `-INFINITY` for the one before."""
_MICROSECOND = timedelta(microseconds=1)
_DAY = 86_400_000_000
_FIRST = (datetime.min.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
_LAST = (datetime.max.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
EARLIEST = -210_866_803_200_000_000
"""The first time that Postgres has: 4714-11-24 BC."""
ARCHIVED_INFINITY = (1 << 63) - 1
_ARROW_NEGATIVE = -(1 << 63) + 946_684_800_000_000
"""Postgres' -infinity is the smallest integer, counted from 2000; this is what it becomes where
30 years are added to it."""
_TEXT = re.compile(
    r"(\d{4,})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?"
    r"(?:([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?)?( BC)?"
)


@total_ordering
class FarTime:
    """A time that datetime cannot hold.

    `microseconds` are since 1970 in UTC, ±INFINITY where the time is unbounded.
    """

    __slots__ = ("microseconds",)

    def __init__(self, microseconds: int) -> None:
        """Any number of microseconds."""
        self.microseconds = microseconds

    @property
    def unbounded(self) -> bool:
        """Whether it is infinity or -infinity."""
        return abs(self.microseconds) == INFINITY

    def __str__(self) -> str:
        return postgres_text(self.microseconds)

    def __repr__(self) -> str:
        return f"FarTime({self})"

    def __format__(self, form: str) -> str:
        """As Postgres prints it, whatever form is asked for."""
        return str(self)

    def isoformat(self) -> str:
        """As Postgres prints it, since ISO 8601 has no form for it."""
        return str(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FarTime):
            return self.microseconds == other.microseconds
        return False if isinstance(other, datetime) else NotImplemented

    def __lt__(self, other: object) -> bool:
        if isinstance(other, FarTime | datetime):
            return self.microseconds < microseconds_of(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.microseconds)


Moment = datetime | FarTime
"""Any time that Postgres can hold."""


class TimeOutOfRange(ValueError):
    """A time that was asked for as a datetime, which cannot hold it."""


def moment(microseconds: int) -> Moment:
    """The time of a number of microseconds since 1970."""
    if _FIRST <= microseconds <= _LAST:
        return EPOCH + timedelta(0, 0, microseconds)
    return FarTime(microseconds)


def microseconds_of(at: Moment) -> int:
    """Microseconds since 1970; a time without a zone is taken as UTC."""
    if isinstance(at, FarTime):
        return at.microseconds
    return ((at if at.tzinfo is not None else at.replace(tzinfo=UTC)) - EPOCH) // _MICROSECOND


def from_driver(value: int) -> int:
    """Microseconds from what the bulk reader's driver makes of a time.

    It adds 30 years to what Postgres sends, which counts from 2000. So infinity, and times after
    294247, have come round to below all times that there are. Other integers stay what they are.
    """
    if value >= EARLIEST or value == -INFINITY:
        return value
    if value == _ARROW_NEGATIVE:
        return -INFINITY
    return INFINITY if value == _ARROW_NEGATIVE - 1 else value + (1 << 64)


def from_archive(value: int) -> int:
    """Microseconds from the integer that an archive has."""
    if abs(value) == ARCHIVED_INFINITY:
        return INFINITY if value > 0 else -INFINITY
    return value if value >= EARLIEST else value + (1 << 64)


def to_archive(microseconds: int) -> int:
    """The integer of 64 bits that an archive has for a time: ±ARCHIVED_INFINITY, as DuckDB, for the
    unbounded ones, and 2^64 less for those after 294247.

    Raises OverflowError for the two microseconds that would be taken for those.
    """
    if abs(microseconds) == INFINITY:
        return ARCHIVED_INFINITY if microseconds > 0 else -ARCHIVED_INFINITY
    value = microseconds if microseconds < 1 << 63 else microseconds - (1 << 64)
    if abs(value) == ARCHIVED_INFINITY:
        raise OverflowError(f"an archive cannot tell {postgres_text(microseconds)} from infinity")
    return value


def between(earlier: Moment | None, later: Moment | None) -> timedelta | None:
    """The time from one to the other; None where either is unknown or unbounded."""
    if earlier is None or later is None:
        return None
    low, high = microseconds_of(earlier), microseconds_of(later)
    if INFINITY in {abs(low), abs(high)}:
        return None
    return timedelta(0, 0, high - low)


def within(at: datetime, change: timedelta) -> datetime:
    """A time that much later or earlier, or the last or first one that a datetime can hold."""
    try:
        return at + change
    except OverflowError:
        return EPOCH + timedelta(0, 0, _LAST if change > timedelta(0) else _FIRST)


def postgres_text(microseconds: int) -> str:
    """A time as Postgres prints it in UTC: `2026-11-27 07:30:00.5+00`, `infinity`,
    `0044-03-15 12:00:00+00 BC`.
    """
    if abs(microseconds) == INFINITY:
        return "infinity" if microseconds > 0 else "-infinity"
    days, rest = divmod(microseconds, _DAY)
    year, month, day = _date(days)
    seconds, fraction = divmod(rest, 1_000_000)
    text = (
        f"{year if year > 0 else 1 - year:04d}-{month:02d}-{day:02d} "
        f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    )
    if fraction:
        text += f".{fraction:06d}".rstrip("0")
    return f"{text}+00{'' if year > 0 else ' BC'}"


def parse_postgres(text: str) -> Moment:
    """Read what Postgres prints as a time or a date with DateStyle ISO.

    Raises ValueError for anything else.
    """
    if text in {"infinity", "-infinity"}:
        return FarTime(INFINITY if text[0] == "i" else -INFINITY)
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time as Postgres prints it")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    fraction = int((found[7] or "").ljust(6, "0"))
    offset = sum(
        int(part or 0) * unit
        for part, unit in zip(found.groups()[8:11], (3600, 60, 1), strict=True)
    )
    seconds = hour * 3600 + minute * 60 + second - (-offset if found[8] == "-" else offset)
    days = _days(1 - year if found[12] else year, month, day)
    return moment(days * _DAY + seconds * 1_000_000 + fraction)


# The calendar by Howard Hinnant's algorithms ("chrono-compatible low-level date algorithms"): years
# begin in March, so that a leap day is the last of its year.


def _date(days: int) -> tuple[int, int, int]:
    """Year (0 is 1 BC), month and day of a number of days since 1970."""
    era, of_era = divmod(days + 719_468, 146_097)
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    return (
        year + era * 400 + (month >= 10),
        month + 3 if month < 10 else month - 9,
        day,
    )


def _days(year: int, month: int, day: int) -> int:
    """The number of days since 1970 of a date."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
