"""Compares the results of two projections in the server, partition by partition, until they agree
or stay different.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from esops.errors import UsageError, nearest
from esops.rebuild.variants.server.inside import projections_in
from esops.rebuild.verification.paths import (
    EACH_ITEM,
    EACH_KEY,
    Item,
    Key,
    Step,
    Steps,
    differences,
    generalised,
    parse_steps,
    written,
)
from esops.rebuild.verification.result import Verification
from esops.rebuild.verification.samples import SAMPLES
from esops.settings import VerifySettings
from esops.stores.base import EventStore

Method = Literal["exact", "columns", "counts", "none"]
METHODS: tuple[Method, ...] = ("exact", "columns", "counts", "none")
AT_ONCE = 8
ROUNDS = 6
PAUSE_SECONDS = 0.5
"""The pause between two looks at what differs: both keep running while they are compared, and one
may be a moment ahead.
"""


def method_of(text: str | None) -> Method:
    """Read `--compare`. Raises UsageError."""
    for method in METHODS:
        if text in (None, method):
            return method
    raise UsageError(f"unknown comparison {text!r} (--compare)", hint=nearest(str(text), METHODS))


def partitions(store: EventStore, name: str) -> set[str]:
    """A projection's partitions, from the stream in which the server keeps them; one without a name
    where the projection is not partitioned.
    """
    found = {event.data.decode() for event in store.read_stream(f"$projections-{name}-partitions")}
    return found or {""}


@dataclass(frozen=True)
class Paths:
    """What of the results is not compared, and what may differ, each as written in esops.toml."""

    ignored: tuple[Steps, ...]
    expected: tuple[tuple[str, Steps], ...]

    @classmethod
    def of(cls, settings: VerifySettings) -> Paths:
        """Read `verify`: a key of the results, or a path from there. Raises UsageError."""
        return cls(
            tuple(_steps(each) for each in settings.ignore),
            tuple((each, _steps(each)) for each in settings.expected),
        )


@dataclass
class _Partition:
    """One partition's results on both sides, and where they differ."""

    name: str
    blue: Any
    green: Any
    paths: list[Steps] = field(default_factory=list)
    expected: set[str] = field(default_factory=set)


def compare(
    store: EventStore,
    blue: str,
    green: str,
    method: Method,
    paths: Paths,
    stop: Callable[[], bool] = lambda: False,
) -> Verification:
    """Compare two projections by their names in the server."""
    in_blue, in_green = partitions(store, blue), partitions(store, green)
    if method in ("counts", "none"):
        differing = abs(len(in_blue) - len(in_green)) if method == "counts" else 0
        return Verification(method, len(in_blue), len(in_green), differing)
    left, seen = sorted(in_blue | in_green), dict[str, _Partition]()
    for round in range(ROUNDS):
        if round:
            time.sleep(PAUSE_SECONDS)
        seen |= {each.name: each for each in _look(store, blue, green, left, method, paths)}
        # Only what differed is asked for again: the rest has agreed.
        left = [name for name in left if seen[name].paths]
        if not left or stop():
            break
    # Again, since partitions may have been added while the results were compared.
    in_blue, in_green = partitions(store, blue), partitions(store, green)
    unlike = [seen[name] for name in left]
    return Verification(
        method,
        len(in_blue),
        len(in_green),
        len(unlike),
        only_blue=len(in_blue - in_green),
        only_green=len(in_green - in_blue),
        # Which keys differ, and in how many partitions: most mistakes are in one of them.
        columns=_counted({_name(path[0]) for path in each.paths if path} for each in unlike),
        expected=_counted(each.expected for each in seen.values()),
        paths=_counted(
            {_written(generalised(path)) for path in each.paths if len(path) > 1} for each in unlike
        ),
        paths_of=len(unlike) or None,
        samples=[
            {"partition": one.name, "blue": one.blue, "green": one.green}
            for one in unlike[:SAMPLES]
        ],
        note=None
        if not unlike
        else f"these stayed different in {ROUNDS} looks over {ROUNDS * PAUSE_SECONDS:.0f} s",
    )


def _look(
    store: EventStore, blue: str, green: str, names: Sequence[str], method: Method, paths: Paths
) -> Iterator[_Partition]:
    def ask(partition: str) -> tuple[Any, Any]:
        return projections_in(store).result(blue, partition), projections_in(store).result(
            green, partition
        )

    with ThreadPoolExecutor(AT_ONCE, "esops compare") as pool:
        for partition, (old, new) in zip(names, pool.map(ask, names), strict=True):
            yield _compared(_Partition(partition, old, new), method, paths)


def _compared(found: _Partition, method: Method, paths: Paths) -> _Partition:
    old, new = found.blue, found.green
    # An empty result has no keys in common with any, and would agree with all.
    if method == "columns" and isinstance(old, dict) and isinstance(new, dict) and old and new:
        common = old.keys() & new.keys()
        old, new = ({key: side[key] for key in common} for side in (old, new))
    for path, *_ in differences(old, new):
        if any(_within(path, each) for each in paths.ignored):
            continue
        meant = [entry for entry, each in paths.expected if _within(path, each)]
        found.expected.update(meant)
        if not meant:
            found.paths.append(path)
    return found


def _steps(entry: str) -> Steps:
    return parse_steps(entry if entry.startswith((".", "[")) else f".{entry}", entry)


def _within(path: Steps, wanted: Steps) -> bool:
    """Whether a path is one that an entry of `verify` names, or inside it."""
    return len(path) >= len(wanted) and all(map(_names, wanted, path))


def _names(wanted: Step, step: Step) -> bool:
    if wanted == EACH_KEY:
        return isinstance(step, Key)
    return isinstance(step, Item) if wanted == EACH_ITEM else wanted == step


def _name(step: Step) -> str:
    return step.name if isinstance(step, Key) else str(step)


def _written(path: Steps) -> str:
    return written("", path).removeprefix(".")


def _counted(sets: Iterable[set[str]]) -> dict[str, int]:
    """In how many of the sets each text is."""
    return dict(Counter(chain.from_iterable(sets)))
