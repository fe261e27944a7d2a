"""The events of a store in the order of its log: what `esops events` reads and shows."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from esops.errors import UsageError
from esops.events import EventFilter, Position, RecordedEvent
from esops.stores.base import Batch, EventStore, Unsettled, settled
from esops.stores.filters import check_filter, no_stream, unknown_names

EVENT_COLUMNS = (
    "position",
    "recorded_at",
    "type",
    "stream",
    "version",
    "id",
    "data",
    "metadata",
)


@dataclass(frozen=True)
class LogRequest:
    """Which events to read."""

    filter: EventFilter
    after: Position | None = None
    limit: int | None = None
    follow: bool = False
    """Wait for new events when all others are read."""


class LogReader:
    """Reads events once, as it is iterated over."""

    def __init__(
        self, store: EventStore, request: LogRequest, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Raises UsageError if one stream is asked for that does not exist.

        A stream that is followed may be created later, so that it need not exist.
        """
        self._store, self._request, self._stop = store, request, stop
        self.incomplete: Unsettled | None = None
        """Why the newest events could not be read. Known when all others were read, and None if
        the limit was reached before.
        """
        self.count = 0
        """How many events were given."""
        stream = request.filter.stream
        if stream is not None and not request.follow and store.stream_info(stream) is None:
            raise no_stream(store, stream)

    def __iter__(self) -> Iterator[RecordedEvent]:
        """The events. Raises UsageError if the position is not one of this store's."""
        request = self._request
        batches = (
            self._store.follow(request.after, request.filter, self._stop)
            if request.follow
            else self._until_settled()
        )
        try:
            events = (event for batch in batches for event in batch.events)
            for event in islice(events, request.limit):
                self.count += 1
                yield event
        except ValueError as error:  # a position with another number of parts
            raise UsageError(str(error)) from None

    def unknown_names(self) -> list[str]:
        """What to say of types and of a category that no event has, archived or not."""
        return [
            f"store {self._store.name} has no event of {what} {name!r} yet"
            for what, name in unknown_names(self._store, self._request.filter)
        ]

    def check_names(self) -> None:
        """Raises UsageError with the nearest names where no event of the store, archived or not,
        passes the filter.
        """
        check_filter(self._store, replace(self._request.filter, archived=True))

    def _until_settled(self) -> Iterator[Batch]:
        request = self._request
        # The versions of one stream order its events, so that nothing has to settle.
        until, unsettled = (
            settled(self._store, request.after, self._stop)
            if request.filter.stream is None
            else (None, None)
        )
        if unsettled is None or until is not None:
            yield from self._store.read_all(request.after, until, request.filter, request.limit)
        self.incomplete = unsettled


def parse_position(text: str) -> Position:
    """Read a position that esops printed. Raises UsageError."""
    try:
        return Position.parse(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is not a position",
            hint="`esops events` prints positions. They look like 42 or 490:402.",
        ) from None


def event_as_dict(event: RecordedEvent) -> dict[str, Any]:
    """An event under the documented field names.

    A payload that is not JSON is in `data_base64` instead of `data`.
    """
    row: dict[str, Any] = {
        "id": event.id,
        "stream": event.stream,
        "version": event.version,
        "position": str(event.position),
        "type": event.type,
        "recorded_at": event.moment,
    }
    try:
        row["data"] = event.json()
    except ValueError:
        row["data"] = None
        row["data_base64"] = base64.b64encode(event.data).decode()
    try:
        row["metadata"] = event.meta()
    except ValueError:
        row["metadata"] = {}
    if event.tenant:
        row["tenant"] = event.tenant
    return row
