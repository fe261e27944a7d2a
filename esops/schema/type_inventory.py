"""The versions and shapes of one type of event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from esops.events import Position, RecordedEvent
from esops.json_paths import Steps, written
from esops.moments import Moment, moment
from esops.schema.dynamic_names import DynamicNames
from esops.schema.shapes import PayloadShape

MANY = 1_000
"""With more versions and shapes of a type than this, objects with very many names count as maps."""
MANY_PATHS = 200_000
"""And so with more paths than this in all of its shapes together."""
TOO_MANY = 5_000
"""If more than this are left, all are shown as one."""

FEW_EVENTS = 20
SHORT_WHILE = 86_400_000_000
"""Microseconds. After fewer events of a type, or less time, a version still counts as written."""


class Occurrence(NamedTuple):
    """One event: where it is, and when it was recorded."""

    position: Position
    stream: str
    version: int
    recorded_at: Moment | None
    tenant: str = ""

    @classmethod
    def of(cls, event: RecordedEvent, *, tenants: bool = True) -> Occurrence:
        """That of an event. `tenants`: whether to ask for its tenant."""
        columns = event.columns
        # The event's own position would make those of its whole batch.
        position = event.position if columns is None else columns.position_of(event.row)
        return cls(
            position, event.stream, event.version, event.moment, event.tenant if tenants else ""
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything under the documented field names."""
        tenant = {"tenant": self.tenant} if self.tenant else {}
        return {
            "position": str(self.position),
            "stream": self.stream,
            "version": self.version,
            "recorded_at": self.recorded_at,
            **tenant,
        }


class TypeVersion:
    """The events with one stored type, one explicit version and one shape. Written to for each
    event, so its attributes are bare.
    """

    __slots__ = (
        "at_turn", "bit", "bytes", "closed_since", "days", "events", "explicit", "first", "gap",
        "high", "last", "low", "number", "open_streams", "rows", "shape", "stored", "streams",
        "turned",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        stored: str,
        explicit: str | None,
        shape: PayloadShape,
        first: Occurrence,
    ) -> None:
        """Without an event. `number` is its bit in a stream's state; `first`: of its events."""
        self.number, self.bit = number, 1 << number
        self.stored, self.explicit, self.shape = stored, explicit, shape
        self.events = self.bytes = 0
        self.first = first
        self.last = first
        self.rows: list[int] = []
        """Those of the batch that is being read, by their places in it."""
        self.low: int | None = None
        self.high: int | None = None
        self.days: Counter[int] = Counter()
        """Events by the number of the day since 1970, where that was asked for."""
        self.at_turn = 0
        """How many events it had when it was last written after another one."""
        self.turned = 0
        """How many events of the type there were up to the last one of this."""
        self.gap = 0
        """The most events of the type that ever came between two of this."""
        self.streams = self.open_streams = self.closed_since = 0

    @property
    def key(self) -> tuple[str, str | None, str]:
        """What tells it from others of its type."""
        return self.stored, self.explicit, self.shape.hash

    @property
    def first_at(self) -> Moment | None:
        """The earliest time of its events."""
        return None if self.low is None else moment(self.low)

    @property
    def last_at(self) -> Moment | None:
        """The latest time of its events."""
        return None if self.high is None else moment(self.high)

    def take(self, other: TypeVersion) -> None:
        """Count the events of another one as its own."""
        self.events += other.events
        self.bytes += other.bytes
        self.rows, other.rows = sorted([*self.rows, *other.rows]), []
        self.first = min(self.first, other.first, key=lambda each: each.position)
        self.last = max(self.last, other.last, key=lambda each: each.position)
        lows = [each.low for each in (self, other) if each.low is not None]
        highs = [each.high for each in (self, other) if each.high is not None]
        self.low, self.high = min(lows, default=None), max(highs, default=None)
        self.days.update(other.days)
        self.turned, self.gap = max(self.turned, other.turned), max(self.gap, other.gap)


class TypeInventory:
    """One type, whatever version its stored name ends in, in the streams of one category."""

    def __init__(self, base: str, category: str | None, maps: Iterable[Steps] = ()) -> None:
        """Without an event. `maps`: objects that are known to be maps by names that are data."""
        self.base, self.category = base, category
        self.versions: dict[tuple[str, str | None, str], TypeVersion] = {}
        self.names = DynamicNames(maps)
        self.fields_left_out = False
        """Whether it has too many fields to tell the changes of all of them."""
        self._paths = 0
        """In all shapes that were looked at, as long as no names are."""
        self.current: TypeVersion | None = None
        """That of the newest event."""
        self._passed = 0
        """How many events there were before those that `current` has since its turn."""

    @property
    def events(self) -> int:
        """How many there are."""
        return sum(each.events for each in self.versions.values())

    @property
    def bytes(self) -> int:
        """What their payloads take."""
        return sum(each.bytes for each in self.versions.values())

    @property
    def first_at(self) -> Moment | None:
        """The earliest time of an event."""
        return moment(min(lows)) if (lows := self._of("low")) else None

    @property
    def last_at(self) -> Moment | None:
        """The latest time of an event."""
        return moment(max(highs)) if (highs := self._of("high")) else None

    @property
    def maps(self) -> list[str]:
        """The paths of objects whose names count as data."""
        return sorted(map(written, self.names.maps))

    def _of(self, end: str) -> list[int]:
        found = (getattr(each, end) for each in self.versions.values())
        return [each for each in found if each is not None]

    def turn(self, to: TypeVersion) -> None:
        """Another version comes: note how long it was not written."""
        before = self.current
        if before is not None:
            self._passed += before.events - before.at_turn
            before.turned = self._passed
        if to.events:
            to.gap = max(to.gap, self._passed - to.turned)
        to.at_turn = to.events
        self.current = to

    def superseded(self, version: TypeVersion) -> bool:
        """Whether a version seems not to be written any more: for a day and more, and for more
        events of the type than ever came between two of it. One event of another shape, such as
        the first of a deployment, does not show that nobody writes the old one.
        """
        if version is self.current:
            return False
        if self.events - version.turned <= max(version.gap, FEW_EVENTS):
            return False
        ends = self._of("high")
        return version.high is None or not ends or max(ends) - version.high >= SHORT_WHILE

    def ordered(self) -> list[TypeVersion]:
        """The versions by their first events."""
        return sorted(self.versions.values(), key=lambda each: (each.first.position, each.key))

    def gathered(self, new: TypeVersion) -> dict[TypeVersion, TypeVersion]:
        """With a new version: where there are too many, put those together that differ in names
        which are data. What each is counted with from now on; empty where nothing has changed.
        """
        shapes = [new.shape]
        if not self.names.used:
            self._paths += len(new.shape.fields)
            if len(self.versions) <= MANY and self._paths <= MANY_PATHS:
                return {}
            shapes = [each.shape for each in self.versions.values()]
        changed = self.names.learn(shapes)
        if not changed and len(self.versions) > TOO_MANY and not self.names.everything:
            self.names.everything = changed = True
        return self._put_together() if changed else {}

    def _put_together(self) -> dict[TypeVersion, TypeVersion]:
        before, current = self.ordered(), self.current
        if current is not None:
            self._passed += current.events - current.at_turn
        moved: dict[TypeVersion, TypeVersion] = {}
        self.versions = {}
        for each in before:
            each.shape = self.names.shape(each.shape)
            target = self.versions.setdefault(each.key, each)
            if target is not each:
                target.take(each)
            moved[each] = target
        if current is not None:
            self.current = moved[current]
            self.current.at_turn = self.current.events
        return moved
