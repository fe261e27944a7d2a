"""How many processes a first load is worth: found out by folding the first events of the store,
without writing anything.

Reading and writing take the server's time, which a second process does not make less. So several
processes pay where the fold itself takes most of the time. A fold is a pure function of a row and
an event, so it may be called once more on rows that nobody keeps; other kinds have effects, and are
never tried.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

from esops.events import EventFilter, Position, RecordedEvent
from esops.projections.arithmetic import use_arithmetic
from esops.projections.definition import Definition, Evolve, FoldDefinition
from esops.readmodel.types import Row
from esops.rebuild.options import Options
from esops.stores.base import EventStore

WORTH_MEASURING = 1_000_000
"""Up to this many events are loaded by one process, unless the operator asks for `auto`."""
_SAMPLE, _LEAST = 5_000, 1_000
_WARM_UP = 2_500
"""More events than a store may read in a shorter way."""
_MOST_SECONDS = 0.25
_MOST_PROCESSES = 8
_GAIN = 1.25
"""What is not likely to be this much faster is left to one process."""
_OVERHEAD = 1e-6
"""Seconds that esops needs for an event beside reading and folding it."""
_START = 0.7
"""Seconds of CPU that starting a process takes."""
_SERVER = 2.5
"""The server's work for an event, as a multiple of ours for reading it: both grow with its size and
shrink on a fast machine. What is waited for would say more of other work on the machine.
"""
_SCAN = 0.3
"""What another process adds to the server's work, as a part of the first one's: it looks at all
events, and sends its share of them.
"""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Cost:
    """What an event costs this process, in seconds of CPU: to fold it, and to read it."""

    fold: float
    read: float

    @property
    def share(self) -> float:
        """The part of one process's time that the fold takes, from 0 to 1."""
        return self.fold / (self.fold + self.read + _OVERHEAD)

    def seconds(self, processes: int, cores: int, events: int) -> float:
        """How long a load takes about, where the server works on the same cores."""
        own = self.fold + self.read + _OVERHEAD
        if processes == 1:
            return own * events
        server = _SERVER * self.read * (1 + _SCAN * (processes - 1))
        each = max(own / processes, (own + server) / cores)
        return each * events + _START * processes / min(cores, processes)


@dataclass(frozen=True, slots=True)
class Workers:
    """How many processes load, and why."""

    number: int
    why: str

    def __str__(self) -> str:
        return f"{self.number} ({self.why})"


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def for_plan(
    options: Options,
    definition: Definition,
    store: EventStore,
    filter: EventFilter,
    upto: tuple[Position | None, int],
) -> Workers | None:
    """How many processes a load is worth, where the operator left that to esops.

    `upto` is the head, and how many events there are up to it. None where the operator said it, and
    for a load that is too small to be worth a measurement.
    """
    head, events = upto
    if options.engine is not None or isinstance(options.workers, int):
        return None
    if options.workers is None and events <= WORTH_MEASURING:
        return None
    if options.max_rate is not None or options.nice is not None:
        return Workers(1, "its rate is limited")
    return choose(definition, store, filter, head, events)


def choose(
    definition: Definition,
    store: EventStore,
    filter: EventFilter,
    head: Position | None,
    events: int,
) -> Workers:
    """How many processes of this machine should load `events` events up to a head."""
    available = cores()
    if available < 2:
        return Workers(1, "this machine has one core for it")
    if not isinstance(definition, FoldDefinition) or definition.key is not None:
        return Workers(1, "only a fold that is keyed by the stream can be split")
    if not store.capabilities.shards or head is None:
        return Workers(1, f"store {store.name} cannot split its streams")
    if replace(filter, types=()) != EventFilter():
        return Workers(1, "not measured with this filter")
    try:
        use_arithmetic(definition)
        cost = measured(definition.evolve, store, filter, head)
    except Exception as error:  # noqa: BLE001 - the load says what it is, where it happens there too
        return Workers(1, f"the fold fails on one of the first events: {type(error).__name__}")
    if cost is None:
        return Workers(1, "too few of the first events are this projection's")
    return of_cost(cost, available, events)


def of_cost(cost: Cost, available: int, events: int) -> Workers:
    """How many processes such events are worth on that number of cores."""
    alone = cost.seconds(1, available, events)
    numbers = range(2, min(available, _MOST_PROCESSES) + 1)
    least = min(cost.seconds(number, available, events) for number in numbers)
    # As few as will do: the last ones gain little, and the machine has other things to do.
    best = next(
        number for number in numbers if cost.seconds(number, available, events) <= least * 1.1
    )
    share = f"the fold takes {cost.share:.0%} of the time"
    if alone < _GAIN * cost.seconds(best, available, events):
        return Workers(1, f"{share}: another process would gain little")
    return Workers(best, share)


def measured(evolve: Evolve, store: EventStore, filter: EventFilter, head: Position) -> Cost | None:
    """What the first events cost; None where too few of them pass the filter.

    Raises what the fold raises.
    """
    # All types are read: whoever asks for rare ones would wait for them.
    every = replace(filter, types=())
    # Connecting and importing is not what an event costs.
    for _ in store.read_all(None, head, every, _WARM_UP):
        pass
    sample = store.read_all(None, head, every, _SAMPLE)
    types, rows = frozenset(filter.types), dict[tuple[str, str], Row | None]()
    read = folded = 0
    fold_seconds, began = 0.0, time.thread_time()
    for batch in sample:
        some = [event for event in batch.events if not types or event.type in types]
        read += len(batch.events)
        seconds, number = _fold(evolve, some, rows, _MOST_SECONDS - fold_seconds)
        fold_seconds, folded = fold_seconds + seconds, folded + number
        if fold_seconds >= _MOST_SECONDS:
            break
    if not folded or (folded < min(_LEAST, read) and fold_seconds < _MOST_SECONDS):
        return None
    return Cost(fold_seconds / folded, (time.thread_time() - began - fold_seconds) / read)


def _fold(
    evolve: Evolve,
    events: list[RecordedEvent],
    rows: dict[tuple[str, str], Row | None],
    most: float,
) -> tuple[float, int]:
    """Fold events for some seconds at most. Returns the seconds of CPU, and how many events."""
    began, number, left = time.thread_time(), 0, iter(events)
    while some := list(islice(left, 256)):
        for event in some:
            key = (event.stream, event.tenant)
            rows[key] = evolve(rows.get(key), event)
        number += len(some)
        if time.thread_time() - began >= most:
            break
    return time.thread_time() - began, number
