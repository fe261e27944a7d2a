"""A table whose events are numbered by a sequence, and what is known of those who write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from esops.postgres.statements import statements
from esops.stores.postgres.last_number import LastNumber
from esops.stores.postgres.sequence import NumberSequence

_SQL = statements(__package__, "missing")
_ON_SERVER = {"checkpoint", "sessions"}
"""Statements that name no table."""


@dataclass(frozen=True)
class NumberedEvents:
    """The table, its column of numbers, their sequence, and when a missing number is dead."""

    sequence: sql.Identifier | None
    """Qualified, as `events` is. None: each writer takes the highest number and one."""
    events: sql.Identifier
    number: sql.Identifier
    threshold: timedelta
    """How long ago a missing number must have been drawn before it counts as dead."""
    watched: bool = True
    """Whether numbers may be drawn outside of the writers' transactions."""
    promised: bool = False
    """Whether the settings say that every writer uses each number in the transaction that drew
    it.
    """
    dead_after: timedelta | None = None
    """After which time a missing number is dead though somebody may hold it; None: never."""
    numbered: sql.Composable = field(default_factory=lambda: sql.SQL("TRUE"))
    """The condition for rows that get their number from this sequence."""
    indexed: bool = True
    """Whether an index leads to a number; without one, each look at the numbers reads them all."""
    locked_first: Sequence[sql.Identifier] = ()
    """Tables that a writer may write to after it drew a number and before it inserts the event: it
    may wait there for as long as others hold their locks.
    """
    passed_by_library: Callable[[psycopg.Connection], int | None] = lambda _: None
    """Finds the number up to which the library's own reader has passed all."""

    @property
    def table(self) -> str:
        """The table's quoted name."""
        return self.events.as_string(None)

    @property
    def written(self) -> list[str]:
        """The quoted names of the tables to which those write who have drawn numbers."""
        return [*(each.as_string(None) for each in self.locked_first), self.table]

    def source(self) -> NumberSequence:
        """The sequence, to be asked and to be compared with the table."""
        extent = self._queries["extent"]
        if self.sequence is None:
            return LastNumber(self.events, self.number, extent)
        return NumberSequence(self.sequence, extent)

    @property
    def log(self) -> str:
        """What names the numbers: two stores of a configuration over one sequence share them."""
        return (self.sequence or self.events).as_string(None)

    def ask(
        self, connection: psycopg.Connection, query: LiteralString, **values: object
    ) -> tuple[Any, ...]:
        """The one row of a statement of missing.sql."""
        row = connection.execute(self._queries[query], values).fetchone()
        assert row is not None
        return row

    def ask_all(
        self, connection: psycopg.Connection, query: LiteralString, **values: object
    ) -> list[tuple[Any, ...]]:
        """All rows of a statement of missing.sql."""
        return connection.execute(self._queries[query], values).fetchall()

    @cached_property
    def _queries(self) -> Mapping[str, sql.Composed]:
        names = {"events": self.events, "number": self.number, "numbered": self.numbered}
        return {
            name: sql.SQL(text).format(**names)
            for name, text in _SQL.items()
            if name not in _ON_SERVER
        }
