"""One inference: a store's events are read, and files are written into a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esops.errors import Stopped
from esops.schema.inferring.generated import FileState, PlannedFile, SchemaFolder
from esops.schema.inferring.personal import PersonalSuspicion
from esops.schema.inferring.run import InferredSchema, SchemaInference
from esops.schema.reading import EventSelection, Progress, SchemaReader
from esops.schema.selected import check_names
from esops.stores.base import EventStore, Unsettled


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What to look at, and what to write."""

    selection: EventSelection
    whole: bool = True
    """Whether the store shows all tenants."""
    strict: bool = False
    values: bool = True
    prune: bool = False
    force: bool = False


@dataclass(slots=True)
class InferredType:
    """One event type."""

    type: str
    folder: str = ""
    """Where its files are; empty where it has none of these."""
    events: int = 0
    shapes: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Under the documented names."""
        return {"type": self.type, "events": self.events, "shapes": self.shapes}


@dataclass
class InferenceResult:
    """What was found, and written."""

    store: str
    events: int
    types: Sequence[InferredType]
    files: Sequence[PlannedFile]
    suspects: dict[tuple[str, str], PersonalSuspicion]
    """By type and path."""
    by_hand: dict[str, str]
    """The types that were left out, since somebody wrote a file for them."""
    short: Unsettled | None = None

    def in_state(self, state: FileState) -> list[PlannedFile]:
        """The files of which this became."""
        return [each for each in self.files if each.state == state]

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        gone = ("absent", "removed")
        return {
            "store": self.store,
            "events": self.events,
            "complete": self.short is None,
            "files": [str(each.path) for each in self.files if each.state not in gone],
            "written": [str(each.path) for each in self.in_state("written")],
            "edited": [str(each.path) for each in self.in_state("edited")],
            "absent": [str(each.path) for each in self.in_state("absent")],
            "removed": [str(each.path) for each in self.in_state("removed")],
            "types": [each.as_dict() for each in self.types],
            "types_with_own_files": self.by_hand,
            "personal_data": [
                {"type": type_, "path": path, **suspicion.as_dict()}
                for (type_, path), suspicion in sorted(self.suspects.items())
            ],
        }


def infer_schemas(
    store: EventStore,
    folder: Path,
    request: InferenceRequest,
    progress: Progress = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> InferenceResult:
    """Read the events, and write a file for each type and shape.

    Raises Stopped before anything is written, BadSchemaFile for a file in the folder that is no
    JSON Schema, UsageError where the selection names nothing, and Unavailable.
    """
    there = SchemaFolder(folder)
    check_names(store, request.selection)
    inference = SchemaInference()
    reader = SchemaReader(store, request.selection, progress, stop=stop)
    for events in reader.batches():
        inference.take(events)
    if reader.stopped:
        raise Stopped("nothing was written: not all events were read")
    found = list(inference.schemas(strict=request.strict, values=request.values))
    by_hand = {}
    if not request.force:
        by_hand = {s.type: there.by_hand[s.type] for s in found if s.type in there.by_hand}
    types: dict[str, InferredType] = {}
    files = []
    for each in found:
        known = types.setdefault(each.type, InferredType(each.type))
        known.events += each.events
        shape = {"shape": each.shape, "events": each.events, "file": None}
        known.shapes.append(shape)
        # A file cannot name a type that has no name.
        if each.type and each.type not in by_hand:
            file = there.write(each.type, each.shape, each.document, force=request.force)
            shape["file"], known.folder = str(file.path), str(file.path.parent)
            files.append(file)
    files += _absent(there, found, request, whole=reader.short is None)
    suspects = {(s.type, path): each for s in found for path, each in s.suspects.items()}
    return InferenceResult(
        store.name, reader.events, list(types.values()), files, suspects, by_hand, reader.short
    )


def _absent(
    there: SchemaFolder, found: Sequence[InferredSchema], request: InferenceRequest, *, whole: bool
) -> list[PlannedFile]:
    """The files of shapes that no event has, where all events of their types were read."""
    if not whole or not request.whole or request.selection.category is not None:
        return []
    shapes = [(each.type, each.shape) for each in found]
    return there.absent(shapes, request.selection.types or None, remove=request.prune)
