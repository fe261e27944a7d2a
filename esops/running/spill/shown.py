"""What rows show of columns and types in the log's order, for a spill, which has another order.

A fold sees the columns and types that rows of all keys have shown so far. A spill folds the keys of
a partition by themselves. So whoever begins one passes on when that changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esops.events import Position
from esops.readmodel.shards import LATE

Types = Mapping[str, str]
"""By column, the Python type that was written so far."""


@dataclass(frozen=True, slots=True)
class ShownSoFar:
    """What rows had shown when a spill began."""

    before: Types
    """What those in the table have shown, which are of no event of the spill."""
    changes: Sequence[tuple[Position, Types]] = ()
    """What all have shown after which event of the spill, whenever that changed: as far as they
    were folded in memory before.
    """

    @property
    def late(self) -> bool:
        """Whether a row has shown a column, or another type, that earlier rows had not."""
        changes = [types for _, types in self.changes]
        return not all(map(alike, changes, changes[1:]))

    def up_to(self, position: Position) -> list[tuple[Position, Types]]:
        """The changes by events up to a position."""
        return [each for each in self.changes if each[0] <= position]

    def as_json(self) -> dict[str, Any]:
        """For the spill's directory."""
        changes = [[str(position), dict(types)] for position, types in self.changes]
        return {"before": dict(self.before), "changes": changes}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> ShownSoFar:
        """Of what `as_json` made. Raises KeyError, TypeError or ValueError for anything else."""
        changes = [(Position.parse(position), dict(types)) for position, types in kept["changes"]]
        return cls(dict(kept["before"]), changes)


def alike(one: Types, other: Types) -> bool:
    """Whether no fold can tell these apart: None looks the same as any type. Of no row, there is
    nothing to see.
    """
    names, others = one.keys() - {LATE}, other.keys() - {LATE}
    if not names or not others:
        return True
    return names == others and all(
        one[name] == other[name] or "None" in {one[name], other[name]} for name in names
    )
