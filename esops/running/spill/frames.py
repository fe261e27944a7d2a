"""How events are written to a file: in frames, each with its length, its number of events and a
checksum, so that whatever was not written whole is noticed.

Events that were read by Arrow stay the rows that the server sent, and are decoded when the frame is
read; of others, the frame has their fields. Arrow is imported in functions: it takes 0.05 s, and
few loads spill.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, repeat, starmap
from typing import TYPE_CHECKING, Any
from zlib import crc32

from esops.events import Position, RecordedEvent

if TYPE_CHECKING:
    import pyarrow as pa

    from esops.stores.arrow_events import ColumnsInUse

_HEADER = struct.Struct("<IIII")
"""Bytes that follow, their number before compression, events in them, and the checksum."""
HEADER_BYTES = _HEADER.size
_new: Any = tuple.__new__


class DamagedSpill(Exception):
    """The files of a spill are not what was written."""


def frames(
    batches: Sequence[Sequence[RecordedEvent]], groups: Sequence[Sequence[int]]
) -> list[bytes]:
    """A frame for each group of the events of some batches; empty for an empty group.

    A group has places of events, counted over all batches.
    """
    rows = _rows(batches, list(chain.from_iterable(groups)))
    if rows is None:
        events = [event for batch in batches for event in batch]
        return [_of_fields([events[n] for n in group]) if group else b"" for group in groups]
    whole, parts = rows
    schema, made, begin = whole.schema.serialize().to_pybytes(), [], 0
    for group in groups:
        part = whole.slice(begin, len(group)).serialize().to_pybytes() if group else b""
        made.append(_frame((parts, schema, part), len(group)) if group else b"")
        begin += len(group)
    return made


def _rows(
    batches: Sequence[Sequence[RecordedEvent]], order: Sequence[int]
) -> tuple[pa.RecordBatch, int] | None:
    """The rows of the events in the order of their places, and the number of their positions'
    columns; None where not all of them have rows, or those are not alike.
    """
    import pyarrow as pa

    from esops.stores.arrow_events import rows_of

    found: list[tuple[pa.RecordBatch, int]] = []
    for events in batches:
        rows = rows_of(events)
        if rows is None:
            return None
        found.append(rows)
    first, parts = found[0]
    if any(rows.schema != first.schema or of != parts for rows, of in found):
        return None
    whole = pa.concat_batches([rows for rows, _ in found])
    return whole.take(pa.array(order, pa.int64())), parts


def _of_fields(events: Sequence[RecordedEvent]) -> bytes:
    columns: list[Any] = list(zip(*(event.fields for event in events), strict=True))
    columns[3] = list(map(tuple, columns[3]))
    return _frame((None, columns), len(events))


def _frame(content: tuple[Any, ...], count: int) -> bytes:
    import pyarrow as pa

    plain = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    packed: bytes = pa.compress(plain, codec="lz4", asbytes=True)
    return _HEADER.pack(len(packed), len(plain), count, crc32(packed)) + packed


def header(data: bytes) -> tuple[int, int]:
    """How many bytes follow a header, and how many events are in them. Raises DamagedSpill."""
    if len(data) != HEADER_BYTES:
        raise DamagedSpill("it ends in the middle of a frame")
    size, _, events, _ = _HEADER.unpack(data)
    return size, events


def events_of(head: bytes, packed: bytes, in_use: ColumnsInUse) -> list[RecordedEvent]:
    """The events of a frame. `in_use` is the same for all frames. Raises DamagedSpill."""
    import pyarrow as pa

    from esops.stores.arrow_events import to_events

    size, length, count, checksum = _HEADER.unpack(head)
    if len(packed) != size or crc32(packed) != checksum:
        raise DamagedSpill("a frame is not what was written")
    plain = pa.decompress(packed, length, codec="lz4", asbytes=True)
    # Only what we wrote has the checksum, and nobody else may write to the directory.
    parts, *content = pickle.loads(plain)  # noqa: S301
    if parts is None:
        (columns,) = content
        columns[3] = map(_new, repeat(Position), columns[3])
        events = list(starmap(RecordedEvent, zip(*columns, strict=True)))
    else:
        schema, rows = content
        batch = pa.ipc.read_record_batch(pa.py_buffer(rows), _schema(schema))
        events = to_events(batch, parts, in_use=in_use)
    if len(events) != count:
        raise DamagedSpill("a frame has another number of events than it says")
    return events


@lru_cache(8)
def _schema(text: bytes) -> pa.Schema:
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(text))
