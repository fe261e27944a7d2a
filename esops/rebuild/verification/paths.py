"""Paths into JSON columns: `data._version`, `data.items[*].at`, `data.lines.*.price`,
`data."a key"[0]`.

`.key` is a key of an object, `.*` each of its keys, `[0]` an element of an array, `[*]` each of
them. They are cut out in the server (as SQL); differences are found here (of parsed JSON).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from esops.errors import UsageError

EACH_KEY, EACH_ITEM = ".*", "[*]"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of an object."""

    name: str

    def __str__(self) -> str:
        """As in a path, quoted only where that is needed."""
        return f".{self.name if _PLAIN.fullmatch(self.name) else json.dumps(self.name)}"


@dataclass(frozen=True, slots=True)
class Item:
    """An element of an array, counted from 0."""

    at: int

    def __str__(self) -> str:
        """As in a path."""
        return f"[{self.at}]"


Step = Key | Item | str
"""A str is EACH_KEY or EACH_ITEM."""
Steps = tuple[Step, ...]
_PLAIN = re.compile(r"[^\W\d][\w$-]*")
_STEP = re.compile(r'\.(\*|"(?:[^"\\]|\\.)*"|[^.\["*]+)|\[(\*|\d+)\]')


def parse_steps(text: str, entry: str) -> Steps:
    """Read what follows a column's name in an entry of `verify`. Raises UsageError."""
    steps: list[Step] = []
    at = 0
    while at < len(text):
        found = _STEP.match(text, at)
        if found is None:
            raise UsageError(
                f"verify names {entry!r}, which is not a path into JSON from {text[at:]!r} on",
                hint='Write data.customer.name, data.items[*].at, data.lines.*.price or data."a '
                'key"[0].',
            )
        key, item = found.groups()
        if key is not None:
            steps.append(
                EACH_KEY if key == "*" else Key(json.loads(key) if key.startswith('"') else key)
            )
        else:
            steps.append(EACH_ITEM if item == "*" else Item(int(item)))
        at = found.end()
    return tuple(steps)


def split_name(entry: str, columns: Sequence[str]) -> tuple[str, Steps] | None:
    """A column, and the path into it, that an entry of `verify` names; None where there is no such
    column.

    A column may have dots in its own name: the longest name that fits is the column's. Raises
    UsageError.
    """
    fitting = [
        name for name in columns if entry == name or entry.startswith((f"{name}.", f"{name}["))
    ]
    if not fitting:
        return None
    column = max(fitting, key=len)
    return column, parse_steps(entry[len(column) :], entry)


def written(column: str, steps: Sequence[Step]) -> str:
    """A path as `verify` takes it."""
    return column + "".join(map(str, steps))


# -- in the server


def without(value: sql.Composable, steps: Steps, depth: int = 0) -> sql.Composable:
    """A jsonb without what is at a path, as SQL."""
    v, alias = sql.Identifier(f"p{depth}", "v"), sql.Identifier(f"p{depth}")
    step, rest = steps[0], steps[1:]
    then: sql.Composable
    if isinstance(step, Key):
        kind, name = "object", sql.Literal(step.name)
        if rest:
            there = sql.SQL("{} -> {}::text").format(v, name)
            then = sql.SQL(
                "CASE WHEN {v} ? {name} THEN jsonb_set({v}, ARRAY[{name}], {inner}) ELSE {v} END"
            ).format(v=v, name=name, inner=without(there, rest, depth + 1))
        else:
            then = sql.SQL("{} - {}::text").format(v, name)
    elif isinstance(step, Item):
        kind, number = "array", sql.Literal(step.at)
        if rest:
            there = sql.SQL("{} -> {}").format(v, number)
            then = sql.SQL(
                "CASE WHEN jsonb_array_length({v}) > {at} THEN jsonb_set({v}, ARRAY[{at}::text], "
                "{inner}) ELSE {v} END"
            ).format(v=v, at=number, inner=without(there, rest, depth + 1))
        else:
            then = sql.SQL("{} - {}").format(v, number)
    else:
        kind = "object" if step == EACH_KEY else "array"
        then = _each(step, v, lambda each: without(each, rest, depth + 1) if rest else None, depth)
    # OFFSET keeps the planner from computing the value wherever it is named.
    return sql.SQL(
        "(SELECT CASE jsonb_typeof({v}) WHEN {kind} THEN {then} ELSE {v} END "
        "FROM (SELECT {value} AS v OFFSET 0) AS {alias})"
    ).format(v=v, kind=sql.Literal(kind), then=then, value=value, alias=alias)


def picked(value: sql.Composable, steps: Steps, depth: int = 0) -> sql.Composable:
    """What is at a path of a jsonb, as SQL: each value in an array of its own, an empty array where
    there is none, and both at their places in what a `*` goes through.
    """
    if not steps:
        return sql.SQL("jsonb_build_array({})").format(value)
    v, alias = sql.Identifier(f"p{depth}", "v"), sql.Identifier(f"p{depth}")
    step, rest = steps[0], steps[1:]
    then: sql.Composable
    if isinstance(step, Key):
        kind, name = "object", sql.Literal(step.name)
        inner = picked(sql.SQL("{} -> {}::text").format(v, name), rest, depth + 1)
        then = sql.SQL("CASE WHEN {} ? {} THEN {} ELSE '[]' END").format(v, name, inner)
    elif isinstance(step, Item):
        kind, number = "array", sql.Literal(step.at)
        inner = picked(sql.SQL("{} -> {}").format(v, number), rest, depth + 1)
        then = sql.SQL("CASE WHEN jsonb_array_length({}) > {} THEN {} ELSE '[]' END").format(
            v, number, inner
        )
    else:
        kind = "object" if step == EACH_KEY else "array"
        then = _each(step, v, lambda each: picked(each, rest, depth + 1), depth)
    return sql.SQL(
        "(SELECT CASE jsonb_typeof({v}) WHEN {kind} THEN {then} ELSE '[]' END "
        "FROM (SELECT {value} AS v OFFSET 0) AS {alias})"
    ).format(v=v, kind=sql.Literal(kind), then=then, value=value, alias=alias)


def _each(step: str, v: sql.Composable, inner: Any, depth: int) -> sql.Composable:
    """An object or array made again, with `inner` of each value; empty where that is None."""
    name = f"q{depth}"
    made = inner(sql.Identifier(name, "value"))
    if step == EACH_KEY:
        if made is None:
            return sql.SQL("'{{}}'::jsonb").format()
        return sql.SQL(
            "(SELECT coalesce(jsonb_object_agg({q}.key, {made}), '{{}}') FROM jsonb_each({v}) AS "
            "{q})"
        ).format(q=sql.Identifier(name), made=made, v=v)
    if made is None:
        return sql.SQL("'[]'::jsonb")
    return sql.SQL(
        "(SELECT coalesce(jsonb_agg({made} ORDER BY {q}.n), '[]') FROM jsonb_array_elements({v}) "
        "WITH ORDINALITY AS {q} (value, n))"
    ).format(q=sql.Identifier(name), made=made, v=v)


# -- of parsed JSON

MISSING = object()
"""What stands for a value that one side does not have."""


def differences(blue: Any, green: Any, steps: Steps = ()) -> Iterator[tuple[Steps, Any, Any]]:
    """Where two parsed JSON values differ, with what is there on both sides, or MISSING."""
    if isinstance(blue, dict) and isinstance(green, dict):
        for key in sorted(blue.keys() | green.keys()):
            yield from differences(
                blue.get(key, MISSING), green.get(key, MISSING), (*steps, Key(key))
            )
    elif isinstance(blue, list) and isinstance(green, list):
        for at in range(max(len(blue), len(green))):
            old, new = (side[at] if at < len(side) else MISSING for side in (blue, green))
            yield from differences(old, new, (*steps, Item(at)))
    # To Python, true is 1.
    elif isinstance(blue, bool) is not isinstance(green, bool) or blue != green:
        yield steps, blue, green


def generalised(steps: Steps) -> Steps:
    """A path with `[*]` for each place in an array, as it would be put into `verify.ignore`."""
    return tuple(EACH_ITEM if isinstance(step, Item) else step for step in steps)
