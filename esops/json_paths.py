"""Paths into an event's data or metadata: `$.customer.email`, `items[*].name`, `$..phone`,
`metadata:$.userName`.

A path begins in the data, or in the metadata with `metadata:`. The `$` may be left out. `[*]` and
`.*` stand for each element or member, `..` for anything at any depth below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import Enum
from operator import eq
from typing import Literal, NamedTuple

Root = Literal["data", "metadata"]
_METADATA = "metadata:"
_STEP = re.compile(
    r"""
      (?P<below>\.\.) (?P<deep>[^.\[\]*'"=\s]+)
    | \. (?P<every>\*)
    | \.? (?P<name>[^.\[\]*'"=\s]+)
    | \[ (?P<each>\*) \]
    | \[ (?P<index>\d+) \]
    | \[ ' (?P<single>[^']*) ' \]
    | \[ " (?P<double>[^"]*) " \]
    """,
    re.VERBOSE,
)


class Wild(Enum):
    """A step that stands for several."""

    EVERY = "*"
    """Each member of an object, each element of an array."""
    BELOW = ".."
    """The value itself, and all that is in it at any depth."""


Step = str | int | Wild
Steps = tuple[Step, ...]


class JsonPath(NamedTuple):
    """A path, and the document that it begins in."""

    root: Root
    steps: Steps

    def __str__(self) -> str:
        """The path as it can be read again."""
        return (_METADATA if self.root == "metadata" else "") + written(self.steps)


def parse_path(text: str) -> JsonPath:
    """Read a path. Raises ValueError that shows the forms."""
    rest, root = text.strip(), "data"
    if rest.startswith(_METADATA):
        rest, root = rest.removeprefix(_METADATA), "metadata"
    rest = rest.removeprefix("$")
    steps = tuple(_steps(rest, text))
    return JsonPath("metadata" if root == "metadata" else "data", steps)


def split_condition(text: str) -> tuple[JsonPath, str]:
    """Read `JSONPATH=VALUE`. Raises ValueError, which does not show the value."""
    quote = ""
    for at, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and text[at - 1 : at] == "[":
            quote = character
        elif character == "=":
            if not text[at + 1 :]:
                raise ValueError("there is no value after the `=`")
            return parse_path(text[:at]), text[at + 1 :]
    raise ValueError("there is no `=` in it: write it like 'customerId=42'")


def _steps(rest: str, whole: str) -> Iterator[Step]:
    at = 0
    while at < len(rest):
        found = _STEP.match(rest, at)
        if found is None or (at and found["name"] and rest[at] != "."):
            break
        at = found.end()
        if found["below"]:
            yield Wild.BELOW
            yield found["deep"]
        elif found["every"] or found["each"]:
            yield Wild.EVERY
        elif found["index"]:
            yield int(found["index"])
        else:
            yield next(
                found[group] for group in ("name", "single", "double") if found[group] is not None
            )
    if not rest or at < len(rest):
        raise ValueError(
            f"{whole!r} is not a path: write it like $.customer.email, $.items[*].name, $..phone "
            "or metadata:$.userName"
        )


def written(steps: Steps) -> str:
    """Steps as text: `$.items[0].name`."""
    text = "$"
    for before, step in zip((None, *steps), steps, strict=False):
        if step is Wild.BELOW:
            text += ".."
        elif step is Wild.EVERY:
            text += "[*]"
        elif isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[^.\[\]*'\"=\s]+", str(step)):
            text += str(step) if before is Wild.BELOW else f".{step}"
        else:
            text += f"['{step}']"
    return text


def within(
    steps: Steps, at: tuple[str, ...], same: Callable[[Step, str], bool] = eq
) -> list[Steps]:
    """What is left of a path below some keys, once for each way that it leads there; `()` where it
    ends at or above them. `same` compares a step with a key.
    """
    rests = [steps]
    for key in at:
        rests = [left for rest in rests for left in _below(rest, key, same)]
    return rests


def _below(steps: Steps, key: str, same: Callable[[Step, str], bool]) -> Iterator[Steps]:
    if not steps:
        yield ()
    elif steps[0] is Wild.BELOW:
        yield steps
        if len(steps) > 1 and same(steps[1], key):
            yield steps[2:]
    elif steps[0] is Wild.EVERY or same(steps[0], key):
        yield steps[1:]
