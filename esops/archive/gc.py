"""What is in a repository and counts for nothing: files that no manifest names, and the runs that
they were left by.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from esops.archive_format.lease import Lease
from esops.archive_format.repository import Repository
from esops.archive_format.runs import NOTES, RUNS, Catalog, Run

YOUNG = timedelta(hours=1)
"""Files younger than this are left, and those of a run that somebody works on: it may be about to
seal them.
"""


@dataclass
class Garbage:
    """What was found, and whether it was deleted.

    `young` counts files that were left, since a run may still need them.
    """

    files: int = 0
    bytes: int = 0
    young: int = 0
    deleted: bool = False
    names: list[str] = field(default_factory=list)


def collect(repository: Repository, *, delete: bool, older_than: timedelta = YOUNG) -> Garbage:
    """Find the files that no manifest names, and delete them if asked.

    A sealed run is never touched.
    """
    result = Garbage(deleted=delete)
    limit = datetime.now(UTC) - older_than
    catalog = Catalog(repository)
    sealed = set(catalog.catalogued())
    for run in catalog.runs():
        entries = list(repository.entries(f"{RUNS}/{run.name}"))
        kept = _kept(run)
        if not kept and run.name in sealed:
            continue  # its manifest is lost, and its events may be nowhere else: `verify` says so
        at_work = not kept and _somebody_works_on(run)
        abandoned = not kept and all(entry.modified < limit for entry in entries)
        for entry in entries:
            short = entry.name.rpartition("/")[2]
            if short in kept or (short in NOTES and not abandoned):
                continue
            if entry.modified >= limit or at_work:
                result.young += 1
                continue
            result.files += 1
            result.bytes += entry.size
            result.names.append(entry.name)
            if delete:
                repository.delete(entry.name)
    return result


def _kept(run: Run) -> set[str]:
    """The files that a run's manifest names, and its notes; nothing where it is not sealed."""
    manifest = run.seal()
    return (
        set()
        if manifest is None
        else {"manifest.json", *NOTES, *(entry.name for entry in manifest.files)}
    )


def _somebody_works_on(run: Run) -> bool:
    """Whether a run that is not sealed may be about to be."""
    plan = run.read("plan.json")
    return plan is not None and Lease(run.repository, str(plan["policy"])).holder() is not None
