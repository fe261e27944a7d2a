"""Whether a store has what a selection of its events names."""

from __future__ import annotations

from esops.errors import NothingFound, nearest
from esops.schema.reading import EventSelection
from esops.stores.base import EventStore
from esops.stores.filters import unknown_names


def check_names(store: EventStore, selection: EventSelection) -> None:
    """Raise NothingFound for the first type or category that no event of a store has. An empty
    store, and one that cannot tell quickly, has all of them.
    """
    for what, name in unknown_names(store, selection.filter):
        if store.names.of(what):
            raise NothingFound(
                f"store {store.name} has no event of {what.removeprefix('event ')} {name!r}",
                hint=nearest(name, store.names.of(what)),
            )
