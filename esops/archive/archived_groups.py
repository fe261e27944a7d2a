"""The streams of a run in groups of some thousand events, each with its rows and events."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from esops.archive.compare import RowReader, only
from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.archive_format.schema import StreamRow
from esops.errors import Busy, Refused, UsageError
from esops.stores.archive.reading import Database
from esops.stores.archiving import TenantScope
from esops.stores.base import EventStore

_EVENTS_AT_ONCE = 5_000
_STREAMS_AT_ONCE = 500


class Group(NamedTuple):
    """Streams, the store's own rows of them, and their events, which can be read once."""

    digests: list[Digest]
    rows: list[str | None]
    batches: Iterator[pa.RecordBatch]
    others: int = 0
    """How many streams between these are other tenants' and were left out."""


def check_seal(run: Run, manifest: Manifest) -> None:
    """Raises Busy where the run was sealed again, with other files than the manifest names."""
    if run.manifest().files != manifest.files:
        raise Busy(
            f"run {run.name} was sealed again since its events were read, as an erasure of "
            "personal data does",
            hint="Run the restore again: it takes the events as they are now.",
        )


def scope_of(store: EventStore, manifest: Manifest) -> TenantScope | None:
    """The one tenant that a store reads of a run; None where it reads all."""
    scope = store.tenant_scope
    return scope if scope is not None and scope.layout == manifest.layout else None


def check_names(
    run: Run, manifest: Manifest, requested: frozenset[str], scope: TenantScope | None
) -> None:
    """Raises UsageError where a run has no stream of a name, or of another tenant alone."""
    if not requested:
        return
    missing = requested.difference(
        digest.stream
        for digest, row in run.streams(manifest)
        if scope is None or scope.own(digest.key, row.row) is not None
    )
    if missing:
        raise UsageError(
            f"run {run.name} has no stream {min(missing)!r}",
            hint="Nothing was restored. List its streams with: "
            f"esops archive show {run.name} --streams",
        )


def groups_of(
    run: Run, manifest: Manifest, requested: frozenset[str], scope: TenantScope | None = None
) -> Iterator[Group]:
    """All streams of a run, or those of some names, in the order of its files; with a `scope`, of
    one tenant. Raises Refused where its store has them under other keys.

    What is not read of a group's events is skipped before the next group.
    """
    events = RowReader(events_of_streams(run, manifest, requested))
    group: list[Digest] = []
    rows: list[str | None] = []
    count = others = 0
    for digest, row in run.streams(manifest):
        if requested and digest.stream not in requested:
            continue
        count += digest.events
        if scope is None or _is_own(digest, row, scope, run):
            group.append(digest)
            rows.append(row.row)
        else:
            others += 1
        if count >= _EVENTS_AT_ONCE or len(group) >= _STREAMS_AT_ONCE:
            yield from _group(Group(group, rows, events.next(count), others))
            group, rows, count, others = [], [], 0, 0
    if count:
        yield from _group(Group(group, rows, events.next(count), others))


def _is_own(digest: Digest, row: StreamRow, scope: TenantScope, run: Run) -> bool:
    own = scope.own(digest.key, row.row)
    if own is not None and own != digest.key:
        raise Refused(
            f"run {run.name} names its streams by tenant, and the store reads tenant "
            f"{scope.tenant} alone, whose streams bear no name of a tenant",
            hint="Restore it into a section of the same database without `tenant`: --into STORE.",
        )
    return own is not None


def _group(group: Group) -> Iterator[Group]:
    keys = [digest.key for digest in group.digests]
    own = (only(batch, keys) for batch in group.batches) if group.others else group.batches
    yield group._replace(batches=own)
    deque(group.batches, 0)


def events_of_streams(
    run: Run, manifest: Manifest, requested: frozenset[str]
) -> Iterator[pa.RecordBatch]:
    """The events of the requested streams, or of all; only files that hold some are read."""
    if not requested:
        for entry in manifest.event_files:
            yield from run.batches(entry)
        return
    with Database([(run, manifest)]) as database:
        entries = database.files_of(run, manifest, requested)
    names = pa.array(sorted(requested))
    for entry in entries:
        for batch in run.batches(entry):
            # By name alone: a stream that several tenants have is restored for all of them.
            yield batch.filter(pc.is_in(batch.column("stream"), names))
