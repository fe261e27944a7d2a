"""Schema files that esops writes and a person may edit: they live in git.

Each has a hash of its own content (`x-generated`). While that is right, nobody has edited the file,
and it may be replaced; otherwise it is a person's, and stays.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from esops.errors import UsageError, unwritten
from esops.schema.files import SchemaFile, json_files, read_schemas
from esops.term.result_file import write_page

GENERATED = "x-generated"
FileState = Literal["written", "unchanged", "edited", "absent", "removed"]
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_LONGEST = 80
"""Characters of a folder's name."""


def marked(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the hash of its content."""
    return {**document, GENERATED: _hash(document)}


def is_own(document: Mapping[str, Any]) -> bool:
    """Whether esops wrote a document, and nobody has edited it since."""
    return document.get(GENERATED) == _hash(document)


def _hash(document: Mapping[str, Any]) -> str:
    rest = {name: each for name, each in document.items() if name != GENERATED}
    # json, not orjson: a number that a person typed may have any length.
    text = json.dumps(rest, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def folder_name(type_: str, taken: Iterable[str]) -> str:
    """A folder's name for an event type that every file system takes. `taken` are those of other
    types: a file system may not tell their cases apart.
    """
    name = _UNSAFE.sub("_", type_).strip(".")[:_LONGEST].rstrip(".")
    safe = (
        bool(name) and name == type_ and not name.startswith("_") and not _RESERVED.fullmatch(name)
    )
    if safe and name.lower() not in {each.lower() for each in taken}:
        return name
    digits = hashlib.sha256(type_.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name.lstrip('_.') or 'type'}-{digits}"


def _check_writable(folder: Path) -> None:
    """Raises UsageError, before any event is read, where no file can be written into a folder."""
    there = next((each for each in (folder, *folder.absolute().parents) if each.exists()), folder)
    if not there.is_dir():
        raise UsageError(f"-o {folder} cannot be made: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"-o {folder} cannot be written: {os.strerror(errno.EACCES)}")


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One schema, and what becomes of its file."""

    path: Path
    type: str
    shape: str
    state: FileState


class SchemaFolder:
    """A directory of schema files, as it is now."""

    def __init__(self, folder: Path) -> None:
        """Raises BadSchemaFile for a file that is no JSON Schema."""
        self._folder = folder
        files: list[SchemaFile] = []
        _check_writable(folder)
        if folder.is_dir() and any(json_files(folder)):
            found = read_schemas(folder, only_parts=True)
            files = [each for known in found.types.values() for each in known.files]
        self._of_shape = {(f.type, f.shape): f for f in files if f.shape is not None}
        self._folders: dict[str, str] = {}
        for (type_, _), each in sorted(self._of_shape.items()):
            if len(each.path.parts) > 1:
                self._folders.setdefault(each.path.parts[0], type_)
        self.by_hand = {f.type: f.where for f in files if f.shape is None}
        """Types with a file that is for no shape: a person wrote it."""

    def path_of(self, type_: str, shape: str) -> Path:
        """Where the schema of a shape is, or is to be."""
        known = self._of_shape.get((type_, shape))
        if known is not None:
            return self._folder / known.path
        return self._folder / PurePosixPath(self._folder_of(type_), f"{shape}.json")

    def _folder_of(self, type_: str) -> str:
        for name, owner in self._folders.items():
            if owner == type_:
                return name
        name = folder_name(type_, self._folders)
        self._folders[name] = type_
        return name

    def write(
        self, type_: str, shape: str, document: Mapping[str, Any], *, force: bool
    ) -> PlannedFile:
        """Write a schema where it is another than the one that is there. A file that somebody has
        edited stays as it is, unless `force`. Raises Unavailable.
        """
        path = self.path_of(type_, shape)
        wanted = marked(document)
        known = self._of_shape.get((type_, shape))
        # As text, since True is 1 in Python; json takes numbers of any length.
        if known is not None and json.dumps(known.schema) == json.dumps(wanted):
            return PlannedFile(path, type_, shape, "unchanged")
        # Another file may be in the place: of a part, say, or of a type that is called like a hash.
        own = is_own(known.schema) if known is not None else not path.exists()
        if not own and not force:
            return PlannedFile(path, type_, shape, "edited")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritten(f"-o {path.parent}", error) from None
        text = json.dumps(wanted, indent=2, ensure_ascii=False)
        write_page(path, text + "\n", "-o")
        return PlannedFile(path, type_, shape, "written")

    def absent(
        self, shapes: Iterable[tuple[str, str]], types: Iterable[str] | None, *, remove: bool
    ) -> list[PlannedFile]:
        """The files of shapes that are not among these; with `remove`, they are deleted, but for
        those that somebody has edited. `types`: only files of these.
        """
        there, only = set(shapes), None if types is None else set(types)
        found = []
        for (type_, shape), file in sorted(self._of_shape.items()):
            assert shape is not None
            if (type_, shape) in there or (only is not None and type_ not in only):
                continue
            path = self._folder / file.path
            gone = remove and is_own(file.schema)
            if gone:
                path.unlink(missing_ok=True)
            found.append(PlannedFile(path, type_, shape, "removed" if gone else "absent"))
        return found
