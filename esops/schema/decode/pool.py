"""Several processes of the application's code at work on one read of the events.

What becomes of events comes back in the order in which they were given, so that what a run has
found up to a position does not depend on which process was quicker.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Self

from esops.errors import Stopped
from esops.events import RecordedEvent
from esops.schema.decode.comparing import RoundTripComparer
from esops.schema.decode.fatal import FatalEvents
from esops.schema.decode.outcomes import DecodeOutcome, EventDecoder
from esops.schema.decode.request import DecodeRequest

_PIECE, _SMALLEST_PIECE, _FIRST_PIECE = 4_000, 20, 200
"""Events that a process is given at once: as many as it decodes in a second, within these bounds,
so that little is lost where slow code is stopped.
"""
_PIECE_BYTES = 16 << 20
_LOOK_EVERY_SECONDS = 0.2


class DecodedPiece(NamedTuple):
    """Some events, and what became of them."""

    events: Sequence[RecordedEvent]
    outcome: DecodeOutcome


class DecoderPool:
    """The processes. Use it with `with`."""

    def __init__(
        self,
        request: DecodeRequest,
        fatal: FatalEvents,
        stop: Callable[[], bool],
        files: dict[str, str],
    ) -> None:
        """Start one of them; the others are started when there is work for them. The files that
        the code uses go into `files`, as far as they can be seen. Raises UsageError where the code
        cannot be run.
        """
        self._request, self._fatal, self._stop = request, fatal, stop
        self._files = files
        self._decoders: list[EventDecoder] = [decoder_of(request, fatal, files)]
        self._free: queue.SimpleQueue[EventDecoder] = queue.SimpleQueue()
        self._free.put(self._decoders[0])
        self.fingerprint = self._decoders[0].fingerprint
        self._threads = ThreadPoolExecutor(request.workers)
        self._ending = False
        self._piece = min(_FIRST_PIECE, _PIECE)
        self._under_way: deque[tuple[Sequence[RecordedEvent], Future[DecodeOutcome]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # At the end of a run nothing is under way, and each program is asked to end by itself.
        if self._under_way:
            self._ending = True
            for each in self._decoders:
                each.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for each in self._decoders:
            each.close()

    def decode(self, events: Sequence[RecordedEvent]) -> Iterator[DecodedPiece]:
        """Give events to the code; what became of earlier ones comes out as it is known. Raises
        Stopped.
        """
        for piece in self._pieces(events):
            while len(self._under_way) >= 2 * self._request.workers:
                yield self._oldest()
            self._under_way.append((piece, self._threads.submit(self._work, piece)))
            while self._under_way and self._under_way[0][1].done():
                yield self._oldest()

    def rest(self) -> Iterator[DecodedPiece]:
        """What became of all others that were given. Raises Stopped."""
        while self._under_way:
            yield self._oldest()

    def _oldest(self) -> DecodedPiece:
        events, future = self._under_way[0]
        while not future.done():
            if self._stop():
                raise Stopped
            wait([future], _LOOK_EVERY_SECONDS)
        outcome = future.result()
        self._under_way.popleft()
        return DecodedPiece(events, outcome)

    def _work(self, events: Sequence[RecordedEvent]) -> DecodeOutcome:
        try:
            decoder = self._free.get_nowait()
        except queue.Empty:
            decoder = decoder_of(self._request, self._fatal, self._files)
            self._decoders.append(decoder)
            if self._ending or self._stop():
                decoder.stop()
        began = time.monotonic()
        try:
            outcome = decoder.decode(events)
        finally:
            self._free.put(decoder)
        a_second = len(events) / max(time.monotonic() - began, 0.001)
        self._piece = max(_SMALLEST_PIECE, min(_PIECE, int(a_second), 4 * self._piece))
        return outcome

    def _pieces(self, events: Sequence[RecordedEvent]) -> Iterator[Sequence[RecordedEvent]]:
        begin = 0
        while begin < len(events):
            end, size, most = begin, 0, self._piece
            while end < len(events) and end - begin < most and size < _PIECE_BYTES:
                size += len(events[end].data)
                end += 1
            yield events[begin:end]
            begin = end


def decoder_of(request: DecodeRequest, fatal: FatalEvents, files: dict[str, str]) -> EventDecoder:
    """One process of the code. Raises UsageError where it cannot be run."""
    if request.python is not None:
        from esops.schema.decode.child import PythonTask
        from esops.schema.decode.python_code import PythonDecoder

        task = PythonTask(
            request.python,
            request.encode,
            request.directory,
            request.ignored,
            request.same_moments,
        )
        return PythonDecoder(task, request.timeout, fatal, files)
    from esops.schema.decode.program import ProgramDecoder, ProgramTask

    return ProgramDecoder(
        ProgramTask(
            request.command,
            request.directory,
            request.timeout,
            request.round_trip,
            RoundTripComparer.ignoring(request.ignored, moments=request.same_moments),
            request.show_payload,
        ),
        fatal,
    )
