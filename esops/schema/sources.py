"""What OLD and NEW of `esops schema diff` and `compat` name.

    schemas                 a directory; ./a:b one whose name has a colon
    git:main:schemas        that directory at a revision (main, v1.2, HEAD~3, a commit)
    git:main                the directory that the other side names, at a revision
    main:schemas            the same as git:main:schemas
    git:v1..v3:schemas      all revisions from v1 to v3 that changed it
    store:shop              what `esops schema infer` finds in the events of a store

A word without a colon is always a directory, never a revision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esops.errors import UsageError
from esops.schema.files import SchemaSet, parse_schemas, read_schemas
from esops.schema.revisions import files_at, revisions_in, top_of

_FORMS = (
    "Write a directory (schemas), a revision with its directory (git:main:schemas), or a store "
    "(store:shop)."
)
_GIT, _STORE = "git:", "store:"

FromStore = Callable[[str], SchemaSet]
"""Infers the schemas of a store by its name."""


@dataclass(frozen=True)
class _Revision:
    """A directory of one or several revisions."""

    first: str
    last: str | None
    path: str | None
    """None: as the other side names it."""


def read_source(text: str, other: str, folder: Path, from_store: FromStore) -> SchemaSet:
    """What NEW names, seen from `folder`; `other` is the other side. Raises UsageError."""
    found = read_sources(text, other, folder, from_store)
    if len(found) > 1:
        raise UsageError(f"{text} names several revisions", hint="Only OLD can be a range.")
    return found[0]


def read_sources(text: str, other: str, folder: Path, from_store: FromStore) -> list[SchemaSet]:
    """What OLD names: one set, or that of each revision of a range, oldest first. Raises
    UsageError.
    """
    if text.startswith(_STORE):
        return [from_store(text.removeprefix(_STORE))]
    revision = _revision(text, folder)
    if revision is None:
        return [read_schemas(Path(text) if Path(text).is_absolute() else folder / text, text)]
    path = revision.path
    if path is None:
        path = _path_of(other, folder, text)
    names = [revision.first]
    if revision.last is not None:
        names = revisions_in(revision.first, revision.last, path, folder)
    return [parse_schemas(f"{each}:{path}", files_at(each, path, folder)) for each in names]


def _revision(text: str, folder: Path) -> _Revision | None:
    """The revision that a text names; None where it is a directory."""
    if not text:
        raise UsageError("OLD or NEW is empty", hint=_FORMS)
    plain = text.removeprefix(_GIT)
    name, colon, path = plain.partition(":")
    if plain == text:
        if text.startswith(("/", "./", "../")) or not colon:
            return None
        if (folder / text).is_dir():
            raise UsageError(
                f"{text} is a directory, and may be a revision too",
                hint=f"Write ./{text} for the directory, or git:{text} for the revision.",
            )
    elif (folder / text).is_dir():
        raise UsageError(
            f"{text} is a directory, and may be a revision too",
            hint=f"Write ./{text} for the directory.",
        )
    if "..." in name:
        raise UsageError(f"{text}: a range has two dots", hint="Write it like git:v1..v3:schemas.")
    first, dots, last = name.partition("..")
    if not first or (dots and not last):
        raise UsageError(f"{text} names no revision", hint=_FORMS)
    return _Revision(first, last if dots else None, path if colon else None)


def _path_of(other: str, folder: Path, text: str) -> str:
    """The path in the repository of the directory that the other side names."""
    if not other.startswith((_STORE, _GIT)):
        try:
            below = (folder / other).resolve().relative_to(top_of(folder).resolve())
        except ValueError:
            pass
        else:
            return below.as_posix()
    elif other.startswith(_GIT) and other.count(":") > 1:
        return other.split(":", 2)[2]
    raise UsageError(
        f"{text} does not say which directory of the repository is meant",
        hint=f"Write it like {text}:schemas.",
    )
