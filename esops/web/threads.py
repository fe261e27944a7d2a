"""Work that waits for databases, beside the loop that answers browsers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from esops.postgres.session import statements_within

T = TypeVar("T")


async def in_thread(work: Callable[[], T], *, statement_limit: float | None = None) -> T:
    """Run in a thread of its own, and return or raise what it does.

    `statement_limit`: seconds that a statement in Postgres may take. The thread does not keep the
    process alive: a database that does not answer must not hold up its end.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        problem: BaseException | None = None
        try:
            with statements_within(statement_limit):
                result = work()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            problem = error
        try:
            loop.call_soon_threadsafe(settle, result, problem)
        except RuntimeError:
            return  # the server has ended in the meantime

    threading.Thread(target=run, daemon=True, name="esops serve").start()
    return await done
