"""Which projections can be split into shards by the stream's name, so that several processes, or
several ranges, share the work.
"""

from __future__ import annotations

from esops.errors import Refused
from esops.projections.definition import Definition, FoldDefinition
from esops.stores.base import EventStore


def check_shardable(definition: Definition, store: EventStore, option: str) -> None:
    """Raises Refused where the server cannot split a projection's keys, as `option` demands."""
    if not isinstance(definition, FoldDefinition):
        raise Refused(
            f"{option}: only for folds. In other kinds of projection, the rows of one event "
            "may depend on any other event",
            hint=f"Leave out {option}.",
        )
    if definition.key is not None:
        raise Refused(
            f"{option}: only for a fold that is keyed by the stream. The server cannot split "
            "events by a Python function",
            hint=f"Leave out {option}.",
        )
    if not store.capabilities.shards:
        raise Refused(
            f"store {store.name} cannot split its streams among several readers",
            hint=f"Leave out {option}.",
        )
