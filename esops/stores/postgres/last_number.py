"""The highest number in the table, in the place of a sequence that is not there: each writer takes
that number and one, and a unique index keeps two from taking the same.

So a number is there as soon as a higher one is: whoever took the higher one saw the lower one
committed. A writer that rolls back or dies leaves nothing out, for the next one takes its number.
What no writer does is to go back: where the newest events are deleted, their numbers are given to
others, and nobody who has read them can read those.
"""

from __future__ import annotations

import psycopg
from psycopg import errors, sql

from esops.errors import ContradictedSequence
from esops.stores.postgres.sequence import NumberSequence, SequenceState

_LOOK = (
    "SELECT {table}::regclass::oid::bigint, max({number})::bigint, "
    "extract(epoch FROM clock_timestamp())::float8 FROM {events}"
)


class LastNumber(NumberSequence):
    """Reads as a sequence that is at the newest committed event."""

    renumber = (
        "Add the same number to all positions, so that the lowest is 1; the writers continue with "
        "the highest one and one. Then rebuild the read models."
    )

    def __init__(
        self, events: sql.Identifier, number: sql.Identifier, extent: sql.Composed
    ) -> None:
        """`number` is the column of `events`, which is qualified; see NumberSequence for the
        rest.
        """
        self.name = events.as_string(None)
        self._extent = extent
        self._last = sql.SQL(_LOOK).format(
            table=sql.Literal(self.name), number=number, events=events
        )

    def state(self, connection: psycopg.Connection) -> SequenceState:
        """What the newest event is. Raises ContradictedSequence where the table is gone."""
        try:
            row = connection.execute(self._last).fetchone()
        except errors.UndefinedTable:
            raise ContradictedSequence(
                f"the table {self.name} is gone, so esops cannot tell which events are settled",
                hint="Was it dropped, renamed, or is the store being restored? Run this again when "
                "it is back.",
            ) from None
        assert row is not None
        oid, last, at = row
        return SequenceState(oid, last, at, cache=1, increment=1)

    def check(self, highest: int | None, state: SequenceState) -> None:
        """Raises ContradictedSequence where the newest events were deleted between two looks."""
        if highest is not None and highest > (state.drawn or 0):
            raise self.beyond(highest, state.drawn or 0)

    def beyond(self, position: int, drawn: int) -> ContradictedSequence:
        """See NumberSequence."""
        return ContradictedSequence(
            f"position {position} lies beyond the newest event of {self.name} ({drawn}): the "
            "newest events were deleted, and their numbers are given to others",
            hint="The store was restored to an earlier time, emptied or replaced, or somebody "
            "deleted its newest events. Name the right store. If this is the right one, rebuild "
            "its read models.",
        )
