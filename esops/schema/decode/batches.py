"""Events on their way to another process of ours: as the rows that the store's server sent where
they were read by Arrow, and otherwise as their fields.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat, starmap
from typing import TYPE_CHECKING, Any

from esops.events import Position, RecordedEvent

if TYPE_CHECKING:
    import pyarrow as pa

    from esops.stores.arrow_events import ColumnsInUse

_new: Any = tuple.__new__
_PROTOCOL = pickle.HIGHEST_PROTOCOL


def packed(events: Sequence[RecordedEvent]) -> bytes:
    """Some events as bytes."""
    from esops.stores.arrow_events import rows_of

    rows = rows_of(events)
    if rows is None:
        columns: list[Any] = list(zip(*(event.fields for event in events), strict=True))
        columns[3] = list(map(tuple, columns[3]))
        return pickle.dumps((None, columns, None), _PROTOCOL)
    batch, parts = rows
    schema = batch.schema.serialize().to_pybytes()
    return pickle.dumps((parts, schema, batch.serialize().to_pybytes()), _PROTOCOL)


def unpacked(content: bytes) -> list[RecordedEvent]:
    """The events of what `packed` made."""
    parts, first, rows = pickle.loads(content)  # noqa: S301 - from our own process
    if parts is None:
        first[3] = map(_new, repeat(Position), first[3])
        return list(starmap(RecordedEvent, zip(*first, strict=True)))
    # Imported here: a process that gets no rows starts in half the time without Arrow.
    import pyarrow as pa

    from esops.stores.arrow_events import to_events

    batch = pa.ipc.read_record_batch(pa.py_buffer(rows), _schema(first))
    return to_events(batch, parts, in_use=_in_use())


@lru_cache(1)
def _in_use() -> ColumnsInUse:
    """The same for all batches of a process."""
    from esops.stores.arrow_events import ColumnsInUse

    return ColumnsInUse()


@lru_cache(8)
def _schema(text: bytes) -> pa.Schema:
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(text))
