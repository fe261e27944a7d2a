"""What the sequence that numbers the events says, and whether the events agree with it.

What a sequence says is a claim. It may never have been called above a filled table (logical
replication and `pg_dump -t` carry no sequences), it may have been set back, or dropped and created
again while somebody reads. So each look asks for it by its name and takes its oid, its value and
its options from one statement, and the table's highest number is held against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from esops.errors import ContradictedSequence
from esops.postgres.statements import statements

_SQL = statements(__package__, "sequence")
_LAST = 2**63 - 1
"""The highest bigint."""


@dataclass(frozen=True, slots=True)
class SequenceState:
    """A sequence at one moment."""

    oid: int
    drawn: int | None
    """The highest number that anybody can have been given; None where none ever was."""
    at: float
    """A time of the server's clock, in seconds since 1970, at which all numbers up to `drawn` had
    been given out.
    """
    cache: int
    increment: int
    cycles: bool = False

    @property
    def in_advance(self) -> bool:
        """Whether somebody may hold numbers that are used later than they are drawn: a session its
        CACHE, or the application the numbers of a whole INCREMENT.
        """
        return self.cache > 1 or self.increment > 1

    def begins_again_after(self, before: SequenceState) -> bool:
        """Whether it was set back since an earlier look, or another sequence bears its name."""
        return self.oid != before.oid or (self.drawn or 0) < (before.drawn or 0)


def drawn(connection: psycopg.Connection, name: sql.Identifier) -> int | None:
    """The highest number that anybody can have been given by a sequence; None where none was."""
    nothing = sql.SQL("SELECT NULL::bigint, NULL::bigint")
    return NumberSequence(name, sql.Composed([nothing])).state(connection).drawn


class NumberSequence:
    """The sequence that gives the events of a table their numbers."""

    renumber = "Give these events numbers of the sequence, or move them to another table."
    """What to do about events that esops never reads."""

    def __init__(self, name: sql.Identifier, extent: sql.Composed) -> None:
        """`name` is qualified; `extent` is a statement that finds the lowest and the highest number
        of the table, as far as an index tells.
        """
        self.name = name.as_string(None)
        self._look = sql.SQL(_SQL["state"]).format(sequence=name)
        self._extent = extent

    def state(self, connection: psycopg.Connection) -> SequenceState:
        """What it is at. Raises ContradictedSequence where its numbers put nothing in order."""
        try:
            row = connection.execute(self._look).fetchone()
        except errors.UndefinedTable:
            raise ContradictedSequence(
                f"the sequence {self.name} is gone, so esops cannot tell which events are settled",
                hint="Was it dropped, renamed, or is the store being restored? Run this again when "
                "it is back.",
            ) from None
        assert row is not None
        oid, last, called, at, cache, increment, cycles = row
        if increment < 1:
            raise ContradictedSequence(
                f"the sequence {self.name} counts backwards (INCREMENT BY {increment}), so its "
                "numbers do not put the events in their order",
                hint="esops reads events whose numbers grow.",
            )
        # While is_called is false, last_value is the number that comes next, as after ALTER
        # SEQUENCE … RESTART behind an import. An application that draws every fiftieth number
        # hands out those up to the next one itself.
        drawn = last + increment - 1 if called else last - 1
        return SequenceState(oid, drawn if drawn > 0 else None, at, cache, increment, cycles)

    def highest(self, connection: psycopg.Connection) -> int | None:
        """The highest number in the table; None where it is empty.

        Raises ContradictedSequence where there are numbers that esops never reads.
        """
        row = connection.execute(self._extent).fetchone()
        assert row is not None
        lowest, highest = row
        if lowest is not None and lowest < 1:
            raise ContradictedSequence(
                f"the events begin with number {lowest}, and esops reads those from 1 on",
                hint=self.renumber,
            )
        if highest is not None and highest >= _LAST:
            raise ContradictedSequence(
                f"the newest event has number {highest}, and there is none after that",
                hint="Number the events from 1 on.",
            )
        return None if highest is None else int(highest)

    def check(self, highest: int | None, state: SequenceState) -> None:
        """Raises ContradictedSequence where the table is ahead of the sequence: then nobody can say
        what was drawn.
        """
        drawn = state.drawn or 0
        if highest is None or highest <= drawn:
            return
        if state.cycles:
            raise ContradictedSequence(
                f"the sequence {self.name} is at {drawn}, behind the newest event, {highest}: it "
                "cycles and has begun again, so numbers do not put the events in their order",
                hint="Give the events numbers that only grow: a sequence of type bigint with NO "
                "CYCLE.",
            )
        raise ContradictedSequence(
            f"the sequence {self.name} is at {drawn}, behind the newest event, {highest}: writers "
            "will fail with duplicate keys, and esops cannot tell which events are settled",
            hint="Run this in the database, as is usual after an import or the promotion of a "
            f"logical replica: SELECT setval({sql.Literal(self.name).as_string(None)}, {highest});",
        )

    def beyond(self, position: int, drawn: int) -> ContradictedSequence:
        """What to raise for a position that was reached, and that lies beyond all numbers."""
        return ContradictedSequence(
            f"position {position} lies beyond what the sequence {self.name} has ever given out "
            f"({drawn})",
            hint="The store was restored to an earlier time, emptied or replaced. Name the right "
            "store. If this is the right one, rebuild its read models.",
        )

    def compare(self, connection: psycopg.Connection) -> SequenceState:
        """Look at both the table and the sequence. Raises ContradictedSequence."""
        # The table first: whoever inserted a number had drawn it before, so a sequence that is
        # read later cannot be behind the table.
        highest = self.highest(connection)
        state = self.state(connection)
        self.check(highest, state)
        return state
