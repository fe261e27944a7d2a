"""The projections inside a store, for all of this package."""

from __future__ import annotations

from esops.stores.base import EventStore, require
from esops.stores.eventstoredb.server_projections import ServerProjections


def projections_in(store: EventStore) -> ServerProjections:
    """The projections that run inside a store. Raises MissingCapability where none do."""
    return require(store, store.admin, "admin").projections
