"""The first half of an archive run: select streams, export them, and seal what was exported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import structlog

from esops import __version__
from esops.archive import policy
from esops.archive.context import ArchiveOutcome, RunContext, utc_now
from esops.archive.heads import LeftOut, Part
from esops.archive.stuck import Attempt, StuckStream, StuckStreams
from esops.archive.unfinished import noted
from esops.archive.writer import Export
from esops.archive_format.manifest import Manifest
from esops.archive_format.repository import Missing
from esops.archive_format.runs import RUNS, Catalog, Run
from esops.archive_format.schema import Damaged, time_of
from esops.errors import EsopsError
from esops.stores.base import require

log = structlog.get_logger("esops.archive")

_CHECKED_EVERY = 1_000
"""Streams."""
_REASONS_KEPT = 1_000
_LEFT_OUT: dict[LeftOut, str] = {
    "ageless": "left out: the age of their last event is unknown",
    "appended": "left out: their events are old enough, but the store's list of streams says that "
    "they were appended to later",
    "young": "left out: they are younger than the policy's never_younger_than",
    "unloadable": "left out: the library could not load what stays, for want of a snapshot",
}


class ReadBackFailed(EsopsError):
    """The repository does not return what was written to it."""


def export_and_seal(
    context: RunContext, catalog: Catalog, outcome: ArchiveOutcome
) -> Manifest | None:
    """Export what the policy selects and seal it; None if it selects nothing. Streams that an
    earlier run could not remove are noted in the outcome, and left out.

    Raises ReadBackFailed if a file is not read back as it was written.
    """
    selected_at = policy.now(context.store, context.policy, context.removal)
    # A policy that removes streams selects them until they are gone. One that keeps them would
    # archive the same streams in every run.
    keeps, own = context.removal == "keep", context.own_runs(catalog)
    archived = policy.ArchivedVersions(own) if keeps else None
    attempt = Attempt(context.store, context.policy, context.strategy, context.check_stop)
    try:
        left_out: Counter[LeftOut] = Counter()
        parts = policy.selected(
            context.store,
            context.policy,
            context.strategy,
            selected_at,
            archived,
            left_out=lambda why: left_out.update([why]),
            denied=_denied(outcome),
        )
        with (
            StuckStreams(attempt, () if keeps else own, _noting(outcome)) as stuck,
            policy.Selection(_counting(context, stuck.without(parts))) as selection,
        ):
            for why, number in left_out.items():
                log.warning(_LEFT_OUT[why], streams=number)
            if not selection.count:
                policy.check_names(context.store, context.policy, context.policy_name, own)
                return None
            _note_plan(context)
            log.info(
                "exporting", run=context.run.name, streams=selection.count, events=selection.events
            )
            try:
                return _write_and_seal(context, selection, selected_at)
            except (Damaged, Missing) as error:
                raise ReadBackFailed(error.message) from error
    finally:
        if archived is not None:
            archived.close()


def _noting(outcome: ArchiveOutcome) -> Callable[[StuckStream], None]:
    def note(stuck: StuckStream) -> None:
        outcome.stuck += stuck.lasting
        if len(outcome.skipped) < _REASONS_KEPT:
            outcome.skipped.append({"stream": stuck.key.stream, "reason": stuck.reason})

    return note


def _denied(outcome: ArchiveOutcome) -> Callable[[str], None]:
    def note(stream: str) -> None:
        outcome.stuck += 1
        if len(outcome.skipped) < _REASONS_KEPT:
            outcome.skipped.append({"stream": stream, "reason": policy.DENIED})

    return note


def _note_plan(context: RunContext) -> None:
    """Write down what was asked for; once more where a killed run selects again."""
    run, says = context.run, noted(context.policy)
    before = run.read("plan.json")
    if before is None or before.get("noted") != says:
        plan = {
            "policy": context.policy_name,
            "store": context.store_name,
            "remove": context.removal,
            "noted": says,
            "at": utc_now() if before is None else before["at"],
        }
        run.note("plan.json", plan)


def _counting(context: RunContext, parts: Iterator[Part]) -> Iterator[Part]:
    """Pass parts on; show progress and give the run a chance to stop now and then."""
    for number, part in enumerate(parts, 1):
        if number % _CHECKED_EVERY == 0:
            context.check_stop()
            context.progress("streams selected", number, None)
        yield part


def _write_and_seal(
    context: RunContext, selection: policy.Selection, selected_at: datetime
) -> Manifest | None:
    store, run = context.store, context.run
    info = store.ping()
    archiving = require(store, store.archiving, "archiving")
    position_parts = store.capabilities.position_parts
    columns = archiving.extra_columns()
    with Export(run, context.lease.number, columns, position_parts, context.file_size) as export:
        for so_far in export.add(
            selection,
            lambda streams: archiving.export(streams, columns),
            archiving.stream_rows,
        ):
            context.check_stop()
            context.progress("events exported", so_far.events, selection.events)
        event_files, stream_files = export.close()
    totals = export.totals
    if not totals.streams:  # every stream was deleted after it was selected
        return None
    identity, last = store.identity, totals.last_position
    mark = identity.mark(last) if identity is not None and last is not None else None
    manifest = Manifest(
        run=run.name,
        policy=context.policy_name,
        store=context.store_name,
        backend=info.backend,
        layout=info.layout,
        position_parts=position_parts,
        first_version=store.capabilities.first_version,
        columns=tuple(columns),
        categories=export.categories,
        tenants=store.capabilities.named_tenants,
        selected_at=selected_at,
        sealed_at=datetime.now(UTC),
        esops=__version__,
        streams=totals.streams,
        events=totals.events,
        bytes=totals.bytes,
        first_position=str(totals.first_position),
        last_position=str(totals.last_position),
        first_at=time_of(totals.first_at),
        last_at=time_of(totals.last_at),
        event_files=event_files,
        stream_files=stream_files,
        part=context.policy.part,
        log=None if mark is None else dict(mark),
    )
    _seal(context, manifest)
    return manifest


def _seal(context: RunContext, manifest: Manifest) -> None:
    """Write the manifest, which makes the run count. Raises Stopped, Missing, Damaged."""
    run = context.run
    # Another process may have superseded this one during a long export. Both could write a
    # manifest then; the conditional create below lets only one of them through.
    context.lease.check()
    _check_files_exist(run, manifest)
    run.note("manifest.json", manifest.model_dump(mode="json"), if_absent=True)
    if run.seal() != manifest:
        raise Damaged(f"{run.name}/manifest.json is not read back as it was written")
    log.info("sealed", run=run.name, files=len(manifest.files), events=manifest.events)


def _check_files_exist(run: Run, manifest: Manifest) -> None:
    """Raises Missing, Damaged if a file has vanished or shrunk.

    Each file was read back when it was written, which may be hours ago.
    """
    sizes = {
        entry.name.rpartition("/")[2]: entry.size
        for entry in run.repository.entries(f"{RUNS}/{run.name}")
    }
    for entry in manifest.files:
        if entry.name not in sizes:
            raise Missing(f"{run.name}/{entry.name} is not in the repository any more")
        if sizes[entry.name] != entry.size:
            raise Damaged(
                f"{run.name}/{entry.name} has {sizes[entry.name]:,} bytes instead of {entry.size:,}"
            )
