"""Archived streams compared with a store's: by digest, and event by event where these differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from esops.archive_format.hashes import Digest, digests
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.archive_format.schema import Damaged, join_ids, plain_rows
from esops.archive_format.snapshots import is_snapshot
from esops.events import StreamRef
from esops.stores.base import EventStore, require


class StreamComparison(NamedTuple):
    """How a stream in the store compares with the archived one.

    same: it is as it was archived. gone: the store has no event of it. partly: what is in the
    store is as it was archived; some was removed, or events were appended since. differs: an event
    is not the archived one.
    """

    status: Literal["same", "gone", "partly", "differs"]
    detail: str = ""
    """Which event differs, and in what."""
    last_version: int | None = None
    """The stream's last version in the store; None if it is gone."""


def compare(
    run: Run, manifest: Manifest, streams: Sequence[Digest], store: EventStore
) -> Iterator[tuple[Digest, StreamComparison]]:
    """Compare some streams of a run with the store. Raises Damaged, Missing, Unavailable."""
    if len(manifest.first_position.split(":")) != manifest.position_parts:
        raise Damaged(f"{run.name}: its manifest contradicts itself about positions")
    in_store = {digest.key: digest for digest in digests(exported(store, streams, manifest))}
    for digest in streams:
        other = in_store.get(digest.key)
        if other is None:
            yield digest, StreamComparison("gone")
        elif other == digest:
            yield digest, StreamComparison("same", last_version=other.last_version)
        else:
            yield digest, _compare_events(run, manifest, digest, other, store)


def exported(
    store: EventStore, streams: Sequence[Digest], manifest: Manifest
) -> Iterator[pa.RecordBatch]:
    """What the store has of archived streams now, in the columns of the archive; of heads, up to
    where they end.
    """
    archiving = require(store, store.archiving, "archiving")
    head = manifest.part == "head"
    refs = (
        StreamRef(*digest[:3], last=digest.last_version if head else None) for digest in streams
    )
    return archiving.export(refs, list(manifest.columns))


def _compare_events(
    run: Run, manifest: Manifest, digest: Digest, other: Digest, store: EventStore
) -> StreamComparison:
    """Walk through both versions of a stream in parallel, to tell a removed part from a change."""
    archived = chain.from_iterable(map(_by_version, events_of(run, manifest, digest)))
    in_store = chain.from_iterable(map(_by_version, exported(store, [digest], manifest)))
    ahead = next(archived, None)
    for version, values in in_store:
        while ahead is not None and ahead[0] < version:  # removed from the store since
            ahead = next(archived, None)
        before = ahead[1] if ahead is not None and ahead[0] == version else None
        if before is None:
            if version <= digest.last_version:
                return StreamComparison(
                    "differs",
                    f"the store has an event of version {version}, and the archive does not",
                    other.last_version,
                )
            continue  # appended since
        different = [name for name in before if before[name] != values[name]]
        if different and is_snapshot(values["type"]) and not is_snapshot(before["type"]):
            return StreamComparison(
                "differs",
                f"the store has compacted it: version {version} there is now a snapshot "
                f"({values['type']}) of all events up to it, and the archive has the original "
                f"event ({before['type']})",
                other.last_version,
            )
        if different:
            return StreamComparison(
                "differs",
                f"version {version} differs from the store's in {', '.join(different)}",
                other.last_version,
            )
    return StreamComparison("partly", "", other.last_version)


def _by_version(batch: pa.RecordBatch) -> Iterator[tuple[int, dict[str, Any]]]:
    ids = join_ids(batch)
    for row, identifier in zip(plain_rows(batch), ids, strict=True):
        yield row["version"], {**row, "id": identifier, "id_text": None}


def events_of(run: Run, manifest: Manifest, digest: Digest) -> Iterator[pa.RecordBatch]:
    """The events of one stream of a run; only the files that hold it are read."""
    # DuckDB is only needed where a stream differs, and takes long to import.
    from esops.stores.archive.reading import Database

    with Database([(run, manifest)]) as database:
        entries = database.files_of(run, manifest, [digest.stream])
    for entry in entries:
        for batch in run.batches(entry):
            yield batch.filter(
                pc.and_(
                    pc.equal(batch.column("stream"), digest.stream),
                    pc.equal(batch.column("tenant"), digest.tenant),
                )
            )


class RowReader:
    """Reads batches row by row: a number of rows at a time, however the batches are cut."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        """The batches are read as rows are asked for."""
        self._batches = batches
        self._rest: list[pa.RecordBatch] = []
        """At most one batch: what is left of the last one."""

    def next(
        self, count: int | None, comparer: RowComparer | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The next `count` rows, or all that are left; each is compared as it passes."""
        while count is None or count:
            batch = self._rest.pop() if self._rest else next(self._batches, None)
            if batch is None:
                return
            taken = batch if count is None else batch.slice(0, count)
            if batch.num_rows > taken.num_rows:
                self._rest.append(batch.slice(taken.num_rows))
            if count is not None:
                count -= taken.num_rows
            if comparer is not None:
                comparer.compare(taken)
            yield taken


class RowComparer:
    """Whether rows equal other rows that come in batches of other sizes."""

    def __init__(self, others: Iterator[pa.RecordBatch]) -> None:
        """The others are read as rows come to be compared."""
        self._others = RowReader(others)
        self._equal = True

    def compare(self, batch: pa.RecordBatch) -> None:
        """Compare some rows with as many of the others."""
        at = 0
        while self._equal and at < batch.num_rows:
            other = next(self._others.next(batch.num_rows - at), None)
            if other is None or not other.equals(batch.slice(at, other.num_rows)):
                self._equal = False
            else:
                at += other.num_rows

    def equal(self) -> bool:
        """Whether all rows were equal, and none of the others is left."""
        return self._equal and next(self._others.next(1), None) is None
