"""What `esops plan` says of one projection, and of all of them in a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from esops.errors import EsopsError

Needs = Literal["nothing", "rebuild", "switch", "look"]
"""`look`: a person has to, since no rebuild and no switch is the answer."""
_SAID_ONLY = {"settings", "projection"}
"""What may stay unknown while nothing has to be done: it is said. The rows are those of the code
and the DDL that are known; or a projection belongs to another esops.toml.
"""


@dataclass
class ProjectionChange:
    """A projection, and what is other than in the version that serves."""

    projection: str
    version: int | None = None
    """The version that serves."""
    changed: dict[str, str] = field(default_factory=dict)
    """What differs (function, ddl, events, …), each with what is known of it."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Of what nobody knows whether it differs, and why."""
    wrong: dict[str, str] = field(default_factory=dict)
    """What is wrong with what serves, whatever its code (log, lost, gone, readers, rows)."""
    needs: Needs = "nothing"
    waiting: int | None = None
    """The version that the code of today has built, and that waits for its switch."""
    only_indexes: bool = False
    statements: Sequence[str] = ()
    """Where only indexes differ: what would be enough instead of a rebuild."""
    events: int | None = None
    seconds: float | None = None
    bytes: int | None = None
    """Estimates of the rebuild."""
    notes: list[str] = field(default_factory=list)
    error: EsopsError | None = None
    """Why it is not known what differs."""

    @property
    def settled(self) -> bool:
        """Whether nothing has to be done, and that is known."""
        known = not set(self.unknown) - _SAID_ONLY
        return self.needs == "nothing" and known and self.error is None

    @property
    def has_to_be_looked_at(self) -> bool:
        """Whether neither a rebuild nor a switch is what it needs, and something is."""
        return self.error is None and self.needs in ("nothing", "look") and not self.settled

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "projection": self.projection,
            "version": self.version,
            "changed": list(self.changed),
            "details": dict(self.changed),
            "unknown": dict(self.unknown),
            "wrong": dict(self.wrong),
            "needs": self._needs(),
            "settled": self.settled,
            "waiting": self.waiting,
            "only_indexes": self.only_indexes,
            "statements": list(self.statements),
            "events": self.events,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "bytes": self.bytes,
            "notes": list(self.notes),
            "error": None if self.error is None else self.error.message,
        }

    def _needs(self) -> Needs | None:
        if self.error is not None:
            return None
        return "look" if self.has_to_be_looked_at else self.needs


def in_a_line(found: Sequence[ProjectionChange]) -> str:
    """All of it in one line, the last one of a plan."""
    changed = [each for each in found if each.changed and each.error is None]
    parts = []
    if changed:
        names = ", ".join(f"{each.projection} ({', '.join(each.changed)})" for each in changed)
        parts.append(f"{len(changed)} changed: {names}")
    elif all(each.settled for each in found):
        known = " known" if any(each.unknown for each in found) else ""
        parts.append(f"nothing{known} has changed")
    rebuilt = [each for each in found if each.needs == "rebuild" and each.error is None]
    indexed = sum(each.only_indexes for each in rebuilt)
    whole, waiting = (
        len(rebuilt) - indexed,
        sum(e.needs == "switch" and e.error is None for e in found),
    )
    failed = sum(each.error is not None for each in found)
    wrong = sum(each.error is None and bool(each.wrong) for each in found)
    unknown = sum(each.error is None and not each.settled and bool(each.unknown) for each in found)
    parts += [f"{whole} need{'s' if whole == 1 else ''} a rebuild"] if whole else []
    if indexed:
        needs = "" if whole else f" need{'s' if indexed == 1 else ''}"
        parts.append(f"{indexed}{needs} only a new index")
    parts += [f"{waiting} wait{'s' if waiting == 1 else ''} for a switch"] if waiting else []
    parts += [f"what serves is wrong in {wrong}"] if wrong else []
    parts += [f"of {unknown} it is not known"] if unknown else []
    parts += [f"{failed} could not be looked at"] if failed else []
    return parts[0] + ("; " + ", ".join(parts[1:]) if parts[1:] else "")


def to_rebuild(found: Sequence[ProjectionChange]) -> list[str]:
    """The projections that need a rebuild.

    Raises the first error: nothing is begun where it is not known what has to be.
    """
    for each in found:
        if each.error is not None:
            raise each.error
    return [each.projection for each in found if each.needs == "rebuild"]
