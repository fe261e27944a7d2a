"""What a switch between versions that exist did, and what an operator accepts of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from esops.events import Position
from esops.rebuild.going_back import WentBack


@dataclass(frozen=True, slots=True)
class Switched:
    """What a switch did, or would do.

    `inside` names both projections (before, after) where they run inside the store; then there is
    no position.
    """

    projection: str
    from_version: int
    to_version: int
    position: Position | None
    statements: Sequence[str]
    inside: tuple[str, str] | None = None
    notes: Sequence[str] = ()
    """What a dry run says of the switch: what it carries over, and what keeps its old rows."""
    went_back: WentBack | None = None
    """What was done where the application writes the read model itself."""

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "projection": self.projection,
            "from_version": self.from_version,
            "to_version": self.to_version,
            "position": None if self.position is None else str(self.position),
            "statements": list(self.statements),
            "notes": list(self.notes),
            **({} if self.went_back is None else self.went_back.as_dict()),
        }


@dataclass(frozen=True, slots=True)
class Accepted:
    """What an operator accepts of a version that is to serve.

    `stale`: it is behind the one that serves now. `code`: other code than it was built by has
    advanced it. `dead_letters`: up to this many events, or P%, are missing from its rows.
    """

    stale: bool = False
    code: bool = False
    dead_letters: str = "0"


NOTHING_ACCEPTED = Accepted()
