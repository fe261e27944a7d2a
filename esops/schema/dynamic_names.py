"""Objects whose members' names are data, though they do not look like it: `{"Ann": 3, "Bob": 1}`.

Each such payload would be a shape of its own. Where a type has very many shapes, an object in which
more than a few hundred names were seen counts as a map: all its members are `[*]`. Which objects
that are depends on the payloads alone, not on their order.
"""

from __future__ import annotations

from collections.abc import Iterable

from esops.json_paths import Steps, Wild
from esops.schema.shapes import Fields, PayloadShape

NAMES = 200
"""An object with more names than this counts as a map."""


class DynamicNames:
    """Which objects of a type's payloads count as maps."""

    def __init__(self) -> None:
        """None; and nothing is looked at before `learn`."""
        self.used = False
        self.maps: set[Steps] = set()
        self.everything = False
        """Whether there are too many shapes even so: all are one."""
        self._names: dict[Steps, set[object]] = {}
        self._known: dict[str, PayloadShape] = {}

    def learn(self, shapes: Iterable[PayloadShape]) -> bool:
        """Look at the names in some shapes. Returns whether there are more maps than before."""
        self.used = True
        before = len(self.maps)
        pending = list(shapes)
        while True:
            found = len(self.maps)
            for shape in pending:
                self._note(self._without_names(shape.fields))
            if len(self.maps) == found:
                break
        if len(self.maps) > before:
            self._known.clear()
            return True
        return False

    def _note(self, fields: Fields) -> None:
        for steps, _ in fields:
            if steps and steps[-1] is not Wild.EVERY and steps[:-1] not in self.maps:
                names = self._names.setdefault(steps[:-1], set())
                names.add(steps[-1])
                if len(names) > NAMES:
                    self.maps.add(steps[:-1])
                    del self._names[steps[:-1]]

    def shape(self, shape: PayloadShape) -> PayloadShape:
        """A shape with `[*]` for all names of such an object."""
        if self.everything:
            return _ALL
        if not self.maps:
            return shape
        found = self._known.get(shape.hash)
        if found is None:
            found = self._known[shape.hash] = PayloadShape(self._without_names(shape.fields))
        return found

    def _without_names(self, fields: Fields) -> Fields:
        if not self.maps:
            return fields
        return frozenset((self._path(steps), type_) for steps, type_ in fields)

    def _path(self, steps: Steps) -> Steps:
        made: Steps = ()
        for step in steps:
            made = (*made, Wild.EVERY if made in self.maps else step)
        return made


_ALL = PayloadShape([((), "object")])
"""Stands for all shapes of a type that has too many of them."""
