"""Events in bulk: Arrow batches from the server, fetched ahead in a thread. arrow_events.py makes
events of them.

ADBC reads by COPY in binary, which takes no parameters. So statements come here complete, with
literals that psycopg has quoted. Memory is bounded by the size of a few batches, stated in bytes,
whatever the number or size of events. Short answers take a shorter way (light.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import adbc_driver_postgresql
import pyarrow as pa
from adbc_driver_manager import AdbcConnection, AdbcStatement
from psycopg.conninfo import make_conninfo

from esops.postgres.connection import application_name, keepalives, server_of, translated
from esops.postgres.session import BULK, at_login, check, led_to_replica, set_up
from esops.stores.ahead import ahead
from esops.stores.postgres.light import Few, LightReader, OtherType

BATCH_BYTES = 2 << 20
_AHEAD = 8
_SIZE_HINT = adbc_driver_postgresql.StatementOptions.BATCH_SIZE_HINT_BYTES.value


class BulkReader:
    """A connection for bulk reads. Used by one reader at a time; a failed read closes it."""

    def __init__(
        self, dsn: str, batch_bytes: int = BATCH_BYTES, setting: str | None = None
    ) -> None:
        """`setting` is a statement that sets the session up. Nothing is opened yet."""
        self._dsn, self._setting = dsn, setting
        self._batch_bytes = batch_bytes
        self._connection: Any = None
        self._light = LightReader(dsn, batch_bytes, setting)
        self._under_way: Generator[pa.RecordBatch] | None = None

    def read(self, statements: Iterator[str | Few]) -> Iterator[pa.RecordBatch]:
        """Run the statements one after the other and yield their batches, while the next ones are
        fetched ahead.

        Raises what went wrong in the thread, translated to ours, and RuntimeError where another
        read, or `close`, ended this one, since it must not look complete.
        """
        self._end_read()
        mine = self._under_way = ahead(self._all_batches(statements), _AHEAD, "esops-bulk")
        yield from mine
        # A generator that was closed from outside ends without an error, like a complete one.
        if self._under_way is not mine:
            raise RuntimeError("this read was ended by another one, or by closing the reader")
        self._under_way = None

    def _all_batches(self, statements: Iterator[str | Few]) -> Generator[pa.RecordBatch]:
        try:
            with translated():
                for statement in statements:
                    if isinstance(statement, Few):
                        yield from self._few(statement)
                    else:
                        yield from self._batches(statement)
        except Exception:
            # The session may be in the middle of a COPY; it cannot be used for another statement.
            self._disconnect()
            raise

    def _few(self, statement: Few) -> Iterator[pa.RecordBatch]:
        if self._connection is not None:
            yield from self._batches(statement.text)
            return
        try:
            yield from self._light.batches(statement.text)
        except OtherType:
            yield from self._batches(statement.text)

    def _batches(self, statement: str) -> Iterator[pa.RecordBatch]:
        # The driver's low-level layer: importing its DBAPI would import all of Arrow's compute
        # functions as well.
        if self._connection is None:
            self._light.close()
            self._connect()
        with AdbcStatement(self._connection[0]) as query:
            query.set_options(**{_SIZE_HINT: str(self._batch_bytes)})
            query.set_sql_query(statement)
            stream, _ = query.execute_query()
            with pa.RecordBatchReader.from_stream(stream) as reader:
                yield from reader

    def _connect(self) -> None:
        # Asked over a connection that shows what ADBC hides: whether a pooler stands between.
        facts = server_of(self._dsn)
        conninfo = make_conninfo(
            self._dsn,
            application_name=application_name("bulk"),
            connect_timeout=10,
            client_encoding="UTF8",
            **keepalives(self._dsn),
            **at_login(facts),
        )
        database = adbc_driver_postgresql.connect(conninfo)
        try:
            self._connection = (AdbcConnection(database), database)
        except BaseException:
            database.close()
            raise
        with AdbcStatement(self._connection[0]) as query:
            query.set_sql_query(set_up(facts, BULK))
            stream, _ = query.execute_query()
            with pa.RecordBatchReader.from_stream(stream) as reader:
                (row,) = (
                    [column[0].as_py() for column in batch.columns]
                    for batch in reader
                    if batch.num_rows
                )
        if check(facts, BULK, row):
            raise led_to_replica()
        if self._setting is not None:
            with AdbcStatement(self._connection[0]) as query:
                query.set_sql_query(self._setting)
                query.execute_update()

    def close(self) -> None:
        """End a read that was left in the middle and close the connection; a later read opens a new
        one.
        """
        self._end_read()
        self._disconnect()

    def _end_read(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.close()

    def _disconnect(self) -> None:
        self._light.close()
        connection, self._connection = self._connection, None
        for each in connection or ():
            with contextlib.suppress(Exception):  # a broken connection may also fail to close
                each.close()
