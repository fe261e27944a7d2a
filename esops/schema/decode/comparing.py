"""A payload as it is stored, and what the application's code made of it: which fields are lost,
added or changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from esops import exact_json
from esops.exact_json import WrittenNumber
from esops.json_paths import Step, Steps, Wild, parse_path, within, written
from esops.schema.decode.outcomes import RoundTripDifference
from esops.schema.shapes import JsonType, is_data

_MOST = 50
"""Differences of one event that are findings, and as many that are not."""
_NAMES: dict[type, JsonType] = {
    str: "string",
    bool: "boolean",
    type(None): "null",
    dict: "object",
    list: "array",
}
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS


@dataclass(frozen=True)
class RoundTripComparer:
    """Compares payloads. Numbers are equal where their values are, exactly; all else as written."""

    ignored: Sequence[Steps] = ()
    """Paths that are not compared, with all below them."""
    moments: bool = False
    """Whether two texts of one moment are equal."""

    @classmethod
    def ignoring(cls, paths: Sequence[str], *, moments: bool = False) -> RoundTripComparer:
        """Without some paths. Raises ValueError for one that is no path into the data."""
        parsed = [parse_path(each) for each in paths]
        for path, text in zip(parsed, paths, strict=True):
            if path.root != "data":
                raise ValueError(f"{text!r} is not a path into the payload")
        return cls(tuple(path.steps for path in parsed), moments)

    def compare(self, stored: bytes, encoded: object) -> list[RoundTripDifference]:
        """The differences, each path once.

        `encoded` is JSON as bytes or text, or a value to be written as JSON; where what is stored
        is no JSON, it must be the same bytes. Raises TypeError or ValueError for what is no JSON.
        """
        try:
            before = exact_json.loads(stored)
        except orjson.JSONDecodeError:
            if not isinstance(encoded, bytes | bytearray | memoryview):
                raise TypeError(
                    "the stored payload is not JSON, so its encoder must return bytes"
                ) from None
            same = bytes(encoded) == stored
            return [] if same else [RoundTripDifference("changed", "$", "binary", "binary")]
        after = exact_json.loads(as_json(encoded))
        found: dict[RoundTripDifference, None] = {}
        added = 0
        for each in _differences((), before, after, self):
            if each in found:
                continue
            # What is added is no finding, and must leave room for what is lost.
            if each.kind == "added":
                added += 1
                if added > _MOST:
                    continue
            elif len(found) - min(added, _MOST) >= _MOST:
                break
            found[each] = None
        return list(found)

    def looks(self, at: Steps) -> bool:
        """Whether a path is compared."""
        names = tuple(str(step.value) if isinstance(step, Wild) else str(step) for step in at)
        return not any(() in within(steps, names, _same_step) for steps in self.ignored)


def _same_step(step: Step, name: str) -> bool:
    return (isinstance(step, int) and name == Wild.EVERY.value) or str(step) == name


def as_json(encoded: object) -> bytes:
    """What an encoder returned as JSON. Raises TypeError for what has no form in JSON."""
    if isinstance(encoded, bytes | bytearray | memoryview):
        return bytes(encoded)
    if isinstance(encoded, str):
        # An encoder gives the payload's text; a payload that is one string is '"…"' then.
        return encoded.encode()
    try:
        return orjson.dumps(encoded, default=_other, option=_OPTIONS)
    except TypeError:
        # It may be an integer of more than 64 bits.
        return orjson.dumps(_long_integers(encoded), default=_other, option=_OPTIONS)


def _long_integers(value: object) -> object:
    if isinstance(value, dict):
        return {name: _long_integers(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_long_integers(inner) for inner in value]
    if type(value) is int and value.bit_length() > 63:
        return orjson.Fragment(str(value))
    return value


def _other(value: object) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value)) if value.is_finite() else None
    if isinstance(value, WrittenNumber):
        return orjson.Fragment(value.text)
    if isinstance(value, int) and not isinstance(value, bool):
        return orjson.Fragment(str(int(value)))
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, list | tuple):
        return list(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _differences(
    at: Steps, before: Any, after: Any, comparer: RoundTripComparer
) -> Iterator[RoundTripDifference]:
    kind = type(before)
    if kind is not type(after) or kind not in _NAMES:
        if not _same_number(before, after):
            yield from _one("changed", at, _name(before), _name(after), comparer)
    elif kind is dict:
        yield from _members(at, before, after, comparer)
    elif kind is list:
        below = (*at, Wild.EVERY)
        for one, other in zip(before, after, strict=False):
            yield from _differences(below, one, other, comparer)
        for value in before[len(after) :]:
            yield from _one("lost", below, _name(value), None, comparer)
        for value in after[len(before) :]:
            yield from _one("added", below, None, _name(value), comparer)
    elif before != after and not (comparer.moments and kind is str and same_moment(before, after)):
        yield from _one("changed", at, _name(before), _name(after), comparer)


def _members(
    at: Steps, before: Mapping[str, Any], after: Mapping[str, Any], comparer: RoundTripComparer
) -> Iterator[RoundTripDifference]:
    for name, value in before.items():
        below = (*at, _step(name))
        if name not in after:
            yield from _one("lost", below, _name(value), None, comparer)
        else:
            yield from _differences(below, value, after[name], comparer)
    for name, value in after.items():
        if name not in before:
            yield from _one("added", (*at, _step(name)), None, _name(value), comparer)


def _one(
    kind: Any,
    at: Steps,
    stored: JsonType | None,
    encoded: JsonType | None,
    comparer: RoundTripComparer,
) -> Iterator[RoundTripDifference]:
    if comparer.looks(at):
        yield RoundTripDifference(kind, written(at), stored, encoded)


def _step(name: str) -> Step:
    return Wild.EVERY if is_data(name) else name


def _name(value: object) -> JsonType:
    return _NAMES.get(type(value), "number")


def _same_number(before: Any, after: Any) -> bool:
    """Whether two values are numbers, and the same one: 10, 10.0 and 1e1 are."""
    if type(before) in _NAMES or type(after) in _NAMES:
        return False
    if repr(before) == repr(after):
        return True
    try:
        return _exactly(before) == _exactly(after)
    except ArithmeticError:  # beyond all exponents
        return False


def _exactly(number: Any) -> Decimal:
    return Decimal(number.text) if isinstance(number, WrittenNumber) else Decimal(repr(number))


_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d)?)(?:[.,](\d+))?(Z|[+-]\d\d:?\d\d)?\Z",
    re.ASCII,
)


def same_moment(one: str, other: str) -> bool:
    """Whether two texts are times of ISO 8601, and of the same moment. A time without a zone is
    the same as no time with one.
    """
    first, second = _moment(one), _moment(other)
    return first is not None and first == second


def _moment(text: str) -> tuple[datetime, str] | None:
    """A time to the second, and the digits of its fraction, of which there may be many."""
    found = _MOMENT.match(text)
    if found is None:
        return None
    seconds, fraction, zone = found.groups()
    try:
        whole = datetime.fromisoformat(seconds + (zone or ""))
    except ValueError:
        return None
    return whole, (fraction or "").rstrip("0")
