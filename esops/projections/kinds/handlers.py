"""Handlers: a function for each type of event, which writes to any of the version's tables through
a small API.

The events since the last checkpoint are kept, and handled in the checkpoint's transaction, so that
what a handler reads is what was
written before it, and a switch that holds the checkpoint still sees tables that stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import psycopg

from esops.events import RecordedEvent
from esops.projections.definition import Handlers, blame
from esops.projections.kinds.writes import Write
from esops.projections.projector import Green
from esops.readmodel.rows import BadEvent, is_bad_row, one_line

_MOST_BYTES = 32 << 20


class Buffered:
    """Events that wait for the checkpoint's transaction.

    What is done with them then is the kind's own.
    """

    most_events = 5_000
    """Events that are handled in one transaction at most."""

    def __init__(self, green: Green) -> None:
        """Take the tables."""
        self.events: list[RecordedEvent] = []
        self._bytes = 0
        self.write = Write(green)

    @property
    def full(self) -> bool:
        """Whether there are as many as one transaction takes."""
        return len(self.events) >= self.most_events or self._bytes >= _MOST_BYTES

    @property
    def value_types(self) -> Mapping[str, str]:
        """Rows are not read back by esops."""
        return {}

    def apply(self, events: Sequence[RecordedEvent], connection: psycopg.Connection) -> None:  # noqa: ARG002 - not yet
        """Keep them."""
        self.events += events
        self._bytes += sum(len(event.data) + len(event.metadata) for event in events)

    def flush(self, connection: psycopg.Connection) -> None:
        """Do what is to be done with all of them. Raises BadEvent."""
        if not self.events:
            return
        try:
            self.write.open(connection)
            self.project(connection)
        except (psycopg.Error, TypeError, ValueError) as error:
            if isinstance(error, psycopg.Error) and not is_bad_row(error):
                raise
            raise BadEvent(f"the tables do not take what is written: {one_line(error)}") from error

    def project(self, connection: psycopg.Connection) -> None:
        """What the kind does."""
        raise NotImplementedError

    def flushed(self) -> None:
        """Forget them."""
        self.events, self._bytes = [], 0

    def close(self) -> None:
        """Nothing is held."""


class Handling(Buffered):
    """Events, each given to the handler of its type."""

    def __init__(self, definition: Handlers, green: Green) -> None:
        """Take the handlers and the tables."""
        super().__init__(green)
        self._handler_of: Callable[[str], Callable[[RecordedEvent, Write], None] | None] = (
            definition.handler
        )

    def project(self, connection: psycopg.Connection) -> None:
        """Call them one after the other; their statements go out in one pipeline."""
        write, handler_of = self.write, self._handler_of
        with connection.pipeline():
            for event in self.events:
                handler = handler_of(event.type)
                if handler is None:
                    continue
                try:
                    handler(event, write)
                except (BadEvent, psycopg.Error):
                    raise
                except Exception as error:
                    raise BadEvent(blame(error)) from error
