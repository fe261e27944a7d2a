"""The files of rebuilds that were killed: they have events as these were before an erasure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from esops.errors import Refused
from esops.readmodel import spills
from esops.running.spill.directory import here, remove_of


def remove_spills(databases: Iterable[str], store: str) -> None:
    """Delete the files with events of a store. `databases` are the DSNs of its read models.

    Raises Refused where some cannot be deleted from here.
    """
    for each in spills.outdate(databases, store, "events were erased since"):
        remove_of(each.directory, each.spill)
        if each.host != here() or Path(each.directory).exists():
            raise Refused(
                f"an unfinished rebuild of {each.projection} has events in files that cannot be "
                f"deleted from here: {each.directory} on {each.host}",
                hint="Finish that rebuild with --resume, or drop it with --abort, on that machine "
                "and as its user. Then run the erasure again.",
            )
