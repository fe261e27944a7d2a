"""What a version was made of, part by part, as the journal keeps it when its rebuild begins.

The fingerprint says whether a version was built by the code of today; it does not say what differs.
This does: kind, function, key, filter, files and settings, so that `esops plan` can name it. Of a
version that an older esops built nothing was kept, and what is not known is said.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from esops.postgres.statements import statements
from esops.projections.definition import (
    FoldDefinition,
    Handlers,
    ProcessDefinition,
    SqlDefinition,
)
from esops.rebuild import journal
from esops.rebuild.target import Target
from esops.settings import ProjectionSettings

_SQL = statements(__package__, "made_of")
_PACKAGES = {"node_modules", "venv", "env", "site-packages"}
MADE_OF, RESUMED = "made of", "resumed with"
"""What the log of a rebuild says of it."""
OF_ROWS = ("on_error", "begins_with")
"""The settings that decide about rows; the others only about how they are served."""


def parts(target: Target) -> dict[str, Any]:
    """What a version that is built now is made of.

    Raises UsageError where a file of `fingerprint` cannot be read.
    """
    settings = target.settings
    filter = settings.filter
    return {
        "kind": settings.kind,
        "function": target.code.text_hash(),
        "names": target.code.names(),
        "key": _key(target),
        "events": {
            "events": sorted(filter.types),
            "category": filter.category,
            "include_archived": filter.archived,
        },
        "files": target.code.file_hashes(),
        "settings": _settings(settings),
        "verify": settings.verify.model_dump(mode="json", by_alias=True),
    }


def note(connection: psycopg.Connection, rebuild: int, target: Target, events: int | None) -> None:
    """Keep it with a rebuild that begins, and how many events there were, for later estimates."""
    detail = {**parts(target), "of": events}
    journal.note(connection, rebuild, journal.PLANNED, MADE_OF, detail)


def kept(connection: psycopg.Connection, projection: str, version: int) -> Mapping[str, Any] | None:
    """What was kept of a version; None where nothing was."""
    row = connection.execute(
        _SQL["made_of"],
        {"projection": projection, "version": version, "event": MADE_OF},
    ).fetchone()
    return None if row is None else row[0]


def note_resumed(
    connection: psycopg.Connection, entry: journal.JournalEntry, target: Target
) -> None:
    """Keep the settings with which a rebuild continues: the rest of the rows is made with them."""
    detail = {"settings": _settings(target.settings)}
    journal.note(connection, entry.rebuild, entry.state, RESUMED, detail)


def resumed(
    connection: psycopg.Connection, projection: str, version: int
) -> list[Mapping[str, Any]]:
    """The settings with which the last rebuild into a version has continued, the oldest first."""
    rows = connection.execute(
        _SQL["resumed"],
        {"projection": projection, "version": version, "event": MADE_OF, "resumed": RESUMED},
    ).fetchall()
    return [row[0] for row in rows]


class LastRebuild(NamedTuple):
    """How many events there were for a rebuild, and its working time in seconds."""

    events: float
    seconds: float


def last_rebuild(connection: psycopg.Connection, projection: str | None) -> LastRebuild | None:
    """The last rebuild of a projection, or of any (None), that came to its end."""
    row = connection.execute(
        _SQL["last_rebuild"], {"projection": projection, "event": MADE_OF}
    ).fetchone()
    return None if row is None else LastRebuild(float(row[0]), float(row[1]))


def names_its_program(target: Target) -> bool:
    """Whether the fingerprint sees what a projection runs: of a program, a file has to be named."""
    definition = target.definition
    if not isinstance(definition, ProcessDefinition):
        return True
    if target.settings.fingerprint:
        return True
    return any(_is_program(definition.directory, word) for word in definition.command)


def _is_program(directory: Path, word: str) -> bool:
    """Whether a word of a command is a file of the project's, and not what runs such files.

    That is outside of the project, or in the folder of an environment or of packages.
    """
    path = directory / word
    if not path.is_file():
        return False
    inside = path.resolve().is_relative_to(directory.resolve())
    if not inside:
        return not os.access(path, os.X_OK)
    folders = Path(os.path.relpath(path, directory)).parts[:-1]
    return not any(each in _PACKAGES or each.startswith(".") for each in folders if each != "..")


def _key(target: Target) -> str | None:
    match target.definition:
        case FoldDefinition(key=None):
            return "stream"
        case FoldDefinition(key=key) if key is not None:
            return f"{key.__module__}:{key.__qualname__}"
        case Handlers() | SqlDefinition() | ProcessDefinition():
            return None
    return None


def _settings(settings: ProjectionSettings) -> dict[str, Any]:
    """Those that decide about rows and are no part of the code, and not how the work is done."""
    return {
        "on_error": settings.on_error,
        "begins_with": sorted(settings.begins_with),
        "switch": settings.switch,
        "live": settings.live,
        "checkpoint": settings.checkpoint,
    }
