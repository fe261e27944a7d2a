"""About how long a rebuild takes and how much room, by the ones before."""

from __future__ import annotations

from contextlib import ExitStack

import psycopg

from esops.config import Config
from esops.events import Position
from esops.postgres import catalog
from esops.readmodel import migrations
from esops.readmodel.registry import Version
from esops.rebuild import made_of
from esops.rebuild.blue import bytes_of
from esops.rebuild.projection_change import ProjectionChange
from esops.rebuild.target import Target
from esops.stores import open_store
from esops.stores.base import LOOKING, EventStore

_TIMES = 10
"""How many times the events of a rebuild its speed is carried on to."""
_SECONDS = 5
"""From how long a rebuild on its speed says something of any other: below, most of it is what each
rebuild takes whatever it reads."""


class Stores:
    """The stores that a plan looks at, each opened and counted once."""

    def __init__(self, config: Config, stack: ExitStack) -> None:
        """The stack closes them."""
        self._config, self._stack = config, stack
        self._opened: dict[str, EventStore] = {}
        self._counted: dict[str, tuple[Position | None, int]] = {}

    def opened(self, name: str) -> EventStore:
        """A store. Raises Unavailable."""
        if name not in self._opened:
            self._opened[name] = self._stack.enter_context(open_store(*self._config.store(name)))
        return self._opened[name]

    def events(self, name: str, after: Position | None = None) -> int:
        """How many events a store has, or how many after a position."""
        store = self.opened(name)
        if name not in self._counted:
            head = store.head(LOOKING).position
            self._counted[name] = (head, store.counts.between(None, head))
        head, count = self._counted[name]
        return count if after is None else store.counts.between(after, head)


def estimate(
    connection: psycopg.Connection,
    target: Target,
    serving: Version | None,
    found: ProjectionChange,
    stores: Stores,
) -> None:
    """Fill in about how many events, seconds and bytes a rebuild takes."""
    events = found.events = stores.events(target.store_name)
    found.seconds = _seconds(connection, target.name, events)
    if serving is None:
        return
    tables = (catalog.find_table(connection, *each) for each in serving.tables.values())
    now = sum(bytes_of(connection, each) for each in tables if each is not None)
    # The tables are those of its checkpoint; a version that nobody follows is far behind.
    read = events
    if serving.position is not None and serving.store == target.store_name:
        read = events - stores.events(target.store_name, serving.position)
    found.bytes = round(now * events / read) if 0 < read < events else now


def _seconds(connection: psycopg.Connection, name: str, events: int) -> float | None:
    """By the last rebuild of a projection, else of any other here; None where that was too small
    to say anything of these events.
    """
    if not migrations.installed(connection):
        return None
    for each in (name, None):
        last = made_of.last_rebuild(connection, each)
        if last is not None and (last.seconds >= _SECONDS or events <= _TIMES * last.events):
            return events * last.seconds / last.events
    return None
