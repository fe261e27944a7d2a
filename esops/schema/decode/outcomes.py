"""What becomes of events that an application's code decodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from esops.events import RecordedEvent
from esops.schema.shapes import JsonType

DifferenceKind = Literal["lost", "added", "changed"]
DecodeStep = Literal["decode", "encode"]


class NotDecoded(NamedTuple):
    """One event on which the code failed."""

    at: int
    """Its place among the events that were given."""
    error: str
    """The class of the exception, or what happened to the process."""
    message: str
    """Without the values of the event."""
    full_message: str
    where: str = ""
    """Where the code raised it, as far as that is known."""
    fatal: bool = False
    """Whether the code's process ended by it, or had to be ended."""
    not_tried: bool = False
    """Whether it was not given to the code, since events like it have ended the process."""
    step: DecodeStep = "decode"
    """Which of the two functions failed."""


class RoundTripDifference(NamedTuple):
    """One place at which the encoded event is not what was stored."""

    kind: DifferenceKind
    path: str
    stored: JsonType | None
    encoded: JsonType | None


class NotTheSame(NamedTuple):
    """One event that is not the same after decoding and encoding."""

    at: int
    found: Sequence[RoundTripDifference]


@dataclass
class DecodeOutcome:
    """What became of some events; all others were decoded, and are the same."""

    failures: list[NotDecoded] = field(default_factory=list)
    differences: list[NotTheSame] = field(default_factory=list)
    lone_ends: int = 0
    """How often the code's process ended, and no event by itself ended it again."""


MOST_LONE_ENDS = 3
"""Ends of a process, while it had some events, that are no event's; more of them are an error."""


def not_tried(at: int) -> NotDecoded:
    """What becomes of an event that is not given to the code."""
    return NotDecoded(at, "", "", "", not_tried=True)


class EventDecoder(Protocol):
    """The application's code, ready to decode; used by one thread at a time."""

    fingerprint: str
    """Of the code, as far as it can be seen."""

    def decode(self, events: Sequence[RecordedEvent]) -> DecodeOutcome:
        """Give the code some events. Raises UsageError where it cannot be run at all."""
        ...

    def stop(self) -> None:
        """End the process at once, whatever it is at. For another thread than the one that uses
        it, which then raises Stopped.
        """
        ...

    def close(self) -> None:
        """End the process, and release all."""
        ...
