"""Events of Arrow batches: each event knows its batch, and columns are decoded when they are asked
for.

The columns of a batch: id, stream, version, type, metadata, time, tenant, then the position's and
the payload's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import repeat
from typing import Any

import pyarrow as pa

from esops.errors import Refused
from esops.events import PlacedEvent, Position, RecordedEvent
from esops.stores.payloads import Decode

_new: Any = tuple.__new__


class ColumnsInUse:
    """What the events of a read were asked for, so that the next batch has it at hand."""

    positions = False


class BatchColumns:
    """What the events of one batch have besides their streams, versions, types and data: decoded
    for all of them at once, when the first one is asked for it.
    """

    def __init__(
        self,
        batch: pa.RecordBatch,
        parts: int,
        times: Sequence[int | None] | None,
        in_use: ColumnsInUse,
    ) -> None:
        """`parts` is the number of the position's columns. `times` where they are known already."""
        self.batch = batch
        self._in_use = in_use
        self.parts = parts
        self.decoded = times is not None
        if times is not None:
            self.times = times

    @cached_property
    def ids(self) -> Sequence[str]:
        """Their ids."""
        return self._list(0)

    @cached_property
    def positions(self) -> Sequence[Position]:
        """Their places in the log."""
        self._in_use.positions = True
        return list(map(_new, repeat(Position), zip(*self.places, strict=True)))

    def position_of(self, row: int) -> Position:
        """The place of one of them."""
        columns = self.batch.columns[ABOUT : ABOUT + self.parts]
        return Position(column[row].as_py() for column in columns)

    @property
    def places(self) -> list[list[int]]:
        """The columns of the positions."""
        return [self._list(ABOUT + n) for n in range(self.parts)]

    @cached_property
    def metadata(self) -> Sequence[bytes]:
        """Their metadata; empty where there is none."""
        stored: list[bytes] = _bytes(self.batch.column(4))
        return stored

    @cached_property
    def times(self) -> Sequence[int | None]:
        """When they were recorded, in microseconds as the driver counts them: making a datetime of
        each would take as long as all the rest.
        """
        made: list[int | None] = self.batch.column(5).view(pa.int64()).to_pylist()
        return made

    @cached_property
    def tenants(self) -> Sequence[str]:
        """Their tenants."""
        return self._list(6)

    def _list(self, column: int) -> list[Any]:
        made: list[Any] = self.batch.column(column).to_pylist()
        return made


ABOUT = 7
"""Columns before the position's."""


def rows_of(events: Sequence[RecordedEvent]) -> tuple[pa.RecordBatch, int] | None:
    """The rows of some events of one batch, and the number of their positions' columns, of which
    `to_events` makes the same events; None where they are of no batch, or of several.
    """
    first, last = events[0], events[-1]
    columns = first.columns
    if not isinstance(columns, BatchColumns) or columns.decoded:
        return None
    # Those of a joined store can have an archived one among them.
    if any(each.columns is not columns for each in events):
        return None
    rows = [each.row for each in events]
    if last.row - first.row + 1 == len(rows):
        return columns.batch.slice(first.row, len(rows)), columns.parts
    return columns.batch.take(pa.array(rows)), columns.parts


def to_events(
    batch: pa.RecordBatch,
    position_parts: int,
    decode: Decode | None = None,
    in_use: ColumnsInUse | None = None,
) -> list[RecordedEvent]:
    """Turn a batch into events, which keep it alive.

    `decode` makes plain JSON of a payload, and tells the time inside it, for layouts that have none
    beside it. `in_use` is the same for all batches of a read.
    """
    stream, version, kind = batch.column(1), batch.column(2), batch.column(3)
    payloads, times = _one_of(batch.columns[ABOUT + position_parts :]), None
    if decode is not None:
        payloads, times = zip(*map(decode, payloads), strict=True)
    in_use = in_use or ColumnsInUse()
    columns = BatchColumns(batch, position_parts, times, in_use)
    for what, column in (("stream", stream), ("version", version), ("type", kind)):
        if column.null_count:
            at = column.to_pylist().index(None)
            raise _without(what, ".".join(str(part[at]) for part in columns.places))
    parts: list[Iterable[Any]] = [
        stream.to_pylist(),
        version.to_pylist(),
        kind.to_pylist(),
        payloads,
        repeat(columns),
        range(batch.num_rows),
    ]
    made: type[RecordedEvent] = RecordedEvent
    if in_use.positions:
        made = PlacedEvent
        parts.append(columns.positions)
    # map over tuple.__new__ makes each event in C.
    return list(map(_new, repeat(made), zip(*parts, strict=False)))


def _without(what: str, position: str) -> Refused:
    return Refused(
        f"the event at position {position} has no {what}, so esops cannot tell what it is",
        hint="Give it a value: esops doctor names the column.",
    )


def _one_of(columns: list[pa.Array]) -> Any:
    """In each row, the first value that is not null."""
    first, *others = columns
    if not others or not first.null_count:
        return _bytes(first)
    if first.null_count == len(first):
        return _one_of(others)
    return [
        other if value is None else value
        for value, other in zip(first.to_pylist(), _one_of(others), strict=False)
    ]


def _bytes(column: pa.Array) -> Any:
    if column.null_count == len(column):
        return [b""] * len(column)
    plain = column.storage if isinstance(column, pa.ExtensionArray) else column
    # A view, since a cast would import all of Arrow's compute functions, which takes 0.05 s.
    values = plain.view(pa.binary()).to_pylist()
    return values if not column.null_count else [value or b"" for value in values]
