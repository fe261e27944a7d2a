"""How values are written: for a person, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import orjson

from esops.escaping import visible, visible_json
from esops.exact_json import fragment


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def to_json(document: object, *, indent: bool = False) -> str:
    """JSON with ISO 8601 times in UTC; positions and anything else that is no JSON as text."""
    # Subclasses as text: a Position is a tuple, and orjson would write it as a list of numbers.
    option = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS
    if indent:
        option |= orjson.OPT_INDENT_2
    return visible_json(orjson.dumps(document, default=fragment, option=option).decode())


def cell(value: object) -> str:
    """A value as it is shown in a table, on one line."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "seconds") + "Z"
    if isinstance(value, Mapping | list):
        return to_json(value)
    return visible(str(value))


def csv_cell(value: object) -> str:
    """A value as it is written for a program: a time is whole, as in JSON; null is nothing, and a
    boolean is `true` or `false`.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
    return cell(value)
