"""What killed runs leave behind: files that no manifest names, documents of runs without a seal."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from esops.actions import current
from esops.archive_format.lease import Lease
from esops.archive_format.repository import Repository
from esops.archive_format.runs import NOTES, RUNS, Catalog, Run

YOUNG = timedelta(hours=1)
"""Younger files stay, since their run may be about to seal them."""


@dataclass
class Garbage:
    """What was found."""

    files: int = 0
    bytes: int = 0
    young: int = 0
    """Files that stayed, because a run may still need them."""
    deleted: bool = False
    """Whether the files were deleted, or only listed."""
    names: list[str] = field(default_factory=list)


def collect(repository: Repository, *, delete: bool, older_than: timedelta = YOUNG) -> Garbage:
    """Find files that do not count, and delete them if asked. Sealed runs stay complete."""
    found = Garbage(deleted=delete)
    limit = datetime.now(UTC) - older_than
    catalog = Catalog(repository)
    sealed = set(catalog.catalogued())
    runs = catalog.runs()
    # Not in a folder that is no archive: a lease in it would make it look like one.
    if delete and runs:
        current.in_archive(repository)
    for run in runs:
        entries = list(repository.entries(f"{RUNS}/{run.name}"))
        kept = _kept(run)
        if not kept and run.name in sealed:
            # Its manifest is lost, and its events may exist nowhere else. `verify` reports it.
            continue
        at_work = not kept and _in_progress(run)
        abandoned = not kept and all(entry.modified < limit for entry in entries)
        for entry in entries:
            short = entry.name.rpartition("/")[2]
            # The documents of a run without a seal stay until all of it is old: they say which
            # policy it belongs to.
            if short in kept or (short in NOTES and not abandoned):
                continue
            if entry.modified >= limit or at_work:
                found.young += 1
                continue
            found.files += 1
            found.bytes += entry.size
            found.names.append(entry.name)
            if delete:
                repository.delete(entry.name)
    return found


def _kept(run: Run) -> set[str]:
    """The files of a sealed run that count, its documents included; nothing if it is not sealed."""
    manifest = run.seal()
    if manifest is None:
        return set()
    return {"manifest.json", *NOTES, *(entry.name for entry in manifest.files)}


def _in_progress(run: Run) -> bool:
    """Whether a process works on the policy of a run that is not sealed."""
    plan = run.read("plan.json")
    return plan is not None and Lease(run.repository, str(plan["policy"])).holder() is not None
