"""Handlers: a function for each type of event, which writes to any of the version's tables through
a small API.

The events since the last checkpoint are buffered, and handled in the transaction of the checkpoint.
So a handler reads what was written before it, and the tables do not change while a switch holds the
checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import psycopg

from esops.events import RecordedEvent
from esops.projections.arithmetic import use_arithmetic
from esops.projections.definition import Handlers, blame
from esops.projections.kinds.writes import Write
from esops.projections.projector import VersionTables
from esops.readmodel.rows import BadEvent, is_bad_row, one_line

_MOST_BYTES = 32 << 20


class Buffered:
    """A projector that buffers events until the transaction of the checkpoint.

    Each kind says in `project` what it does with them.
    """

    most_events = 5_000
    """How many events one transaction handles at most."""

    def __init__(self, tables: VersionTables) -> None:
        """Nothing is buffered yet; `write` is opened with the first flush."""
        self.events: list[RecordedEvent] = []
        self._bytes = 0
        self.write = Write(tables)

    @property
    def full(self) -> bool:
        """Whether as many events, or bytes of them, are buffered as one transaction handles."""
        return len(self.events) >= self.most_events or self._bytes >= _MOST_BYTES

    @property
    def most_at_once(self) -> int:
        """Events are only buffered, so each is looked at for itself: see `full`."""
        return self.most_events

    @property
    def value_types(self) -> Mapping[str, str]:
        """None: esops does not read the rows of these kinds back."""
        return {}

    def apply(self, events: Sequence[RecordedEvent], connection: psycopg.Connection) -> None:  # noqa: ARG002 - used at the flush
        """Buffer the events."""
        self.events += events
        self._bytes += sum(len(event.data) + len(event.metadata) for event in events)

    def flush(self, connection: psycopg.Connection) -> None:
        """Project what is buffered. Raises BadEvent where an event or its rows cannot be
        accepted.
        """
        if not self.events:
            return
        try:
            self.write.open(connection)
            self.project(connection)
            self.write.check()
        except (psycopg.Error, TypeError, ValueError) as error:
            if isinstance(error, psycopg.Error) and not is_bad_row(error):
                raise
            raise BadEvent(f"the tables do not accept its rows: {one_line(error)}") from error

    def project(self, connection: psycopg.Connection) -> None:
        """Handle the buffered events with `self.write`, in the transaction of the checkpoint."""
        raise NotImplementedError

    def flushed(self) -> None:
        """The transaction has committed: empty the buffer."""
        self.events, self._bytes = [], 0

    def close(self) -> None:
        """Nothing has to be released."""


class Handling(Buffered):
    """The projector of handlers: each event goes to the function for its type."""

    def __init__(self, definition: Handlers, tables: VersionTables) -> None:
        """Events without a handler are skipped. From now on this thread calculates as the
        definition's import left it.

        Raises Refused where nobody can say how it calculates.
        """
        use_arithmetic(definition)
        super().__init__(tables)
        self._handler_of: Callable[[str], Callable[[RecordedEvent, Write], None] | None] = (
            definition.handler
        )

    def project(self, connection: psycopg.Connection) -> None:
        """Call the handlers one after the other; their statements go out in one pipeline."""
        write, handler_of = self.write, self._handler_of
        with connection.pipeline():
            for event in self.events:
                handler = handler_of(event.type)
                if handler is None:
                    continue
                try:
                    handler(event, write)
                except (BadEvent, psycopg.Error, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    raise BadEvent(blame(error)) from error
