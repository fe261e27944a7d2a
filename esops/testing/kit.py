"""A store under test, and what a test does with it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from esops.events import (
    EventFilter,
    NewEvent,
    Position,
    RecordedEvent,
)
from esops.settings import StoreSettings
from esops.stores.base import EventStore

PATIENCE = 10.0
"""Seconds that what a store derives of its events may take to come."""


@dataclass
class Kit:
    """A store, and what a test does with it.

    `text_ids`: streams are named by any text; else by a UUID. `begin`: where the store stood before
    the test. `more`: what the store's
    library puts into every payload. `timed`: events come back with the time at which they were
    recorded.
    """

    store: EventStore
    settings: StoreSettings
    text_ids: bool = True
    begin: Position | None = None
    more: Mapping[str, object] = field(default_factory=dict)
    timed: bool = True
    streams: set[str] = field(default_factory=set)

    def stream(self, category: str = "cart") -> str:
        """A new stream's name."""
        name = f"{category}-{uuid.uuid4()}" if self.text_ids else str(uuid.uuid4())
        self.streams.add(name)
        return name

    def events(self, *types: str, **data: object) -> list[NewEvent]:
        """New events of these types, numbered in their payload."""
        return [
            NewEvent(str(uuid.uuid4()), kind, orjson.dumps({"n": n, **data, **self.more}))
            for n, kind in enumerate(types)
        ]

    def read(
        self, after: Position | None = None, until: Position | None = None, **filter: Any
    ) -> list[RecordedEvent]:
        """What this test wrote, between two positions."""
        batches = self.store.read_all(after or self.begin, until, EventFilter(**filter))
        return [
            event for batch in batches for event in batch.events if event.stream in self.streams
        ]

    def after(self, count: int) -> int:
        """The version of a stream that has `count` events."""
        return count - 1 + self.store.capabilities.first_version


def eventually(holds: Callable[[], bool], patience: float = PATIENCE) -> bool:
    """Whether something comes to hold within `patience` seconds."""
    deadline = time.monotonic() + patience
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
