"""What an iterator gives, made ahead of its use in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Generator[T], most: int, name: str) -> Generator[T]:
    """Yield the items as they come, while a thread called `name` makes at most `most` more ahead.

    Raises what making them raises. When this is closed, the thread has ended and closed `items`.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(most)
    stop = threading.Event()

    def put(found: tuple[T] | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(found, timeout=0.1)
            except queue.Full:
                continue

    def make() -> None:
        try:
            try:
                for item in items:
                    put((item,))
                    if stop.is_set():
                        return
            finally:
                items.close()
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised where the items are used
            put(error)

    thread = threading.Thread(target=make, name=name, daemon=True)
    thread.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        stop.set()
        thread.join()
