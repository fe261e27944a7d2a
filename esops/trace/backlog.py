"""Events that are read from the newest back and shown from the oldest on."""

from __future__ import annotations

import pickle
import tempfile
from array import array
from collections.abc import Iterator
from typing import IO

from esops.events import RecordedEvent

_BYTES = 16 << 20
"""Bytes of payloads that are kept in memory; more go to a temporary file."""
_EACH = 500
"""What an event takes beside its payload, about."""


class Backlog:
    """Takes events and gives them back in the opposite order. Memory holds some of them, and eight
    bytes for each of the others.
    """

    def __init__(self, in_memory: int = _BYTES) -> None:
        """`in_memory`: how many bytes are kept before a file is written."""
        self._in_memory, self._size = in_memory, 0
        self._kept: list[RecordedEvent] = []
        self._places = array("Q")
        self._file: IO[bytes] | None = None

    def add(self, event: RecordedEvent) -> None:
        """Take the next event."""
        if self._file is None:
            self._size += len(event.data) + len(event.metadata) + _EACH
            if self._size <= self._in_memory:
                self._kept.append(event.detached())
                return
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `reversed`
        self._places.append(self._file.tell())
        pickle.dump(event.detached(), self._file)

    def __len__(self) -> int:
        """How many were taken."""
        return len(self._kept) + len(self._places)

    def reversed(self) -> Iterator[RecordedEvent]:
        """All of them, the last one first; once."""
        file = self._file
        if file is not None:
            with file:
                for place in reversed(self._places):
                    file.seek(place)
                    yield pickle.load(file)  # noqa: S301 - written above
        yield from reversed(self._kept)
