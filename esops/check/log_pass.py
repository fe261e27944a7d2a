"""The rows of every kind of projection, by a pass over the log that can be continued."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice

import psycopg

from esops.check.scratch import Scratch
from esops.errors import Refused, Stopped
from esops.events import Position, RecordedEvent
from esops.postgres.connection import translated
from esops.projections.definition import SqlDefinition
from esops.projections.kinds.fold import Fold
from esops.projections.kinds.sql import range_statement
from esops.projections.projector import Projector
from esops.readmodel.rows import BadEvent, one_line
from esops.readmodel.types import Key
from esops.running.throttle import Throttle
from esops.running.user_schema import naming
from esops.stores.base import Batch, require

_PIECE = 2_000
_WRITTEN = 50_000
"""Events after which rows are written, at the latest."""
_STATEMENT_EVENTS, _SMALLEST, _LARGEST = 10_000, 1_000, 200_000
"""Events that one statement of kind sql covers: no snapshot is to live for long."""


class LogPass:
    """Applies the events of the log, in their order, to temporary tables."""

    def __init__(self, scratch: Scratch) -> None:
        """It continues from `scratch.position`; after `scratch.empty()` it begins again."""
        self._scratch = scratch
        self._statement = _STATEMENT_EVENTS

    def advance(
        self,
        until: Position,
        throttle: Throttle,
        *,
        stop: Callable[[], bool] = lambda: False,
        wanted: Callable[[Key], bool] | None = None,
        report: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Apply all events after the position that was reached, up to another.

        `wanted`: the only keys whose rows are to be made, for a fold; it must be the same at each
        call. `report` gets the number of events applied. Raises Stopped, and Refused where the code
        fails on an event.
        """
        scratch = self._scratch
        if isinstance(scratch.definition, SqlDefinition):
            self._by_ranges(until, throttle, stop, report)
        elif scratch.position is None or scratch.position < until:
            try:
                for reached in self._passes(until, throttle, stop, wanted):
                    scratch.position = reached
                    report(scratch.events)
            except BadEvent as bad:
                raise self._fails(bad.reason) from bad.__cause__
            scratch.position = until

    def _passes(
        self,
        until: Position,
        throttle: Throttle,
        stop: Callable[[], bool],
        wanted: Callable[[Key], bool] | None,
    ) -> Iterator[Position]:
        """One read after the other, each with a pause behind it where there is a rate."""
        scratch = self._scratch
        projector, position = scratch.projector(), scratch.position
        while position is None or position < until:
            throttle.wait()
            limit, seen, unwritten = (throttle.slice if throttle.rests else None), 0, 0
            # Closed at once, whatever ends this: a rest is to find no statement open.
            with closing(self._batches(position, until, limit)) as batches:
                for batch in batches:
                    events = iter(batch.events)
                    while some := list(islice(events, min(_PIECE, projector.most_at_once))):
                        seen += len(some)
                        unwritten += len(some)
                        self._apply(projector, some, wanted)
                        if projector.full or unwritten >= _WRITTEN:
                            self._flush(projector)
                            unwritten = 0
                        if stop():
                            raise Stopped("stopped; nothing was changed")
                    if batch.position is not None:
                        position = batch.position
                        yield position
                    if throttle.holds() or bool(throttle.rests) != (limit is not None):
                        break
                else:
                    if limit is None or seen < limit:
                        position = until
            self._flush(projector)
            throttle.spend(seen)
        yield until

    def _batches(
        self, after: Position | None, until: Position, limit: int | None
    ) -> Generator[Batch]:
        scratch = self._scratch
        yield from scratch.store.read_all(after, until, scratch.filter, limit)

    def _apply(
        self,
        projector: Projector,
        events: list[RecordedEvent],
        wanted: Callable[[Key], bool] | None,
    ) -> None:
        scratch = self._scratch
        applied = [each for each in events if each.position not in scratch.skipped]
        with translated(), naming(scratch.version_tables()):
            if wanted is not None and isinstance(projector, Fold) and applied:
                keys, _ = projector.keys(applied, scratch.connection)
                applied = [each for each, key in zip(applied, keys, strict=True) if wanted(key)]
            if applied:
                projector.apply(applied, scratch.connection)
        scratch.events += len(events)

    def _flush(self, projector: Projector) -> None:
        scratch = self._scratch
        with translated(), naming(scratch.version_tables()):
            with scratch.connection.transaction():
                projector.flush(scratch.connection)
            projector.flushed()
        scratch.value_types |= projector.value_types

    def _by_ranges(
        self,
        until: Position,
        throttle: Throttle,
        stop: Callable[[], bool],
        report: Callable[[int], None],
    ) -> None:
        """Kind sql: statement by statement."""
        scratch = self._scratch
        assert isinstance(scratch.definition, SqlDefinition)
        names = scratch.version_tables().names
        access = require(scratch.store, scratch.store.sql, "sql")
        while scratch.position is None or scratch.position < until:
            throttle.wait()
            if stop():
                raise Stopped("stopped; nothing was changed")
            most = min(self._statement, throttle.slice) if throttle.rests else self._statement
            part = access.range(scratch.position, until, max(most, _SMALLEST))
            text = range_statement(scratch.definition, names, part)
            tables = scratch.version_tables()
            with translated(), naming(tables), scratch.connection.transaction():
                try:
                    scratch.connection.execute(text.encode())
                except (psycopg.DataError, psycopg.ProgrammingError) as error:
                    raise self._fails(one_line(error)) from error
            scratch.position = part.reached
            scratch.events += part.events
            report(scratch.events)
            self._statement = min(self._statement * 2, _LARGEST)
            throttle.spend(part.events)

    def _fails(self, reason: str) -> Refused:
        version = self._scratch.version
        name = version.projection
        return Refused(
            f"the code of {name} fails on an event that v{version.version} has taken: {reason}",
            hint="Where that is for a moment, such as a lookup that does not answer, run it again. "
            "Else its dead letters may have been discarded, or what it looks up may have changed: "
            f"esops rebuild {name} --blue-green",
        )
