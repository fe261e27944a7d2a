"""What events break, grouped by event type, path and rule; with counts and coordinates."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from esops.events import RecordedEvent
from esops.schema.checking.rules import BrokenRule

SAMPLES = 5
"""Events that are named of each group: the first ones."""
MOST_PATHS = 200
"""Groups of one type and rule; what is at other paths counts at `$`."""


@dataclass(frozen=True, slots=True)
class EventCoordinates:
    """Where an event is; no more of it."""

    stream: str
    version: int
    position: str
    tenant: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Under the documented names."""
        found = {"stream": self.stream, "version": self.version, "position": self.position}
        return {**found, "tenant": self.tenant} if self.tenant else found


def coordinates_of(event: RecordedEvent) -> EventCoordinates:
    """Where an event is."""
    return EventCoordinates(event.stream, event.version, str(event.position), event.tenant)


@dataclass(slots=True)
class ViolationGroup:
    """Events of one type that break one rule at one path."""

    type: str
    path: str
    rule: str
    file: str
    line: int
    events: int = 0
    samples: list[EventCoordinates] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Under the documented names."""
        return {
            "type": self.type,
            "path": self.path,
            "rule": self.rule,
            "events": self.events,
            "file": self.file,
            "line": self.line,
            "samples": [each.as_dict() for each in self.samples],
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> ViolationGroup:
        """What `as_dict` gave."""
        samples = [EventCoordinates(**each) for each in document["samples"]]
        return cls(**{**document, "samples": samples})


class Violations:
    """The groups. Their number is bounded, whatever names of members events have."""

    def __init__(self, groups: Iterable[ViolationGroup] = ()) -> None:
        """With what was found before."""
        self._groups: dict[tuple[str, str, str], ViolationGroup] = {}
        self._paths: dict[tuple[str, str], int] = {}
        for each in groups:
            self._groups[each.type, each.path, each.rule] = each
            self._paths[each.type, each.rule] = self._paths.get((each.type, each.rule), 0) + 1

    def add(self, event: RecordedEvent, broken: Collection[BrokenRule]) -> None:
        """Count an event once for each path and rule."""
        counted: set[int] = set()
        for each in sorted(broken):
            group = self._group(event.type, each)
            if id(group) in counted:
                continue
            counted.add(id(group))
            group.events += 1
            if len(group.samples) < SAMPLES:
                group.samples.append(coordinates_of(event))

    def drop(self, types: Collection[str]) -> None:
        """Forget what was found in events of these types."""
        self.__init__(each for each in self._groups.values() if each.type not in types)  # type: ignore[misc]

    def explains(self, group: ViolationGroup, broken: Collection[BrokenRule]) -> bool:
        """Whether what an event of a group breaks is the rule of the group, and otherwise only what
        other groups say as well.
        """
        keys = set()
        for each in broken:
            own = (group.type, each.path, each.rule)
            keys.add(own if own in self._groups else (group.type, "$", each.rule))
        return (group.type, group.path, group.rule) in keys and keys <= self._groups.keys()

    def listed(self) -> list[ViolationGroup]:
        """By type, path and rule."""
        return [self._groups[key] for key in sorted(self._groups)]

    def _group(self, type_: str, broken: BrokenRule) -> ViolationGroup:
        path, rule = broken.path, broken.rule
        found = self._groups.get((type_, path, rule))
        if found is not None:
            return found
        paths = self._paths.get((type_, rule), 0)
        if paths >= MOST_PATHS and path != "$":
            return self._group(type_, broken._replace(path="$"))
        self._paths[type_, rule] = paths + 1
        made = ViolationGroup(type_, path, rule, broken.file, broken.line)
        self._groups[type_, path, rule] = made
        return made
