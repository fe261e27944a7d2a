"""Kind sql: one statement for each range of events, in the checkpoint's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg

from esops.errors import PoisonEvent, Stopped
from esops.events import Position
from esops.postgres.connection import translated
from esops.projections.definition import SqlDefinition
from esops.projections.kinds.sql import EVENTS_A_STATEMENT, FIRST_STATEMENT, range_statement
from esops.projections.projector import VersionTables
from esops.readmodel.rows import is_bad_row, one_line
from esops.running.checkpoint import VersionCheckpoint
from esops.running.throttle import Throttle
from esops.running.user_schema import naming
from esops.running.work import Work
from esops.stores.base import EventStore, require


class Held(Exception):
    """The throttle wants the work to wait; no statement may be open during that."""


class StatementApplier:
    """The part of an Applier that is for kind sql."""

    connection: psycopg.Connection
    _store: EventStore
    _work: Work
    _stop: Callable[[], bool]
    _throttle: Throttle
    _checkpoint: VersionCheckpoint
    _tables: VersionTables
    _since_commit: int
    _statement = FIRST_STATEMENT
    """How many events the next statement covers."""

    @property
    def position(self) -> Position | None:
        """Up to where events are applied and committed."""
        return self._checkpoint.position

    def _ensure_keys(self) -> None:
        raise NotImplementedError

    def _committed(self, position: Position) -> None:
        raise NotImplementedError

    def _by_ranges(self, target: Position) -> Iterator[None]:
        """Kind sql: one statement for each range of events, in the checkpoint's transaction."""
        definition = self._work.definition
        assert isinstance(definition, SqlDefinition)
        with translated():
            self._ensure_keys()  # the statements need it for ON CONFLICT
        while self.position is None or self.position < target:
            most = self._work.commit_events or self._statement
            # A statement cannot be interrupted: under a rate limit it gets a slice of the events.
            if self._throttle.limits.max_rate is not None:
                most = min(most, max(self._throttle.slice, 1_000))
            part = require(self._store, self._store.sql, "sql").range(self.position, target, most)
            text = range_statement(definition, self._tables.names, part)
            mark = self._checkpoint.mark_for(part.reached)
            with translated(), naming(self._tables), self.connection.transaction():
                applied = self._checkpoint.applied((), part.reached)
                self._checkpoint.move(part.reached, part.events, mark, applied)
                try:
                    self.connection.execute(text.encode())
                except psycopg.Error as error:
                    if not (is_bad_row(error) or isinstance(error, psycopg.ProgrammingError)):
                        raise
                    raise PoisonEvent(
                        f"the statement of {self._work.projection} v{self._work.version} fails on "
                        f"the events after {part.after or 'the beginning'} "
                        f"up to {part.until}: {one_line(error)}",
                        hint="Fix the statement. What came before is committed.",
                    ) from error
            self._since_commit = part.events
            self._committed(part.reached)
            # A large statement changes each row once where many small ones change it often. The
            # first ones are small, so that it is soon known how long the load will take.
            self._statement = min(self._statement * 4, EVENTS_A_STATEMENT)
            yield
            if self._stop():
                raise Stopped(f"stopped at position {part.reached}")
            self._throttle.spend(part.events)
            if self._throttle.holds():
                raise Held
