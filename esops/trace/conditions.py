"""Conditions on values in an event: `customer.email = jane@example.com`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import orjson

from esops.errors import NothingFound, UsageError
from esops.events import RecordedEvent
from esops.exact_json import loads
from esops.json_paths import JsonPath, Steps, Wild, split_condition, written

Condition = tuple[JsonPath, str]


def parse_condition(text: str) -> Condition:
    """Read `JSONPATH=VALUE`; spaces around the `=` do not count. Raises UsageError."""
    try:
        path, value = split_condition(text)
    except ValueError as error:
        raise UsageError(
            f"--where: {error}",
            hint="esops events --where 'customer.email = jane@example.com'; a path into the "
            "metadata begins with metadata:",
        ) from None
    return path, value.strip()


def fulfils(
    event: RecordedEvent, conditions: Sequence[Condition], nowhere: set[JsonPath] | None = None
) -> bool:
    """Whether an event has each of the values. One that is not JSON has none.

    `nowhere`: paths that led to nothing so far; those that lead to something here are removed.
    """
    try:
        roots = {
            root: loads(event.data) if root == "data" else metadata_of(event)
            for root in {path.root for path, _ in conditions}
        }
    except orjson.JSONDecodeError:
        return False
    for path in [*nowhere] if nowhere else ():
        if any(True for _ in _found(roots[path.root], path.steps)):
            assert nowhere is not None
            nowhere.discard(path)
    return all(
        any(_is(found, value) for found in _found(roots[path.root], path.steps))
        for path, value in conditions
    )


def metadata_of(event: RecordedEvent) -> dict[str, Any]:
    """An event's metadata, with numbers as they are written. Raises orjson.JSONDecodeError."""
    value = loads(event.metadata) if event.metadata else None
    return value if isinstance(value, dict) else {}


def leads_nowhere(path: JsonPath, events: int) -> NothingFound:
    """The error where a path led to nothing in these events, most often by a mistake in it."""
    first, rest = str(path.steps[0]), path.steps[1:]
    such = "customer.email=…"
    if path.root == "data" and rest and first in ("data", "metadata"):
        such = f"{'metadata:' * (first == 'metadata')}{written(rest)}=…"
    return NothingFound(
        f"of the events that were looked at ({events:,}), none has anything at the path {path}",
        hint=f"A path begins inside of the data, such as {such}; one into the metadata begins with "
        "metadata:",
    )


def _found(value: Any, steps: Steps) -> Iterator[Any]:
    """The values that a path leads to; those in a list at its end, too, as `erase` takes them."""
    if not steps:
        if isinstance(value, list):
            for each in value:
                yield from _found(each, ())
        else:
            yield value
        return
    step, rest = steps[0], steps[1:]
    if step is Wild.BELOW:
        yield from _found(value, rest)
        for each in _members(value):
            yield from _found(each, steps)
    elif step is Wild.EVERY:
        for each in _members(value):
            yield from _found(each, rest)
    elif isinstance(value, dict) and str(step) in value:
        yield from _found(value[str(step)], rest)
    elif isinstance(value, list) and isinstance(step, int) and step < len(value):
        yield from _found(value[step], rest)


def _members(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _is(found: Any, value: str) -> bool:
    """Whether a value in JSON is what was asked for; numbers however they are written."""
    if isinstance(found, str):
        return found == value
    if found is None or isinstance(found, bool):
        return value == {None: "null", True: "true", False: "false"}[found]
    if isinstance(found, int | float):
        try:
            return Decimal(str(found)) == Decimal(value)
        except ArithmeticError:
            return False
    return False
