"""The fingerprint of a projection's code: whether a version was built by the code of today."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from esops.errors import UsageError
from esops.projections.code_graph import CodeGraph
from esops.projections.code_source import digest
from esops.projections.definition import (
    Definition,
    ExternalDefinition,
    FoldDefinition,
    Handlers,
    ProcessDefinition,
    SqlDefinition,
)
from esops.projections.first_fingerprint import first_fingerprint
from esops.projections.plain_values import plain
from esops.readmodel.types import CHECKPOINT

if TYPE_CHECKING:
    from esops.settings import ProjectionSettings

_NOW = "2:"
"""Before the fingerprint: by which of esops' ways it was made. Those of the first have nothing."""


@dataclass(frozen=True)
class Code:
    """A projection's code, with what else decides about its rows: its filter and its files."""

    definition: Definition
    settings: ProjectionSettings
    directory: Path
    """Where esops.toml is."""

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the code that a projection runs.

        Python: the functions and what they use of the project, as `CodeGraph` finds it. A
        statement: its text. A program: its command and the content of the files that the command
        names. All: the event filter, and the files of `fingerprint`. What the application builds
        has the name of its checkpoint as fingerprint.

        Raises UsageError where a file of `fingerprint` cannot be read.
        """
        if isinstance(self.definition, ExternalDefinition):
            return CHECKPOINT + self.definition.checkpoint
        return _NOW + digest(*self._parts()).hex()[:16]

    def made(self, kept: str | None) -> bool:
        """Whether a version with this fingerprint was built by this code.

        One of the first way is compared by that way: what it does not see counts as the same.
        """
        if is_first(kept):
            return kept == first_fingerprint(self.definition)
        return kept == self.fingerprint

    def _parts(self) -> Iterator[bytes]:
        match self.definition:
            case FoldDefinition() | Handlers():
                yield _python(self.definition, self.settings.python, self.directory)
            case SqlDefinition():
                # Spaces and line breaks do not count.
                yield " ".join(self.definition.text.split()).encode()
            case ProcessDefinition():
                for word in self.definition.command:
                    yield word.encode()
                    path = self.definition.directory / word
                    yield path.read_bytes() if path.is_file() else b""
        events = self.settings.filter
        yield plain((frozenset(events.types), events.category, events.archived)) or b""
        for path in self._files():
            yield Path(os.path.relpath(path, self.directory)).as_posix().encode()
            yield path.read_bytes()

    def _files(self) -> list[Path]:
        found: set[Path] = set()
        for pattern in self.settings.fingerprint:
            one = self.directory / pattern
            files = {one} if one.is_file() else set(self.directory.glob(pattern))
            files = {each for each in files if each.is_file()}
            if not files:
                raise UsageError(
                    f"fingerprint: there is no file {pattern!r} in {self.directory}",
                    hint="Correct the name, or remove it from `fingerprint`.",
                )
            found |= files
        return sorted(found)


def is_first(kept: str | None) -> bool:
    """Whether a fingerprint is of esops' first way, which did not see all of the code."""
    return kept is not None and ":" not in kept and not kept.startswith(CHECKPOINT)


_known: dict[int, tuple[Definition, bytes]] = {}


def _python(definition: FoldDefinition | Handlers, reference: str, directory: Path) -> bytes:
    """The hash of a definition as it was when it was first asked for: while it works, the code may
    fill caches of its own, which are no change of the code.
    """
    if id(definition) not in _known:
        _known[id(definition)] = (definition, _hashed(definition, reference, directory))
    return _known[id(definition)][1]


def _hashed(definition: FoldDefinition | Handlers, reference: str, directory: Path) -> bytes:
    module, _, name = reference.partition(":")
    graph = CodeGraph(module, directory)
    if name and getattr(sys.modules.get(module), name, None) is definition:
        graph.add_name(module, name)
    match definition:
        case FoldDefinition():
            graph.add([definition.evolve, definition.key])
        case Handlers():
            graph.add(definition.functions)
    return graph.hash()
