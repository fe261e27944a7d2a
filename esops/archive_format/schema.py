"""The archive's format, version 1: what its Parquet files hold, what its manifest says, and how
both are hashed.

An archive has to be readable without esops: Parquet with plain columns, and JSON.
docs/reference/archive-format.md is its description
for others; change nothing here without a new VERSION.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from esops.errors import EsopsError, UsageError
from esops.events import StreamKey

FORMAT = "esops-archive"
VERSION = 1
EXTRA_PREFIX = "x_"
"""Begins the name of a column that holds, as text, an extra column of the store's own table."""

EVENTS = pa.schema(
    [
        pa.field("stream", pa.string(), nullable=False),
        pa.field("tenant", pa.string(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("position_1", pa.int64(), nullable=False),
        pa.field("position_2", pa.int64()),
        pa.field("type", pa.string(), nullable=False),
        pa.field("id", pa.binary(16)),
        pa.field("id_text", pa.string()),
        pa.field("recorded_at", pa.timestamp("us", "UTC")),
        pa.field("data", pa.binary()),
        pa.field("metadata", pa.binary()),
        pa.field("hidden", pa.bool_(), nullable=False),
    ]
)
"""Sorted by stream, tenant and version.

`id` where it is a UUID in its usual form, else `id_text`. `hidden`: the store itself does not
give it out as an event (a gap filler, a skipped event, a command)."""

STREAMS = pa.schema(
    [
        pa.field("stream", pa.string(), nullable=False),
        pa.field("tenant", pa.string(), nullable=False),
        pa.field("events", pa.int64(), nullable=False),
        pa.field("first_version", pa.int64(), nullable=False),
        pa.field("last_version", pa.int64(), nullable=False),
        pa.field("first_at", pa.timestamp("us", "UTC")),
        pa.field("last_at", pa.timestamp("us", "UTC")),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("row", pa.string()),
    ]
)
"""A row a stream.

`sha256` as `digests` makes it; `row` is the store's own row of the stream as JSON, where it has
one.
"""

_SMALLEST = -(2**63)
_NO_TIME = _SMALLEST.to_bytes(8, "little", signed=True)
_NO_LENGTH = (-1).to_bytes(4, "little", signed=True)
_HYPHENS = (8, 13, 18, 23)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Damaged(EsopsError):
    """A file of an archive is not what was written."""

    exit_code = 1


def schema_with(extra: Sequence[str]) -> pa.Schema:
    """The schema of events with the extra columns of a store, in the order of their names."""
    fields = [pa.field(f"{EXTRA_PREFIX}{name}", pa.string()) for name in sorted(extra)]
    return pa.schema([*EVENTS, *fields])


def extra_columns_in(schema: pa.Schema) -> list[str]:
    """The names of a store's extra columns in a schema."""
    return [
        name.removeprefix(EXTRA_PREFIX) for name in schema.names if name.startswith(EXTRA_PREFIX)
    ]


def split_ids(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Ids given as text, as (sixteen bytes where it is a UUID in its usual form, text where it is
    not).
    """
    count = len(texts)
    texts = texts.cast(pa.string())
    packed = _all_packed(texts)
    if packed is not None:
        return pa.Array.from_buffers(pa.binary(16), count, [None, pa.py_buffer(packed)]), pa.nulls(
            count, pa.string()
        )
    plain = texts.to_pylist()
    ids = [
        bytes.fromhex(text.replace("-", "")) if text is not None and _UUID.fullmatch(text) else None
        for text in plain
    ]
    others = [
        text if identifier is None else None for text, identifier in zip(plain, ids, strict=True)
    ]
    return pa.array(ids, pa.binary(16)), pa.array(others, pa.string())


def _all_packed(texts: pa.Array) -> bytes | None:
    """Sixteen bytes for each id, without a look at each; None where one is no UUID in its usual
    form.
    """
    count = len(texts)
    if (
        texts.null_count
        or not count
        or pc.min_max(pc.binary_length(texts)).as_py() != {"min": 36, "max": 36}
    ):
        return None
    offsets, content = _values(texts)
    raw = bytes(content[offsets[0] : offsets[-1]])
    if (
        any(raw[at::36] != b"-" * count for at in _HYPHENS)
        or raw.count(b"-") != 4 * count
        or raw != raw.lower()
    ):
        return None
    try:
        packed = bytes.fromhex(raw.replace(b"-", b"").decode())
    except ValueError:
        return None
    return packed if len(packed) == 16 * count else None


def join_ids(batch: pa.RecordBatch) -> list[str]:
    """The ids of a batch as text."""
    packed, texts = batch.column("id").to_pylist(), batch.column("id_text")
    plain = texts.to_pylist() if texts.null_count < len(texts) else [None] * len(packed)
    return [
        text if raw is None else _uuid_text(raw.hex())
        for raw, text in zip(packed, plain, strict=True)
    ]


def _uuid_text(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Digest(NamedTuple):
    """What one stream's events are: how many, from where to where, and the SHA-256 of all that is
    in them.
    """

    stream: str
    tenant: str
    events: int
    first_version: int
    last_version: int
    first_at: int | None
    """Microseconds since 1970."""
    last_at: int | None
    size: int
    """Bytes of data and metadata."""
    sha256: bytes

    @property
    def key(self) -> StreamKey:
        """What names the stream."""
        return StreamKey(self.stream, self.tenant)


def digests(batches: Iterable[pa.RecordBatch]) -> Iterator[Digest]:
    """The digest of each stream in batches that are sorted by stream, however they are cut.

    What is hashed is the stream, a zero byte, the tenant, and then each event: its columns after
    the tenant in the order of the schema, a
    number or time as eight bytes (null as the smallest integer), an id as sixteen (null as zeros),
    `hidden` as one, and of all else the
    length in four bytes (-1 for null) and then the bytes. Integers are little-endian.
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
            # All but the last are whole: another follows. There may be one for every few events.
            whole = zip(keys[first:-1], parts[first:-1], rows[first:-1], strict=True)
            yield from [
                Digest(*part, hashlib.sha256(key + content).digest())
                for key, part, content in whole
            ]
            open_ = _OpenDigest(keys[-1], parts[-1], rows[-1])
    if open_ is not None:
        yield open_.closed()


_DigestFields = tuple[str, str, int, int, int, int | None, int | None, int]
"""A digest without its hash."""


class _OpenDigest:
    """A stream of which more may follow."""

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
    """Of each stream in a batch: what its hash begins with, its rows as bytes, and its digest
    without the hash.
    """
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
    offsets, content = _values(_rows(batch.select(batch.schema.names[2:])))
    rows = [
        content[offsets[low] : offsets[end]]
        for low, end in zip(starts.to_pylist(), ends.to_pylist(), strict=True)
    ]
    keys = pc.binary_join_element_wise(stream, tenant, "\0").cast(pa.binary()).to_pylist()
    return keys, rows, list(zip(*(column.to_pylist() for column in columns), strict=True))


def _payload(batch: pa.RecordBatch, starts: pa.Array, ends: pa.Array) -> pa.Array:
    """Bytes of data and metadata of each stream's part of a batch."""
    sizes = [
        pc.fill_null(pc.binary_length(batch.column(name)), 0).cast(pa.int64())
        for name in ("data", "metadata")
    ]
    # With a zero before, so that what lies between two rows is a difference.
    so_far = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(pc.add(*sizes))])
    return pc.subtract(so_far.take(ends), so_far.take(starts))


def _run_ends(batch: pa.RecordBatch) -> pa.Array:
    """Where each stream ends in a batch."""
    key = batch.column("stream").cast(pa.string())
    tenants = batch.column("tenant").cast(pa.string())
    if pc.any(pc.greater(pc.binary_length(tenants), 0)).as_py():
        key = pc.binary_join_element_wise(key, tenants, "\0")
    return pc.run_end_encode(key).run_ends


Piece: TypeAlias = "bytes | pa.Array"
"""Bytes of each row: the same for all, or an array of binary values without a null."""


def _rows(batch: pa.RecordBatch) -> pa.Array:
    """Each row's bytes, one after the other.

    Pieces that are the same in all rows are put together first: most columns are.
    """
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
    """A column's part of each row: its values, and before them their lengths where these
    may vary.
    """
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
    offsets, content = _values(values)
    first = bytes(content[offsets[0] : offsets[1]])
    same = bytes(content[offsets[0] : offsets[-1]]) == first * len(
        column
    )  # as bytes: a memoryview is compared item by item
    return [length.to_bytes(4, "little", signed=True), first if same else values]


def _nothing(column: pa.Array) -> bool:
    return bool(column.null_count == len(column))


def _varies(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_dictionary(kind)
    )


def _fixed(numbers: pa.Array, width: int) -> pa.Array:
    """Numbers as the bytes that they are in memory: Arrow is little-endian."""
    whole = pa.Array.from_buffers(
        pa.binary(width), len(numbers), [None, numbers.buffers()[1]], offset=numbers.offset
    )
    return whole.cast(pa.binary())


def _values(column: pa.Array) -> tuple[memoryview, memoryview]:
    """Where each value begins and ends in the bytes of all, and these."""
    offsets = memoryview(column.buffers()[1]).cast("i")[
        column.offset : column.offset + len(column) + 1
    ]
    return offsets, memoryview(column.buffers()[2] or b"")


class Content:
    """The SHA-256 of rows column by column, the same however the rows are cut into batches."""

    def __init__(self) -> None:
        """No rows yet."""
        self._hashes: dict[tuple[int, int], Any] = defaultdict(hashlib.sha256)

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows. All batches have the same schema."""
        for number, column in enumerate(batch.columns):
            for which, piece in enumerate(_pieces(column)):
                found = self._hashes[number, which]
                if isinstance(piece, bytes):
                    found.update(piece * batch.num_rows)
                else:
                    offsets, values = _values(piece)
                    found.update(values[offsets[0] : offsets[-1]])

    def digest(self) -> bytes:
        """What the rows so far come to."""
        return b"".join(found.digest() for _, found in sorted(self._hashes.items()))


# -- sealed JSON


def sealed(document: Mapping[str, Any]) -> bytes:
    """A document as JSON with its own SHA-256 in it, so that any byte that changes is noticed."""
    body = {key: value for key, value in document.items() if key != "sha256"}
    digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return orjson.dumps(
        {**body, "sha256": digest}, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
    )


def unsealed(name: str, content: bytes) -> dict[str, Any]:
    """Read what `sealed` made. Raises Damaged where one byte is another."""
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Damaged(f"{name} is no JSON: {error}") from None
    if not isinstance(document, dict) or sealed(document) != content:
        raise Damaged(f"{name} is not what was written: its SHA-256 is another")
    if document.get("format") != FORMAT:
        raise Damaged(f"{name} is not of an archive of esops")
    if document.get("version") != VERSION:
        raise UsageError(
            f"{name} is of version {document.get('version')} of the format, and this esops reads "
            f"{VERSION}",
            hint="Use the esops that wrote it, or a newer one.",
        )
    return document


def from_micros(value: int | None) -> datetime | None:
    """Microseconds since 1970 as a time in UTC."""
    return None if value is None else datetime.fromtimestamp(value / 1_000_000, UTC)
