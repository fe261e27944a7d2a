"""What failed, in groups: by type, shape, exception and message; and what is not the same after
decoding and encoding, by type, path and kind.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import orjson

from esops.events import RecordedEvent
from esops.schema.decode.outcomes import (
    DecodeOutcome,
    DecodeStep,
    NotDecoded,
    RoundTripDifference,
)
from esops.schema.decode.plain_shapes import PlainShapes
from esops.schema.shapes import JsonType

SAMPLES = 3
MOST_GROUPS = 1_000
"""Of failures, and of differences; what more of them there are is counted."""

_COUNTS = ("failed", "not_tried", "differing", "adding", "lone_ends", "left_out")


@dataclass
class EventSample:
    """Where an event is."""

    stream: str
    version: int
    position: str
    tenant: str = ""
    bytes: int = 0
    payload: Any = None
    """Only where it is to be shown."""

    @classmethod
    def of(cls, event: RecordedEvent, *, show: bool = False) -> Self:
        """The sample of an event; with its payload where `show` says so."""
        payload = _shown(event.data) if show else None
        place = str(event.position)
        return cls(event.stream, event.version, place, event.tenant, len(event.data), payload)

    def as_dict(self, *, whole: bool = False) -> dict[str, Any]:
        """Under the documented field names; `whole`: with what is in it."""
        made = dict(vars(self))
        if not whole or self.payload is None:
            del made["payload"]
        if not whole:
            del made["bytes"]
        if not self.tenant:
            del made["tenant"]
        return made


def _shown(data: bytes) -> Any:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return {"base64": base64.b64encode(data).decode()}
    return orjson.Fragment(data)


@dataclass
class DecodeFailures:
    """Events that fail alike."""

    type: str
    shape: str
    error: str
    message: str
    where: str = ""
    step: DecodeStep = "decode"
    events: int = 0
    not_tried: int = 0
    """More events of this type and shape, which were not given to the code any more."""
    ends: int = 0
    """How often the code's process ended by it, or had to be ended."""
    samples: list[EventSample] = field(default_factory=list)
    smallest: EventSample | None = None
    full_message: str | None = None
    """As the code said it of the smallest one; only where that is to be shown."""

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        made = {
            **vars(self),
            "samples": [each.as_dict() for each in self.samples],
            "smallest": self.smallest.as_dict(whole=True) if self.smallest else None,
        }
        del made["ends"]
        if self.full_message is None:
            del made["full_message"]
        return made


@dataclass
class RoundTripDifferences:
    """Events in which a round trip changes the same place in the same way."""

    type: str
    kind: str
    path: str
    stored: JsonType | None
    encoded: JsonType | None
    events: int = 0
    samples: list[EventSample] = field(default_factory=list)
    smallest: EventSample | None = None

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            **vars(self),
            "samples": [each.as_dict() for each in self.samples],
            "smallest": self.smallest.as_dict(whole=True) if self.smallest else None,
        }


class DecodeGroups:
    """All that was found, in bounded memory. Outcomes are added in the order of the log."""

    def __init__(self, shapes: PlainShapes, *, show: bool) -> None:
        """`show`: whether samples keep payloads and whole messages."""
        self._show = show
        self._shapes = shapes
        self.failures: dict[tuple[str, ...], DecodeFailures] = {}
        self.differences: dict[tuple[Any, ...], RoundTripDifferences] = {}
        self.failed = self.not_tried = self.differing = self.lone_ends = 0
        self.adding = 0
        """Events that get more fields by a round trip."""
        self.left_out = 0
        """Events that failed or differ, and are in no group, since there are too many groups."""

    def add(self, events: Sequence[RecordedEvent], outcome: DecodeOutcome) -> None:
        """Take in what became of some events."""
        self.lone_ends += outcome.lone_ends
        for each in outcome.failures:
            self._failure(events[each.at], each)
        for differing in outcome.differences:
            lost = any(counts(each) for each in differing.found)
            self.differing += lost
            self.adding += any(not counts(each) for each in differing.found)
            for difference in differing.found:
                self._difference(events[differing.at], difference)

    def _failure(self, event: RecordedEvent, each: NotDecoded) -> None:
        shape = self._shapes.hash(event.data)
        if each.not_tried:
            self.not_tried += 1
            for one in self.failures.values():
                if (one.type, one.shape) == (event.type, shape) and one.ends:
                    one.not_tried += 1
                    return
            self.left_out += 1
            return
        self.failed += 1
        key = (event.type, shape, each.error, each.message, each.step)
        group = self.failures.get(key)
        if group is None:
            if len(self.failures) >= MOST_GROUPS:
                self.left_out += 1
                return
            group = self.failures[key] = DecodeFailures(*key[:4], where=each.where, step=each.step)
        group.ends += each.fatal
        if self._sampled(group, event) and self._show:
            group.full_message = each.full_message

    def _difference(self, event: RecordedEvent, difference: RoundTripDifference) -> None:
        key = (event.type, *difference)
        group = self.differences.get(key)
        if group is None:
            if len(self.differences) >= MOST_GROUPS:
                self.left_out += 1
                return
            group = self.differences[key] = RoundTripDifferences(event.type, *difference)
        self._sampled(group, event)

    def _sampled(self, group: DecodeFailures | RoundTripDifferences, event: RecordedEvent) -> bool:
        """Count an event; whether it is the smallest so far."""
        group.events += 1
        if len(group.samples) < SAMPLES:
            group.samples.append(EventSample.of(event))
        if group.smallest is None or len(event.data) < group.smallest.bytes:
            group.smallest = EventSample.of(event, show=self._show)
            return True
        return False

    def listed(self) -> tuple[list[DecodeFailures], list[RoundTripDifferences]]:
        """The groups, those of most events first."""
        return (
            sorted(self.failures.values(), key=lambda each: (-each.events, each.type, each.shape)),
            sorted(
                self.differences.values(),
                key=lambda each: (each.kind == "added", -each.events, each.type, each.path),
            ),
        )

    def ends(self) -> Iterator[tuple[str, str, int]]:
        """Types and shapes of which events ended the code's process, and how often."""
        return ((each.type, each.shape, each.ends) for each in self.failures.values() if each.ends)

    # -- kept between runs, without payloads

    def document(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "failures": [_kept(each) for each in self.failures.values()],
            "differences": [_kept(each) for each in self.differences.values()],
        }

    def load(self, document: Mapping[str, Any]) -> None:
        """Take over what `document` made."""
        for name in _COUNTS:
            setattr(self, name, document[name])
        for fields in document["failures"]:
            failure = DecodeFailures(**_samples_of(fields))
            self.failures[
                failure.type, failure.shape, failure.error, failure.message, failure.step
            ] = failure
        for fields in document["differences"]:
            group = RoundTripDifferences(**_samples_of(fields))
            self.differences[group.type, group.kind, group.path, group.stored, group.encoded] = (
                group
            )


def counts(difference: RoundTripDifference | RoundTripDifferences) -> bool:
    """Whether a difference is a finding: what new code adds to old events is none."""
    return difference.kind != "added"


def _kept(group: DecodeFailures | RoundTripDifferences) -> dict[str, Any]:
    made = asdict(group)
    made.pop("full_message", None)
    for sample in (*made["samples"], made["smallest"]):
        if sample is not None:
            sample["payload"] = None
    return made


def _samples_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    smallest = fields["smallest"]
    return {
        **fields,
        "samples": [EventSample(**each) for each in fields["samples"]],
        "smallest": None if smallest is None else EventSample(**smallest),
    }
