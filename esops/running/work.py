"""What a runner works on, and how it is steered and watched from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from esops.events import EventFilter, Position
from esops.projections.definition import Definition
from esops.readmodel import locks
from esops.running.throttle import Throttle
from esops.settings import ProjectionSettings
from esops.stores.base import Batch

Reader = Callable[[Position | None, Position, EventFilter], Iterator[Batch] | None]
"""Reads events after a position up to another; gives None where the runner is to read itself."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a runner has done so far: events applied by it, up to a position; not all of them need
    be committed yet.
    """

    events: int
    position: Position | None
    doing: str = ""
    """What it does beside applying events, as writing rows, or what it waits for."""
    paused: bool = False
    """Whether the time of that counts for no rate: it waits, or sorts events into files."""


@dataclass(frozen=True, slots=True)
class RunControl:
    """How a runner is steered and watched.

    `stop` is asked between two batches. `say` gets messages, `report` the progress some ten times
    a second, and after each commit. `look` is called before events are read, with the position
    after which. Without a `throttle` the runner opens one without limits of its own, which still
    obeys `esops projection pause` and `throttle`. `read` gives events that somebody else reads.
    """

    stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda _: None
    report: Callable[[Progress], None] = lambda _: None
    look: Callable[[Position | None], None] = lambda _: None
    throttle: Throttle | None = None
    read: Reader = lambda *_: None


@dataclass(frozen=True, slots=True)
class Work:
    """What a runner needs to know: the version, its code, and which events it is made of."""

    projection: str
    version: int
    definition: Definition
    filter: EventFilter
    on_error: str
    cache: int
    """Bytes of memory for the rows of a first load: see ProjectionSettings."""
    commit_events: int | None = None
    """At most this many events a checkpoint; None leaves it to time and memory."""
    shard: tuple[int, int] | None = None
    """Only this share of the streams (which one, of how many), with a checkpoint of its own."""
    begins_with: tuple[str, ...] = ()
    """Types of events that the code can begin a stream with."""
    spill: Path = Path()
    """Where a first load may write events whose keys do not fit into memory."""
    spill_limit: int = 0
    """How many bytes it may write there; 0: none."""

    @classmethod
    def on(
        cls,
        projection: str,
        version: int,
        definition: Definition,
        settings: ProjectionSettings,
        commit_events: int | None = None,
        shard: tuple[int, int] | None = None,
    ) -> Work:
        """Work on a version, as its projection is configured."""
        configured = (settings.filter, settings.on_error, settings.cache)
        return cls(
            projection,
            version,
            definition,
            *configured,
            commit_events,
            shard,
            settings.begins_with,
            settings.spill_directory,
            settings.spill_limit,
        )

    @property
    def lock(self) -> str:
        """The name of the lock of the one process that does this work."""
        name = locks.version_lock(self.projection, self.version)
        return name if self.shard is None else f"{name}:{self.shard[0]}"

    @property
    def events(self) -> EventFilter:
        """Which events are read."""
        return replace(self.filter, shard=self.shard or self.filter.shard)
