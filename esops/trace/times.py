"""Times that options are given, and how a person reads those of events."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from esops.moments import Moment

_FORMS = "Write a duration, such as 10m or 2h, or a time in UTC, such as 2026-11-28T10:15 or 10:15."


def point_in_time(option: str, text: str, now: Callable[[], datetime]) -> datetime:
    """Read `10m` (that long ago), a time as ISO 8601 writes it, or `10:15` (the last one). A time
    without a zone is in UTC; `now` is asked where it is needed.

    Raises UsageError that names the option.
    """
    from datetime import UTC, datetime, time, timedelta

    from esops.errors import UsageError
    from esops.settings import parse_duration

    text = text.strip()
    try:
        return now() - parse_duration(text)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except ValueError:
        pass
    if text.isdecimal():
        # ISO 8601 takes 10 for an hour, and 2026 for 20:26.
        raise UsageError(
            f"{option}: {text} is a number without a unit",
            hint=f"Write {text}m for minutes, {text}h for hours, or a time of day such as 10:15.",
        )
    try:
        at, present = time.fromisoformat(text), now()
    except ValueError:
        raise UsageError(
            f"{option}: {text!r} is neither a duration nor a time", hint=_FORMS
        ) from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    found = datetime.combine(present.astimezone(at.tzinfo).date(), at)
    return found if found <= present else found - timedelta(days=1)


def clock(at: Moment | None) -> str:
    """A time in UTC to the millisecond, as wide for each that a datetime can hold."""
    from datetime import UTC, datetime

    if not isinstance(at, datetime):
        return "-" if at is None else str(at)
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "milliseconds") + "Z"


def ago(at: Moment | None, now: datetime) -> str:
    """How long ago a time was, in short: `12s ago`, `3m ago`, `5h ago`, `12d ago`; `in 3m` where a
    clock is ahead.
    """
    from esops.moments import between

    since = between(at, now)
    if since is None:
        return ""
    seconds = since.total_seconds()
    size = abs(seconds)
    units = (("s", 1, 60), ("m", 60, 3_600), ("h", 3_600, 172_800))
    short = next((each for each in units if size < each[2]), ("d", 86_400, 0))
    text = f"{int(size // short[1])}{short[0]}"
    return f"{text} ago" if seconds >= 0 else f"in {text}"
