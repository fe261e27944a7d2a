"""The archive's format, version 1: what its Parquet files hold, what its manifest says, and how both are hashed.

An archive has to be readable without esops: Parquet with plain columns, and JSON. docs/reference/archive-format.md is its description
for others; change nothing here without a new VERSION.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from esops.errors import EsopsError, UsageError
from esops.events import StreamKey

FORMAT = "esops-archive"
VERSION = 1
FURTHER = "x_"
"""Begins the name of a column that holds, as text, a further column of the store's own table."""

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
"""Sorted by stream, tenant and version. `id` where it is a UUID in its usual form, else `id_text`. `hidden`: the store itself does not
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
"""A row a stream. `sha256` as `digests` makes it; `row` is the store's own row of the stream as JSON, where it has one."""

BLOCK = 1_000
"""Events of a stream that are hashed at a time; a part of the format."""
_NO_TIME = -(2**63)
_HYPHENS = (8, 13, 18, 23)


class Damaged(EsopsError):
    """A file of an archive is not what was written."""

    exit_code = 1


def schema_with(further: Sequence[str]) -> pa.Schema:
    """The schema of events with the further columns of a store, in the order of their names."""
    fields = [pa.field(f"{FURTHER}{name}", pa.string()) for name in sorted(further)]
    return pa.schema([*EVENTS, *fields])


def further_in(schema: pa.Schema) -> list[str]:
    """The names of a store's further columns in a schema."""
    return [name.removeprefix(FURTHER) for name in schema.names if name.startswith(FURTHER)]


def split_ids(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Ids given as text, as (sixteen bytes where all of them are UUIDs in the usual form, text)."""
    count = len(texts)
    texts = texts.cast(pa.string())
    if texts.null_count == 0 and count:
        offsets, joined = memoryview(texts.buffers()[1]).cast("i"), texts.buffers()[2]
        low, high = offsets[texts.offset], offsets[texts.offset + count]
        raw = bytes(memoryview(joined)[low:high]) if joined is not None else b""
        lengths = pc.min_max(pc.binary_length(texts)).as_py()
        usual = lengths == {"min": 36, "max": 36} and all(raw[at::36] == b"-" * count for at in _HYPHENS)
        if usual and raw.count(b"-") == 4 * count and raw == raw.lower():
            try:
                packed = bytes.fromhex(raw.replace(b"-", b"").decode())
            except ValueError:
                packed = b""
            if len(packed) == 16 * count:
                ids = pa.Array.from_buffers(pa.binary(16), count, [None, pa.py_buffer(packed)])
                return ids, pa.nulls(count, pa.string())
    return pa.nulls(count, pa.binary(16)), texts


def join_ids(batch: pa.RecordBatch) -> list[str]:
    """The ids of a batch as text."""
    packed, texts = batch.column("id").to_pylist(), batch.column("id_text")
    plain = texts.to_pylist() if texts.null_count < len(texts) else [None] * len(packed)
    return [text if raw is None else _uuid_text(raw.hex()) for raw, text in zip(packed, plain, strict=True)]


def _uuid_text(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Digest(NamedTuple):
    """What one stream's events are: how many, from where to where, and the SHA-256 of all that is in them."""

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

    What is hashed is the stream, a zero byte, the tenant, and then the events in blocks of a thousand. Of a block, each column after the
    tenant in the schema's order, but for those in which all is null or false: the column's number (one byte), and its values one after the
    other (null as the smallest integer or as zeros), or, where they vary in length, all lengths (four bytes each, -1 for null) and then
    all bytes. Integers are little-endian.
    """
    pending: pa.RecordBatch | None = None
    open_stream: _Open | None = None
    for batch in batches:
        joined = batch if pending is None else _concatenated(pending, batch)
        pending = None
        if not joined.num_rows:
            continue
        slices, ends = _Slices(joined), run_ends(joined)
        starts = [0, *ends[:-1]]
        for (stream, tenant), low, end in zip(slices.keys(starts), starts, ends, strict=True):
            last = end == joined.num_rows
            if open_stream is not None and (open_stream.stream, open_stream.tenant) != (stream, tenant):
                yield open_stream.closed()
                open_stream = None
            if open_stream is None:
                if end - low <= BLOCK and not last:  # most are: a hundred thousand a second pass here
                    yield slices.whole(stream, tenant, low, end)
                    continue
                open_stream = _Open(stream, tenant)
            top = low + (end - low) // BLOCK * BLOCK if last else end
            for start in range(low, top, BLOCK):
                open_stream.add(slices, start, min(start + BLOCK, top))
            if last:
                pending = joined.slice(top) if top < end else None
            else:
                yield open_stream.closed()
                open_stream = None
    if pending is not None:
        slices = _Slices(pending)
        open_stream = open_stream or _Open(*slices.keys([0])[0])
        open_stream.add(slices, 0, pending.num_rows)
    if open_stream is not None:
        yield open_stream.closed()


class _Open:
    """A stream whose blocks are being hashed."""

    def __init__(self, stream: str, tenant: str) -> None:
        self.stream, self.tenant = stream, tenant
        self._hash = hashlib.sha256(f"{stream}\0{tenant}".encode())
        self._events, self._bytes = 0, 0
        self._first: tuple[int, int | None] = (0, None)
        self._last: tuple[int, int | None] = (0, None)

    def add(self, slices: _Slices, low: int, high: int) -> None:
        if not self._events:
            self._first = slices.ends(low)
        self._last = slices.ends(high - 1)
        self._events += high - low
        self._bytes += slices.payload(low, high)
        self._hash.update(slices.content(low, high))

    def closed(self) -> Digest:
        return Digest(
            self.stream,
            self.tenant,
            self._events,
            self._first[0],
            self._last[0],
            self._first[1],
            self._last[1],
            self._bytes,
            self._hash.digest(),
        )


class _Column(NamedTuple):
    """A column's bytes. Where values vary in length, `fixed` holds their lengths, and `values` the values."""

    number: bytes
    width: int
    variable: bool
    fixed: memoryview
    offsets: memoryview
    values: memoryview
    nothing: bytes
    """What `fixed` holds for a value that is null or false; empty where there is no such value in the batch."""


_NOTHING = memoryview(b"")


class _Slices:
    """The bytes of any rows of a batch, without a Python object for each value."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._streams, self._tenants = batch.column("stream"), batch.column("tenant")
        numbered = enumerate(zip(batch.schema.names, batch.columns, strict=True))
        columns = {name: _column(number, column) for number, (name, column) in numbered if number > 1}
        self._columns = [_plain(found) for found in columns.values() if found is not None]
        self._versions = memoryview(_numbers(batch.column("version"))).cast("q").tolist()
        self._times = memoryview(_numbers(batch.column("recorded_at"))).cast("q").tolist()
        numbers = {number: offsets for number, _, _, _, offsets, _, _ in self._columns}
        self._payloads = [numbers[found.number] for name in ("data", "metadata") if (found := columns[name]) is not None]

    def keys(self, rows: list[int]) -> list[tuple[str, str]]:
        at = pa.array(rows, pa.int32())
        return list(zip(self._streams.take(at).to_pylist(), self._tenants.take(at).to_pylist(), strict=True))

    def ends(self, at: int) -> tuple[int, int | None]:
        time = self._times[at]
        return self._versions[at], None if time == _NO_TIME else time

    def payload(self, low: int, high: int) -> int:
        total: int = 0
        for offsets in self._payloads:
            total += offsets[high] - offsets[low]
        return total

    def content(self, low: int, high: int, before: bytes = b"") -> bytes:
        parts: list[bytes] = [before]
        add = parts.append
        for number, width, variable, fixed, offsets, values, nothing in self._columns:
            piece = fixed[low * width : high * width]
            if nothing and piece == nothing * (high - low):
                continue
            add(number)
            add(piece)
            if variable:
                add(values[offsets[low] : offsets[high]])
        return b"".join(parts)

    def whole(self, stream: str, tenant: str, low: int, high: int) -> Digest:
        """The digest of a stream of which these rows are all, no more than a block."""
        (first, first_at), (last, last_at) = self.ends(low), self.ends(high - 1)
        content = hashlib.sha256(self.content(low, high, f"{stream}\0{tenant}".encode())).digest()
        return Digest(stream, tenant, high - low, first, last, first_at, last_at, self.payload(low, high), content)


_Plain = tuple[bytes, int, bool, bytes, list[int], bytes, bytes]


def _plain(column: _Column) -> _Plain:
    """A column in plain bytes and lists: a slice of a memoryview takes three times as long, and there are a dozen a stream."""
    offsets: list[int] = column.offsets.tolist() if column.variable else []
    values = b""
    if offsets:
        low = offsets[0]
        values = bytes(column.values[low : offsets[-1]])
        offsets = [offset - low for offset in offsets] if low else offsets
    return (*column[:3], bytes(column.fixed), offsets, values, column.nothing)


def _column(number: int, column: pa.Array) -> _Column | None:
    """A column's bytes; None where all of it is null or false."""
    if column.null_count == len(column):
        return None
    mark, absent = bytes([number]), _absent(column.type) if column.null_count else b""
    if _variable(column.type):
        plain = column.cast(pa.binary())
        lengths = pc.binary_length(plain)
        if absent:
            lengths, plain = pc.fill_null(lengths, -1), pc.fill_null(plain, b"")
        return _Column(mark, 4, True, _raw(lengths, 4), *_values(plain), absent)
    if pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        return _Column(
            mark, width, False, _raw(pc.fill_null(column, absent) if absent else column, width), _NOTHING, _NOTHING, absent
        )
    if pa.types.is_boolean(column.type):
        if not pc.any(column).as_py():
            return None
        return _Column(mark, 1, False, _raw(column.cast(pa.uint8()), 1), _NOTHING, _NOTHING, b"\0")
    return _Column(mark, 8, False, _numbers(column), _NOTHING, _NOTHING, absent)


def _absent(kind: pa.DataType) -> bytes:
    """What stands for a value that is null or false."""
    if _variable(kind):
        return (-1).to_bytes(4, "little", signed=True)
    if pa.types.is_fixed_size_binary(kind):
        return bytes(kind.byte_width)
    return b"\0" if pa.types.is_boolean(kind) else _NO_TIME.to_bytes(8, "little", signed=True)


def _numbers(column: pa.Array) -> memoryview:
    numbers = column.cast(pa.int64())
    return _raw(pc.fill_null(numbers, _NO_TIME) if numbers.null_count else numbers, 8)


def _values(column: pa.Array) -> tuple[memoryview, memoryview]:
    """Where each value begins, and the bytes of all of them."""
    offsets = memoryview(column.buffers()[1]).cast("i")[column.offset : column.offset + len(column) + 1]
    return offsets, memoryview(column.buffers()[2] or b"")


def _variable(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_dictionary(kind))


def _raw(column: pa.Array, width: int) -> memoryview:
    buffer = memoryview(column.buffers()[1])
    return buffer[column.offset * width : (column.offset + len(column)) * width]


def _concatenated(first: pa.RecordBatch, second: pa.RecordBatch) -> pa.RecordBatch:
    table = pa.Table.from_batches([first, second]).combine_chunks()
    return table.to_batches()[0] if table.num_rows else second


def run_ends(batch: pa.RecordBatch) -> list[int]:
    """Where each stream ends in a batch."""
    key = batch.column("stream").cast(pa.string())
    tenants = batch.column("tenant").cast(pa.string())
    if pc.any(pc.greater(pc.binary_length(tenants), 0)).as_py():
        key = pc.binary_join_element_wise(key, tenants, "\0")
    ends: list[int] = pc.run_end_encode(key).run_ends.to_pylist()
    return ends


class Content:
    """The SHA-256 of rows column by column, the same however the rows are cut into batches."""

    def __init__(self) -> None:
        """No rows yet."""
        self._columns: list[tuple[Any, Any]] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows. All batches have the same schema."""
        if not self._columns:
            self._columns = [(hashlib.sha256(), hashlib.sha256()) for _ in batch.columns]
        for (fixed, values), column in zip(self._columns, batch.columns, strict=True):
            found = _column(0, column)
            if found is None:
                fixed.update(_absent(column.type) * len(column))
                continue
            fixed.update(found.fixed)
            if found.variable and len(column):
                values.update(found.values[found.offsets[0] : found.offsets[len(column)]])

    def digest(self) -> bytes:
        """What the rows so far come to."""
        return b"".join(each.digest() for pair in self._columns for each in pair)


# -- sealed JSON


def sealed(document: Mapping[str, Any]) -> bytes:
    """A document as JSON with its own SHA-256 in it, so that any byte that changes is noticed."""
    body = {key: value for key, value in document.items() if key != "sha256"}
    digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return orjson.dumps({**body, "sha256": digest}, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


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
            f"{name} is of version {document.get('version')} of the format, and this esops reads {VERSION}",
            hint="Use the esops that wrote it, or a newer one.",
        )
    return document


def from_micros(value: int | None) -> datetime | None:
    """Microseconds since 1970 as a time in UTC."""
    return None if value is None else datetime.fromtimestamp(value / 1_000_000, UTC)
