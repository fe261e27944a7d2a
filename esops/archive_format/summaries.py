"""The runs of a repository in short: from one listing and one object, not from all documents.

`summary.json` holds what was read of each run's documents, with the names, sizes and times of these
documents as the listing gave them. An entry counts only while the listing is the same, so that a
summary that is old, lost, or overwritten by a run that ended at the same time costs reading and
never truth: what it does not have is read from the run itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from esops.archive_format.manifest import FORMAT, VERSION, ArchivedTime, sealed, unsealed
from esops.archive_format.repository import Missing
from esops.archive_format.runs import RUNS, Catalog, Run, State, state_of
from esops.archive_format.schema import Damaged
from esops.errors import UsageError

SUMMARY = "summary.json"
Documents = dict[str, tuple[int, str]]
"""The size and time of each of a run's documents, by its name."""


class RunSummary(BaseModel):
    """A run in short; a field that the run does not have is not set."""

    model_config = ConfigDict(frozen=True)

    run: str
    policy: str | None = None
    store: str | None = None
    state: State
    detail: str | None = None
    streams: int | None = None
    events: int | None = None
    bytes: int | None = None
    stored_bytes: int | None = None
    first_at: ArchivedTime | None = None
    last_at: ArchivedTime | None = None
    sealed_at: datetime | None = None
    remove: str | None = None
    removed: int | None = None
    removed_events: int | None = None
    tried: int | None = None
    finished_at: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields that are set."""
        return {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name in self.model_fields_set
        }


def summarise(run: Run, state: State) -> RunSummary:
    """Read a run's documents. Raises Damaged."""
    manifest = run.seal()
    if manifest is None:
        plan = run.read("plan.json") or {}
        lost = not plan or state != "planned"
        return RunSummary(
            run=run.name,
            policy=plan.get("policy"),
            store=plan.get("store"),
            state=state,
            detail="the catalog lists it, and its manifest is missing" if lost else None,
        )
    done = run.read("done.json") or {}
    asked = done or run.read("removal.json") or run.read("plan.json") or {}
    return RunSummary(
        run=run.name,
        policy=manifest.policy,
        store=manifest.store,
        state=state,
        streams=manifest.streams,
        events=manifest.events,
        bytes=manifest.bytes,
        stored_bytes=sum(entry.size for entry in manifest.files),
        first_at=manifest.first_at,
        last_at=manifest.last_at,
        sealed_at=manifest.sealed_at,
        remove=asked.get("remove"),
        removed=done.get("removed"),
        removed_events=done.get("removed_events"),
        tried=done.get("tried"),
        finished_at=done.get("at"),
    )


def summaries(catalog: Catalog) -> Iterator[dict[str, Any]]:
    """Each run in short, the oldest first. A damaged one has the state "damaged" and a detail."""
    documents = _documents(catalog)
    known = _read(catalog, documents)
    catalogued = set(catalog.catalogued())
    for name in sorted({*catalogued, *documents}):
        if name in catalogued and "manifest.json" not in documents.get(name, {}):
            detail = "the catalog lists it as sealed, and its manifest is missing"
            yield {"run": name, "state": "damaged", "detail": detail}
            continue
        try:
            found = known.get(name) or summarise(
                Run(catalog.repository, name), state_of(documents.get(name, {}))
            )
            yield found.as_dict()
        except Damaged as error:
            yield {"run": name, "state": "damaged", "detail": error.message}


def refresh(catalog: Catalog) -> None:
    """Write the summary of all runs as they are now."""
    documents = _documents(catalog)
    known = _read(catalog, documents)
    runs = {}
    for name, files in documents.items():
        try:
            found = known.get(name) or summarise(Run(catalog.repository, name), state_of(files))
        except Damaged:
            continue  # whoever lists the runs reads it again
        runs[name] = {
            "documents": files,
            "summary": found.model_dump(mode="json", exclude_unset=True),
        }
    content = sealed({"format": FORMAT, "version": VERSION, "runs": runs})
    catalog.repository.put(SUMMARY, content)


def _documents(catalog: Catalog) -> dict[str, Documents]:
    """The documents of each run, by one listing."""
    found: dict[str, Documents] = {}
    for entry in catalog.repository.entries(RUNS):
        _, name, file = entry.name.rsplit("/", 2)
        files = found.setdefault(name, {})
        if file.endswith(".json"):
            files[file] = (entry.size, entry.modified.isoformat())
    return found


def _read(catalog: Catalog, documents: Mapping[str, Documents]) -> dict[str, RunSummary]:
    """The entries of the summary that are still true."""
    try:
        runs = unsealed(SUMMARY, catalog.repository.get(SUMMARY))["runs"]
        return {
            name: RunSummary.model_validate(entry["summary"])
            for name, entry in runs.items()
            # One of an older esops lacks fields.
            if ("events" not in entry["summary"] or "removed_events" in entry["summary"])
            and orjson.dumps(entry["documents"], option=orjson.OPT_SORT_KEYS)
            == orjson.dumps(documents.get(name), option=orjson.OPT_SORT_KEYS)
        }
    except (Missing, Damaged, UsageError, ValidationError, KeyError):
        return {}
