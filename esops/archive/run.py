"""One run of a policy: select, export, seal, verify, remove.

Each step is recorded in the repository, and the next run resumes one that was killed. All state is
in the repository and none in the application's database, so that an archive works the same for
every store and outlives it.

A run without a seal exports again, under file names of its own. Every process that removes streams
has verified them before, itself: the one that exports reads each file back as soon as it is
written; one that resumes a sealed run reads all of it back and compares it with the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from esops.actions import current
from esops.archive import checkpoint_guard, policy, right_archive
from esops.archive import prove as proving
from esops.archive.compare import StreamComparison
from esops.archive.context import ArchiveOutcome, Progress, RunContext, utc_now
from esops.archive.export import ReadBackFailed, export_and_seal
from esops.archive.remove import remove_archived
from esops.archive.unfinished import UnfinishedRun, unfinished_run
from esops.archive.verify import RunVerification, verify
from esops.archive_format.disk_map import DiskMap
from esops.archive_format.hashes import Digest
from esops.archive_format.lease import Lease
from esops.archive_format.manifest import Manifest
from esops.archive_format.repository import Repository
from esops.archive_format.runs import Catalog, Run
from esops.archive_format.summaries import refresh
from esops.config import Config
from esops.errors import AnotherLog, ConnectionLost, EsopsError, Stopped, Unavailable, UsageError
from esops.events import Position
from esops.settings import Removal, StoreSettings
from esops.stores import open_store
from esops.stores.archiving import StreamPart
from esops.stores.base import EventStore
from esops.stores.outage import PATIENCE, Outage
from esops.term import duration

log = structlog.get_logger("esops.archive")


@dataclass(frozen=True)
class RunRequest:
    """What a run may do that its policy does not say."""

    removal: Removal | None = None
    """How the events leave the store; None as the policy says, or as the unfinished run began."""
    despite_checkpoints: bool = False
    """Whether no reader is asked how far it has read."""
    despite: Sequence[str] = ()
    """The readers that need not have read the events."""
    prove: bool = False
    """Whether a restore of all of it is tried before anything is removed, and not of a sample."""
    start_again: bool = False
    """Whether an unfinished run is given up as failed first."""
    new_archive: bool = False
    """Whether there may be no archive yet, though the store shows that events were archived."""
    max_duration: timedelta | None = None
    """After which it stops; None as the policy says."""


def run(
    config: Config,
    name: str,
    request: RunRequest = RunRequest(),
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress = lambda *_: None,
) -> ArchiveOutcome:
    """Run a policy, or resume its unfinished run.

    Waits while the store cannot be reached: for so long as it may take, or ten minutes.

    Raises Busy while another process works on the policy, Stopped after the longest duration or
    `stop`, and Refused where there is no archive yet and the store shows that events were archived
    before, if a processor or projection has not read the events that would be removed, or if the
    policy takes less than when the unfinished run began. Before anything is removed a restore is
    tried: Refused where it would not come back as it is.
    """
    archive, archive_settings, settings = config.policy(name)
    store_name, store_settings = config.store(settings.store)
    began = time.monotonic()
    limit = request.max_duration or settings.max_duration
    check_stop = _stop_check(name, limit, stop)
    short_name = name.rpartition("/")[2]
    policy_name = f"{archive}/{short_name}"
    if not request.new_archive:
        right_archive.check_place(
            archive_settings, store_name, store_settings, config.archives.values()
        )
    repository = _opened(archive, Repository(archive_settings, make=True))
    with Lease(repository, policy_name) as lease, ExitStack() as stack:
        current.in_archive(repository)
        catalog = Catalog(repository)
        unfinished = unfinished_run(catalog, policy_name)
        # An unfinished run ends as it was begun, unless the operator says otherwise.
        store = stack.enter_context(open_store(store_name, store_settings.without_archive))
        right_archive.check_tenants(catalog, store, store_settings.sources(store_name))
        checkpoint_guard.check_despite(config, store, store_name, request.despite)
        if request.start_again:
            _start_again(unfinished, policy_name, store, store_settings)
            unfinished = None
        if unfinished is not None:
            unfinished.check_store(store_name, store_settings, name)
            unfinished.check_policy(config.path, name, settings, request.removal)
        context = _context(config, name, request, store, lease, unfinished, check_stop, progress)
        outcome = ArchiveOutcome(short_name, archive, store_name, context.removal)
        outcome = _run_through(context, catalog, outcome, limit)
        # A role that may not write it leaves the reading to those who look.
        with suppress(EsopsError):
            refresh(catalog)
    outcome.seconds = time.monotonic() - began
    return outcome


def _stop_check(name: str, limit: timedelta | None, stop: Callable[[], bool]) -> Callable[[], None]:
    """Raises Stopped when a run has to stop, which begins now."""
    began = time.monotonic()

    def check() -> None:
        hint = f"Resume it with: esops archive run {name}"
        if stop():
            raise Stopped("the run was interrupted", hint=hint)
        if limit is not None and time.monotonic() - began > limit.total_seconds():
            raise Stopped(
                f"the run has reached its time limit of {duration(limit.total_seconds())}",
                hint=hint,
            )

    return check


def _start_again(
    unfinished: UnfinishedRun | None,
    policy_name: str,
    store: EventStore,
    settings: StoreSettings,
) -> None:
    """Give an unfinished run up as failed."""
    if unfinished is None:
        log.info("there is no unfinished run to be given up", policy=policy_name)
        return
    _abort(unfinished.run, store if unfinished.is_of(store.name, settings) else None)


def _context(
    config: Config,
    name: str,
    request: RunRequest,
    store: EventStore,
    lease: Lease,
    unfinished: UnfinishedRun | None,
    check_stop: Callable[[], None],
    progress: Progress,
) -> RunContext:
    """What the steps of a new run need, or those of the unfinished one that is resumed."""
    archive, archive_settings, settings = config.policy(name)
    short_name = name.rpartition("/")[2]
    removal = request.removal or (unfinished and unfinished.removal) or settings.remove
    sealed = unfinished.manifest if unfinished else None
    part = settings.part if sealed is None else sealed.part
    return RunContext(
        config=config,
        policy_name=f"{archive}/{short_name}",
        policy=settings,
        file_size=archive_settings.file_size,
        store_name=store.name,
        store=store,
        removal=removal,
        strategy=policy.removal_strategy(store, settings, removal, part),
        run=unfinished.run if unfinished else Catalog(lease.repository).new_run(short_name),
        lease=lease,
        despite_checkpoints=request.despite_checkpoints,
        despite=request.despite,
        prove=request.prove,
        check_stop=check_stop,
        progress=progress,
    )


def _opened(archive: str, repository: Repository) -> Repository:
    """Raises UsageError for a repository that encrypts and could not read back what it wrote."""
    if repository.encrypts and not repository.decrypts:
        raise UsageError(
            f"archive {archive} encrypts its files, and no key is configured to read them back",
            hint="Set `identity` or `identity_file`. esops removes no event that it could not "
            "read back.",
        )
    return repository


def _run_through(
    context: RunContext, catalog: Catalog, outcome: ArchiveOutcome, limit: timedelta | None
) -> ArchiveOutcome:
    """Run the steps; where the store is lost in the middle, wait for it, and resume the run as
    another process would.

    An outage is waited for up to the limit of the run, or ten minutes.
    """
    while True:
        # What left before the outage counts again, since its removal is asked for again.
        attempt = replace(outcome, skipped=[], problems=[])
        try:
            _run_steps(context, catalog, attempt)
        except ConnectionLost as lost:
            _wait_for_store(context, lost, limit)
        else:
            return attempt


def _wait_for_store(context: RunContext, lost: Unavailable, limit: timedelta | None) -> None:
    def stop() -> bool:
        context.check_stop()
        return False

    def say(text: str) -> None:
        log.warning(text, run=context.run.name)

    outage = Outage("the store", say, stop, PATIENCE if limit is None else None)
    while True:
        outage.wait(lost)
        try:
            context.store.ping()
        except Unavailable as still:
            lost = still
        else:
            break
    # Somebody may have taken the policy over while this process waited.
    context.lease.check()
    log.info("the store can be reached again", run=context.run.name)


def _run_steps(context: RunContext, catalog: Catalog, outcome: ArchiveOutcome) -> None:
    """Export and verify, or only verify if the run is sealed; then remove."""
    run = context.run
    with DiskMap() as reasons:
        manifest = run.seal()
        if manifest is not None:
            log.info("resuming", run=run.name, streams=manifest.streams, events=manifest.events)
            _check_log(context, manifest)
            outcome.count(run, manifest)
            # The process that sealed it may have been killed before it entered it.
            catalog.enter(run, manifest)
            verification = _verify(context, manifest, reasons)
            if context.removal == "keep":
                _count_removed(run, outcome, verification)
        else:
            try:
                manifest = export_and_seal(context, catalog, outcome)
            except ReadBackFailed as error:
                verification = RunVerification(run.name, found=1, problems=[error.message])
            else:
                if manifest is None:
                    return
                outcome.count(run, manifest)
                catalog.enter(run, manifest)
                # Each file was read back and compared with the store's rows as it was written.
                verification = RunVerification(
                    run.name, len(manifest.files), manifest.streams, manifest.events
                )
        _note_verified(context, verification)
        if manifest is None or not verification.ok:
            # A failed run is never resumed: the next run of the policy starts again.
            run.note("failed.json", {"problems": verification.problems, "at": utc_now()})
            outcome.run, outcome.state = run.name, "failed"
            outcome.problems = verification.problems
            return
        outcome.state = "verified"
        if context.removal != "keep" or context.prove:
            outcome.tried = proving.prove(context, manifest)
        if context.removal != "keep":
            remove_archived(context, manifest, reasons, outcome, verification.gone)
            outcome.state = "done"
    run.note(
        "done.json",
        {
            "at": utc_now(),
            "remove": outcome.remove,
            "removed": outcome.removed,
            "removed_events": outcome.removed_events,
            "left_alone": outcome.left_alone,
            "skipped": outcome.skipped,
            "stuck": outcome.stuck,
            "hidden": outcome.hidden,
            "tried": outcome.tried,
            "scavenge": outcome.scavenge,
        },
    )


def _count_removed(run: Run, outcome: ArchiveOutcome, found: RunVerification) -> None:
    """What a run had removed before it continued with remove = "keep"."""
    before = run.read("removal.json")
    if before is not None:
        outcome.remove = before["remove"]
        outcome.removed_events = max(0, found.gone - before.get("gone", 0))
        outcome.removed = found.gone_streams if outcome.removed_events else 0
        outcome.left_alone = found.streams - found.gone_streams


def _abort(run: Run, store: EventStore | None) -> None:
    """A run is not resumed. What it has removed counts as archived all the same, unless the
    store was restored to an earlier time since; `store` is None where nobody can ask it.
    """
    manifest = run.seal()
    if manifest is not None and store is not None:
        try:
            _recognise(store, manifest)
        except AnotherLog:
            run.repository.delete(run.path("removal.json"))
    run.note("failed.json", {"problems": ["given up"], "at": utc_now()})


def _recognise(store: EventStore, manifest: Manifest) -> None:
    if store.identity is not None and manifest.log is not None:
        store.identity.recognise(Position.parse(manifest.last_position), manifest.log)


def _check_log(context: RunContext, manifest: Manifest) -> None:
    """Raises AnotherLog where the store was restored to an earlier time since a run was sealed: it
    may not have the run's events any more, and others in their places.
    """
    try:
        _recognise(context.store, manifest)
    except AnotherLog as error:
        raise type(error)(
            f"run {context.run.name} archived events of another history: {error.message}",
            hint="Name the right store. If the store was restored on purpose, give the run up, so "
            f"that its events do not count: esops archive run {context.policy_name} --start-again",
        ) from None


def _verify(context: RunContext, manifest: Manifest, reasons: DiskMap) -> RunVerification:
    """Read a sealed run back and compare it with the store.

    `reasons` gets the streams that must not be removed, each with its reason.
    """

    def each(digest: Digest, comparison: StreamComparison) -> None:
        if _continued(manifest, digest) and context.store.many_streams.count_parts(
            [StreamPart(digest.key, 0, digest.first_version - 1)], archived=True
        ) != [0]:
            # They would stay in front of a gap.
            reasons.put(*digest.key, "older events of it, of another run, were restored since")
        # The archive would give its events at positions where they were not last.
        if comparison.status == "moved":
            reasons.put(*digest.key, comparison.detail)
        # An event that was appended since would be removed unarchived.
        if comparison.last_version is not None and comparison.last_version > digest.last_version:
            reasons.put(
                *digest.key,
                f"it changed since it was archived: at version {comparison.last_version}, not "
                f"{digest.last_version}",
            )

    def tick(done: int, total: int) -> None:
        context.check_stop()
        context.progress("events verified", done, total)

    return verify(context.run, manifest, context.store, each=each, tick=tick)


def _continued(manifest: Manifest, digest: Digest) -> bool:
    """Whether a run has a whole stream that did not begin with its first event."""
    return manifest.part != "head" and digest.first_version > manifest.first_version


def _note_verified(context: RunContext, found: RunVerification) -> None:
    note = {
        "at": utc_now(),
        "ok": found.ok,
        "streams": found.streams,
        "events": found.events,
        "problems": found.problems,
    }
    context.run.note("verified.json", note)
    log.info("verified", run=context.run.name, ok=found.ok, files=found.files, events=found.events)
