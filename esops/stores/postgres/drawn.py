"""Checkpoints of the application's that no event can have had.

A store that was emptied and counts from 1 again, or was restored to an earlier time, may have kept
the rows of its processors. Where such a one stands is unknown: it has read other events, and none
of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.events import Checkpoint
from esops.stores.checkpoints import SET_BACK
from esops.stores.postgres.sequence import drawn


def highest_drawn(connection: psycopg.Connection, sequences: Iterable[sql.Identifier]) -> int:
    """The highest number that the sequences have given; 0 where they have given none.

    Ask it after the rows that it is compared with were read.
    """
    return max((drawn(connection, each) or 0 for each in sequences), default=0)


def in_words(number: int, highest: int) -> str:
    """What is wrong with a number beyond the highest that was drawn."""
    return f"it is at {number}, and no event has had a number above {highest}"


def of_these_events(
    connection: psycopg.Connection,
    sequences: Sequence[sql.Identifier],
    found: Sequence[Checkpoint],
) -> list[Checkpoint]:
    """The checkpoints, with no position for those beyond all that was ever drawn.

    For positions that end with a number of the sequences.
    """
    if not any(each.position is not None and each.kind == "processor" for each in found):
        return [*found]
    highest = highest_drawn(connection, sequences)
    return [
        each
        if each.position is None or each.kind != "processor" or each.position[-1] <= highest
        else replace(
            each, position=None, beyond=True, evidence=in_words(each.position[-1], highest)
        )
        for each in found
    ]


def refuse_beyond(
    connection: psycopg.Connection,
    sequences: Iterable[sql.Identifier],
    name: str,
    reached: int | None,
) -> None:
    """Raises Refused where a processor stands beyond all that was ever drawn."""
    highest = highest_drawn(connection, sequences)
    if reached is not None and reached > highest:
        raise Refused(
            f"the application cannot take over by {name}: {in_words(reached, highest)}",
            hint=SET_BACK,
        )
