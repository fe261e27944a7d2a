"""The last step of an archive run: archived streams leave the store in small transactions.

What the archive has is read back once more, and goes along with what it stands for: the store
removes an event only while it is equal to that. Where one is not, its stream stays. Before each
transaction the files are looked at, and all of them at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice, repeat
from typing import TYPE_CHECKING

import structlog

from esops.archive import checkpoint_guard, policy
from esops.archive.ages import StreamAges
from esops.archive.compare import RowReader
from esops.archive.context import ArchiveOutcome, RunContext, utc_now
from esops.archive.kept_files import KeptFiles
from esops.archive.remover import REASONS_KEPT, ArchivedStream, RemovalResult, Remover
from esops.archive.unread import RunEvents
from esops.archive_format.disk_map import DiskMap
from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.errors import EsopsError
from esops.stores.archiving import StreamPart
from esops.stores.base import require
from esops.term import duration

if TYPE_CHECKING:
    from esops.stores.eventstoredb.admin import Scavenge

log = structlog.get_logger("esops.archive")

_STREAMS_AT_ONCE = 500


def remove_archived(
    context: RunContext, manifest: Manifest, reasons: DiskMap, outcome: ArchiveOutcome, gone: int
) -> None:
    """Remove the streams of a verified run, except those that `reasons` names.

    `gone` of its events the store does not have any more.

    Raises Refused, before anything is removed, if somebody has not read the events yet; Stopped
    between two transactions; Missing or Damaged, at once, where the archive has lost a file.
    """
    _refuse_unless_read(context, manifest)
    for key, reason in checkpoint_guard.needed_streams(context.store).items():
        reasons.put(*key, reason)
    result = RemovalResult()
    # Once more: a run that was sealed to keep its streams can be resumed to remove them.
    clock = policy.now(context.store, context.policy, context.removal)
    files = KeptFiles(context.run, manifest, lambda: result.events)
    # From here on the run counts, whatever becomes of it: it may be all that is left of events.
    before = context.run.read("removal.json")
    # What had gone when the run began to remove, others removed; what went since, it did itself.
    others = gone if before is None else before.get("gone", 0)
    limit = context.policy.statement_timeout.total_seconds()
    note = {"at": utc_now(), "remove": context.removal, "gone": others, "statement_timeout": limit}
    context.run.note("removal.json", note)

    def before_each() -> None:
        context.check_stop()
        # Another process that took over would archive and remove the same streams.
        context.lease.check()
        files.check()
        context.progress("streams removed", result.streams + result.left_alone, manifest.streams)

    head = manifest.part == "head"
    remover = Remover(context.store, context.strategy, context.policy, head, before_each)
    remover.remove(_going(context, manifest, reasons, result, files, clock), result)
    removed = result.events
    if before is not None:
        # What an earlier process of the run has removed may be in streams that stay now, or have
        # gone in another way.
        removed = _lacking(context, manifest)
    _count(outcome, result, max(0, removed - others))
    files.check_all()
    log.info(
        "removed",
        run=context.run.name,
        removal=context.removal,
        streams=result.streams,
        left_alone=result.left_alone,
    )
    if policy.scavenges(context.store, context.policy, context.removal):
        outcome.scavenge = _scavenge(context)


def _refuse_unless_read(context: RunContext, manifest: Manifest) -> None:
    """Raises Refused if somebody has not read a run's events yet."""
    if context.despite_checkpoints:
        log.warning("removing events without asking any reader how far it has read")
        return
    checkpoint_guard.refuse_unless_read(
        context.config,
        context.store,
        context.store_name,
        RunEvents(context.run, manifest),
        context.despite,
    )


def _going(
    context: RunContext,
    manifest: Manifest,
    reasons: DiskMap,
    result: RemovalResult,
    files: KeptFiles,
    clock: datetime,
) -> Iterator[ArchivedStream]:
    """The streams that are to be removed, with their events as they are read back; the others are
    counted, each with its reason.
    """
    events = RowReader(files.events())
    archived = (digest for digest, _ in context.run.streams(manifest))
    for digest, young in _with_ages(context, manifest, archived, clock):
        reason = reasons.get(*digest.key) or young
        rows = events.next(digest.events)
        if reason is not None:
            result.skip(digest.stream, reason)
        else:
            yield ArchivedStream(digest, rows)
        # The next stream begins at its own rows.
        deque(rows, 0)


def _count(outcome: ArchiveOutcome, result: RemovalResult, removed_events: int) -> None:
    """Take over what a removal did."""
    outcome.removed, outcome.removed_events = result.streams, removed_events
    outcome.left_alone = result.left_alone
    outcome.skipped = [*outcome.skipped, *result.skipped][:REASONS_KEPT]
    outcome.stuck += result.stuck
    outcome.hidden = [[*key, reason] for key, reason in result.hidden.items()]


def _lacking(context: RunContext, manifest: Manifest) -> int:
    """How many of a run's events the store does not have any more, or has marked as archived."""
    lacking = 0
    archived = (digest for digest, _ in context.run.streams(manifest))
    while group := list(islice(archived, _STREAMS_AT_ONCE)):
        parts = [StreamPart(each.key, each.first_version, each.last_version) for each in group]
        there = context.store.many_streams.count_parts(parts)
        lacking += sum(max(0, e.events - n) for e, n in zip(group, there, strict=True))
    return lacking


def _with_ages(
    context: RunContext, manifest: Manifest, archived: Iterator[Digest], clock: datetime
) -> Iterator[tuple[Digest, str | None]]:
    """Each stream, and why it is not removed where it is too young or nobody knows."""
    floor = context.policy.floor(context.removal)
    least = f"the policy never removes what is younger than {duration(floor.total_seconds())}"
    reasons = {
        None: None,
        "young": least,
        "ageless": f"the age of its last event is unknown, and {least}",
    }
    ages = StreamAges(context.store, clock)
    while group := list(islice(archived, _STREAMS_AT_ONCE)):
        found: Iterable[str | None] = repeat(None)
        if floor:
            found = policy.young(context.store, manifest.part, group, floor, ages)
        for digest, why in zip(group, found, strict=False):
            yield digest, reasons[why]


def _scavenge(context: RunContext) -> str:
    """Scavenge each node and wait for it: only then does the disk space come free.

    Returns the ids. Raises EsopsError that names the nodes where it did not succeed.
    """
    admin = require(context.store, context.store.admin, "admin")
    last: dict[str, Scavenge] = {}
    for seen in admin.scavenge():
        context.check_stop()
        context.progress("chunks scavenged", seen.chunks, None)
        last[seen.node] = seen
    bad = [each for each in last.values() if each.result != "Success"]
    if bad or not last:
        why = "; ".join(f"{each.node}: {each.error or each.result}" for each in bad)
        good = ", ".join(each.node for each in last.values() if each not in bad) or "none"
        raise EsopsError(
            f"not every node of store {context.store_name} was scavenged ({why}); scavenged: "
            f"{good}",
            hint="The events are removed, and a node frees their disk space with its own scavenge. "
            "Run the policy again, or start a scavenge of these nodes.",
        )
    return ", ".join(each.id for each in last.values())
