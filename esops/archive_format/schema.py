"""The columns of an archive's Parquet files, format version 1, and how ids are stored in them.

An archive has to be readable without esops: Parquet with plain columns, and JSON. Others read its
description in docs/reference/archive-format.md. Do not change anything here without a new VERSION
(see manifest.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from esops.errors import EsopsError
from esops.moments import Moment, from_archive, moment

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
"""One row per event, sorted by stream, tenant and version.

`id` holds a UUID in its usual form, `id_text` any other id. `hidden` marks rows that the store
keeps and does not give out as events: gap fillers, skipped events, commands.
"""

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
        pa.field("categories", pa.string()),
    ]
)
"""One row per stream.

`sha256` is what `hashes.digests` computes. `row` is the store's own row of the stream as JSON,
where the store has one. `categories` is a JSON array of the categories that the store finds the
stream in; null where the stream's name tells, and without it in archives of before.
"""


class StreamRow(NamedTuple):
    """What an archive keeps of a stream beside its events, as in the file of streams."""

    row: str | None = None
    categories: str | None = None


_HYPHENS = (8, 13, 18, 23)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Damaged(EsopsError):
    """A file of an archive is not what was written."""

    exit_code = 1


def schema_with(extra: Sequence[str]) -> pa.Schema:
    """The schema of events plus a store's extra columns, sorted by name."""
    fields = [pa.field(f"{EXTRA_PREFIX}{name}", pa.string()) for name in sorted(extra)]
    return pa.schema([*EVENTS, *fields])


def extra_columns_in(schema: pa.Schema) -> list[str]:
    """The names of a store's extra columns in a schema, without the prefix."""
    return [
        name.removeprefix(EXTRA_PREFIX) for name in schema.names if name.startswith(EXTRA_PREFIX)
    ]


def split_ids(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Turn ids given as text into the columns `id` (16 bytes) and `id_text`.

    Each id is in one of the two columns and null in the other.
    """
    count = len(texts)
    texts = texts.cast(pa.string())
    # Nearly all stores have nothing but UUIDs, and packing all of them at once is much faster
    # than a look at each.
    packed = _pack_uuids(texts)
    if packed is not None:
        ids = pa.Array.from_buffers(pa.binary(16), count, [None, pa.py_buffer(packed)])
        return ids, pa.nulls(count, pa.string())
    plain = texts.to_pylist()
    ids = [
        bytes.fromhex(text.replace("-", "")) if text is not None and _UUID.fullmatch(text) else None
        for text in plain
    ]
    others = [
        text if identifier is None else None for text, identifier in zip(plain, ids, strict=True)
    ]
    return pa.array(ids, pa.binary(16)), pa.array(others, pa.string())


def _pack_uuids(texts: pa.Array) -> bytes | None:
    """All ids as 16 bytes each; None if one of them is not a UUID in its usual form."""
    count = len(texts)
    if (
        texts.null_count
        or not count
        or pc.min_max(pc.binary_length(texts)).as_py() != {"min": 36, "max": 36}
    ):
        return None
    offsets, content = binary_values(texts)
    raw = bytes(content[offsets[0] : offsets[-1]])
    # Every 36th byte is the same place of each id, so one slice checks one hyphen of all ids.
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
    # fromhex skips white space, so that the length is checked as well.
    return packed if len(packed) == 16 * count else None


def join_ids(batch: pa.RecordBatch) -> list[str]:
    """The ids of a batch as text: the inverse of `split_ids`."""
    packed, texts = batch.column("id").to_pylist(), batch.column("id_text")
    plain = texts.to_pylist() if texts.null_count < len(texts) else [None] * len(packed)
    return [
        text if raw is None else _uuid_text(raw.hex())
        for raw, text in zip(packed, plain, strict=True)
    ]


def plain_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch, times as the integers that an archive has: Python has no datetime for
    infinity, nor for years before 1 and after 9999.
    """
    at = batch.schema.get_field_index("recorded_at")
    times = batch.column(at).cast(pa.int64())
    rows: list[dict[str, Any]] = batch.set_column(at, "recorded_at", times).to_pylist()
    return rows


def _uuid_text(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def binary_values(column: pa.Array) -> tuple[memoryview, memoryview]:
    """The offsets at which a column's values begin and end, and the bytes of all values.

    Both are views of Arrow's own memory; nothing is copied.
    """
    offsets = memoryview(column.buffers()[1]).cast("i")[
        column.offset : column.offset + len(column) + 1
    ]
    return offsets, memoryview(column.buffers()[2] or b"")


def time_of(value: int | None) -> Moment | None:
    """A time of an archive's files, given as the integer that they have."""
    return None if value is None else moment(from_archive(value))
