"""The values at one place of a payload and all below it, taken many at a time.

Payloads of one shape have the same members, so a place is a column: whole lists of values go down
the tree, not one value after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from esops.schema.inferring.scalars import NumberColumn, TextColumn
from esops.schema.shapes import MOST_MEMBERS, is_data

_DEEPEST = 60
"""What lies deeper is not described."""


class ValueNode:
    """What was seen at one place."""

    __slots__ = (
        "arrays", "data", "deeper", "items", "least", "members", "most", "numbers", "objects",
        "present", "rest", "texts", "types",
    )  # fmt: skip

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.types: set[str] = set()
        """JSON's types; an integer is a type of its own."""
        self.texts = TextColumn()
        self.numbers = NumberColumn()
        self.members: dict[str, ValueNode] = {}
        self.present: dict[str, int] = {}
        """In how many objects each member is."""
        self.objects = 0
        self.data: ValueNode | None = None
        """The members whose names are data, such as ids."""
        self.rest: ValueNode | None = None
        """Of a map: all members. One object with very many of them shows that it is one, or many
        objects that have very many in all.
        """
        self.items: ValueNode | None = None
        self.arrays = 0
        self.least, self.most = 1 << 60, 0
        """Elements of an array."""
        self.deeper = False
        """Whether there was more below than is described."""

    def take(self, values: list[Any], depth: int = 0) -> None:
        """Some more values; at least one."""
        kinds = set(map(type, values))
        if len(kinds) == 1:
            self._take(kinds.pop(), values, depth)
            return
        for kind in kinds:
            self._take(kind, [each for each in values if type(each) is kind], depth)

    def _take(self, kind: type, values: list[Any], depth: int) -> None:
        if kind is str:
            self.types.add("string")
            self.texts.take(values)
        elif kind is bool:
            self.types.add("boolean")
        elif kind is type(None):
            self.types.add("null")
        elif kind is dict:
            self._objects(values, depth)
        elif kind is list:
            self._arrays(values, depth)
        else:
            self.types.add("integer" if kind is int else "number")
            self.numbers.take(values)

    def _objects(self, values: list[dict[str, Any]], depth: int) -> None:
        self.types.add("object")
        self.objects += len(values)
        if depth >= _DEEPEST:
            self.deeper = self.deeper or any(values)
            return
        for names, alike in _by_names(values):
            if self.rest is None and len(names) > MOST_MEMBERS:
                self._become_map()
            for name in names if self.rest is None else ():
                column = [each[name] for each in alike]
                if is_data(name):
                    self.data = self.data or ValueNode()
                    self.data.take(column, depth + 1)
                else:
                    self._member(name).take(column, depth + 1)
                    self.present[name] = self.present.get(name, 0) + len(alike)
            if len(self.members) > MOST_MEMBERS:
                self._become_map()
            elif self.rest is not None and names:
                self.rest.take(list(chain.from_iterable(map(dict.values, alike))), depth + 1)

    def _member(self, name: str) -> ValueNode:
        known = self.members.get(name)
        if known is None:
            known = self.members[name] = ValueNode()
        return known

    def _become_map(self) -> None:
        self.rest = ValueNode()
        for each in (*self.members.values(), *filter(None, [self.data])):
            self.rest.absorb(each)
        self.members, self.present, self.data = {}, {}, None

    def absorb(self, other: ValueNode) -> None:
        """Take all that another node has seen."""
        self.types |= other.types
        self.texts.absorb(other.texts)
        self.numbers.absorb(other.numbers)
        self.deeper = self.deeper or other.deeper
        self.arrays += other.arrays
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)
        self.objects += other.objects
        for name, each in other.members.items():
            self._member(name).absorb(each)
            self.present[name] = self.present.get(name, 0) + other.present[name]
        for name in ("data", "rest", "items"):
            if (theirs := getattr(other, name)) is not None:
                mine = getattr(self, name) or ValueNode()
                mine.absorb(theirs)
                setattr(self, name, mine)
        if self.rest is not None and (self.members or self.data):
            kept = self.rest
            self._become_map()
            self.rest.absorb(kept)

    def _arrays(self, values: list[list[Any]], depth: int) -> None:
        self.types.add("array")
        self.arrays += len(values)
        lengths = set(map(len, values))
        self.least, self.most = min(self.least, *lengths), max(self.most, *lengths)
        if depth >= _DEEPEST:
            self.deeper = self.deeper or any(values)
            return
        elements = list(chain.from_iterable(values))
        if elements:
            self.items = self.items or ValueNode()
            self.items.take(elements, depth + 1)


def _by_names(values: list[dict[str, Any]]) -> Iterable[tuple[tuple[str, ...], list[Any]]]:
    """Objects with the same members, in the same order, together."""
    found: dict[tuple[str, ...], list[Any]] = {}
    for each in values:
        found.setdefault(tuple(each), []).append(each)
    return found.items()
