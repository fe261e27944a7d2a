"""Events in bulk: Arrow batches from the server, fetched ahead in a thread, turned into RecordedEvents column by column.

ADBC reads by COPY in binary, which takes no parameters; so statements come here complete, with psycopg's own literals.
Memory is bounded by the size of a few batches, stated in bytes, whatever the number or size of events.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import adbc_driver_postgresql
import pyarrow as pa
from adbc_driver_manager import AdbcConnection, AdbcStatement
from psycopg.conninfo import make_conninfo

from esops.backends.postgres.connect import application_name, translated
from esops.events import Position, RecordedEvent

Decode = Callable[[bytes], tuple[bytes, int]]
BATCH_BYTES = 2 << 20
_AHEAD = 3
_SIZE_HINT = adbc_driver_postgresql.StatementOptions.BATCH_SIZE_HINT_BYTES.value


class BulkReader:
    """A connection for bulk reads. Used by one reader at a time; a failed read closes it."""

    def __init__(self, dsn: str, batch_bytes: int = BATCH_BYTES) -> None:
        """Take a libpq string; nothing is opened yet."""
        self._dsn = dsn
        self._batch_bytes = batch_bytes
        self._connection: Any = None
        self._under_way: tuple[threading.Thread, threading.Event] | None = None

    def read(self, statements: Iterator[str]) -> Iterator[pa.RecordBatch]:
        """Run the statements one after the other and give out their batches, the next ones being fetched meanwhile.

        Raises what went wrong in the thread, translated to ours.
        """
        ready: queue.Queue[pa.RecordBatch | BaseException | None] = queue.Queue(_AHEAD)
        stop = threading.Event()

        def hand_over(item: pa.RecordBatch | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    return ready.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def fetch() -> None:
            try:
                with translated():
                    for statement in statements:
                        for batch in self._batches(statement):
                            if stop.is_set():
                                return
                            hand_over(batch)
                hand_over(None)
            except BaseException as error:  # noqa: BLE001 - raised in the reader's thread
                self._disconnect()
                hand_over(error)

        thread = threading.Thread(target=fetch, name="esops-bulk", daemon=True)
        self._end_read()
        thread.start()
        self._under_way = (thread, stop)
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()
            self._under_way = None

    def _batches(self, statement: str) -> Iterator[pa.RecordBatch]:
        # The driver's own layer below its DBAPI, whose import alone brings all of Arrow's compute functions.
        if self._connection is None:
            conninfo = make_conninfo(self._dsn, application_name=application_name("bulk"), connect_timeout=10)
            database = adbc_driver_postgresql.connect(conninfo)
            try:
                self._connection = (AdbcConnection(database), database)
            except BaseException:
                database.close()
                raise
        with AdbcStatement(self._connection[0]) as query:
            query.set_options(**{_SIZE_HINT: str(self._batch_bytes)})
            query.set_sql_query(statement)
            stream, _ = query.execute_query()
            with pa.RecordBatchReader.from_stream(stream) as reader:
                yield from reader

    def close(self) -> None:
        """End a read that was left in the middle and close the connection; a later read opens a new one."""
        self._end_read()
        self._disconnect()

    def _end_read(self) -> None:
        if self._under_way is not None:
            thread, stop = self._under_way
            stop.set()
            thread.join()
            self._under_way = None

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        for each in connection or ():
            with contextlib.suppress(Exception):  # a broken connection may also fail to close
                each.close()


_new: Any = tuple.__new__


def to_events(batch: pa.RecordBatch, position_parts: int, decode: Decode | None = None) -> list[RecordedEvent]:
    """Turn a batch into events. Its columns: id, stream, version, type, data, metadata, time, tenant, then the position's.

    `decode` makes plain JSON of a payload, and tells the time inside it, for layouts that have none beside it.
    """
    identifier, stream, version, kind, data, metadata, recorded_at, tenant = batch.columns[:8]
    parts = [column.to_pylist() for column in batch.columns[8 : 8 + position_parts]]
    payloads, times = _bytes(data), recorded_at.view(pa.int64()).to_pylist()
    if decode is not None:
        payloads, times = zip(*map(decode, payloads), strict=True)
    elif recorded_at.null_count:
        times = [time or 0 for time in times]
    # tuple.__new__ over an iterator of rows makes each event in C; _make would run a line of Python for each
    return list(
        map(
            _new,
            repeat(RecordedEvent),
            zip(
                identifier.to_pylist(),
                stream.to_pylist(),
                version.to_pylist(),
                map(_new, repeat(Position), zip(*parts, strict=True)),
                kind.to_pylist(),
                payloads,
                _bytes(metadata),
                times,  # as microseconds: a datetime for each would take as long as all the rest of this
                tenant.to_pylist() if tenant.null_count or _any_text(tenant) else repeat(""),
                strict=False,
            ),
        )
    )


def _bytes(column: pa.Array) -> Any:
    if column.null_count == len(column):
        return repeat(b"")
    plain = column.storage if isinstance(column, pa.ExtensionArray) else column
    # a view: a cast would import all of Arrow's compute functions, for a twentieth of a second
    values = plain.view(pa.binary()).to_pylist()
    return values if not column.null_count else [value or b"" for value in values]


def _any_text(column: pa.Array) -> bool:
    return len(column) > 0 and column[0].as_py() != ""
