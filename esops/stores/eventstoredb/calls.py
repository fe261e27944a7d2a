"""Calls that end for whoever waits for them, whatever becomes of the call.

A graceful stop of the node can leave a call of grpcio (1.71) unfinished for ever: `code()` is
UNAVAILABLE and `is_active()` False, but the thread that reads it never comes back, deadline or
not, and `cancel()` does nothing. So only threads that nobody waits for read in gRPC. Whoever wants
the answer looks at the call from outside, and leaves that thread to itself where it is over.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc

from esops.errors import ConnectionLost

T = TypeVar("T")

AHEAD = 64
"""Messages that are read ahead: few enough that those of the largest size take 64 MiB."""
_MANY, _PAUSE = 32, 0.001
"""After this number of messages of a call, and a pause of these seconds, several more have come: a
thread that is woken up for each one costs more than the message.
"""
LOOK_EVERY = 0.25
"""Seconds between two looks at a call on which nothing comes."""
ENDED = 2.0
"""Seconds in which a call that is over has given all that it received before."""
LATE = 5.0
"""Seconds after a deadline at which nobody waits for gRPC any more to say that it has passed."""


_Work = Callable[[], object]
_resting: list[queue.SimpleQueue[_Work]] = []
"""Where the threads that have nothing to do wait for work: to make one takes as long as a call."""
os.register_at_fork(after_in_child=_resting.clear)


def _work(mine: queue.SimpleQueue[_Work]) -> None:
    while True:
        mine.get()()
        _resting.append(mine)


def _aside(work: _Work) -> None:
    """Do something in a thread that nobody waits for. It raises nothing."""
    try:
        mine = _resting.pop()
    except IndexError:
        mine = queue.SimpleQueue()
        threading.Thread(target=_work, args=(mine,), name="esops call", daemon=True).start()
    mine.put(work)


class Silent(ConnectionLost):
    """A node sent nothing for too long."""


class Received:
    """The messages of one call that answers with several, in order."""

    def __init__(self, call: Any, target: str, idle: float) -> None:
        """`call` is gRPC's. After `idle` seconds in which the reader waits and nothing comes, it
        counts as lost.
        """
        self._call, self._target, self._idle = call, target, idle
        self._messages: deque[Any] = deque()
        self._changed = threading.Condition()
        self._hungry = False  # the reader waits for a message
        self._over = False  # nobody wants more
        self._ended = False  # no more will come
        self._error: BaseException | None = None
        _aside(self._read)

    def _read(self) -> None:
        messages, error = self._messages, None
        try:
            for message in self._call:
                messages.append(message)
                # Without the lock, since this runs for each event of the log: the reader looks for
                # messages again after it has said that it waits.
                if self._hungry or len(messages) >= AHEAD:
                    self._tell()
                if self._over:
                    return
        except BaseException as caught:  # noqa: BLE001  # told to the reader, in its own thread
            error = caught
        self._error = error
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._hungry = False
            self._changed.notify_all()
            while len(self._messages) >= AHEAD and not self._over:
                self._changed.wait()

    def __iter__(self) -> Iterator[Any]:
        """The messages.

        Raises what gRPC raises, Silent, and ConnectionLost for a call that is over and never says
        so.
        """
        messages, many = self._messages, 0
        try:
            while self._wait():
                while messages:
                    yield messages.popleft()
                    many += 1
                if many > _MANY:
                    time.sleep(_PAUSE)
        finally:
            self.cancel()
        if self._error is not None:
            raise self._error

    def _wait(self) -> bool:
        """Wait for messages; returns whether there are any, and not only the end."""
        # The reader may rest between two messages as long as it likes: only the wait for one
        # counts as silence.
        since, over_since = time.monotonic(), 0.0
        with self._changed:
            self._changed.notify_all()  # there is room
            while not self._messages and not self._ended:
                self._hungry = True
                if self._messages or self._ended:
                    break
                self._changed.wait(LOOK_EVERY)
                now = time.monotonic()
                if self._call.is_active():
                    over_since = 0.0
                elif now - (over_since := over_since or now) > ENDED and not self._messages:
                    raise ConnectionLost(f"{self._target} ended the connection")
                if now - since > self._idle and not self._messages:
                    raise Silent(f"{self._target} sent nothing for {self._idle:.0f} s")
            self._hungry = False
            return bool(self._messages)

    def cancel(self) -> None:
        """End the call, from any thread."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        with contextlib.suppress(Exception):
            self._call.cancel()


def answer(method: Any, request: Any, target: str, deadline: float, **options: Any) -> Any:
    """The answer of a method that gives one. Raises what gRPC raises, and ConnectionLost."""
    call = method.future(request, timeout=deadline, **options)
    try:
        return call.result(timeout=deadline + LATE)
    except grpc.FutureTimeoutError:
        raise ConnectionLost(f"{target} did not answer in time") from None


def in_time(seconds: float, do: Callable[[], T], target: str) -> T:
    """What `do` returns or raises, in a thread of its own. Raises ConnectionLost where it takes
    longer than `seconds`; the thread is left to itself then.
    """
    done = threading.Event()
    result: list[T] = []
    error: list[BaseException] = []

    def work() -> None:
        try:
            result.append(do())
        except BaseException as caught:  # noqa: BLE001  # told to whoever waits
            error.append(caught)
        done.set()

    _aside(work)
    if not done.wait(seconds):
        raise ConnectionLost(f"{target} did not answer in time")
    if error:
        raise error[0]
    return result[0]


class Bounded:
    """A client whose calls end: each waits so long at most for its answer."""

    def __init__(self, client: Any, target: str, seconds: float) -> None:
        """`seconds` is the limit for one call of the client, with all that it tries again."""
        self._client, self._target, self._seconds = client, target, seconds

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """A method of the client."""
        method = getattr(self._client, name)
        return lambda *values, **options: in_time(
            self._seconds, lambda: method(*values, **options), self._target
        )
