"""What the runs of an archive are, for those who look: lists, descriptions, verifications of
several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from esops.archive.verify import RunVerification, verify
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import NOTES, Catalog, Run
from esops.archive_format.schema import Damaged, from_micros
from esops.config import Config
from esops.stores import open_store


def runs(catalog: Catalog) -> Iterator[dict[str, Any]]:
    """Each run in short, the oldest first; one that is damaged says so."""
    for run in catalog.runs():
        try:
            yield _short(run)
        except Damaged as error:
            yield {"run": run.name, "state": "damaged", "detail": error.message}


def _short(run: Run) -> dict[str, Any]:
    return _short_of(run, run.seal(), run.read("done.json") or {})


def _short_of(run: Run, manifest: Manifest | None, done: Mapping[str, Any]) -> dict[str, Any]:
    state = run.state
    if manifest is None:
        plan = run.read("plan.json") or {}
        lost = (
            "the catalog knows it, and its manifest is lost"
            if not plan or state != "planned"
            else None
        )
        return {
            "run": run.name,
            "policy": plan.get("policy"),
            "store": plan.get("store"),
            "state": state,
            "detail": lost,
        }
    return {
        "run": run.name,
        "policy": manifest.policy,
        "store": manifest.store,
        "state": state,
        "streams": manifest.streams,
        "events": manifest.events,
        "bytes": manifest.bytes,
        "stored_bytes": sum(entry.size for entry in manifest.files),
        "first_at": manifest.first_at,
        "last_at": manifest.last_at,
        "sealed_at": manifest.sealed_at,
        "remove": done.get("remove"),
        "removed": done.get("removed"),
        "finished_at": done.get("at"),
    }


def last_of_each_policy(catalog: Catalog) -> list[dict[str, Any]]:
    """The newest run of each policy in short, and all that are damaged."""
    return list(
        {str(result.get("policy") or result["run"]): result for result in runs(catalog)}.values()
    )


def described(run: Run) -> dict[str, Any]:
    """All that is known of a run."""
    manifest, done = run.seal(), run.read("done.json") or {}
    result = _short_of(run, manifest, done)
    if manifest is None:
        return result
    failed = run.read("failed.json") or {}
    verified = run.read("verified.json") or {}
    return {
        **result,
        "backend": manifest.backend,
        "layout": manifest.layout,
        "first_position": manifest.first_position,
        "last_position": manifest.last_position,
        "columns": ", ".join(manifest.columns),
        "esops": manifest.esops,
        "verified_at": verified.get("at"),
        "removed_events": done.get("removed_events"),
        "left_alone": done.get("left_alone"),
        "skipped": done.get("skipped", []),
        "problems": failed.get("problems", []),
        "files": [entry.model_dump() for entry in manifest.files],
    }


def stream_rows(run: Run) -> Iterator[dict[str, Any]]:
    """A run's streams, one after the other. Raises UsageError where it is not sealed, Damaged."""
    for digest, _ in run.streams(run.manifest()):
        yield {
            "stream": digest.stream,
            "tenant": digest.tenant,
            "events": digest.events,
            "first_version": digest.first_version,
            "last_version": digest.last_version,
            "first_at": from_micros(digest.first_at),
            "last_at": from_micros(digest.last_at),
            "bytes": digest.size,
            "sha256": digest.sha256.hex(),
        }


def verified(
    config: Config,
    catalog: Catalog,
    name: str | None,
    against_store: bool,
    sample: float,
    progress: Any,
) -> Iterator[RunVerification]:
    """Verify a run, or all that were ever sealed: one whose manifest is lost has a problem.

    Raises UsageError for an unknown one.
    """
    listed = set(catalog.catalogued())
    # A file that is lost from the catalog alone is made anew by the next run; nothing hangs on it.
    for run in [catalog.run(name)] if name is not None else catalog.runs():
        result = RunVerification(run.name)
        try:
            if run.name in listed:
                catalog.check_entry(run.name)
            manifest = run.seal()
            if manifest is None:
                if run.name not in listed and name is None:
                    continue  # never sealed
                result.problem(
                    f"{run.name} has no manifest"
                    + (", and the catalog knows it" if run.name in listed else "")
                )
                yield result
                continue
            yield _verified(config, run, manifest, against_store, sample, progress)
        except Damaged as error:
            result.problem(error.message)
            yield result


def _verified(
    config: Config, run: Run, manifest: Manifest, against_store: bool, sample: float, progress: Any
) -> RunVerification:
    for note in NOTES:
        run.read(note)
    with ExitStack() as stack:
        store = None
        if against_store:
            name, settings = config.store(manifest.store)
            store = stack.enter_context(open_store(name, settings.alone))
        return verify(
            run,
            manifest,
            store,
            sample=sample,
            tick=lambda done, total: progress(f"events of {run.name} verified", done, total),
        )
