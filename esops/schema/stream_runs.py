"""A list of streams with what is known of each, made in bounded memory, and sorted by name.

What is known of the streams at one time is written to a temporary file, sorted: a run. At the end
the runs are merged: a stream may be in several, and the later one knows what came last.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from heapq import merge
from operator import attrgetter
from typing import IO, NamedTuple, Self

from esops.events import StreamKey

_READ_AT_ONCE = 16_384
"""Bytes of each run that are in memory while runs are merged."""


class OpenStreamRow(NamedTuple):
    """What is known of one stream."""

    key: StreamKey
    category: str | None = None
    hits: int = 0
    """Events that are looked for."""
    version: int | None = None
    """That of its last event; None: nothing was read of it."""
    at: int | None = None
    """The time of its last event, in microseconds since 1970; None if unknown."""
    alive: bool = False
    """Neither closed nor archived."""

    def then(self, later: OpenStreamRow) -> OpenStreamRow:
        """What is known with a row that was written later."""
        if later.version is None:
            return self._replace(alive=self.alive and later.alive)
        return later._replace(hits=self.hits + later.hits)


class StreamRuns:
    """Sorted runs of rows in a temporary file. A context manager."""

    def __init__(self) -> None:
        """Without a row; the file is made when the first run is written."""
        self._file: IO[bytes] | None = None
        self._places: list[tuple[int, int]] = []
        """Where each run begins and ends."""

    def write(self, rows: Iterable[OpenStreamRow]) -> None:
        """Write a run, which has each stream once."""
        self.write_sorted(sorted(rows, key=attrgetter("key")))

    def write_sorted(self, rows: Iterable[OpenStreamRow]) -> int:
        """Write a run whose rows come in their order. Returns how many there are."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="esops-schema-")  # noqa: SIM115 - closed by close()
        start = self._file.tell()
        number = 0
        for row in rows:
            self._file.write(_line(row))
            number += 1
        self._places.append((start, self._file.tell()))
        return number

    def write_in_lots(self, rows: Iterable[OpenStreamRow], most: int) -> None:
        """Write runs of up to `most` rows."""
        lot: list[OpenStreamRow] = []
        for row in rows:
            lot.append(row)
            if len(lot) >= most:
                self.write(lot)
                lot.clear()
        if lot:
            self.write(lot)

    def merged(self) -> Iterator[OpenStreamRow]:
        """One row for each stream, by name and tenant. Nothing may be written while it runs."""
        runs = [self._rows(*place) for place in self._places]
        found: OpenStreamRow | None = None
        # Of rows with the same key, `merge` gives that of the run first that was written first.
        for row in merge(*runs, key=attrgetter("key")):
            if found is None or found.key != row.key:
                if found is not None:
                    yield found
                found = row
            else:
                found = found.then(row)
        if found is not None:
            yield found

    def _rows(self, at: int, end: int) -> Iterator[OpenStreamRow]:
        assert self._file is not None
        rest = b""
        while at < end:
            self._file.seek(at)
            block = self._file.read(min(_READ_AT_ONCE, end - at))
            at += len(block)
            *lines, rest = (rest + block).split(b"\n")
            yield from map(_row, lines)

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _line(row: OpenStreamRow) -> bytes:
    # ASCII only: a name may have what UTF-8 cannot write.
    return json.dumps([*row.key, *row[1:]]).encode() + b"\n"


def _row(line: bytes) -> OpenStreamRow:
    stream, tenant, *rest = json.loads(line)
    return OpenStreamRow(StreamKey(stream, tenant), *rest)
