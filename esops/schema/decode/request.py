"""What a run of `esops schema decode` is to do, and what it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esops.errors import EsopsError, UsageError
from esops.events import Position
from esops.schema.decode.comparing import RoundTripComparer
from esops.schema.decode.groups import DecodeGroups, counts
from esops.schema.reading import EventSelection
from esops.stores.base import Unsettled
from esops.wording import count

_ALL_ANYWAY = "Without it, all is read anyway."


@dataclass(frozen=True)
class DecodeRequest:
    """What to do."""

    directory: Path
    """Where the code is looked for: the folder of esops.toml."""
    python: str | None = None
    command: Sequence[str] = ()
    encode: str | None = None
    round_trip: bool = False
    ignored: Sequence[str] = ()
    """Paths that a round trip may change."""
    same_moments: bool = False
    """Whether a round trip may write a time in another form."""
    selection: EventSelection = field(default_factory=EventSelection)
    tenant: str | None = None
    workers: int = 1
    timeout: float = 30.0
    """Seconds that one event may take."""
    shapes_only: bool = False
    resume: bool = False
    since_last: bool = False
    from_start: bool = False
    """Whether to forget what was kept."""
    show_payload: bool = False

    @property
    def code(self) -> str:
        """What decodes, as a person knows it."""
        return self.python or " ".join(self.command)

    def check(self) -> None:
        """Raises UsageError for what does not go together."""
        if (self.python is None) == (not self.command):
            raise UsageError(
                "name the code that decodes the events, once",
                hint="Give --python MODULE:FUNCTION, or --command 'PROGRAM ARGUMENT…'.",
            )
        if self.encode is not None and self.python is None:
            raise UsageError(
                "--encode names a Python function, and goes with --python",
                hint="A program encodes by itself: give --round-trip.",
            )
        if self.round_trip and self.python is not None and self.encode is None:
            raise UsageError(
                "--round-trip needs the function that encodes, too",
                hint="Give --encode MODULE:FUNCTION: it gets what --python returned.",
            )
        try:
            RoundTripComparer.ignoring(self.ignored)
        except ValueError as error:
            raise UsageError(f"--ignore: {error}") from None
        if self.ignored and not (self.round_trip or self.encode):
            raise UsageError("--ignore is for a round trip", hint="Give --round-trip, too.")
        if self.same_moments and not (self.round_trip or self.encode):
            raise UsageError("--same-moments is for a round trip", hint="Give --round-trip, too.")
        if self.from_start and not self.since_last:
            raise UsageError("--from-start is for --since-last", hint=_ALL_ANYWAY)
        if self.from_start and self.resume:
            raise UsageError("--from-start and --resume contradict each other")
        if self.shapes_only and (self.resume or self.since_last):
            raise UsageError(
                "--shapes-only keeps no progress, so there is nothing for --resume or --since-last"
            )


@dataclass(frozen=True)
class DecodeHooks:
    """How a run speaks with whoever started it."""

    stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda _: None
    progress: Callable[[str, int, int | None], None] = lambda *_: None


@dataclass
class DecodeReport:
    """What a run found."""

    store: str
    code: str
    groups: DecodeGroups
    round_trip: bool
    shapes: int = 0
    """Distinct shapes, each counted for each type."""
    types: int = 0
    events: int = 0
    """Events that were given to the code: all, or with --shapes-only those of distinct shapes."""
    sampled: int = 0
    """Events of distinct shapes that were given to it first."""
    all_events: bool = True
    since: Position | None = None
    position: Position | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    short: Unsettled | None = None
    """Why the newest events are not in it; None if all are."""
    unkept: EsopsError | None = None
    """Why it could not be kept how far the run came."""
    more_shapes: bool = False
    """Whether there were more shapes than are decoded first."""
    failed_first: set[tuple[str, str]] = field(default_factory=set)
    """Types and shapes of which an event failed when it was decoded first, and none afterwards."""
    first_alone: bool = False
    """Whether of some shapes only the first event was decoded first, since events are large."""

    @property
    def notes(self) -> list[str]:
        """What a person should know, and is no finding."""
        ends = self.groups.lone_ends
        found = []
        if self.more_shapes:
            found.append(
                f"there are more than {self.shapes:,} distinct shapes, and no event of the others "
                "was decoded first"
            )
        if self.failed_first and not self.groups.left_out:
            found.append(
                f"events of {count(len(self.failed_first), 'shape')} failed when they were decoded "
                "first, and not among all events: what the code makes of an event depends on more "
                "than the event"
            )
        if self.first_alone:
            found.append(
                "the events of distinct shapes are too large to be held at once, so of some shapes "
                "only the first event was decoded first"
            )
        if not ends:
            return found
        often = "once" if ends == 1 else f"{ends:,} times"
        return [
            *found,
            (
                f"the code's process ended {often} in the middle of a batch, and decoded the same "
                "events afterwards"
            ),
        ]

    @property
    def findings(self) -> bool:
        """Whether the code cannot read all events."""
        groups = self.groups
        # Less than all that it says was done.
        untold = self.more_shapes and not self.all_events
        by_chance = self.failed_first and not groups.left_out
        return bool(groups.failed or groups.not_tried or groups.differing or untold or by_chance)

    def as_dict(self) -> dict[str, Any]:
        """Everything under the documented field names."""
        failures, differences = self.groups.listed()
        return {
            "store": self.store,
            "code": self.code,
            "types": self.types,
            "shapes": self.shapes,
            "events": self.events,
            "all_events": self.all_events,
            "failed": self.groups.failed,
            "not_tried": self.groups.not_tried,
            "failures": [each.as_dict() for each in failures],
            "round_trip": self.round_trip,
            "differing": self.groups.differing,
            "adding": self.groups.adding,
            "differences": [{**each.as_dict(), "finding": counts(each)} for each in differences],
            "left_out": self.groups.left_out,
            "since": None if self.since is None else str(self.since),
            "position": None if self.position is None else str(self.position),
            "complete": self.short is None,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "notes": self.notes,
        }
