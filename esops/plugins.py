"""What other installed packages bring for esops, by their entry points."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints


def brought(group: str) -> EntryPoints:
    """The entry points of that group, in this process' path."""
    return _found(group, tuple(sys.path))


@cache
def _found(group: str, path: tuple[str, ...]) -> EntryPoints:  # noqa: ARG001 - what is cached by
    # Imported where it is used: esops' own backends and layouts need it late or never. It reads
    # the metadata of each installed package, which takes some milliseconds.
    from importlib.metadata import entry_points

    return entry_points(group=group)
