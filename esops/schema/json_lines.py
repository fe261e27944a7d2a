"""On which line of a JSON text a value stands, for messages about files that people write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+)', re.DOTALL)

Path = tuple[str | int, ...]


def values(text: str) -> Iterator[tuple[Path, int]]:
    """Each value of a JSON text: its path, and the offset at which its name or it begins. The text
    has to be JSON; a name that stands twice in one object comes twice.
    """
    path: list[str | int] = []
    inside: list[str] = []
    name_at: int | None = None
    naming = False
    for token in _TOKEN.finditer(text):
        word, at = token[1], token.start(1)
        if word == "," and inside[-1] == "[":
            path[-1] = int(path[-1]) + 1
        elif word in (",", ":"):
            naming = word == ","
        elif word in ("}", "]"):
            path.pop()
            inside.pop()
            naming = False
        elif naming:
            path[-1] = json.loads(word)
            name_at = at
        else:
            yield tuple(path), at if name_at is None else name_at
            name_at = None
            if word in ("{", "["):
                inside.append(word)
                path.append("" if word == "{" else 0)
                naming = word == "{"


def line_of(text: str, path: Sequence[str | int]) -> int:
    """The line of the value at a path, counted from 1; of what is next above it, where the text has
    no such value.
    """
    wanted = tuple(path)
    best, offset = -1, 0
    for found, at in values(text):
        if len(found) > best and found == wanted[: len(found)]:
            best, offset = len(found), at
    return text.count("\n", 0, offset) + 1


def repeated_name(text: str) -> tuple[str, int] | None:
    """The first name of a member that stands before it in the same object, and its line."""
    seen: set[Path] = set()
    for path, at in values(text):
        if path in seen:
            return str(path[-1]), text.count("\n", 0, at) + 1
        seen.add(path)
    return None
