"""The fingerprint of a projection's code: whether a version was built by the code of today."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from esops.errors import UsageError
from esops.projections.code_nodes import differing
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
from esops.projections.other_process import unsteady
from esops.projections.plain_values import plain
from esops.projections.python_code import filled_graph, hashes_of
from esops.projections.second_fingerprint import SecondGraph
from esops.readmodel.types import CHECKPOINT

if TYPE_CHECKING:
    from esops.settings import ProjectionSettings

_SECOND, _NOW = "2:", "3:"
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

        Python: the functions and what they use of the project, as `CodeGraph` finds it: first a
        hash of the text, and after a point one with the values. A statement: its text. A program:
        its command and the content of the files that the command names. All: the event filter, and
        the files of `fingerprint`. What the application builds has the name of its checkpoint as
        fingerprint.

        Raises UsageError where a file of `fingerprint` cannot be read.
        """
        match self.definition:
            case ExternalDefinition():
                return CHECKPOINT + self.definition.checkpoint
            case FoldDefinition() | Handlers():
                code = hashes_of(self.definition, self.settings.python, self.directory)
                return f"{_NOW}{self._digest(code.text)}.{code.values.hex()[:16]}"
            case SqlDefinition():
                return _NOW + self._digest(self.definition.text.encode())
            case ProcessDefinition():
                return _NOW + self._digest(*_program(self.definition))

    def made(self, kept: str | None) -> bool:
        """Whether a version with this fingerprint was built by this code.

        One of an earlier way is compared by that way: what it does not see counts as the same.
        """
        if kept is not None and is_earlier(kept):
            return kept == (self._second() if ":" in kept else first_fingerprint(self.definition))
        return kept == self.fingerprint or self._differs_by_process(kept)

    def has_same_text(self, kept: str | None) -> bool:
        """Whether a fingerprint is of the same text, whatever its values are."""
        text, point, _ = (kept or "").partition(".")
        return bool(point) and text == self.fingerprint.partition(".")[0]

    def names(self) -> dict[str, str]:
        """A hash of what each name of the project's modules stands for that the code uses."""
        match self.definition:
            case FoldDefinition() | Handlers():
                found = hashes_of(self.definition, self.settings.python, self.directory)
                return found.by_name
        return {}

    def text_hash(self) -> str:
        """A hash of the text of the code alone, without the filter, the files and all values."""
        match self.definition:
            case FoldDefinition() | Handlers():
                found = hashes_of(self.definition, self.settings.python, self.directory)
                return digest(found.text).hex()[:16]
            case SqlDefinition():
                return digest(self.definition.text.encode()).hex()[:16]
            case ProcessDefinition():
                return digest(*_program(self.definition)).hex()[:16]
            case _:
                return self.definition.checkpoint

    def file_hashes(self) -> dict[str, str]:
        """A hash of each file of `fingerprint`, by its path as seen from esops.toml."""
        return {
            Path(os.path.relpath(path, self.directory)).as_posix(): digest(path.read_bytes()).hex()[
                :16
            ]
            for path in self._files()
        }

    def others(self, names: Mapping[str, str]) -> list[str]:
        """The names that stand for something else than where `names` was called."""
        return differing(self.names(), names)

    def _differs_by_process(self, kept: str | None) -> bool:
        """Whether only values differ, and some of them are others in each process."""
        if not self.has_same_text(kept):
            return False
        return bool(unsteady(self.definition, self.settings, self.directory))

    def _second(self) -> str:
        match self.definition:
            case FoldDefinition() | Handlers():
                graph = filled_graph(
                    SecondGraph, self.definition, self.settings.python, self.directory
                )
                return _SECOND + self._digest(graph.hash())
            case SqlDefinition():
                return _SECOND + self._digest(" ".join(self.definition.text.split()).encode())
            case _:
                return _SECOND + self.fingerprint.removeprefix(_NOW)

    def _digest(self, *code: bytes) -> str:
        return digest(*code, *self._more()).hex()[:16]

    def _more(self) -> Iterator[bytes]:
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


def is_earlier(kept: str | None) -> bool:
    """Whether a fingerprint is of an earlier way of esops', which did not see all of the code."""
    if kept is None or kept.startswith(CHECKPOINT):
        return False
    return ":" not in kept or kept.startswith(_SECOND)


def _program(definition: ProcessDefinition) -> Iterator[bytes]:
    for word in definition.command:
        yield word.encode()
        path = definition.directory / word
        yield path.read_bytes() if path.is_file() else b""
