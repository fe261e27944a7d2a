"""One read of a store's events for what looks at their payloads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from esops.events import EventFilter, Position, RecordedEvent
from esops.stores.base import EventStore, Unsettled
from esops.stores.filters import nothing_passes

Progress = Callable[[int, int | None], None]
"""Is given how many events were read, and about how many there are (None if unknown)."""


@dataclass(frozen=True, slots=True)
class EventSelection:
    """Which events of a store to look at: those that match everything that is given."""

    category: str | None = None
    types: tuple[str, ...] = ()

    @property
    def filter(self) -> EventFilter:
        """As a store reads it: archived streams are history, too."""
        return EventFilter(types=self.types, category=self.category, archived=True)


class SchemaReader:
    """Reads selected events once, in the order of the log, and remembers how far it came."""

    def __init__(
        self,
        store: EventStore,
        selection: EventSelection,
        progress: Progress = lambda *_: None,
        *,
        after: Position | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`after`: a position up to which everything was read before. Nothing is read yet."""
        self._store = store
        self._selection = selection
        self._progress = progress
        self._stop = stop
        self.position = after
        """Up to it, every event was given out, and what was made of it came back to `batches`."""
        self.events = 0
        """How many events were given out."""
        self.short: Unsettled | None = None
        """Why the newest events could not be read; None if all were."""
        self.stopped = False
        """Whether `stop` ended the read before its end."""

    def batches(self) -> Iterator[Sequence[RecordedEvent]]:
        """The events, in batches of bounded memory.

        Where the newest are not settled, those before them; `short` says so then, and whoever
        reports what it found raises it afterwards, since it is not about all events.
        Raises UsageError where nothing was ever stored that the selection names.
        """
        store, after = self._store, self.position
        # Without waiting for the newest events to settle: the total only serves the progress.
        total = store.counts.between(after, store.head(timedelta(0)).position)
        filter = self._selection.filter
        try:
            for events, position in store.read_all(after=after, filter=filter):
                if self._stop():
                    self.stopped = True
                    return
                if events:
                    self.events += len(events)
                    yield events
                self.position = position or self.position
                # The total may have been counted with fewer events.
                self._progress(self.events, None if total is None else max(total, self.events))
        except Unsettled as short:
            self.short = short
        if not self.events and self.short is None and after is None:
            error = nothing_passes(store, filter)
            if error is not None:
                raise error
