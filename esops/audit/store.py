"""An audit of a whole store: its streams, and one read of all its events."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from esops.audit.events import EventsAudit, audit_events
from esops.audit.modelling import StoreAudit
from esops.audit.streams import StreamsRequest, audit_streams
from esops.events import EventFilter
from esops.settings import AuditSettings, TraceSettings
from esops.stores.base import EventStore
from esops.stores.filters import nothing_passes

Progress = Callable[[int, int | None], None]
"""Is given how many events were read, and about how many there are (None if unknown)."""


def read_events(
    store: EventStore,
    category: str | None = None,
    limit: int | None = None,
    progress: Progress = lambda *_: None,
    keys: TraceSettings | None = None,
) -> EventsAudit:
    """Read all events of a store or category, or the first `limit`, and show progress.

    `keys`: the keys of the metadata that hold ids; None for those of the field's conventions.
    Raises UsageError for a category that the store does not have.
    """
    # Without waiting for the newest events to settle: the total only serves the progress.
    total = limit or store.counts.between(None, store.head(timedelta(0)).position)
    found = audit_events(
        store,
        category=category,
        limit=limit,
        tick=lambda done: progress(done, total),
        correlation=keys.correlation if keys else (),
        causation=keys.causation if keys else (),
    )
    if not found.events and found.short is None:
        error = nothing_passes(store, EventFilter(category=category, archived=True))
        if error is not None:
            raise error
    return found


def audit_store(
    store: EventStore,
    settings: AuditSettings,
    category: str | None = None,
    limit: int | None = None,
    progress: Progress = lambda *_: None,
    keys: TraceSettings | None = None,
) -> StoreAudit:
    """What the modelling rules look at. Budgets are not checked."""
    without_budgets = settings.model_copy(update={"budgets": {}})
    streams = audit_streams(store, without_budgets, StreamsRequest(category=category))
    return StoreAudit(read_events(store, category, limit, progress, keys), streams)
