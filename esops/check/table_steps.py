"""Steps through the events of a row that handlers, a program or a statement make: in temporary
tables, by all events of the log, since nothing else tells which of them concern the row.

A trigger on the temporary table says whether a batch has touched the row. Such a batch is rolled
back and applied again in halves, down to single events; of a program one by one at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from decimal import Decimal

import psycopg
from psycopg import sql

from esops.check import trial_tables
from esops.check.changes import changes, counted
from esops.check.key_text import parse_key, written_key
from esops.check.lanes import Applied, Fault, users_traceback
from esops.check.one_key import Seen
from esops.check.steps import KeptSteps, Served, Step, Stepped, StepRequest
from esops.check.trial_tables import ReadModel
from esops.errors import Refused, UsageError, nearest
from esops.events import Position, RecordedEvent
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.postgres.statements import statements
from esops.projections.definition import ExternalDefinition, ProcessDefinition, SqlDefinition
from esops.projections.kinds import of_one_database, open_projector
from esops.projections.kinds.fold import following_cache
from esops.projections.kinds.sql import range_statement
from esops.projections.projector import Projector, VersionTables
from esops.readmodel.rows import BadEvent
from esops.readmodel.types import Row
from esops.rebuild.target import Target
from esops.stores.base import EventStore, require, settled
from esops.trace.log import parse_position
from esops.wording import count

_SQL = statements(__package__, "table_steps")
_BATCH = 500
_LABEL = "step"


class _Undone(Exception):
    """A batch has touched the row, and is applied again in halves."""


class TableStepper:
    """Steps through the events of a row that is not made by a fold."""

    def __init__(
        self,
        connection: psycopg.Connection,
        target: Target,
        store: EventStore,
        request: StepRequest,
    ) -> None:
        """Makes the temporary tables. Raises Refused where esops does not build the projection."""
        if isinstance(target.definition, ExternalDefinition):
            raise Refused(f"the application builds {target.name}: esops applies no events to it")
        of_one_database(target.definition, store, connection)
        self._connection, self._target, self._store = connection, target, store
        self._request, self._definition = request, target.definition
        self._model = ReadModel(connection, target)
        self._tables = trial_tables.make(connection, target, self._model, _LABEL)
        names = [each.name for each in target.names]
        self._name = request.table or names[0]
        if self._name not in names:
            raise UsageError(
                f"--table {self._name}: the projection has no such table",
                hint=nearest(self._name, names),
            )
        self._table = self._tables[self._name]
        if not self._table.key:
            raise Refused(
                f"the table {self._name} has no primary key, by which a row could be found"
            )
        key = parse_key(connection, self._table, self._table.key, request.key)
        self._key = key if isinstance(key, tuple) else (key,)
        self._written = written_key(key, self._table.key)
        self._watch()
        self._projector: Projector | None = None
        self._after: Position | None = None

    def run(self, dead: Mapping[Position, str], seen: Seen) -> Stepped:
        """Step through all of its events. Raises UsageError where none touches it."""
        found = Stepped(self._target.name, self._store.name, self._written)
        kept, served = KeptSteps(self._request.keep), self._served()
        until = self._ending(seen)
        at_checkpoint: Row | None = None
        past = served is None
        row: Row | None = None
        try:
            for made in self._steps(until, dead, found, seen):
                if not past and served is not None and made.event.position > served.position:
                    past, at_checkpoint = True, row
                row = made.after
                kept.add(made)
                if made.applied is not None and made.applied.fault is not None:
                    found.faults += 1
        finally:
            self._close()
        found.steps, found.events = kept.all(), kept.count
        if not found.events:
            raise UsageError(
                f"no event of store {self._store.name} touches the row {self._written} of "
                f"{self._name}"
            )
        if served is not None and not found.stopped and self._request.at is None:
            differs = changes(at_checkpoint if past else row, served.row)
            if served.row is not None and (at_checkpoint if past else row) is not None:
                differs = counted(differs, self._target.settings.verify.ignore)
            found.served = replace(served, differs=differs)
        if dead:
            found.notes.append(f"{count(len(dead), 'dead letter')} of the version are left out")
        return found

    def _ending(self, seen: Seen) -> Position | None:
        head, _ = settled(self._store, None, seen.stop, seen.say)
        if self._request.at is None or head is None:
            return head
        position = parse_position(self._request.at)
        if len(position) != self._store.capabilities.position_parts:
            raise UsageError(f"--at {self._request.at}: no position of store {self._store.name}")
        return min(position, head)

    def _steps(
        self,
        until: Position | None,
        dead: Mapping[Position, str],
        found: Stepped,
        seen: Seen,
    ) -> Iterator[Step]:
        if until is None:
            return
        total = self._store.counts.between(None, until)
        seen.say(
            "which events concern the row shows only when they are applied, so that all events of "
            f"the log are read, about {total:,}"
        )
        read = 0
        for batch in self._store.read_all(None, until, self._target.settings.filter):
            events = [each.detached() for each in batch.events if each.position not in dead]
            for at in range(0, len(events), _BATCH):
                yield from self._some(events[at : at + _BATCH], found)
                if found.stopped:
                    return
            seen.passed(len(batch.events), read)
            read += len(batch.events)

    def _some(self, events: Sequence[RecordedEvent], found: Stepped) -> Iterator[Step]:
        """Apply events; yields a step for each that touches the row, or that fails."""
        before = self._row() if len(events) == 1 else None
        fault: Fault | None = None
        took = 0
        try:
            with self._trying():
                began = time.perf_counter_ns()
                self._apply(events)
                took = time.perf_counter_ns() - began
                touched = self._touched(alone=len(events) == 1)
            if self._projector is not None:
                self._projector.flushed()
        except _Undone:
            touched = True
        except BadEvent as bad:
            touched = True
            cause = bad.__cause__
            lines = () if cause is None else users_traceback(cause)
            fault = Fault(bad.reason, lines)
        if not touched or (fault is None and len(events) == 1):
            self._after = events[-1].position
        else:
            self._close()
        if len(events) > 1 and touched:
            # A program is started again after each batch that is rolled back.
            single = isinstance(self._definition, ProcessDefinition)
            size = 1 if single else (len(events) + 1) // 2
            for at in range(0, len(events), size):
                if not found.stopped:
                    yield from self._some(events[at : at + size], found)
            return
        if not touched:
            return
        if fault is not None:
            found.stopped = self._target.settings.on_error == "stop"
            if not found.stopped and events[0].stream not in map(str, self._key):
                return  # as far as anybody can tell, it is about another row
        # What the time of a program would be has its start in it.
        timed = not isinstance(self._definition, ProcessDefinition) and fault is None
        done = Applied(before, self._row(), took / 1_000 if timed else None, fault)
        yield Step(events[0], done, done.after)

    # -- applying

    def _apply(self, events: Sequence[RecordedEvent]) -> None:
        if isinstance(self._definition, SqlDefinition):
            access = require(self._store, self._store.sql, "sql")
            part = access.range(self._after, events[-1].position, 1 << 40)
            names = {name: (table.schema, table.name) for name, table in self._tables.items()}
            self._connection.execute(range_statement(self._definition, names, part).encode())
            return
        if self._projector is None:
            self._projector = self._open()
        assert self._projector is not None
        self._projector.apply(events, self._connection)
        self._projector.flush(self._connection)

    def _trying(self) -> AbstractContextManager[None]:
        # A program cannot write beside its tables; a statement and a handler can.
        read_only = not isinstance(self._definition, ProcessDefinition)
        return trial_tables.trying(self._connection, read_only=read_only)

    def _open(self) -> Projector | None:
        can = self._store.capabilities
        return open_projector(
            self._definition,
            VersionTables(
                projection=self._target.name,
                version=0,
                by_name=self._tables,
                keys={name: table.key for name, table in self._tables.items()},
                value_types={},
                conjoined=can.tenants,
                empty=False,
                cache=following_cache(self._target.settings.cache),
                ensure_keys=lambda: None,
            ),
        )

    def _close(self) -> None:
        if self._projector is not None:
            self._projector.close()
            self._projector = None

    # -- the row

    def _watch(self) -> None:
        """Put triggers on the table, which say when the row is touched."""
        self._connection.execute(_SQL["function"])
        for what, sides in (("INSERT", "NEW"), ("DELETE", "OLD"), ("UPDATE", "OLD NEW")):
            either = sql.SQL(" OR ").join(self._is(side) for side in sides.split())
            self._connection.execute(
                sql.SQL(
                    "CREATE TRIGGER {} AFTER {} ON {} FOR EACH ROW WHEN ({}) EXECUTE FUNCTION "
                    "pg_temp.esops_touched()"
                ).format(
                    sql.Identifier(f"esops_{what.lower()}"),
                    sql.SQL(what),
                    qualified(self._table.schema, self._table.name),
                    either,
                )
            )

    def _is(self, alias: str) -> sql.Composable:
        """The condition that a row has the key."""
        return sql.SQL("({})").format(
            sql.SQL(" AND ").join(
                sql.SQL("{}.{} = {}::{}").format(
                    sql.SQL(alias),
                    sql.Identifier(name),
                    sql.Literal(value),
                    sql.SQL(self._table.column(name).type),
                )
                for name, value in zip(self._table.key, self._key, strict=True)
            )
        )

    def _touched(self, *, alone: bool) -> bool:
        """Whether one event has touched the row. Raises _Undone where several have."""
        row = self._connection.execute(_SQL["touched"]).fetchone()
        touched = row is not None and row[0] == "yes"
        if touched and not alone:
            raise _Undone
        return touched

    def _row(self, table: Table | None = None) -> Row | None:
        at = table or self._table
        statement = sql.SQL("SELECT to_jsonb(t)::text FROM {} AS t WHERE {}").format(
            qualified(at.schema, at.name), self._is("t")
        )
        found = self._connection.execute(statement).fetchone()
        made: Row | None = None
        if found is not None:
            made = json.loads(found[0], parse_float=Decimal)
        return made

    def _served(self) -> Served | None:
        """The row that serves now, at its version's checkpoint; None where there is none."""
        table = self._model.by_name.get(self._name)
        if self._model.serving is None or table is None or table.key != self._table.key:
            return None
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            now = ReadModel(self._connection, self._target).serving
            if now is None or now.position is None:
                return None
            return Served(now.version, now.position, self._row(table))
