"""Which shapes the streams that are still open have: counted exactly, in memory that does not grow
with the number of streams.

Streams are held in memory up to a limit. Beyond it, all that is known of them is written to a
temporary file, split by a hash of their names, and each part is put together at the end by itself.
A stream is named by 128 bits of a cryptographic hash there, so that no two are taken for one.
"""

from __future__ import annotations

import struct
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import IO, Any, NamedTuple, Self

from esops.events import StreamKey

_IN_MEMORY = 60_000
"""Streams whose state is in memory at once."""
_PARTS = 256
_MOST_BYTES = 64 << 20
"""Of the shapes of the streams in memory: where there are very many, fewer streams are held."""
_MEASURED_EVERY = 1_000
_HEAD = struct.Struct("<16sqI")
_FEW = 1 << 31
"""In the place of a length: the numbers of shapes follow, not a bit for each."""
OPEN = -(1 << 63)
_UNKNOWN_TIME, _ARCHIVED = OPEN + 1, OPEN + 2
"""Instead of the time at which a stream was closed."""
_LATEST = (1 << 63) - 1


class StreamState:
    """One stream as far as it was read: which shapes it has, and whether it is closed.

    `place` is what whoever reads keeps of a stream beside it. Written to for each event, so its
    attributes are bare.
    """

    __slots__ = ("closed", "first", "place", "shapes")

    def __init__(self, place: Any) -> None:
        """An open stream without an event."""
        self.place = place
        self.first = 0
        """The first version that can be read."""
        self.shapes = 0
        """A bit for each shape."""
        self.closed = OPEN
        """The time of its last event where that closes it."""

    def close(self, at: int | None) -> None:
        """Its last event so far closes it; `at`: microseconds since 1970, None if unknown."""
        self.closed = _UNKNOWN_TIME if at is None else max(min(at, _LATEST), _ARCHIVED + 1)


class _Kept(NamedTuple):
    shapes: int
    closed: int


@dataclass
class StreamCounts:
    """How many streams have a shape, by the shape's bit number."""

    streams: Counter[int] = field(default_factory=Counter)
    open: Counter[int] = field(default_factory=Counter)
    """Neither closed nor archived."""
    closed_since: Counter[int] = field(default_factory=Counter)
    """Closed by an event that was recorded after the time that was asked for."""
    archived: Counter[int] = field(default_factory=Counter)


class OpenStreams:
    """Collects the state of each stream of a read. A context manager."""

    def __init__(self, in_memory: int = _IN_MEMORY) -> None:
        """`in_memory`: how many streams are in memory at most."""
        self.held: dict[Any, StreamState] = {}
        """The streams in memory, by whatever key the reader has for them."""
        self._most = in_memory
        self._measured = 0
        self._file: IO[bytes] | None = None
        self._parts: list[list[tuple[int, int]]] = [[] for _ in range(_PARTS)]

    def make_room(self, name_of: Callable[[Any], StreamKey]) -> bool:
        """Write the streams in memory away where there are too many, and forget them. Returns
        whether that was so: no state that was given out before may be used any more.

        `name_of` gives the stream of a key.
        """
        if len(self.held) <= self._most and not self._large():
            return False
        self._measured = 0
        self._write((name_of(key), state.shapes, state.closed) for key, state in self.held.items())
        self.held.clear()
        return True

    def _large(self) -> bool:
        """Whether the shapes of the streams in memory take too much; looked at now and then."""
        if len(self.held) < self._measured + _MEASURED_EVERY:
            return False
        self._measured = len(self.held)
        return sum(state.shapes.bit_length() for state in self.held.values()) > 8 * _MOST_BYTES

    def count(
        self,
        archived: Iterable[StreamKey],
        since: int,
        alias: Callable[[int], int],
        name_of: Callable[[Any], StreamKey],
    ) -> StreamCounts:
        """Count the streams by their shapes; only once.

        `archived`: streams that the store has marked so. `since`: see `closed_since`. `alias`
        gives for a mask of shapes that of those that they are shown as.
        """
        counts = StreamCounts()
        if self._file is None:
            states = {name_of(key): state for key, state in self.held.items()}
            for stream in archived:
                if stream in states:
                    states[stream].closed = _ARCHIVED
            for state in states.values():
                _count(counts, alias(state.shapes), state.closed, since)
            return counts
        self._write((name_of(key), state.shapes, state.closed) for key, state in self.held.items())
        self.held.clear()
        self._write_in_lots((stream, 0, _ARCHIVED) for stream in archived)
        for part in self._parts:
            for kept in self._merged(part).values():
                _count(counts, alias(kept.shapes), kept.closed, since)
        return counts

    def _write_in_lots(self, rows: Iterable[tuple[StreamKey, int, int]]) -> None:
        lot: list[tuple[StreamKey, int, int]] = []
        for row in rows:
            lot.append(row)
            if len(lot) >= self._most:
                self._write(lot)
                lot = []
        self._write(lot)

    def _write(self, rows: Iterable[tuple[StreamKey, int, int]]) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="esops-schema-")  # noqa: SIM115 - closed by close()
        pieces: list[list[bytes]] = [[] for _ in range(_PARTS)]
        for stream, shapes, closed in rows:
            name = f"{stream.tenant}\0{stream.stream}".encode("utf-8", "surrogatepass")
            digest = blake2b(name, digest_size=16).digest()
            size, mask = _packed(shapes)
            pieces[digest[0]].append(_HEAD.pack(digest, closed, size) + mask)
        for part, found in zip(self._parts, pieces, strict=True):
            if found:
                whole = b"".join(found)
                part.append((self._file.tell(), len(whole)))
                self._file.write(whole)

    def _merged(self, part: list[tuple[int, int]]) -> dict[bytes, _Kept]:
        """The streams of one part; what was written later says whether a stream is closed."""
        assert self._file is not None
        found: dict[bytes, _Kept] = {}
        for offset, length in part:
            self._file.seek(offset)
            for digest, shapes, closed in _rows(self._file.read(length)):
                before = found.get(digest)
                if before is not None:
                    found[digest] = _Kept(before.shapes | shapes, closed)
                elif closed != _ARCHIVED:  # one of which nothing was read
                    found[digest] = _Kept(shapes, closed)
        return found

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _rows(block: bytes) -> Iterator[tuple[bytes, int, int]]:
    at, end = 0, len(block)
    while at < end:
        digest, closed, size = _HEAD.unpack_from(block, at)
        at += _HEAD.size
        few, size = size & _FEW, size & ~_FEW
        mask = block[at : at + size]
        if few:
            yield digest, sum(1 << number for number in memoryview(mask).cast("I")), closed
        else:
            yield digest, int.from_bytes(mask, "little"), closed
        at += size


def _packed(shapes: int) -> tuple[int, bytes]:
    """Shapes as bytes, with what says how many and of which form."""
    length = (shapes.bit_length() + 7) // 8
    if 4 * shapes.bit_count() >= length:
        return length, shapes.to_bytes(length, "little")
    numbers = array("I", _bits(shapes)).tobytes()
    return _FEW | len(numbers), numbers


def _count(counts: StreamCounts, shapes: int, closed: int, since: int) -> None:
    numbers = list(_bits(shapes))
    counts.streams.update(numbers)
    if closed == OPEN:
        counts.open.update(numbers)
    elif closed == _ARCHIVED:
        counts.archived.update(numbers)
    elif closed >= since:
        counts.closed_since.update(numbers)


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
