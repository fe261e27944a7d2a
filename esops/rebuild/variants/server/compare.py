"""Compares the results of two projections in the server, partition by partition, until they agree
or stay different.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from esops.errors import UsageError, nearest
from esops.rebuild.variants.server.inside import projections_in
from esops.rebuild.verification.result import Verification
from esops.rebuild.verification.samples import SAMPLES
from esops.stores.base import EventStore

Method = Literal["exact", "columns", "counts", "none"]
METHODS: tuple[Method, ...] = ("exact", "columns", "counts", "none")
AT_ONCE = 8
ROUNDS = 6
PAUSE_SECONDS = 0.5
"""The pause between two looks at what differs: both keep running while they are compared, and one
may be a moment ahead.
"""
_MISSING = object()


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


def compare(
    store: EventStore,
    blue: str,
    green: str,
    method: Method,
    ignore: Sequence[str],
    stop: Callable[[], bool] = lambda: False,
) -> Verification:
    """Compare two projections by their names in the server.

    `ignore`: keys of results that are not compared.
    """
    in_blue, in_green = partitions(store, blue), partitions(store, green)
    if method in ("counts", "none"):
        differing = abs(len(in_blue) - len(in_green)) if method == "counts" else 0
        return Verification(method, len(in_blue), len(in_green), differing)
    left = sorted(in_blue | in_green)
    for round in range(ROUNDS):
        if round:
            time.sleep(PAUSE_SECONDS)
        differences = list(_differences(store, blue, green, left, method, frozenset(ignore)))
        if not differences or stop():
            break
        # Only what differed is asked for again: the rest has agreed.
        left = [partition for partition, *_ in differences]
    # Again, since partitions may have been added while the results were compared.
    in_blue, in_green = partitions(store, blue), partitions(store, green)
    # Which keys differ, and in how many partitions: most mistakes are in one of them.
    keys: dict[str, int] = {}
    for _, old, new in differences:
        for key in _unlike(old, new, frozenset(ignore)):
            keys[key] = keys.get(key, 0) + 1
    return Verification(
        method,
        len(in_blue),
        len(in_green),
        len(differences),
        only_blue=len(in_blue - in_green),
        only_green=len(in_green - in_blue),
        columns=keys,
        samples=[
            {"partition": one, "blue": old, "green": new} for one, old, new in differences[:SAMPLES]
        ],
        note=None
        if not differences
        else f"these stayed different in {ROUNDS} looks over {ROUNDS * PAUSE_SECONDS:.0f} s",
    )


def _differences(
    store: EventStore,
    blue: str,
    green: str,
    names: Sequence[str],
    method: Method,
    ignore: frozenset[str],
) -> Iterator[tuple[str, Any, Any]]:
    def ask(partition: str) -> tuple[Any, Any]:
        return projections_in(store).result(blue, partition), projections_in(store).result(
            green, partition
        )

    with ThreadPoolExecutor(AT_ONCE, "esops compare") as pool:
        for partition, (old, new) in zip(names, pool.map(ask, names), strict=True):
            if not _alike(old, new, method, ignore):
                yield partition, old, new


def _alike(old: Any, new: Any, method: Method, ignore: frozenset[str]) -> bool:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return bool(old == new)
    keys = (
        # An empty result has no keys in common with any, and would agree with all.
        old.keys() & new.keys() if method == "columns" and old and new else old.keys() | new.keys()
    ) - ignore
    return all(old.get(key, _MISSING) == new.get(key, _MISSING) for key in keys)


def _unlike(old: Any, new: Any, ignore: frozenset[str]) -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return []
    return sorted(
        key
        for key in (old.keys() | new.keys()) - ignore
        if old.get(key, _MISSING) != new.get(key, _MISSING)
    )
