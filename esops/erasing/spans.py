"""JSON with the places of its values in the text, so that one value can be replaced and each other
byte stays as it was.

Numbers are never read as numbers: what a decimal or a long integer looks like is not changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from json import decoder
from typing import Any

from esops.erasing.forms import alike, composed
from esops.json_paths import Step, Steps, Wild

_DEEPEST = 400
_BLANK = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = ("true", "false", "null")
_WRAPPER = {"_type_", "_data_"}


class NotJson(ValueError):
    """The text is not JSON, or too deep to be read."""


def may_be_too_deep(text: str) -> bool:
    """A quick look at whether a text may have more levels than `scan` reads."""
    return text.count("[") + text.count("{") > _DEEPEST


@dataclass(slots=True)
class JsonNode:
    """A value: where it is in the text, and what is in it."""

    start: int
    end: int
    text: str | None
    """Of a string what it says, of a number or word how it is written; None for others."""
    string: bool = False
    object: bool = False
    members: list[tuple[str | int, int, JsonNode]] = field(default_factory=list)
    """Key or index, where the key (or element) begins, and the value."""

    @property
    def null(self) -> bool:
        """Whether it is the word null."""
        return self.text == "null" and not self.string

    @property
    def wrapped(self) -> JsonNode | None:
        """What the Python library eventsourcing has wrapped as {"_type_": …, "_data_": …}."""
        if self.object and {key for key, _, _ in self.members} == _WRAPPER:
            return next(node for key, _, node in self.members if key == "_data_")
        return None


def scan(text: str) -> JsonNode:
    """Read JSON. Raises NotJson."""
    try:
        node = _value(text, _blank(text, 0), 0)
    except (ValueError, IndexError) as error:
        raise NotJson(str(error)) from None
    if _blank(text, node.end) != len(text):
        raise NotJson("there is more after the end")
    return node


def _blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found is not None else at


def _value(text: str, at: int, depth: int) -> JsonNode:
    if depth > _DEEPEST:
        raise NotJson("it is too deep")
    character = text[at]
    if character == '"':
        value, end = _string(text, at)
        return JsonNode(at, end, value, string=True)
    if character in "{[":
        return _container(text, at, depth)
    for word in _WORDS:
        if text.startswith(word, at):
            return JsonNode(at, at + len(word), word)
    found = _NUMBER.match(text, at)
    if found is None:
        raise NotJson(f"no value begins at character {at}")
    return JsonNode(at, found.end(), found[0])


def _container(text: str, start: int, depth: int) -> JsonNode:
    node = JsonNode(start, start, None, object=text[start] == "{")
    closing = "}" if node.object else "]"
    at = _blank(text, start + 1)
    while text[at] != closing:
        begins, key = at, len(node.members)
        name: str | int = key
        if node.object:
            if text[at] != '"':
                raise NotJson(f"no key begins at character {at}")
            name, at = _string(text, at)
            at = _blank(text, at)
            if text[at] != ":":
                raise NotJson(f"no colon at character {at}")
            at = _blank(text, at + 1)
        value = _value(text, at, depth + 1)
        node.members.append((name, begins, value))
        at = _blank(text, value.end)
        if text[at] == ",":
            at = _blank(text, at + 1)
            if text[at] == closing:
                raise NotJson(f"nothing after the comma at character {at}")
        elif text[at] != closing:
            raise NotJson(f"no comma at character {at}")
    node.end = at + 1
    return node


def _string(text: str, at: int) -> tuple[str, int]:
    # Python's own, for its escapes; its types do not list it.
    scanned: Any = decoder.scanstring  # type: ignore[attr-defined]
    value, end = scanned(text, at + 1, False)
    return str(value), int(end)


def found(node: JsonNode, steps: Steps, *, wrapped: bool = False) -> Iterator[JsonNode]:
    """The values that a path leads to, each once. `wrapped`: through the library's wrappers."""
    seen: set[int] = set()
    for each in _found(node, steps, wrapped):
        if each.start not in seen:
            seen.add(each.start)
            yield each


def _found(node: JsonNode, steps: Steps, wrapped: bool) -> Iterator[JsonNode]:
    if not steps:
        yield node
        return
    inner = node.wrapped if wrapped else None
    if inner is not None and steps[0] not in _WRAPPER:
        yield from _found(inner, steps, wrapped)
        return
    step, rest = steps[0], steps[1:]
    if step is Wild.BELOW:
        yield from _found(node, rest, wrapped)
        for _, _, member in node.members:
            yield from _found(member, steps, wrapped)
        return
    for key, _, member in node.members:
        if _leads(step, key):
            yield from _found(member, rest, wrapped)


def _leads(step: Step, key: str | int) -> bool:
    if step is Wild.EVERY:
        return True
    if not isinstance(step, str) or not isinstance(key, str):
        return type(step) is type(key) and step == key
    return step == key or (not step.isascii() and composed(step) == composed(key))


def leaves(node: JsonNode, at: Steps = ()) -> Iterator[tuple[Steps, JsonNode]]:
    """All strings, numbers and words of a value, each with its path."""
    if node.text is not None:
        yield at, node
    for key, _, member in node.members:
        yield from leaves(member, (*at, key))


def twins(
    node: JsonNode, steps: Steps, at: Steps = (), *, wrapped: bool = False
) -> Iterator[tuple[Steps, JsonNode]]:
    """The values that a path would lead to if keys were written in another way: Email, e_mail."""
    if not steps:
        if not node.null:
            yield at, node
        return
    inner = node.wrapped if wrapped else None
    if inner is not None and steps[0] not in _WRAPPER:
        yield from twins(inner, steps, (*at, "_data_"), wrapped=True)
        return
    step, rest = steps[0], steps[1:]
    if step is Wild.BELOW:
        yield from twins(node, rest, at, wrapped=wrapped)
    for key, _, member in node.members:
        if step is Wild.BELOW:
            yield from twins(member, steps, (*at, key), wrapped=wrapped)
        elif _leads(step, key) or alike(step, key):
            yield from twins(member, rest, (*at, key), wrapped=wrapped)


def keys(node: JsonNode) -> Iterator[str]:
    """All keys of objects in a value."""
    for key, _, member in node.members:
        if isinstance(key, str):
            yield key
        yield from keys(member)


def without(text: str, steps: Steps) -> str:
    """The text without the members of objects that a path leads to."""
    while True:
        node = scan(text)
        wanted = {each.start for each in found(node, steps)}
        place = next(_members(node, wanted), None)
        if place is None:
            return text
        parent, number = place
        _, begins, member = parent.members[number]
        if number + 1 < len(parent.members):
            text = text[:begins] + text[parent.members[number + 1][1] :]
        elif number:
            text = text[: parent.members[number - 1][2].end] + text[member.end :]
        else:
            text = text[: parent.start + 1] + text[parent.end - 1 :]


def _members(node: JsonNode, wanted: set[int]) -> Iterator[tuple[JsonNode, int]]:
    """Objects, and the numbers of their members whose values begin at these places."""
    for number, (_, _, member) in enumerate(node.members):
        if node.object and member.start in wanted:
            yield node, number
        yield from _members(member, wanted)
