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
_KNOWN, _MADE = 10_000, 1_000
"""Shapes that are held in memory: with the names of maps, and without."""


class DynamicNames:
    """Which objects of a type's payloads count as maps."""

    def __init__(self, maps: Iterable[Steps] = ()) -> None:
        """Those that are known already; nothing is looked at before `learn`, unless there are."""
        self.maps: set[Steps] = set(maps)
        self.used = bool(self.maps)
        self.everything = False
        """Whether there are too many shapes even so: all are one."""
        self._names: dict[Steps, set[object]] = {}
        self._known: dict[str, PayloadShape] = {}
        """By the hash of a shape with names."""
        self._made: dict[Fields, PayloadShape] = {}

    def learn(self, shapes: Iterable[PayloadShape]) -> bool:
        """Look at the names in some shapes. Returns whether there are more maps than before."""
        self.used = True
        before = self.maps
        for shape in shapes:
            self._note(shape.fields)
        if self.maps is before:
            return False
        self._known.clear()
        self._made.clear()
        return True

    def _note(self, fields: Fields) -> None:
        for steps, _ in fields:
            if steps and steps[-1] is not Wild.EVERY:
                inside = self._path(steps[:-1])
                if inside not in self.maps:
                    names = self._names.setdefault(inside, set())
                    names.add(steps[-1])
                    if len(names) > NAMES:
                        self._become_maps({inside})

    def _become_maps(self, new: set[Steps]) -> None:
        """What is known of the members of a map is known of all of them from now on."""
        while new:
            self.maps = self.maps | new
            self.maps = {self._path(each) for each in self.maps}
            before, self._names = self._names, {}
            for steps, names in before.items():
                inside = self._path(steps)
                if inside not in self.maps:
                    self._names.setdefault(inside, set()).update(names)
            new = {steps for steps, names in self._names.items() if len(names) > NAMES}

    def shape(self, shape: PayloadShape) -> PayloadShape:
        """A shape with `[*]` for all names of such an object."""
        if self.everything:
            return _ALL
        if not self.maps:
            return shape
        found = self._known.get(shape.hash)
        if found is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            fields = self._without_names(shape.fields)
            made = self._made.get(fields)
            if made is None:
                if len(self._made) >= _MADE:
                    self._made.clear()
                made = self._made[fields] = PayloadShape(fields)
            found = self._known[shape.hash] = made
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
