"""The comparison of one or several old sets of schemas with a new one, as a mode asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from esops.errors import UsageError, nearest
from esops.schema.compare import SetComparison, compare_sets
from esops.schema.files import SchemaSet
from esops.schema.rules import BACKWARD, FORWARD, Direction
from esops.schema.sources import FromStore, read_source, read_sources

CompatMode = Literal["backward", "forward", "full"]
_DIRECTIONS: dict[CompatMode, tuple[Direction, ...]] = {
    "backward": (BACKWARD,),
    "forward": (FORWARD,),
    "full": (BACKWARD, FORWARD),
}
COLUMNS = ("old", "type", "path", "kind", "breaks", "detail", "from", "unproven")


@dataclass(frozen=True)
class CompareRequest:
    """What is asked for."""

    old: Sequence[str]
    """As `sources` reads them; more than one: each is compared with the new one."""
    new: str
    mode: CompatMode = "backward"
    types: tuple[str, ...] = ()
    """Only these event types; none: all."""
    strict: bool = False


@dataclass
class Comparisons:
    """What was found, for each old set."""

    mode: CompatMode
    sets: list[SetComparison]

    @property
    def directions(self) -> tuple[Direction, ...]:
        """What the mode asks for."""
        return _DIRECTIONS[self.mode]

    @property
    def compatible(self) -> bool:
        """Whether it is proven that nothing breaks."""
        return all(each.compatible(self.directions) for each in self.sets)

    @property
    def changes(self) -> bool:
        """Whether there is any change."""
        return any(each.changes for each in self.sets)

    def change_rows(self) -> Iterator[dict[str, Any]]:
        """Each change, with the old set that it is against."""
        for each in self.sets:
            for change in each.changes:
                row = change.as_dict()
                yield {"old": each.old, **row}

    def as_dict(self) -> dict[str, Any]:
        """The fields of `--output json`."""
        return {
            "mode": self.mode,
            "compatible": self.compatible,
            "changes": list(self.change_rows()),
            "comparisons": [each.as_dict(self.directions) for each in self.sets],
        }


def compare(
    request: CompareRequest, from_store: FromStore, folder: Path | None = None
) -> Comparisons:
    """Compare. Paths and revisions are seen from `folder`, the working directory by default. Raises
    UsageError where a side cannot be read or has none of the types.
    """
    here = folder or Path.cwd()
    new = read_source(request.new, request.old[0], here, from_store)
    sets = [
        each for text in request.old for each in read_sources(text, request.new, here, from_store)
    ]
    _check_types(request.types, [new, *sets])
    found = [
        compare_sets(each.only(request.types), new.only(request.types), strict=request.strict)
        for each in sets
    ]
    return Comparisons(request.mode, found)


def _check_types(types: Sequence[str], sets: Sequence[SchemaSet]) -> None:
    known = {name for each in sets for name in each.types}
    for each in types:
        if each not in known:
            raise UsageError(
                f"there is no schema for event type {each!r}", hint=nearest(each, known)
            )
