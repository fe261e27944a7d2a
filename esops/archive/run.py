"""One run of a policy: select, export, seal, verify, remove.

Each step is noted in the repository, and a killed run is gone on with.

All state is in the repository, so that an archive works the same for every store, needs no table in
the application's database, and
outlives it. A run without a seal begins its export again, under names of its own. Each process that
removes has verified before, itself:
the one that exports reads every file back as soon as it is written, one that goes on with a sealed
run reads it whole and compares it with the store.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from esops import __version__
from esops.archive import checkpoint_guard, policy
from esops.archive.remove import RemovalResult, remove
from esops.archive.verify import RunVerification, StreamComparison, compare, verify
from esops.archive.writer import Export
from esops.archive_format.disk_map import DiskMap
from esops.archive_format.hashes import Digest
from esops.archive_format.lease import Lease
from esops.archive_format.manifest import Manifest
from esops.archive_format.repository import Missing, Repository
from esops.archive_format.runs import RUNS, Catalog, Run
from esops.archive_format.schema import Damaged, from_micros
from esops.config import Config
from esops.errors import EsopsError, Stopped, UsageError
from esops.events import Position, StreamInfo, StreamKey
from esops.settings import PolicySettings, Removal
from esops.stores import open_store
from esops.stores.base import EventStore, RemovalStrategy

log = structlog.get_logger("esops.archive")

Progress = Callable[[str, int, int | None], None]


@dataclass
class ArchiveOutcome:
    """What a run did.

    `state`: nothing (no stream was selected), verified (nothing was to be removed), done, or
    failed.
    """

    policy: str
    archive: str
    store: str
    remove: str
    run: str | None = None
    state: str = "nothing"
    streams: int = 0
    events: int = 0
    bytes: int = 0
    files: int = 0
    stored_bytes: int = 0
    removed: int = 0
    removed_events: int = 0
    left_alone: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    scavenge: str | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


@dataclass
class RunContext:
    """What all steps of a run need."""

    config: Config
    policy_name: str
    archive: str
    policy: PolicySettings
    file_size: int
    store_name: str
    store: EventStore
    removal: Removal
    strategy: RemovalStrategy
    run: Run
    lease: Lease
    despite_checkpoints: bool
    check_stop: Callable[[], None]
    """Raises Stopped when it is time to stop."""
    progress: Progress


def plan(config: Config, name: str, removal: Removal | None = None) -> policy.ArchivePlan:
    """What a run would do now; nothing is touched. Raises UsageError, Unavailable."""
    archive, settings, chosen = config.policy(name)
    store_name, store_settings = config.store(chosen.store)
    wanted = removal or chosen.remove
    with open_store(store_name, store_settings.alone) as store:
        strategy = policy.removal_strategy(store, chosen, wanted)
        found = policy.ArchivePlan(
            name, archive, store_name, wanted, statements=strategy.statements, what=strategy.what
        )
        found.stays = max(chosen.keep_last, strategy.keeps)
        repository = Repository(settings)
        known = (
            policy.ArchivedVersions(Catalog(repository), store_name) if wanted == "keep" else None
        )
        for info in policy.selected(store, chosen, strategy, policy.now(), known, measured=True):
            found.add(info)
    return found


def run(
    config: Config,
    name: str,
    *,
    removal: Removal | None = None,
    despite_checkpoints: bool = False,
    max_duration: timedelta | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress = lambda *_: None,
) -> ArchiveOutcome:
    """Run a policy, or go on with its unfinished run.

    Raises Busy while another process is at it, Stopped between two steps, Refused where projections
    have not passed what would go.
    """
    archive, settings, chosen = config.policy(name)
    store_name, store_settings = config.store(chosen.store)
    began = time.monotonic()
    limit = max_duration or chosen.max_duration

    def check_stop() -> None:
        if stop():
            raise Stopped("interrupted", hint=f"Go on with: esops archive run {name}")
        if limit is not None and time.monotonic() - began > limit.total_seconds():
            raise Stopped(
                f"out of time after {limit}", hint=f"Go on with: esops archive run {name}"
            )

    short = name.rpartition("/")[2]
    repository = Repository(settings)
    if repository.encrypts and not repository.decrypts:
        hint = (
            "Name it with `identity` or `identity_file`: nothing is removed that was not read back."
        )
        raise UsageError(
            f"archives.{archive} encrypts, and has no key to read back what it wrote", hint=hint
        )
    with Lease(repository, f"{archive}/{short}") as lease, ExitStack() as stack:
        catalog = Catalog(repository)
        unfinished = _unfinished(catalog, f"{archive}/{short}", store_name)
        wanted = removal or (unfinished[1].get("remove") if unfinished else None) or chosen.remove
        store = stack.enter_context(open_store(store_name, store_settings.alone))
        strategy = policy.removal_strategy(store, chosen, wanted)
        current = unfinished[0] if unfinished else Run(repository, _new_name(short))
        context = RunContext(
            config,
            f"{archive}/{short}",
            archive,
            chosen,
            settings.file_size,
            store_name,
            store,
            wanted,
            strategy,
            current,
            lease,
            despite_checkpoints,
            check_stop,
            progress,
        )
        outcome = ArchiveOutcome(short, archive, store_name, wanted)
        _go(context, catalog, outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


def _go(context: RunContext, catalog: Catalog, outcome: ArchiveOutcome) -> None:
    current = context.run
    manifest = current.seal()
    found: RunVerification | None = None
    reasons = DiskMap()
    try:
        if manifest is not None:
            log.info("going on", run=current.name, streams=manifest.streams, events=manifest.events)
            _tell(outcome, current, manifest)
            catalog.enter(current, manifest)
            found = _verify(context, manifest, reasons)
        else:
            try:
                manifest = _export(context, catalog)
            except _ReadBackFailed as error:
                found = RunVerification(current.name, found=1, problems=[error.message])
            else:
                if manifest is None:
                    return
                _tell(outcome, current, manifest)
                catalog.enter(current, manifest)
                found = RunVerification(
                    current.name, len(manifest.files), manifest.streams, manifest.events
                )
        _note_verified(context, found)
        if manifest is None or not found.ok:
            current.note("failed.json", {"problems": found.problems, "at": _now()})
            outcome.run, outcome.state, outcome.problems = current.name, "failed", found.problems
            return
        outcome.state = "verified"
        if context.removal != "keep":
            _remove(context, manifest, reasons, outcome)
            outcome.state = "done"
    finally:
        reasons.close()
    current.note(
        "done.json",
        {
            "at": _now(),
            "remove": context.removal,
            "removed": outcome.removed,
            "removed_events": outcome.removed_events,
            "left_alone": outcome.left_alone,
            "skipped": outcome.skipped,
            "scavenge": outcome.scavenge,
        },
    )


def _tell(outcome: ArchiveOutcome, current: Run, manifest: Manifest) -> None:
    outcome.run, outcome.streams, outcome.events, outcome.bytes = (
        current.name,
        manifest.streams,
        manifest.events,
        manifest.bytes,
    )
    outcome.files, outcome.stored_bytes = (
        len(manifest.files),
        sum(entry.size for entry in manifest.files),
    )


# -- select, export, seal


class _ReadBackFailed(EsopsError):
    """The repository does not give back what was written to it."""


def _export(context: RunContext, catalog: Catalog) -> Manifest | None:
    """Export what the policy selects, and seal it; None where it selects nothing."""
    selected_at = policy.now()
    known = (
        policy.ArchivedVersions(catalog, context.store_name) if context.removal == "keep" else None
    )
    try:
        chosen = policy.selected(
            context.store, context.policy, context.strategy, selected_at, known
        )
        with policy.Selection(_counting(context, chosen)) as streams:
            if not streams.count:
                return None
            if context.run.read("plan.json") is None:
                plan_ = {
                    "policy": context.policy_name,
                    "store": context.store_name,
                    "remove": context.removal,
                    "at": _now(),
                }
                context.run.note("plan.json", plan_)
            log.info(
                "exporting", run=context.run.name, streams=streams.count, events=streams.events
            )
            try:
                return _write_and_seal(context, streams, selected_at)
            except (Damaged, Missing) as error:
                raise _ReadBackFailed(error.message) from error
    finally:
        if known is not None:
            known.close()


def _counting(context: RunContext, streams: Iterator[StreamInfo]) -> Iterator[StreamInfo]:
    for number, info in enumerate(streams, 1):
        if number % 1_000 == 0:
            context.check_stop()
            context.progress("streams selected", number, None)
        yield info


def _write_and_seal(
    context: RunContext, streams: policy.Selection, selected_at: datetime
) -> Manifest | None:
    store, current = context.store, context.run
    info = store.ping()
    head = store.head()
    parts = len(head) if head is not None else 1
    columns = store.extra_columns()
    with Export(current, context.lease.number, columns, parts, context.file_size) as export:
        for so_far in export.add(
            streams, lambda chosen: store.export(chosen, columns), store.stream_rows
        ):
            context.check_stop()
            context.progress("events exported", so_far.events, streams.events)
        event_files, stream_files = export.close()
    found = export.found
    if not found.streams:  # all of them went since they were selected
        return None
    manifest = Manifest(
        run=current.name,
        policy=context.policy_name,
        store=context.store_name,
        backend=info.backend,
        layout=info.layout,
        position_parts=parts,
        first_version=store.capabilities.first_version,
        columns=tuple(columns),
        selected_at=selected_at,
        sealed_at=datetime.now(UTC),
        esops=__version__,
        streams=found.streams,
        events=found.events,
        bytes=found.bytes,
        first_position=str(found.first_position),
        last_position=str(found.last_position),
        first_at=from_micros(found.first_at),
        last_at=from_micros(found.last_at),
        event_files=event_files,
        stream_files=stream_files,
    )
    context.lease.check()
    _still_there(current, manifest)
    current.note("manifest.json", manifest.model_dump(mode="json"), if_absent=True)
    if current.seal() != manifest:
        raise Damaged(f"{current.name}/manifest.json: what is read back is not what was written")
    log.info("sealed", run=current.name, files=len(manifest.files), events=manifest.events)
    return manifest


def _still_there(current: Run, manifest: Manifest) -> None:
    """Each file was read back when it was written, which may be hours ago.

    Raises Missing, Damaged.
    """
    sizes = {
        entry.name.rpartition("/")[2]: entry.size
        for entry in current.repository.entries(f"{RUNS}/{current.name}")
    }
    for entry in manifest.files:
        if entry.name not in sizes:
            raise Missing(f"{current.name}/{entry.name} is not in the repository any more")
        if sizes[entry.name] != entry.size:
            raise Damaged(
                f"{current.name}/{entry.name} has {sizes[entry.name]:,} bytes instead of "
                f"{entry.size:,}"
            )


# -- verify


def _verify(context: RunContext, manifest: Manifest, reasons: DiskMap) -> RunVerification:
    """Read everything back and compare it with the store. `reasons` gets the streams that must not
    be removed, each with its reason.
    """

    def each(digest: Digest, comparison: StreamComparison) -> None:
        if comparison.last_version is not None and comparison.last_version > digest.last_version:
            reason = (
                f"it changed since it was archived: at version {comparison.last_version}, not "
                f"{digest.last_version}"
            )
            reasons.put(*digest.key, reason)

    def tick(done: int, total: int) -> None:
        context.check_stop()
        context.progress("events verified", done, total)

    return verify(context.run, manifest, context.store, each=each, tick=tick)


def _note_verified(context: RunContext, found: RunVerification) -> None:
    note = {
        "at": _now(),
        "ok": found.ok,
        "streams": found.streams,
        "events": found.events,
        "problems": found.problems,
    }
    context.run.note("verified.json", note)
    log.info("verified", run=context.run.name, ok=found.ok, files=found.files, events=found.events)


# -- remove


def _remove(
    context: RunContext, manifest: Manifest, reasons: DiskMap, outcome: ArchiveOutcome
) -> None:
    if not context.despite_checkpoints:
        position = Position.parse(manifest.last_position)
        checkpoint_guard.refuse_unless_passed(
            context.config, context.store, context.store_name, position
        )
    result = RemovalResult()

    def before_each() -> None:
        context.check_stop()
        context.lease.check()
        context.progress("streams removed", result.streams + result.left_alone, manifest.streams)

    def to_go() -> Iterable[Digest]:
        for digest, _ in context.run.streams(manifest):
            reason = reasons.get(*digest.key)
            if reason is not None:
                result.skip(digest.stream, reason)
            else:
                yield digest

    def check(streams: Sequence[Digest]) -> dict[StreamKey, str]:
        """Compared once more right before they go: hours may lie between the verification and a
        removal at a low rate.
        """
        found = compare(context.run, manifest, streams, context.store)
        return {
            digest.key: comparison.detail
            for digest, comparison in found
            if comparison.status == "differs"
        }

    remove(context.store, context.strategy, context.policy, to_go(), result, check, before_each)
    outcome.removed, outcome.removed_events = result.streams, result.events
    outcome.left_alone, outcome.skipped = result.left_alone, result.skipped
    log.info(
        "removed",
        run=context.run.name,
        how=context.removal,
        streams=result.streams,
        left_alone=result.left_alone,
    )
    if context.policy.scavenge and context.store.capabilities.scavenge:
        outcome.scavenge = _scavenge(context)


def _scavenge(context: RunContext) -> str:
    """Start a scavenge of the node and wait for it, so that what was removed leaves the disk."""
    store: Any = context.store
    with store.admin as admin:
        number = str(admin.start_scavenge())
    result = "InProgress"
    for seen in store.scavenges.watch(number):
        context.check_stop()
        context.progress("chunks scavenged", seen.chunks, None)
        result = seen.result
    if result != "Success":
        raise EsopsError(f"scavenge {number} ended with {result}")
    return number


# -- names


def _unfinished(
    catalog: Catalog, policy_name: str, store_name: str
) -> tuple[Run, dict[str, Any]] | None:
    """The newest run of a policy that is neither done nor failed."""
    for found in reversed(catalog.runs()):
        if found.name.rpartition("-")[0].partition("-")[2] != policy_name.rpartition("/")[2]:
            continue
        planned = found.read("plan.json")
        if planned is None or planned["policy"] != policy_name:
            continue
        if found.state in ("done", "failed"):
            return None
        if planned["store"] != store_name:
            raise UsageError(
                f"run {found.name} of this policy is unfinished, and of store "
                f"{planned['store']}, not {store_name}"
            )
        return found, planned
    return None


def _new_name(policy_name: str) -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{policy_name}-{secrets.token_hex(3)}"


def _now() -> str:
    return datetime.now(UTC).isoformat()
