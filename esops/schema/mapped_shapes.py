"""The shapes of payloads of which it is known which of their objects are maps by names that are
data, though the names do not look it: those names are neither part of a shape nor held.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from esops.json_paths import Step, Steps, Wild
from esops.schema.shapes import DEEPEST, MOST_MEMBERS, SHUT, Shapes, ShapeVariant, is_data


class _Place:
    """A path: whether there is a map, and which paths below it lead to maps."""

    __slots__ = ("below", "map")

    def __init__(self) -> None:
        self.map = False
        self.below: dict[Step, _Place] = {}


class MappedShapes(Shapes):
    """Gives the shape that `DynamicNames.shape` makes of the one of `Shapes`."""

    def __init__(self, maps: Iterable[Steps]) -> None:
        """`maps`: the paths of the maps."""
        super().__init__()
        self._root = _Place()
        for steps in maps:
            place = self._root
            for step in steps:
                place = place.below.setdefault(step, _Place())
            place.map = True

    def of_value(self, value: Any) -> ShapeVariant:
        """The variant of a decoded payload."""
        return self._of_node(self._below(value, 0, self._root))

    def _below(self, value: Any, depth: int, place: _Place | None) -> Any:
        kind = type(value)
        if place is None or (kind is not dict and kind is not list):
            return self._node(value, depth)
        if kind is list:
            within = place.below.get(Wild.EVERY)
            return self._known(frozenset(self._inner(each, depth, within) for each in value))
        if place.map or len(value) > MOST_MEMBERS:
            within = place.below.get(Wild.EVERY)
            kinds = frozenset(self._inner(each, depth, within) for each in value.values())
            return self._known((None, kinds))
        below = place.below
        in_order = tuple(
            self._inner(each, depth, below.get(Wild.EVERY if is_data(name) else name))
            for name, each in value.items()
        )
        return self._known((tuple(value), in_order))

    def _known(self, signature: Any) -> Any:
        return self._nodes.get(signature) or self._new(signature)

    def _inner(self, value: Any, depth: int, place: _Place | None) -> Any:
        """What stands for a value in the signature of what it is in."""
        kind = type(value)
        if kind is not dict and kind is not list:
            return kind
        if depth >= DEEPEST:
            return SHUT[kind]
        return self._below(value, depth + 1, place)
