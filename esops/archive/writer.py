"""Writes events and streams as Parquet files of about one size; each is read back at once.

What is read back is compared with what the store gave. Both are hashed as they pass, so that
neither has to stay in memory.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from esops.archive_format.hashes import Content, Digest, digests
from esops.archive_format.manifest import FileEntry
from esops.archive_format.repository import ENCRYPTED
from esops.archive_format.runs import Run
from esops.archive_format.schema import EXTRA_PREFIX, STREAMS, Damaged, StreamRow, schema_with
from esops.events import Position, StreamKey, StreamRef
from esops.moments import from_archive

StreamRows = Mapping[tuple[str, str], StreamRow]
_NO_ROW = StreamRow()
_GROUP_BYTES = 8 << 20
_GROUP_ROWS = 100_000
_STREAMS_AT_ONCE = 1_000
_NUMBERS = (
    "version",
    "position_1",
    "position_2",
    "recorded_at",
    "events",
    "first_version",
    "last_version",
    "bytes",
)
_OF_NUMBERS = "DELTA_BINARY_PACKED"


class OrderedWorker:
    """A thread that runs tasks in their order. A context manager.

    Whoever adds tasks waits when `most` of them are open, so that memory stays bounded.
    """

    def __init__(self, name: str, most: int) -> None:
        self._worker = ThreadPoolExecutor(1, f"esops-archive-{name}")
        self._tasks: deque[Future[None]] = deque()
        self._most = most

    def do(self, task: Callable[..., None], *arguments: Any) -> None:
        """Add a task. Waits while too many are open. Raises what an earlier task raised."""
        self._tasks.append(self._worker.submit(task, *arguments))
        while len(self._tasks) > self._most:
            self._tasks.popleft().result()

    def wait(self) -> None:
        """Wait until all tasks are done. Raises what a task raised."""
        while self._tasks:
            self._tasks.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._worker.shutdown(cancel_futures=True)


class ParquetFiles:
    """Writes rows of one schema to files of about `file_size` bytes each."""

    def __init__(
        self, run: Run, prefix: str, schema: pa.Schema, file_size: int, reader: OrderedWorker
    ) -> None:
        """`reader` is the thread that reads the files back."""
        self._reader = reader
        self._run, self._prefix, self._schema, self._file_size = run, prefix, schema, file_size
        self._waiting: list[pa.RecordBatch] = []
        self._rows, self._bytes = 0, 0
        self._sink: pa.BufferOutputStream | None = None
        self._writer: pq.ParquetWriter | None = None
        self._in_file = 0
        self._content = Content()
        self._first, self._last = "", ""
        self.entries: list[FileEntry] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows. They are written as a row group when there are enough of them."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._sink = pa.BufferOutputStream()
            self._writer = pq.ParquetWriter(self._sink, self._schema, **_options(self._schema))
            self._first = self._waiting[0].column("stream")[0].as_py()
        self._last = self._waiting[-1].column("stream")[-1].as_py()
        self._writer.write_table(
            pa.Table.from_batches(self._waiting), row_group_size=max(self._rows, 1)
        )
        for batch in self._waiting:
            self._content.add(batch)
        self._in_file += self._rows
        self._waiting, self._rows, self._bytes = [], 0, 0
        assert self._sink is not None
        if self._sink.tell() >= self._file_size:
            self._close_file()

    def _close_file(self) -> None:
        if self._writer is None or self._sink is None:
            return
        self._writer.close()
        # The hash is of what is stored, so that a file can be checked without the key.
        content = self._run.repository.seal(memoryview(self._sink.getvalue()))
        suffix = ENCRYPTED if self._run.repository.encrypts else ""
        name = f"{self._prefix}-{len(self.entries) + 1:05d}.parquet{suffix}"
        entry = FileEntry(
            name=name,
            sha256=hashlib.sha256(content).hexdigest(),
            size=memoryview(content).nbytes,
            rows=self._in_file,
            first=self._first,
            last=self._last,
        )
        self._run.repository.put(self._run.path(name), content)
        del content  # a whole file: it is not needed while the next one is filled
        self._sink, self._writer, self._in_file = None, None, 0
        # Read back in the background, while the next file is filled.
        self._reader.do(self._read_back, entry, self._content.digest())
        self._content = Content()
        self.entries.append(entry)

    def _read_back(self, entry: FileEntry, written: bytes) -> None:
        """Compare what the repository returns with what was written. Raises Damaged, Missing."""
        found = Content()
        # Decoding the next batch and hashing this one go in parallel: both are in C and release
        # Python's lock.
        with OrderedWorker("hash", 2) as hashing:
            for batch in self._run.batches(entry):
                hashing.do(found.add, batch)
            hashing.wait()
        if found.digest() != written:
            raise Damaged(
                f"{self._run.name}/{entry.name} is read back with other rows than the store gave"
            )

    def finish(self) -> tuple[FileEntry, ...]:
        """Write what is left, and return all files. The reader may still be at the last ones."""
        self._write_group()
        self._close_file()
        return tuple(self.entries)


def _options(schema: pa.Schema) -> dict[str, Any]:
    """How columns are encoded: repeated texts by dictionary, numbers as differences; then zstd."""
    repeated = [
        name
        for name in schema.names
        if name in ("stream", "tenant", "type") or name.startswith(EXTRA_PREFIX)
    ]
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": repeated,
        "column_encoding": {name: _OF_NUMBERS for name in schema.names if name in _NUMBERS},
        # Statistics let DuckDB skip row groups. Hashes and payloads are never compared.
        "write_statistics": [
            name
            for name in schema.names
            if name not in ("id", "id_text", "data", "metadata", "sha256", "row", "categories")
        ],
        "version": "2.6",
    }


class ExportTotals:
    """What an export has seen: counts, bytes, and the first and last position and time."""

    def __init__(self) -> None:
        self.streams, self.events, self.bytes = 0, 0, 0
        self.first_position: Position | None = None
        self.last_position: Position | None = None
        self.first_at: int | None = None
        self.last_at: int | None = None

    def add_positions(self, batch: pa.RecordBatch, parts: int) -> None:
        """Widen the range of positions by those of a batch; a position has 1 or 2 parts."""
        columns = [batch.column(f"position_{part}") for part in range(1, parts + 1)]
        low, high = pc.min_max(columns[0]).as_py().values()
        # The second part only matters among the rows with the smallest (greatest) first part.
        for end, choose in ((low, min), (high, max)):
            at = [end]
            if parts > 1:
                seconds = columns[1].filter(pc.equal(columns[0], end))
                at.append(pc.min_max(seconds).as_py()["min" if choose is min else "max"])
            position = Position(at)
            if choose is min:
                self.first_position = (
                    position if self.first_position is None else min(self.first_position, position)
                )
            else:
                self.last_position = (
                    position if self.last_position is None else max(self.last_position, position)
                )

    def add_streams(self, group: Sequence[Digest]) -> None:
        """Count some streams and their events."""
        self.streams += len(group)
        self.events += sum(digest.events for digest in group)
        self.bytes += sum(digest.size for digest in group)
        firsts = (self.first_at, *(digest.first_at for digest in group))
        lasts = (self.last_at, *(digest.last_at for digest in group))
        self.first_at = min((at for at in firsts if at is not None), default=None, key=from_archive)
        self.last_at = max((at for at in lasts if at is not None), default=None, key=from_archive)


class Export:
    """Writes streams to a run's files. A context manager."""

    def __init__(
        self, run: Run, attempt: int, columns: Sequence[str], position_parts: int, file_size: int
    ) -> None:
        """`attempt` is part of the files' names, so that no older attempt can overwrite them."""
        self.totals = ExportTotals()
        self.categories: Literal["by name", "listed"] = "by name"
        """How the categories of the streams so far are known."""
        self._parts = position_parts
        # Compressing, asking for the streams' rows and reading back each take about as long as
        # reading the store and hashing, so that each has a thread of its own.
        self._threads = ExitStack()
        self._of_events, self._of_streams, self._reader = (
            self._threads.enter_context(OrderedWorker(name, most))
            for name, most in (("events", 2), ("streams", 1), ("read-back", 1))
        )
        self._events = ParquetFiles(
            run, f"{attempt:06d}-events", schema_with(columns), file_size, self._reader
        )
        self._streams = ParquetFiles(
            run, f"{attempt:06d}-streams", STREAMS, file_size, self._reader
        )

    def add(
        self,
        streams: Iterable[StreamRef],
        export: Callable[[Iterable[StreamRef]], Iterator[pa.RecordBatch]],
        rows: Callable[[Sequence[StreamKey]], StreamRows],
    ) -> Iterator[ExportTotals]:
        """Write streams: `export` gives their events, `rows` what else the store has of streams.

        Yields the totals after every thousand streams.
        """
        found = digests(self._passing(export(streams)))
        while group := list(islice(found, _STREAMS_AT_ONCE)):
            self.totals.add_streams(group)
            self._of_streams.do(self._add_streams, group, rows)
            yield self.totals

    def _passing(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            self._of_events.do(self._events.add, batch)
            self.totals.add_positions(batch, self._parts)
            yield batch

    def _add_streams(
        self, group: list[Digest], rows: Callable[[Sequence[StreamKey]], StreamRows]
    ) -> None:
        found = rows([each.key for each in group])
        if any(each.categories is not None for each in found.values()):
            self.categories = "listed"
        self._streams.add(stream_batch(group, found))

    def close(self) -> tuple[tuple[FileEntry, ...], tuple[FileEntry, ...]]:
        """Wait until everything is written and read back.

        Returns the files of events and the files of streams. Raises Damaged, Missing if one is not
        read back as it was written.
        """
        # In this order: the last files are finished by this thread, once the workers are done.
        self._of_events.wait()
        self._of_streams.wait()
        files = self._events.finish(), self._streams.finish()
        self._reader.wait()
        return files

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.close()


def stream_batch(streams: list[Digest], rows: StreamRows) -> pa.RecordBatch:
    """Streams as rows of the file of streams."""
    columns = list(zip(*streams, strict=True))
    of_streams = [rows.get(key, _NO_ROW) for key in zip(columns[0], columns[1], strict=True)]
    arrays = [
        pa.array(columns[0]),
        pa.array(columns[1]),
        *(pa.array(column, pa.int64()) for column in columns[2:5]),
        *(pa.array(column, pa.int64()).cast(pa.timestamp("us", "UTC")) for column in columns[5:7]),
        pa.array(columns[7], pa.int64()),
        pa.array(columns[8], pa.binary(32)),
        *(pa.array(each, pa.string()) for each in zip(*of_streams, strict=True)),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=STREAMS)
