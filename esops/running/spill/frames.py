"""How events are written to a file: in frames, each with its length, its number of events and a
checksum, so that whatever was not written whole is noticed.

A frame has lists of what every fold asks for, and the rest as the store's reader had it: where that
was Arrow, it stays undecoded.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import chain, repeat
from operator import attrgetter
from typing import Any
from zlib import crc32

import pyarrow as pa

from esops.events import PlacedEvent, Position, RecordedEvent
from esops.stores.arrow_events import ABOUT, BatchColumns, ColumnsInUse

_HEADER = struct.Struct("<IIII")
"""Bytes that follow, their number before compression, events in them, and the checksum."""
HEADER_BYTES = _HEADER.size
_REST = (0, 4, 5, 6)
"""The columns of an Arrow batch before the position's that an event does not have by itself."""
_new: Any = tuple.__new__
_parts: Any = tuple.__iter__
_columns_of, _row_of = attrgetter("columns"), attrgetter("row")


class DamagedSpill(Exception):
    """The files of a spill are not what was written."""


class PlainColumns:
    """What events have besides their streams, versions, types and data, as lists."""

    def __init__(self, lists: Sequence[Sequence[Any]]) -> None:
        """Ids, positions as tuples, metadata, times and tenants."""
        self.ids, self._places, self.metadata, self.times, self.tenants = lists

    @cached_property
    def positions(self) -> Sequence[Position]:
        """Their places in the log."""
        return list(map(_new, repeat(Position), self._places))

    def position_of(self, row: int) -> Position:
        """The place of one of them."""
        return Position(self._places[row])


def frames(
    batches: Sequence[Sequence[RecordedEvent]], groups: Sequence[Sequence[int]]
) -> list[bytes]:
    """A frame for each group of the events of some batches; empty for an empty group.

    A group has places of events, counted over all batches.
    """
    events = [event for batch in batches for event in batch]
    rest = _Arrow.of(batches, groups) or _Lists(events)
    return [
        _frame([events[n] for n in group], rest.of_group(group)) if group else b""
        for group in groups
    ]


def _frame(events: Sequence[RecordedEvent], rest: Any) -> bytes:
    # As the tuples that they are inside, in C: their streams, versions, types and data.
    own = list(zip(*map(_parts, events), strict=False))[:4]
    plain = pickle.dumps((own, rest), pickle.HIGHEST_PROTOCOL)
    packed: bytes = pa.compress(plain, codec="lz4", asbytes=True)
    return _HEADER.pack(len(packed), len(plain), len(events), crc32(packed)) + packed


class _Lists:
    """The rest of events that are in no Arrow batch."""

    def __init__(self, events: Sequence[RecordedEvent]) -> None:
        self._events = events

    def of_group(self, group: Sequence[int]) -> Any:
        fields = [self._events[n].fields for n in group]
        ids, _, _, positions, _, _, metadata, times, tenants = zip(*fields, strict=True)
        return None, (ids, list(map(tuple, positions)), metadata, times, tenants)


class _Arrow:
    """The rest of events that are all in Arrow batches of one kind."""

    def __init__(self, in_order: pa.RecordBatch, parts: int, times: list[Any] | None) -> None:
        self._batch, self._parts, self._times = in_order, parts, times
        self._schema = in_order.schema.serialize().to_pybytes()
        self._next = 0

    @classmethod
    def of(
        cls, batches: Sequence[Sequence[RecordedEvent]], groups: Sequence[Sequence[int]]
    ) -> _Arrow | None:
        """Take the rows in the order of the groups; None where not all events are in batches."""
        found: list[pa.RecordBatch] = []
        parts, given, times = None, False, []
        for events in batches:
            columns: Any = events[0].columns
            if not isinstance(columns, BatchColumns) or len(set(map(_columns_of, events))) != 1:
                return None
            if parts is None:
                parts, given = columns.parts, columns.decoded
            if (columns.parts, columns.decoded) != (parts, given):
                return None
            rows, first = list(map(_row_of, events)), events[0].row
            rest = columns.batch.select([*_REST, *range(ABOUT, ABOUT + parts)])
            if rows == list(range(first, first + len(rows))):
                rest = rest.slice(first, len(rows))
            else:
                rest = rest.take(pa.array(rows, pa.int64()))
            if found and rest.schema != found[0].schema:
                return None
            found.append(rest)
            if given:  # they come from the payloads, and are in no column
                known = columns.times
                times += [known[row] for row in rows]
        assert parts is not None
        order = list(chain.from_iterable(groups))
        whole = pa.concat_batches(found).take(pa.array(order, pa.int64()))
        return cls(whole, parts, [times[n] for n in order] if given else None)

    def of_group(self, group: Sequence[int]) -> Any:
        """The next group's rows; the groups have to come in their order."""
        begin, self._next = self._next, self._next + len(group)
        rows = self._batch.slice(begin, len(group)).serialize().to_pybytes()
        times = None if self._times is None else self._times[begin : self._next]
        return self._parts, (self._schema, rows, times)


def header(data: bytes) -> tuple[int, int]:
    """How many bytes follow a header, and how many events are in them. Raises DamagedSpill."""
    if len(data) != HEADER_BYTES:
        raise DamagedSpill("it ends in the middle of a frame")
    size, _, events, _ = _HEADER.unpack(data)
    return size, events


def events_of(head: bytes, packed: bytes, in_use: ColumnsInUse) -> list[RecordedEvent]:
    """The events of a frame. `in_use` is the same for all frames. Raises DamagedSpill."""
    size, length, count, checksum = _HEADER.unpack(head)
    if len(packed) != size or crc32(packed) != checksum:
        raise DamagedSpill("a frame is not what was written")
    plain = pa.decompress(packed, length, codec="lz4", asbytes=True)
    # Only what we wrote has the checksum, and nobody else may write to the directory.
    own, (parts, rest) = pickle.loads(plain)  # noqa: S301
    if len(own[0]) != count:
        raise DamagedSpill("a frame has another number of events than it says")
    columns = PlainColumns(rest) if parts is None else _columns(parts, rest, in_use)
    fields = [*own, repeat(columns, count), range(count)]
    made: type[RecordedEvent] = RecordedEvent
    if in_use.positions:
        made = PlacedEvent
        fields.append(columns.positions)
    return list(map(_new, repeat(made), zip(*fields, strict=True)))


def _columns(parts: int, rest: tuple[Any, ...], in_use: ColumnsInUse) -> BatchColumns:
    schema, rows, times = rest
    found = pa.ipc.read_record_batch(pa.py_buffer(rows), _schema(schema))
    empty = pa.nulls(found.num_rows)
    identifier, *others = found.columns
    # In the places where a reader has them: after the id come what events have by themselves.
    columns = [identifier, empty, empty, empty, *others]
    names = [str(n) for n in range(len(columns))]
    return BatchColumns(pa.RecordBatch.from_arrays(columns, names), parts, times, in_use)


@lru_cache(8)
def _schema(text: bytes) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(text))
