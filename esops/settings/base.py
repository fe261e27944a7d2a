"""What all sections of esops.toml share, and how durations and sizes are written."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from esops.errors import UsageError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)\Z")
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(text: object) -> timedelta:
    """Read `90s`, `15m`, `36h`, `180d` or `500ms`. Raises ValueError that shows the forms."""
    if isinstance(text, timedelta):
        return text
    found = _DURATION.match(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise ValueError("this is not a duration: write it like 500ms, 90s, 15m, 36h or 180d")
    try:
        return timedelta(**{_UNITS[found[2]]: float(found[1])})
    except OverflowError:
        raise ValueError("this duration is too long: at most 999999999d") from None


def named_duration(name: str, text: str) -> timedelta:
    """Read the duration that an option or argument was given. Raises UsageError that names it."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(kB|MB|GB|TB)\Z")
_POWERS = {"kB": 10, "MB": 20, "GB": 30, "TB": 40}


def parse_size(text: object) -> int:
    """Read `64kB`, `256MB` or `1.5GB` as bytes, in Postgres' units, which are powers of 1024.

    Raises ValueError that shows the forms.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    found = _SIZE.match(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise ValueError("this is not a size: write it like 512kB, 256MB or 1.5GB")
    return int(float(found[1]) * (1 << _POWERS[found[2]]))


Size = Annotated[int, BeforeValidator(parse_size)]


Publications = Literal["refused", "allowed"]
"""`publications`: whether esops may make tables in a database that publishes every new table for
logical replication, and rename tables that are published.
"""


class Settings(BaseModel):
    """The base of all sections: an unknown key is an error, and no value changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
