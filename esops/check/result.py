"""What a check found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from esops.check.checks import KEPT_KEYS, WrongKey
from esops.check.sample import RATE, chance, in_words
from esops.events import Position
from esops.rebuild.verification.result import Verification

SAMPLES = 50
"""Rows that are shown as examples, and keys that could not be checked."""


@dataclass
class KeyFindings:
    """What some keys came to, or all of them so far."""

    keys: int = 0
    again: int = 0
    """How many of them were not drawn, but found wrong by an earlier check."""
    differing: int = 0
    missing: int = 0
    surplus: int = 0
    columns: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[WrongKey] = field(default_factory=list)
    """The keys of the rows that differ, up to a bound."""
    unchecked: dict[tuple[str, ...], str] = field(default_factory=dict)
    """The first keys of which nobody knows the row, and why."""
    unknown: int = 0
    """How many there are of those."""
    doubtful: set[tuple[str, ...]] = field(default_factory=set)
    """Their keys, up to a bound."""

    def add(
        self, table: str, found: Verification, wrong: Sequence[WrongKey], *, several: bool
    ) -> None:
        """Add what a comparison came to: blue is what serves, green what the events make."""
        self.differing += found.differing
        self.missing += found.only_green
        self.surplus += found.only_blue
        for name, rows in found.columns.items():
            self.columns[f"{table}.{name}" if several else name] += rows
        for each in found.samples[: SAMPLES - len(self.samples)]:
            self.samples.append(_sample(table, each, several))
        self.wrong += wrong[: max(0, KEPT_KEYS - len(self.wrong))]

    def merge(self, other: KeyFindings) -> None:
        """Add what other keys came to."""
        self.keys += other.keys
        self.again += other.again
        self.differing += other.differing
        self.missing += other.missing
        self.surplus += other.surplus
        self.columns.update(other.columns)
        self.samples += other.samples[: SAMPLES - len(self.samples)]
        self.wrong += other.wrong[: max(0, KEPT_KEYS - len(self.wrong))]
        self.unknown += other.unknown
        for key in other.doubtful:
            self._doubt(key)
        for key, reason in other.unchecked.items():
            if len(self.unchecked) < SAMPLES:
                self.unchecked.setdefault(key, reason)

    def skip(self, key: tuple[str, ...], reason: str) -> None:
        """Note a key of which nobody knows the row."""
        self.unknown += 1
        self._doubt(key)
        if len(self.unchecked) < SAMPLES:
            self.unchecked[key] = reason

    def _doubt(self, key: tuple[str, ...]) -> None:
        if len(self.doubtful) < KEPT_KEYS:
            self.doubtful.add(key)


def _sample(table: str, sample: Mapping[str, Any], several: bool) -> dict[str, Any]:
    key = sample["key"]
    shown = next(iter(key.values())) if len(key) == 1 else key
    return {
        **({"table": table} if several else {}),
        "key": shown,
        "served": sample["blue"],
        "folded": sample["green"],
        "from_version": None,
    }


@dataclass
class CheckResult:
    """A check of one version: what was asked for, what it found, and where it is recorded."""

    projection: str
    version: int | None
    check: int | None
    """Its number in `esops.checks`; None where this role may not record it."""
    asked: Mapping[str, Any]
    found: KeyFindings = field(default_factory=KeyFindings)
    position: Position | None = None
    of: int | None = None
    """How many keys there are; None where that is not known."""
    sampled: bool = False
    without_row: int = 0
    """Keys that were named and have no row on either side."""
    healed: int = 0
    events: int = 0
    """How many events were read for it."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def finds(self) -> dict[str, float] | None:
        """What a sample would have found; None where it was none."""
        if not self.sampled:
            return None
        probability = chance(RATE, self.found.keys - self.found.again, self.of)
        return {"rate": RATE, "probability": probability}

    @property
    def finds_in_words(self) -> str | None:
        """The same for a person."""
        finds = self.finds
        return None if finds is None else in_words(finds["rate"], finds["probability"])

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        found = self.found
        return {
            "check": self.check,
            "projection": self.projection,
            "version": self.version,
            "position": None if self.position is None else str(self.position),
            "keys": found.keys,
            "of": self.of,
            "differing": found.differing,
            "missing": found.missing,
            "surplus": found.surplus,
            "columns": dict(found.columns),
            "samples": found.samples,
            "unchecked": found.unknown,
            "unchecked_samples": [
                {"key": key[0] if len(key) == 1 else list(key), "reason": reason}
                for key, reason in found.unchecked.items()
            ],
            "healed": self.healed,
            "finds": self.finds,
            "asked": dict(self.asked),
            "events": self.events,
            "seconds": round(self.seconds, 3),
            "notes": self.notes,
        }
