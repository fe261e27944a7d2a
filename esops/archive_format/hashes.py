"""The hashes of an archive: a digest for each stream's events, and one for the rows of a file.

Both work on Arrow columns, not on single events in Python, so that hashing is not the slowest part
of an export. docs/reference/archive-format.md describes the digest of a stream, for those who check
an archive without esops.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from esops.archive_format.schema import binary_values
from esops.events import StreamKey

_SMALLEST = -(2**63)
_NO_TIME = _SMALLEST.to_bytes(8, "little", signed=True)
_NO_LENGTH = (-1).to_bytes(4, "little", signed=True)


class Digest(NamedTuple):
    """One stream's events in short: how many, from which to which, and the SHA-256 of all of them.

    Two sets of events with the same digest are the same events.
    """

    stream: str
    tenant: str
    events: int
    first_version: int
    last_version: int
    first_at: int | None
    """As the archive has it (esops.moments.from_archive)."""
    last_at: int | None
    size: int
    """Bytes of data and metadata."""
    sha256: bytes

    @property
    def key(self) -> StreamKey:
        """The stream's name and tenant."""
        return StreamKey(self.stream, self.tenant)


def digests(batches: Iterable[pa.RecordBatch]) -> Iterator[Digest]:
    """The digest of each stream in batches that are sorted by stream.

    How the rows are cut into batches makes no difference. The hash covers the stream, a zero byte,
    the tenant, and then each event: its columns after the tenant, in the order of the schema. A
    number or time is eight bytes (null: the smallest integer), an id is sixteen (null: zeros),
    `hidden` is one, and everything else is its length in four bytes (null: -1) and then its bytes.
    Integers are little-endian.
    """
    open_: _OpenDigest | None = None
    for batch in batches:
        if not batch.num_rows:
            continue
        keys, rows, parts = _parts(batch)
        first = 0
        if open_ is not None and (open_.stream, open_.tenant) == parts[0][:2]:
            open_.add(parts[0], rows[0])
            first = 1
        if first < len(parts):
            if open_ is not None:
                yield open_.closed()
            # Another stream follows each of these, so that they are complete. Short streams make
            # many of them, which is why they skip _OpenDigest.
            whole = zip(keys[first:-1], parts[first:-1], rows[first:-1], strict=True)
            yield from [
                Digest(*part, hashlib.sha256(key + content).digest())
                for key, part, content in whole
            ]
            open_ = _OpenDigest(keys[-1], parts[-1], rows[-1])
    if open_ is not None:
        yield open_.closed()


_DigestFields = tuple[str, str, int, int, int, int | None, int | None, int]
"""The fields of a Digest without its hash."""


class _OpenDigest:
    """The digest of the last stream of a batch: the next batch may have more of its events."""

    def __init__(self, key: bytes, part: _DigestFields, rows: memoryview) -> None:
        self.stream, self.tenant = part[:2]
        self._part = part
        self._hash = hashlib.sha256(key)
        self._hash.update(rows)

    def add(self, more: _DigestFields, rows: memoryview) -> None:
        stream, tenant, events, first_version, _, first_at, _, size = self._part
        self._part = (
            stream,
            tenant,
            events + more[2],
            first_version,
            more[4],
            first_at,
            more[6],
            size + more[7],
        )
        self._hash.update(rows)

    def closed(self) -> Digest:
        return Digest(*self._part, self._hash.digest())


def _parts(batch: pa.RecordBatch) -> tuple[list[bytes], list[memoryview], list[_DigestFields]]:
    """For each stream in a batch: the first bytes of its hash, its rows as bytes, and the fields
    of its digest.
    """
    # Runs of equal names: streams in a batch are found by Arrow, not by a loop over its rows.
    ends = _run_ends(batch)
    starts = pa.concat_arrays([pa.array([0], pa.int32()), ends[:-1]])
    lasts = pc.subtract(ends, 1)
    stream, tenant = (
        batch.column(name).take(starts).cast(pa.string()) for name in ("stream", "tenant")
    )
    version, time = batch.column("version"), batch.column("recorded_at").cast(pa.int64())
    columns = [
        stream,
        tenant,
        pc.subtract(ends, starts),
        *(column.take(at) for column in (version, time) for at in (starts, lasts)),
        _payload(batch, starts, ends),
    ]
    offsets, content = binary_values(_rows(batch.select(batch.schema.names[2:])))
    rows = [
        content[offsets[low] : offsets[end]]
        for low, end in zip(starts.to_pylist(), ends.to_pylist(), strict=True)
    ]
    keys = pc.binary_join_element_wise(stream, tenant, "\0").cast(pa.binary()).to_pylist()
    return keys, rows, list(zip(*(column.to_pylist() for column in columns), strict=True))


def _payload(batch: pa.RecordBatch, starts: pa.Array, ends: pa.Array) -> pa.Array:
    """The bytes of data and metadata in each stream's part of a batch."""
    sizes = [
        pc.fill_null(pc.binary_length(batch.column(name)), 0).cast(pa.int64())
        for name in ("data", "metadata")
    ]
    # A running total that begins with zero: each stream's bytes are a difference of two of its
    # values.
    so_far = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(pc.add(*sizes))])
    return pc.subtract(so_far.take(ends), so_far.take(starts))


def cut_by_stream(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The rows of each stream in a batch that is sorted by stream."""
    low = 0
    for end in _run_ends(batch).to_pylist() if batch.num_rows else ():
        yield batch.slice(low, end - low)
        low = end


def _run_ends(batch: pa.RecordBatch) -> pa.Array:
    """The index after the last row of each stream in a batch."""
    key = batch.column("stream").cast(pa.string())
    tenants = batch.column("tenant").cast(pa.string())
    # Most stores have no tenants, and joining two columns of a million rows takes its time.
    if pc.any(pc.greater(pc.binary_length(tenants), 0)).as_py():
        key = pc.binary_join_element_wise(key, tenants, "\0")
    return pc.run_end_encode(key).run_ends


Piece: TypeAlias = "bytes | pa.Array"
"""A part of each row: bytes that are the same in all rows, or a binary array without nulls."""


def _rows(batch: pa.RecordBatch) -> pa.Array:
    """Each row as bytes: its columns one after the other."""
    # Most pieces are the same in all rows (lengths, nulls). Joining them first makes the
    # element-wise join below much cheaper.
    pieces: list[Piece] = []
    for column in batch.columns:
        for piece in _pieces(column):
            if isinstance(piece, bytes) and pieces and isinstance(pieces[-1], bytes):
                pieces[-1] += piece
            else:
                pieces.append(piece)
    if all(isinstance(piece, bytes) for piece in pieces):
        pieces.append(pa.array([b""] * batch.num_rows, pa.binary()))
    return pc.binary_join_element_wise(*pieces, b"")


def _pieces(column: pa.Array) -> list[Piece]:
    """A column's part of each row: its values, preceded by their lengths where these may vary."""
    kind = column.type
    if pa.types.is_fixed_size_binary(kind):
        return (
            [bytes(kind.byte_width)]
            if _nothing(column)
            else [pc.fill_null(column, bytes(kind.byte_width)).cast(pa.binary())]
        )
    if pa.types.is_boolean(kind):
        known = pc.fill_null(column, False)
        return [_fixed(known.cast(pa.uint8()), 1) if pc.any(known).as_py() else b"\0"]
    if not _varies(kind):
        return (
            [_NO_TIME]
            if _nothing(column)
            else [_fixed(pc.fill_null(column.cast(pa.int64()), _SMALLEST), 8)]
        )
    if _nothing(column):
        return [_NO_LENGTH, b""]
    plain = column.cast(pa.binary())
    lengths = pc.fill_null(pc.binary_length(plain), -1)
    values = pc.fill_null(plain, b"")
    ends = pc.min_max(lengths).as_py()
    if (length := ends["min"]) != ends["max"]:
        return [_fixed(lengths, 4), values]
    offsets, content = binary_values(values)
    first = bytes(content[offsets[0] : offsets[1]])
    # Compared as bytes: memoryviews are compared item by item, which is slow.
    same = bytes(content[offsets[0] : offsets[-1]]) == first * len(column)
    return [length.to_bytes(4, "little", signed=True), first if same else values]


def _nothing(column: pa.Array) -> bool:
    return bool(column.null_count == len(column))


def _varies(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_dictionary(kind)
    )


def _fixed(numbers: pa.Array, width: int) -> pa.Array:
    """Numbers as the bytes that Arrow has in memory, which are little-endian."""
    whole = pa.Array.from_buffers(
        pa.binary(width), len(numbers), [None, numbers.buffers()[1]], offset=numbers.offset
    )
    return whole.cast(pa.binary())


class Content:
    """A hash of rows, column by column: how the rows are cut into batches makes no difference."""

    def __init__(self) -> None:
        self._hashes: dict[tuple[int, int], Any] = defaultdict(hashlib.sha256)

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows. All batches must have the same schema."""
        for number, column in enumerate(batch.columns):
            for which, piece in enumerate(_pieces(column)):
                found = self._hashes[number, which]
                if isinstance(piece, bytes):
                    found.update(piece * batch.num_rows)
                else:
                    offsets, values = binary_values(piece)
                    found.update(values[offsets[0] : offsets[-1]])

    def digest(self) -> bytes:
        """The hash of all rows so far."""
        return b"".join(found.digest() for _, found in sorted(self._hashes.items()))
