"""Few events, over an ordinary connection: ADBC reads the server's whole list of types before
anything else, which takes longer than reading some thousand events.

The same Arrow batches come of it, so that whoever reads them need not know the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import abc
from psycopg.adapt import Loader
from psycopg.pq import Format

from esops.postgres.connection import connect
from esops.postgres.session import BULK, refuse_replica

FEW = 2_000
"""Rows up to which a statement is better read this way."""
_CHUNK_ROWS = 100
_FROM_1970 = 946_684_800_000_000
"""Microseconds from 1970 to 2000, where Postgres begins to count."""

Values = Sequence[bytes | None]


@dataclass(frozen=True, slots=True)
class Few:
    """A statement that gives about FEW rows at most."""

    text: str


def sized(rows: int, statement: str) -> str | Few:
    """A statement that gives about `rows` rows at most, to be read the better way."""
    return Few(statement) if rows <= FEW else statement


class OtherType(Exception):
    """A column has a type that only ADBC can read."""


class LightReader:
    """A connection for short reads. Used by one reader at a time."""

    def __init__(self, dsn: str, batch_bytes: int, setting: str | None = None) -> None:
        """A batch has about `batch_bytes` at most; `setting` is a statement that sets the session
        up. Nothing is opened yet.
        """
        self._dsn, self._batch_bytes, self._setting = dsn, batch_bytes, setting
        self._connection: psycopg.Connection | None = None

    def batches(self, statement: str) -> Iterator[pa.RecordBatch]:
        """What a statement gives, as ADBC gives it. Raises OtherType before the first batch, and
        what psycopg raises.
        """
        return batches_of(self._open(), statement, self._batch_bytes)

    def close(self) -> None:
        """Close the connection; a later read opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            connection = connect(self._dsn, "bulk", BULK)
            try:
                refuse_replica(connection)
                if self._setting is not None:
                    connection.execute(self._setting.encode())
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def batches_of(
    connection: psycopg.Connection, statement: str, batch_bytes: int
) -> Iterator[pa.RecordBatch]:
    """What a statement gives over a connection, in its transaction if it is in one.

    Raises as LightReader.batches does.
    """
    cursor = connection.cursor(binary=True)
    for oid in _ARRAYS:
        cursor.adapters.register_loader(oid, _BytesAsSent)
    rows: list[Values] = []
    size = 0
    found: Any = cursor.stream(statement.encode(), size=_CHUNK_ROWS)
    with closing(found) as stream:
        for row in stream:
            if not rows and (other := _other_type(cursor)):
                raise OtherType(other)
            rows.append(row)
            size += sum(len(value) for value in row if value is not None)
            if size >= batch_bytes:
                yield _batch(cursor, rows)
                rows, size = [], 0
    if rows:
        yield _batch(cursor, rows)


class _BytesAsSent(Loader):
    """A value as the server sends it."""

    format = Format.BINARY

    def load(self, data: abc.Buffer) -> bytes:
        return bytes(data)


def _texts(values: Values) -> pa.Array:
    # The session's encoding is UTF-8, so these bytes are text already.
    return pa.array(values, pa.binary()).view(pa.string())


def _documents(values: Values) -> pa.Array:
    # A jsonb begins with the version of its form.
    return pa.array([None if each is None else each[1:] for each in values], pa.binary())


def _bytes(values: Values) -> pa.Array:
    return pa.array(values, pa.binary())


def _booleans(values: Values) -> pa.Array:
    return pa.array([None if each is None else each != b"\0" for each in values], pa.bool_())


def _uuids(values: Values) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array(values, pa.binary(16)))


def _integers(values: Values) -> pa.Array:
    found = (None if each is None else int.from_bytes(each, "big", signed=True) for each in values)
    return pa.array(found, pa.int64())


def _times(values: Values) -> pa.Array:
    """Microseconds since 1970; beyond 64 bits they come round, as they do in ADBC
    (esops.moments.from_driver).
    """
    found = (None if each is None else _since_1970(each) for each in values)
    return pa.array(found, pa.int64())


def _since_1970(value: bytes) -> int:
    moved = (int.from_bytes(value, "big", signed=True) + _FROM_1970) & ((1 << 64) - 1)
    return moved - (1 << 64) if moved >> 63 else moved


_BY_NAME: Mapping[str, Callable[[Values], pa.Array]] = {
    "text": _texts,
    "varchar": _texts,
    "name": _texts,
    "json": _bytes,
    "bytea": _bytes,
    "jsonb": _documents,
    "bool": _booleans,
    "uuid": _uuids,
    "int2": _integers,
    "int4": _integers,
    "int8": _integers,
    "timestamp": _times,
    "timestamptz": _times,
}
_ARRAYS = {psycopg.adapters.types[name].oid: make for name, make in _BY_NAME.items()}


def _other_type(cursor: psycopg.Cursor) -> str | None:
    """The column of a type that has no place in `_ARRAYS`, if there is one."""
    columns = cursor.description or ()
    return next((each.name for each in columns if each.type_code not in _ARRAYS), None)


def _batch(cursor: psycopg.Cursor, rows: Sequence[Values]) -> pa.RecordBatch:
    columns = cursor.description or ()
    arrays = [
        _ARRAYS[column.type_code](values)
        for column, values in zip(columns, zip(*rows, strict=True), strict=True)
    ]
    # Names may repeat, and nobody asks for them.
    return pa.RecordBatch.from_arrays(arrays, [str(n) for n in range(len(arrays))])
