"""What names stand for in a store: types, categories, streams, tenants. A part of every store.

`StoreNames` knows of none; a store brings its own where it can answer within seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from esops.events import EventFilter

if TYPE_CHECKING:
    from esops.stores.base import EventStore

What = Literal["event type", "category", "stream"]
"""What a name in a filter names."""


class StoreNames:
    """Names of a store that nobody can look up quickly."""

    def __init__(self, store: EventStore) -> None:
        """Those of a store."""
        self._store = store

    def of(self, what: What) -> list[str]:  # noqa: ARG002 - not known
        """Types, categories or streams, for a hint: as many as can be found quickly."""
        return []

    def any_passes(self, filter: EventFilter) -> bool | None:  # noqa: ARG002 - not known
        """Whether an event passes a filter, settled or not; None where that takes more than some
        seconds to find out.
        """
        return None

    def absent_tenant(self) -> str | None:
        """What to say where the settings name a tenant of which the store has nothing, and others
        have events: most often the name is wrong.
        """
        return None
