"""Steps through the events of one row: what each of them makes of it, by the code of today, and by
other code beside it.

Nothing is written: a fold works in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from esops.check import trial_tables
from esops.check.changes import RowChange, changes, counted, shown_row
from esops.check.key_text import parse_key, written_key
from esops.check.lanes import Applied, FoldLane, NoKey
from esops.check.one_key import OneKey, Seen
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
from esops.stores import open_store
from esops.stores.base import EventStore
from esops.trace.log import event_as_dict

KEPT = 10_000
"""Steps that are kept of a row with more events: the first half and the last half of them."""


@dataclass(frozen=True)
class StepRequest:
    """What is asked for."""

    projection: str
    key: str
    at: str | None = None
    """The version of the stream after which it ends, or, of a key of several streams, the
    position.
    """
    python: str | None = None
    """Other code to run beside that of today: `module:function`."""
    store: str | None = None
    keep: int = KEPT


@dataclass(frozen=True)
class Step:
    """One event, and what became of the row."""

    event: RecordedEvent
    applied: Applied | None
    """None where the version that serves has it as a dead letter."""
    row: Row | None
    skipped: str | None = None
    """Why it is a dead letter."""
    other: Applied | None = None
    parted: Sequence[RowChange] = ()
    """What the other code makes otherwise, up to this event."""

    @property
    def before(self) -> Row | None:
        """The row before the event."""
        return self.row if self.applied is None else self.applied.before

    @property
    def after(self) -> Row | None:
        """The row after it."""
        return self.row if self.applied is None else self.applied.after

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        done, other = self.applied, self.other
        fault = done.fault if done is not None else None
        return {
            "event": event_as_dict(self.event),
            "before": shown_row(self.before),
            "after": shown_row(self.after),
            "changed": [each.as_dict() for each in changes(self.before, self.after)],
            "microseconds": None if done is None else done.microseconds,
            "error": None if fault is None else fault.reason,
            "traceback": [] if fault is None else list(fault.traceback),
            "skipped": self.skipped,
            "other": None
            if other is None
            else {
                "after": shown_row(other.after),
                "differs": [each.as_dict() for each in self.parted],
                "microseconds": other.microseconds,
                "error": None if other.fault is None else other.fault.reason,
                "traceback": [] if other.fault is None else list(other.fault.traceback),
            },
        }


@dataclass(frozen=True)
class Served:
    """The row that a version serves, and the row that the events up to its checkpoint make."""

    version: int
    position: Position
    row: Row | None
    differs: Sequence[RowChange] = ()

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "version": self.version,
            "position": str(self.position),
            "row": shown_row(self.row),
            "differs": [each.as_dict() for each in self.differs],
        }


@dataclass
class Stepped:
    """All steps of a row."""

    projection: str
    store: str
    key: str
    steps: list[Step] = field(default_factory=list)
    events: int = 0
    """How many events of the row there are; more than `steps` where some were left out."""
    faults: int = 0
    parts_at: RecordedEvent | None = None
    """The first event after which the other code has another row."""
    python: str | None = None
    served: Served | None = None
    stopped: bool = False
    """Whether it ended at an event that the code failed on, as the projection would."""
    notes: list[str] = field(default_factory=list)

    @property
    def findings(self) -> bool:
        """Whether the code failed, or old and new code part."""
        return bool(self.faults) or self.parts_at is not None

    @property
    def left_out(self) -> int:
        """How many steps were not kept, between the first and the last."""
        return self.events - len(self.steps)

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        at = self.parts_at
        return {
            "projection": self.projection,
            "store": self.store,
            "key": self.key,
            "events": self.events,
            "steps": [each.as_dict() for each in self.steps],
            "left_out": self.left_out,
            "python": self.python,
            "parts_at": None
            if at is None
            else {
                "stream": at.stream,
                "version": at.version,
                "position": str(at.position),
                "type": at.type,
            },
            "served": None if self.served is None else self.served.as_dict(),
            "stopped": self.stopped,
            "notes": self.notes,
        }


def step(
    config: Config,
    request: StepRequest,
    *,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int], None] = lambda _: None,
) -> Stepped:
    """Step through all events of a row.

    `say` is told what takes long, `progress` how many events of the whole log are read. Raises
    UsageError for a key that no event has, and Refused for kinds whose rows cannot be made by
    themselves.
    """
    settings = config.projection(request.projection)
    dsn = config.readmodel_of(request.projection).dsn
    with (
        translated(),
        connect(dsn, f"step {request.projection}") as connection,
    ):
        target = resolve(config, request.projection, request.store, connection)
        definition = target.definition
        if not isinstance(definition, FoldDefinition):
            raise Refused(
                f"{target.name} is of kind {settings.kind}, and its rows are not made key by key"
            )
        other = _other(config, target, request.python)
        with open_store(*config.store(target.store_name)) as store:
            stepper = _Stepper(connection, target, store, [definition, *other], request)
            skipped = _dead_letters(config, stepper.model, target.name)
            return stepper.run(skipped, Seen(stop, say, progress))


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
        keep = max(2, self._request.keep)
        first: list[Step] = []
        last: deque[Step] = deque(maxlen=keep - keep // 2)
        at_checkpoint: Row | None = None
        past = served is None
        for event in self._mine(one.events(until, seen), found):
            made = self._step(event, skipped.get(event.position))
            if not past and served is not None and event.position > served.position:
                past, at_checkpoint = True, made.before
            found.events += 1
            (last if len(first) >= keep // 2 else first).append(made)
            if self._note(found, made):
                break
        found.steps = [*first, *last]
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
        if dead is not None or key != self._key:
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
