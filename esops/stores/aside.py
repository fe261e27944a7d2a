"""What is done while the one who asks does something else: questions, and the import of Arrow."""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Generic, Self, TypeVar

import psycopg

from esops.errors import ConnectionLost, Unavailable

T = TypeVar("T")
_CANCEL_SECONDS = 5


class Question(ABC, Generic[T]):
    """A question that was asked; use it with `with`, or close it."""

    @abstractmethod
    def answer(self) -> T:
        """Wait for the answer. Raises what the question raised."""

    def close(self) -> None:
        """Drop the question, whether it was answered or not."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LaterQuestion(Question[T]):
    """A question that is asked only when its answer is taken."""

    def __init__(self, ask: Callable[[], T]) -> None:
        """Nothing is asked yet."""
        self._ask = ask

    def answer(self) -> T:
        """Ask now."""
        return self._ask()


class QuestionAside(Question[T]):
    """A question that is asked at once, in a thread and on a connection of its own."""

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[psycopg.Connection]],
        ask: Callable[[psycopg.Connection], T],
        again: Callable[[], T],
    ) -> None:
        """`again` asks where there is no such connection, such as where the server has no room for
        one more.
        """
        self._connect, self._ask, self._again = connect, ask, again
        self._lock = threading.Lock()
        self._connection: psycopg.Connection | None = None
        self._closed = False
        self._answers: list[T] = []
        self._error: BaseException | None = None
        # Nobody waits for it where the process ends: the server notices that by itself.
        self._thread = threading.Thread(target=self._run, name="esops aside", daemon=True)
        self._thread.start()

    def answer(self) -> T:
        """Wait for the answer, which is of the moment of asking or of a later one."""
        self._thread.join()
        if isinstance(self._error, ConnectionLost | Unavailable):
            return self._again()
        if self._error is not None:
            raise self._error
        return self._answers[0]

    def close(self) -> None:
        """End the question in the server."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                with suppress(psycopg.Error):
                    self._connection.cancel_safe(timeout=_CANCEL_SECONDS)
        self._thread.join(_CANCEL_SECONDS)

    def _run(self) -> None:
        try:
            with self._connect() as connection:
                with self._lock:
                    if self._closed:
                        return
                    self._connection = connection
                try:
                    self._answers.append(self._ask(connection))
                finally:
                    with self._lock:
                        self._connection = None
        except BaseException as error:  # noqa: BLE001 - raised where the answer is taken
            self._error = error


def load_arrow() -> None:
    """Import what a bulk read needs, in a thread: it takes as long as all of esops does.

    Only other people's packages, which import nothing of esops: so no two threads can wait for each
    other's modules. The process waits for the thread at its end, since a library must not be
    stopped while it is loaded.
    """
    if "pyarrow" not in sys.modules:
        threading.Thread(target=_import_arrow, name="esops import").start()


def _import_arrow() -> None:
    # Whoever needs it imports it again, and says what is wrong.
    with suppress(Exception):
        import adbc_driver_postgresql  # noqa: F401 - for its effect
        import pyarrow as pa  # noqa: F401
