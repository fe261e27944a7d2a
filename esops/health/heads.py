"""The settled head of a store, as those see it who follow it."""

from __future__ import annotations

from datetime import timedelta

from esops.config import Config
from esops.errors import EsopsError
from esops.events import Position
from esops.health.late import live_versions
from esops.rebuild.overview import troubles
from esops.stores.base import LOOKING, EventStore, Head

_AT_FIRST = timedelta(milliseconds=500)


def seen_by_followers(config: Config, store: EventStore) -> Head:
    """The settled head, and who holds it back.

    Where somebody does, what a version has passed is settled: `esops run` does not wait there, so
    what holds it back comes later.
    """
    head = store.head(_AT_FIRST)
    return head if not head.held_back_by else store.head(LOOKING, _passed(config, store))


def _passed(config: Config, store: EventStore) -> Position | None:
    """The highest checkpoint of versions that were made from this log."""
    try:
        found = [
            version.position
            for connection, version, _ in live_versions(config, store.name)
            if version.position is not None
            and version.store == store.name
            and version.lost is None
            and not troubles(connection, store, [version])
        ]
    except EsopsError:
        return None  # a read model that cannot be asked has findings of its own
    return max(found, default=None)


def beyond_all(store: EventStore) -> Position:
    """A position after every event."""
    return Position((2**63 - 1,) * store.capabilities.position_parts)
