"""The runs of an archive as commands show them: lists, descriptions, verifications of several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from esops.archive.context import Progress
from esops.archive.log_runs import Homes
from esops.archive.verify import RunVerification, verify
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import NOTES, Catalog, Run
from esops.archive_format.schema import Damaged, time_of
from esops.archive_format.summaries import summaries, summarise
from esops.config import Config
from esops.stores import open_store
from esops.stores.archive.tenants import refuse_other_tenants


def last_of_each_policy(catalog: Catalog) -> list[dict[str, Any]]:
    """The newest run of each policy in short, and all damaged runs."""
    # Runs come in the order of their times, so that the newest of a policy stays in the dict.
    return list(
        {str(each.get("policy") or each["run"]): each for each in summaries(catalog)}.values()
    )


def described(run: Run) -> dict[str, Any]:
    """Everything that is known of a run. Raises Damaged."""
    manifest, done = run.seal(), run.read("done.json") or {}
    summary = summarise(run, run.state).as_dict()
    if manifest is None:
        return summary
    failed = run.read("failed.json") or {}
    verified = run.read("verified.json") or {}
    return {
        **summary,
        "backend": manifest.backend,
        "layout": manifest.layout,
        "part": manifest.part,
        "first_position": manifest.first_position,
        "last_position": manifest.last_position,
        "columns": ", ".join(manifest.columns),
        "esops": manifest.esops,
        "resealed": [
            {"at": each.at, "reason": each.reason, "events": each.events}
            for each in manifest.reseals
        ],
        "verified_at": verified.get("at"),
        "left_alone": done.get("left_alone"),
        "skipped": done.get("skipped", []),
        "problems": failed.get("problems", []),
        "files": [entry.model_dump() for entry in manifest.files],
    }


STREAM_COLUMNS = (
    "stream",
    "tenant",
    "events",
    "first_version",
    "last_version",
    "first_at",
    "last_at",
    "bytes",
    "sha256",
)


def stream_rows(run: Run) -> Iterator[dict[str, Any]]:
    """A run's streams with the values of STREAM_COLUMNS, one after the other.

    Raises UsageError if the run is not sealed, Damaged.
    """
    for digest, _ in run.streams(run.manifest()):
        yield {
            "stream": digest.stream,
            "tenant": digest.tenant,
            "events": digest.events,
            "first_version": digest.first_version,
            "last_version": digest.last_version,
            "first_at": time_of(digest.first_at),
            "last_at": time_of(digest.last_at),
            "bytes": digest.size,
            "sha256": digest.sha256.hex(),
        }


def verify_runs(
    config: Config,
    catalog: Catalog,
    name: str | None = None,
    *,
    against_store: bool = False,
    sample: float = 1.0,
    progress: Progress = lambda *_: None,
) -> Iterator[RunVerification]:
    """Verify one run, or all that were ever sealed.

    A sealed run whose manifest is lost has a problem. Raises UsageError for an unknown run.
    """
    sealed = set(catalog.catalogued())
    homes = Homes(config) if against_store else None
    # The other way round, a run that is sealed and not in the catalog is no problem: the next run
    # of its policy enters it again.
    for run in [catalog.run(name)] if name is not None else catalog.runs():
        result = RunVerification(run.name)
        try:
            if run.name in sealed:
                catalog.check_entry(run.name)
            manifest = run.seal()
            if manifest is not None:
                yield _verify_run(config, run, manifest, homes, sample, progress)
                continue
            if run.name not in sealed and name is None:
                continue  # never sealed
            lost = ", although the catalog lists it" if run.name in sealed else ""
            result.problem(f"{run.name} has no manifest{lost}")
        except Damaged as error:
            result.problem(error.message)
        yield result


def _verify_run(
    config: Config,
    run: Run,
    manifest: Manifest,
    homes: Homes | None,
    sample: float,
    progress: Progress,
) -> RunVerification:
    for note in NOTES:
        run.read(note)  # raises Damaged
    with ExitStack() as stack:
        store = None
        if homes is not None:
            name, settings = config.store(homes.of(run, manifest))
            store = stack.enter_context(open_store(name, settings.without_archive))
            refuse_other_tenants(store, [(run, manifest)])
        return verify(
            run,
            manifest,
            store,
            sample=sample,
            tick=lambda done, total: progress(f"events of {run.name} verified", done, total),
        )
