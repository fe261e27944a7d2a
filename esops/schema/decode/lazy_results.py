"""What a function returned before it had done its work: coroutines, generators and the like are
run to their end, so that their failures are seen.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

MOST_ITEMS = 1_000_000
"""Of what an iterator gives for one event; more of them are taken for endless."""

_ITERATORS = {"builtins", "itertools"}
"""Modules of generators, `map` and the like."""


class LazyResults:
    """Finishes what a function returned."""

    def __init__(self) -> None:
        """Nothing is running yet."""
        self._kinds: dict[type, bool] = {}
        self._lazy: tuple[type, ...] = (Awaitable, AsyncIterator, Iterator, Future)

    def finished(self, value: Any) -> Any:
        """The value that was meant: of an awaitable its result, of an iterator one over all that it
        gave. Raises what the code raises.
        """
        kind = type(value)
        lazy = self._kinds.get(kind)
        if lazy is None:
            lazy = self._kinds[kind] = issubclass(kind, self._lazy)
        while lazy:
            if isinstance(value, Future):
                value = value.result()
            elif inspect.isawaitable(value):
                value = _runner().run(_awaited(value))
            elif isinstance(value, AsyncIterator):
                return _runner().run(_gathered(value))
            elif type(value).__module__ in _ITERATORS:
                return _counted(value)
            else:  # an iterator of the application's own class may be what it makes of an event
                return value
            lazy = isinstance(value, self._lazy)
        return value


def _counted(items: Iterator[Any]) -> Iterator[Any]:
    found = []
    for item in items:
        found.append(item)
        if len(found) > MOST_ITEMS:
            raise OverflowError(f"the function gave more than {MOST_ITEMS:,} values")
    return iter(found)


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


async def _gathered(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


@lru_cache(1)
def _runner() -> asyncio.Runner:
    """One loop for all events, as in the application."""
    return asyncio.Runner()
