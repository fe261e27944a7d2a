"""Steps through the events of one row: what each of them makes of it, by the code of today, and by
other code beside it.

Nothing is written: a fold works in memory, other kinds in temporary tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import psycopg

from esops.check import trial_tables
from esops.check.changes import RowChange, changes, counted
from esops.check.key_text import parse_key, written_key
from esops.check.lanes import Applied, Fault, FoldLane, NoKey
from esops.check.one_key import OneKey, Seen
from esops.check.steps import KeptSteps, Served, Step, Stepped, StepRequest
from esops.check.table_steps import TableStepper
from esops.check.trial_tables import ReadModel
from esops.config import Config
from esops.errors import Refused
from esops.events import Position, RecordedEvent
from esops.postgres.catalog import Table
from esops.postgres.connection import connect, translated
from esops.projections.definition import Definition, FoldDefinition, load_definition
from esops.readmodel import migrations
from esops.readmodel.dead_letters import list_dead_letters
from esops.readmodel.rows import Rows
from esops.readmodel.types import Key, Row
from esops.rebuild.target import Target, resolve
from esops.running.throttle import Throttle
from esops.stores import open_store
from esops.stores.base import EventStore


def step(
    config: Config,
    request: StepRequest,
    *,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int], None] = lambda _: None,
) -> Stepped:
    """Step through all events of a row.

    `say` gets what takes long, `progress` how many events of the whole log are read. Raises
    UsageError for a key that no event has, and Refused for kinds whose rows cannot be made by
    themselves.
    """
    config.projection(request.projection)
    dsn = config.readmodel_of(request.projection).dsn
    with translated(), connect(dsn, f"step {request.projection}") as connection:
        target = resolve(config, request.projection, request.store, connection)
        definition = target.definition
        with (
            open_store(*config.store(target.store_name)) as store,
            closing(Throttle(dsn, target.name, stop=stop, say=say)) as throttle,
        ):
            seen = Seen(stop, say, progress, throttle)
            dead = _dead_letters(config, ReadModel(connection, target), target.name)
            if not isinstance(definition, FoldDefinition):
                _check_python(target, request.python)
                return TableStepper(connection, target, store, request).run(dead, seen)
            other = _other(config, target, request.python)
            stepper = _Stepper(connection, target, store, [definition, *other], request)
            return stepper.run(dead, seen)


def _check_python(target: Target, python: str | None) -> None:
    if python is not None:
        raise Refused(
            f"{target.name} is of kind {target.settings.kind}: other code can be stepped through "
            "beside that of today only for a fold",
            hint="Leave out --python; or step through another section of esops.toml that names it.",
        )


def _other(config: Config, target: Target, python: str | None) -> list[FoldDefinition]:
    """The code that is run beside that of today, where any is named."""
    if python is None:
        return []
    settings = target.settings.model_copy(update={"python": python})
    found: Definition = load_definition(settings, config.directory, f"{config.path}: --python, as")
    assert isinstance(found, FoldDefinition)
    return [found]


def _dead_letters(config: Config, model: ReadModel, name: str) -> dict[Position, str]:
    """Why events are dead letters of the version that serves, by their positions."""
    if model.serving is None:
        return {}
    return {
        Position.parse(each["position"]): str(each["error"])
        for each in list_dead_letters(config, name)
        if each["version"] == model.serving.version
    }


class _Stepper:
    """Steps through the events of a row of a fold."""

    def __init__(
        self,
        connection: psycopg.Connection,
        target: Target,
        store: EventStore,
        code: Sequence[FoldDefinition],
        request: StepRequest,
    ) -> None:
        self._connection, self._target, self._store = connection, target, store
        self._request = request
        self.model = ReadModel(connection, target)
        name = target.names[0].name
        self._table = self._find_table(name)
        served = self.model.by_name.get(name)
        self._key_columns = self._table.key or (self.model.key(name) if served else ())
        serving = self.model.serving
        types = dict(serving.value_types) if serving is not None and served is not None else {}
        types = {column: kind for column, kind in types.items() if self._table.has(column)}
        can = store.capabilities
        self._lanes = [
            FoldLane(
                each,
                self._table,
                self._key_columns,
                types,
                conjoined=can.tenants,
                begins=can.first_version if can.names_begin_again else None,
            )
            for each in code
        ]
        for lane in self._lanes:
            lane.open(connection)
        self._key: Key = parse_key(connection, self._table, self._key_columns, request.key)
        self._by_stream = all(each.key is None for each in code)

    def _find_table(self, name: str) -> Table:
        """The table as the next version would have it."""
        if self._target.settings.ddl is None and self.model.whole:
            return self.model.by_name[name]
        return trial_tables.make(self._connection, self._target, self.model, "step")[name]

    def run(self, skipped: Mapping[Position, str], seen: Seen) -> Stepped:
        """Step through all of its events. Raises UsageError where there are none."""
        written = written_key(self._key, self._key_columns)
        found = Stepped(self._target.name, self._store.name, written, python=self._request.python)
        served = self._served()
        one = OneKey(
            self._store, self._target.settings, self._key, self._key_columns, self._by_stream
        )
        until = one.ending(self._request.at, seen)
        kept = KeptSteps(self._request.keep)
        at_checkpoint: Row | None = None
        past = served is None
        for event in self._mine(one.events(until, seen), found):
            made = self._step(event, skipped.get(event.position))
            if not past and served is not None and event.position > served.position:
                past, at_checkpoint = True, made.before
            kept.add(made)
            if self._note(found, made):
                break
        found.steps, found.events = kept.all(), kept.count
        if not found.events:
            raise one.nothing(written)
        if served is not None and not found.stopped and self._request.at is None:
            row = at_checkpoint if past else found.steps[-1].after
            found.served = replace(served, differs=self._counted(row, served.row))
        found.notes += filter(None, [one.note()])
        return found

    def _mine(
        self, batches: Iterator[Sequence[RecordedEvent]], found: Stepped
    ) -> Iterator[RecordedEvent]:
        """The events of which any of the codes makes this key."""
        keyless, why = 0, ""
        for events in batches:
            by_lane = [lane.keys(events) for lane in self._lanes]
            for at, event in enumerate(events):
                keys = [each[at] for each in by_lane]
                if self._key in keys:
                    yield event.detached()
                elif isinstance(keys[0], NoKey):
                    keyless, why = keyless + 1, str(keys[0])
        if keyless:
            found.notes.append(f"of {keyless:,} events no key can be made: {why}")

    def _step(self, event: RecordedEvent, dead: str | None) -> Step:
        here, *beside = [self._applied(lane, event, dead) for lane in self._lanes]
        row = self._lanes[0].row(self._key)
        if not beside:
            return Step(event, here, row, dead)
        other = beside[0] or Applied(None, self._lanes[1].row(self._key), None)
        parted = self._counted(row, other.after)
        return Step(event, here, row, dead, other, parted)

    def _applied(self, lane: FoldLane, event: RecordedEvent, dead: str | None) -> Applied | None:
        [key] = lane.keys([event])
        if dead is not None:
            return None
        if isinstance(key, NoKey):
            row = lane.row(self._key)
            return Applied(row, row, None, Fault(f"its key cannot be made: {key}"))
        if key != self._key:
            return None
        return lane.apply(self._key, event)

    def _note(self, found: Stepped, made: Step) -> bool:
        """Take a step into account; whether the projection would stop there."""
        faults = [each.fault for each in (made.applied, made.other) if each is not None]
        if made.applied is not None and made.applied.fault is not None:
            found.faults += 1
            found.stopped = self._target.settings.on_error == "stop"
        # Where only one of the two fails, they part there as well.
        fails = len(faults) == 2 and (faults[0] is None) is not (faults[1] is None)
        if found.parts_at is None and (made.parted or fails):
            found.parts_at = made.event
        return found.stopped

    def _counted(self, one: Row | None, other: Row | None) -> list[RowChange]:
        """What differs and is not ignored by the verification."""
        if one is None or other is None:
            return changes(one, other)
        return counted(changes(one, other), self._target.settings.verify.ignore)

    def _served(self) -> Served | None:
        """The row that serves now, at its version's checkpoint; None where there is none."""
        version, name = self.model.serving, self._target.names[0].name
        table = self.model.by_name.get(name)
        if version is None or table is None or not migrations.installed(self._connection):
            return None
        columns = tuple(self.model.key(name))
        if columns != tuple(self._key_columns):
            return None
        rows = Rows(table, columns, version.value_types, lambda: None)
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            now = ReadModel(self._connection, self._target).serving
            if now is None or now.position is None or now.version != version.version:
                return None
            rows.shape.open(self._connection)
            row = next((row for _, row in rows.read(self._connection, [self._key])), None)
        return Served(now.version, now.position, row)
