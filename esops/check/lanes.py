"""Code that is stepped through: it is given one event after the other, and keeps the row of one
key, in memory.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import psycopg

import esops
from esops.events import RecordedEvent
from esops.postgres.catalog import Table
from esops.projections.arithmetic import use_arithmetic
from esops.projections.definition import Evolve, FoldDefinition, blame
from esops.projections.kinds.fold_key import check_key, of_stream
from esops.readmodel.form import Unfit
from esops.readmodel.shape import Shape
from esops.readmodel.types import Key, Row

_OWN = str(Path(esops.__file__).parent)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why code failed on an event: in one line, and the user's part of the traceback."""

    reason: str
    traceback: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one event: the row before and after it, how long the code took, and why it
    failed.
    """

    before: Row | None
    after: Row | None
    microseconds: float | None
    fault: Fault | None = None


class NoKey(Exception):
    """The key of an event cannot be made; the text says why."""


class FoldLane:
    """The code of a fold, with the row of one key so far."""

    def __init__(
        self,
        definition: FoldDefinition,
        table: Table,
        key_columns: tuple[str, ...],
        value_types: dict[str, str],
        *,
        conjoined: bool,
        begins: int | None,
    ) -> None:
        """Without a row. `begins`: see VersionTables. Raises UsageError where the table's key is
        not of the form of the fold's.
        """
        check_key(definition, table, key_columns, conjoined=conjoined)
        use_arithmetic(definition)
        self._shape = Shape(table, key_columns, value_types)
        self._shape.changed = self._reshape
        if not value_types:
            self._shape.has_rows = lambda: any(self._rows.values())
        self._evolve: Evolve = definition.evolve
        self._begins = begins if definition.key is None else None
        self._key_of: Callable[[RecordedEvent], Key] = definition.key or attrgetter(
            *of_stream(key_columns)
        )
        self._rows: dict[Key, Row | None] = {}
        self._took = 0

    def open(self, connection: psycopg.Connection) -> None:
        """Ask the server on this connection what its columns make of values."""
        self._shape.open(connection)

    def keys(self, events: Sequence[RecordedEvent]) -> list[Key | NoKey]:
        """The key of each event, in the form of the table; a NoKey where it cannot be made."""
        try:
            return list(self._shape.keys(list(map(self._key_of, events)))[0])
        except Exception:  # noqa: BLE001 - the user's code: which event it is shows one by one
            return [self._key(event) for event in events]

    def _key(self, event: RecordedEvent) -> Key | NoKey:
        try:
            return self._shape.key(self._key_of(event))
        except Unfit as error:
            return NoKey(str(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
            return NoKey(blame(error))

    def apply(self, key: Key, event: RecordedEvent) -> Applied:
        """Fold one event of a key into its row. After a failure the row is as it was."""
        rows = self._rows
        # The function may change the row that it is given, in its documents too.
        before = deepcopy(rows.get(key))
        pairs = iter([(key, event)])
        self._took, fault = 0, None
        try:
            while self._shape.fold(pairs, rows, self._timed):
                pass
        except (psycopg.Error, KeyboardInterrupt):
            raise
        except Unfit as error:
            fault = Fault(str(error))
        except BaseException as error:  # noqa: BLE001 - as a runner, also for sys.exit()
            fault = Fault(blame(error), users_traceback(error))
        if fault is not None:
            rows[key] = deepcopy(before)
        return Applied(before, deepcopy(rows.get(key)), self._took / 1_000, fault)

    def row(self, key: Key) -> Row | None:
        """The row so far."""
        return deepcopy(self._rows.get(key))

    def _timed(self, row: Row | None, event: RecordedEvent) -> Row | None:
        if self._begins is not None and event.version == self._begins:
            row = None  # a row that exists then is of an earlier stream of that name
        began = time.perf_counter_ns()
        try:
            return self._evolve(row, event)
        finally:
            self._took += time.perf_counter_ns() - began

    def _reshape(self, again: Callable[[Row], Row]) -> None:
        for key, row in self._rows.items():
            if row is not None:
                self._rows[key] = again(row)


def users_traceback(error: BaseException) -> tuple[str, ...]:
    """The lines of a traceback from the user's own code on, without those of esops above it."""
    frames: list[Any] = list(traceback.extract_tb(error.__traceback__))
    while frames and (frames[0].filename.startswith((_OWN, "<string>"))):
        frames.pop(0)
    lines = [*traceback.format_list(frames), *traceback.format_exception_only(error)]
    return tuple(line for each in lines for line in each.rstrip("\n").splitlines())
