"""Archived streams compared with a store's: by digest, and event by event where these differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from esops.archive_format.hashes import Digest, cut_by_stream, digests
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.archive_format.schema import Damaged, join_ids, plain_rows
from esops.archive_format.snapshots import is_snapshot
from esops.events import StreamKey, StreamRef
from esops.stores.base import EventStore, require
from esops.wording import count

PLACE = frozenset({"position_1", "position_2", "x_transaction_id"})
"""Where an event is in the log, Emmett's transaction included: what a restore may change."""


_MOVED = "its events are at other positions than when they were archived"


class StreamComparison(NamedTuple):
    """How a stream in the store compares with the archived one.

    same: it is as it was archived. gone: the store has no event of it. partly: what is in the
    store is as it was archived; some was removed, or events were appended since. moved: as it was
    archived, at other positions, as after a restore with new ones. differs: an event is not the
    archived one.
    """

    status: Literal["same", "gone", "partly", "moved", "differs"]
    detail: str = ""
    """Which event differs, and in what."""
    last_version: int | None = None
    """The stream's last version in the store; None if it is gone."""
    missing: int = 0
    """How many archived events of it the store does not have, or has marked as archived."""
    compared: int = 0
    """How many of its archived events are in the store and were compared with it."""

    @property
    def lacks(self) -> bool:
        """Whether the store lacks an archived event of it."""
        return self.missing > 0

    def there(self, *, moved: bool) -> bool:
        """Whether the store has all of it as it was archived; where `moved`, at any positions."""
        known = {"same", "partly", "moved"} if moved else {"same", "partly"}
        return self.status in known and not self.lacks

    def in_words(self) -> str:
        """What the store lacks of the stream, or has instead of it."""
        if self.detail:
            return self.detail
        if self.status == "gone":
            return "the store has no event of it"
        return f"the store lacks {count(self.missing, 'event')} of it"


def compare(
    run: Run,
    manifest: Manifest,
    streams: Sequence[Digest],
    store: EventStore,
    rows: Sequence[pa.RecordBatch] | None = None,
) -> Iterator[tuple[Digest, StreamComparison]]:
    """Compare some streams of a run, in their order there, with the store.

    `rows` are all archived events of these streams, where they are at hand; otherwise they are read
    from the files that hold them, each file once. Raises Damaged, Missing, Unavailable.
    """
    if len(manifest.first_position.split(":")) != manifest.position_parts:
        raise Damaged(f"{run.name}: its manifest contradicts itself about positions")
    in_store = {digest.key: digest for digest in digests(exported(store, streams, manifest))}
    others = [digest for digest in streams if in_store.get(digest.key, digest) != digest]
    found: dict[StreamKey, StreamComparison] = {}
    missing = StreamComparison("gone", missing=1)
    if rows is None:
        missing = StreamComparison("differs", "its events are not in the run's files")
    if others:
        pairs = (
            _pairs(run, manifest, others, store)
            if rows is None
            else _pairs_at_hand(manifest, streams, others, store, rows)
        )
        for digest, archived, stored in pairs:
            found[digest.key] = _compare_events(digest, in_store[digest.key], archived, stored)
    for digest in streams:
        other = in_store.get(digest.key)
        if other is None:
            yield digest, StreamComparison("gone", missing=digest.events)
        elif other == digest:
            yield digest, same_as(digest)
        else:
            # One that is not found was removed from the store between two reads of it.
            yield digest, found.get(digest.key, missing)


def same_as(digest: Digest) -> StreamComparison:
    """The comparison of a stream that is in the store as it was archived."""
    return StreamComparison("same", last_version=digest.last_version, compared=digest.events)


_Pair = tuple[Digest, Iterable[pa.RecordBatch], Iterable[pa.RecordBatch]]
"""A stream, its archived events, and those in the store."""


def _pairs_at_hand(
    manifest: Manifest,
    streams: Sequence[Digest],
    others: Sequence[Digest],
    store: EventStore,
    rows: Sequence[pa.RecordBatch],
) -> Iterator[_Pair]:
    """Each of the others, by one read of the store and none of the archive."""
    table, at = pa.Table.from_batches(rows), 0
    places: dict[StreamKey, tuple[Digest, int]] = {}
    for digest in streams:
        places[digest.key] = (digest, at)
        at += digest.events
    for key, stored in by_stream(exported(store, others, manifest)):
        digest, low = places[key]
        yield digest, table.slice(low, digest.events).to_batches(), stored


def _pairs(
    run: Run, manifest: Manifest, others: Sequence[Digest], store: EventStore
) -> Iterator[_Pair]:
    """Each of the others, by one read of each file that holds one."""
    # DuckDB is only needed where a stream differs, and takes long to import.
    from esops.stores.archive.reading import Database

    by_key = {digest.key: digest for digest in others}
    names = pa.array(sorted({digest.stream for digest in others}))
    with Database([(run, manifest)]) as database:
        entries = database.files_of(run, manifest, names.to_pylist())
    batches = (
        batch.filter(pc.is_in(batch.column("stream"), names))
        for entry in entries
        for batch in run.batches(entry)
    )
    for key, archived in by_stream(batches):
        if key in by_key:  # and not another tenant's
            yield by_key[key], archived, exported(store, [by_key[key]], manifest)


def by_stream(
    batches: Iterable[pa.RecordBatch],
) -> Iterator[tuple[StreamKey, Iterator[pa.RecordBatch]]]:
    """Batches that are sorted by stream, stream by stream; each to be read before the next."""
    pieces = (
        (StreamKey(part.column("stream")[0].as_py(), part.column("tenant")[0].as_py()), part)
        for batch in batches
        for part in cut_by_stream(batch)
    )
    for key, group in groupby(pieces, key=itemgetter(0)):
        yield key, map(itemgetter(1), group)


def exported(
    store: EventStore, streams: Sequence[Digest], manifest: Manifest
) -> Iterator[pa.RecordBatch]:
    """What the store has of archived streams now, in the columns of the archive, from where they
    begin there; of heads, to where they end.
    """
    archiving = require(store, store.archiving, "archiving")
    head = manifest.part == "head"
    refs = (
        StreamRef(*digest[:3], last=digest.last_version if head else None) for digest in streams
    )
    found = archiving.export(refs, list(manifest.columns))
    return _from_first(found, streams)


def _from_first(
    batches: Iterator[pa.RecordBatch], streams: Sequence[Digest]
) -> Iterator[pa.RecordBatch]:
    """Without what lies before the archived events: other runs have it, and it may be there
    again.
    """
    first = {digest.key: digest.first_version for digest in streams}
    latest = max(first.values(), default=0)
    for batch in batches:
        # Nearly all streams begin at the same version, and that is the lowest one.
        lowest = pc.min(batch.column("version")).as_py()
        if lowest is None or lowest >= latest:
            yield batch
            continue
        columns = (batch.column(name).to_pylist() for name in ("stream", "tenant", "version"))
        after = [
            version >= first[StreamKey(stream, tenant)]
            for stream, tenant, version in zip(*columns, strict=True)
        ]
        yield batch if all(after) else batch.filter(pa.array(after, pa.bool_()))


def _compare_events(
    digest: Digest,
    other: Digest,
    archived: Iterable[pa.RecordBatch],
    stored: Iterable[pa.RecordBatch],
) -> StreamComparison:
    """Walk through both versions of a stream in parallel, to tell a removed part from a change."""
    # Of what was removed from the store no row is looked at.
    left = (
        batch.filter(pc.greater_equal(batch.column("version"), other.first_version))
        for batch in archived
    )
    rows_before = chain.from_iterable(map(by_version, left))
    ahead = next(rows_before, None)
    there, moved = 0, False
    for version, values in chain.from_iterable(map(by_version, stored)):
        while ahead is not None and ahead[0] < version:  # removed from the store since
            ahead = next(rows_before, None)
        before = ahead[1] if ahead is not None and ahead[0] == version else None
        if before is None:
            if version <= digest.last_version:
                return StreamComparison(
                    "differs",
                    f"the store has an event of version {version}, and the archive does not",
                    other.last_version,
                    compared=there,
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
                compared=there + 1,
            )
        if not PLACE.issuperset(different):
            return StreamComparison(
                "differs",
                f"version {version} differs from the store's in {', '.join(different)}",
                other.last_version,
                compared=there + 1,
            )
        there += 1
        moved |= bool(different)
    lacking = digest.events - there
    if moved:
        return StreamComparison("moved", _MOVED, other.last_version, lacking, there)
    return StreamComparison("partly", "", other.last_version, lacking, there)


def by_version(batch: pa.RecordBatch) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each event's version and values."""
    ids = join_ids(batch)
    for row, identifier in zip(plain_rows(batch), ids, strict=True):
        yield row["version"], {**row, "id": identifier, "id_text": None}


def only(batch: pa.RecordBatch, keys: Sequence[StreamKey]) -> pa.RecordBatch:
    """The rows of some streams, by name and tenant."""
    requested = {*keys}
    pairs = zip(batch.column("stream").to_pylist(), batch.column("tenant").to_pylist(), strict=True)
    return batch.filter(pa.array([pair in requested for pair in pairs], pa.bool_()))


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
