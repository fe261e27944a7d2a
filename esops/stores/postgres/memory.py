"""What settling remembers between processes, in the schema `esops` of the database of the events.

- Sightings: where the sequence was, and when, while a missing number held events back. So a cron
  job does not start its watch again each time.
- The numbers that were passed as dead, and the events that came at them all the same.

The tables are in the store's database, which may be another one than that of a read model, because
only there their times are by the clock that tells when numbers were drawn, and only there a backup
takes them back together with the events. So they are made where `keep` is called, by the commands
that write to a read model anyway, and everything works without them: for a role that may write
nothing, and on Emmett's transaction ids, which pass no numbers.

esops is a guest there. Each write is a short transaction that waits half a second for a lock at
most, and there is none while no number is missing: in an idle store nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
import structlog
from psycopg import errors

from esops.errors import Refused
from esops.postgres import publications
from esops.postgres.statements import script, statements
from esops.stores.postgres.ages import Sighting
from esops.stores.postgres.numbered_events import NumberedEvents
from esops.stores.postgres.sequence import SequenceState

log = structlog.get_logger("esops.settle")

_EVERY = 1.0
"""Seconds between two writes, at least."""
_MOST_SIGHTINGS = 64
MOST_PASSED = 1_000
"""Ranges of passed numbers, and late events, that are remembered of a store."""
_DENIED = (
    errors.InsufficientPrivilege,
    errors.ReadOnlySqlTransaction,
    errors.UndefinedTable,
    errors.InvalidSchemaName,
    errors.UndefinedColumn,
)
_SQL = statements(__package__, "memory")
_TABLES = script(__package__, "memory_tables")


@dataclass
class Memory:
    """The memory of one sequence. Without `keep` it is read where it is there, never written."""

    events: NumberedEvents
    keeps: bool = False
    _there: bool | None = None
    _passed: list[tuple[int, int, str]] = field(default_factory=list)
    _written: float = 0.0
    _last: tuple[object, ...] = ()

    @property
    def name(self) -> str:
        """What names the log: two stores of a configuration over one sequence share a memory."""
        return self.events.log

    def keep(self, connection: psycopg.Connection) -> None:
        """Write from now on; make the tables where there are none. Where that is denied, nothing
        is kept.
        """
        if self.keeps or not self.events.indexed:
            return
        self._there = None
        if not self.there(connection):
            try:
                publications.check_new_tables(connection, "esops", "esops' own tables")
                with connection.transaction():
                    connection.execute("SET LOCAL lock_timeout = '2s'")
                    connection.execute(_SQL["lock"])
                    row = connection.execute(_SQL["there"]).fetchone()
                    if row is not None and not row[1]:
                        connection.execute("CREATE SCHEMA esops")
                    connection.execute(_TABLES)
            except Refused as error:
                # The commands that need tables of their own here refuse; this one is a guest.
                log.info("settling is not remembered between processes", reason=error.message)
                return
            except (*_DENIED, errors.LockNotAvailable, errors.DuplicateSchema) as error:
                log.info(
                    "settling is not remembered between processes",
                    reason=str(error.diag.message_primary),
                )
                return
            self._there = True
        self.keeps = True

    def there(self, connection: psycopg.Connection) -> bool:
        """Whether the tables are there."""
        if self._there is None:
            row = connection.execute(_SQL["there"]).fetchone()
            self._there = bool(row and row[0])
        return self._there

    def recall(
        self, connection: psycopg.Connection, state: SequenceState
    ) -> tuple[list[Sighting], float]:
        """What earlier processes saw of a sequence, oldest first, and the server's time."""
        rows = self._read(connection, "recall", sequence=state.oid, drawn=state.drawn or 0)
        return [Sighting(*row[:3]) for row in rows], rows[0][3] if rows else state.at

    def note_passed(self, ranges: Sequence[tuple[int, int]], evidence: str) -> None:
        """Remember missing numbers that are passed as dead; written with the next `write`."""
        self._passed += [(first, last, evidence) for first, last in ranges]
        del self._passed[:-MOST_PASSED]

    @property
    def pending(self) -> bool:
        """Whether there is something that the next `write` has to write."""
        return self.keeps and bool(self._passed)

    def write(
        self,
        connection: psycopg.Connection,
        state: SequenceState,
        sightings: Sequence[Sighting],
        through: int,
        *,
        now: bool = False,
    ) -> None:
        """Write what is to be remembered, not more often than each second unless `now`."""
        if not self.keeps or not (sightings or self._passed):
            return
        seen = (sightings[-1].number, sightings[-1].last) if sightings else ()
        if not self._passed and seen == self._last:
            return
        if not now and time.monotonic() - self._written < _EVERY:
            return
        self._written = time.monotonic()
        own = {"log": self.name, "sequence": state.oid, "drawn": state.drawn or 0}
        try:
            with connection.transaction():
                connection.execute("SET LOCAL lock_timeout = '500ms'")
                # What is lost in a crash of the server is seen again.
                connection.execute("SET LOCAL synchronous_commit = off")
                if sightings:
                    columns = {
                        "numbers": [each.number for each in sightings],
                        "first": [each.first for each in sightings],
                        "last": [each.last for each in sightings],
                    }
                    connection.execute(_SQL["see"], {**own, **columns})
                    connection.execute(
                        _SQL["unsee"], {**own, "through": through, "most": _MOST_SIGHTINGS}
                    )
                if self._passed:
                    first, last, evidence = zip(*self._passed, strict=True)
                    columns = {"first": list(first), "last": list(last), "evidence": list(evidence)}
                    connection.execute(_SQL["pass"], {**own, **columns})
                    connection.execute(_SQL["unpass"], {**own, "most": MOST_PASSED})
            self._passed.clear()
            self._last = seen
        except (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure):
            return  # with the next write
        except _DENIED as error:
            log.info("settling is not remembered any more", reason=str(error.diag.message_primary))
            self.keeps = False

    def late(
        self, connection: psycopg.Connection, state: SequenceState
    ) -> list[tuple[int, datetime, datetime | None]]:
        """The numbers of events that came after they had been passed as dead, newest first; when
        they were passed, and when that was found.
        """
        if not self.events.indexed or not self.there(connection):
            return []
        values = {"log": self.name, "drawn": state.drawn or 0}
        try:
            # Numbers that are given out again come in their turn, and not late.
            if self.keeps:
                connection.execute(_SQL["unpass"], {**values, "most": MOST_PASSED})
            found = self.events.ask_all(connection, "late", **values)
            if found and self.keeps:
                numbers, passed_at = zip(*found, strict=True)
                connection.execute(
                    _SQL["note_late"],
                    {**values, "numbers": list(numbers), "passed_at": list(passed_at)},
                )
            known = self._read(connection, "known_late", most=MOST_PASSED)
        except _DENIED as error:
            log.debug("no memory of settling", error=str(error).strip())
            return []
        noted = {number for number, *_ in known}
        return [
            *((number, at, None) for number, at in found if number not in noted),
            *((number, at, found_at) for number, at, found_at in known),
        ]

    def _read(
        self, connection: psycopg.Connection, query: str, **values: object
    ) -> list[tuple[Any, ...]]:
        if not self.there(connection):
            return []
        try:
            return connection.execute(_SQL[query], {"log": self.name, **values}).fetchall()
        except _DENIED as error:
            log.debug("no memory of settling", error=str(error).strip())
            return []


def forget_restored(connection: psycopg.Connection, name: str, numbers: Sequence[int]) -> None:
    """Take restored events for what they are, in the transaction that restores them."""
    row = connection.execute(_SQL["may_forget"]).fetchone()
    if row is not None and row[0]:
        connection.execute(_SQL["forget"], {"log": name, "numbers": list(numbers)})
