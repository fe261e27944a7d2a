"""Layouts of one table in the order of one column, which a sequence fills."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import NamedTuple

import psycopg
from psycopg import sql

from esops.errors import Unavailable
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.stores.postgres.layouts.base import TRUE, Layout
from esops.stores.postgres.missing import NumbersInOrder
from esops.stores.postgres.settle import SequenceLockers, SettleRule

_UNWATCHED = timedelta(seconds=3)
"""The age of a dead number where a sequence gives numbers to sessions in advance, which is watched
whatever the settings say.
"""


class NumberSequence(NamedTuple):
    """The sequence behind a column. `cache`: how many numbers a session takes in advance."""

    schema: str
    name: str
    oid: int
    cache: int


def sequence_behind(connection: psycopg.Connection, table: Table, number: str) -> NumberSequence:
    """The sequence that fills a column. Raises Unavailable where there is none."""
    found = catalog.sequence_behind(connection, table, number)
    if found is None:
        raise Unavailable(
            f"no sequence fills {table.schema}.{table.name}.{number}, so esops cannot tell what is "
            "settled",
            hint="The table may be a copy without its sequence. For a table of your own, name the "
            "`sequence` in esops.toml.",
        )
    return NumberSequence(*found)


class NumberedLayout(Layout):
    """A layout whose positions are the numbers of one column."""

    order_casts = ("bigint",)

    def __init__(
        self,
        table: Table,
        number: str,
        sequence: NumberSequence,
        watched: timedelta | None = None,
    ) -> None:
        """`number` names the column.

        `watched`: missing numbers are watched, and are dead after so long, as where numbers may be
        drawn outside of the writers' transactions. They always are where the sequence gives out
        numbers in advance.
        """
        self._table, self._number, self._sequence = table, sql.Identifier(number), sequence
        self._watched = watched
        self.schema = table.schema
        self.events = sql.Identifier(table.schema, table.name)
        self.order = self.order_columns = (self._number,)
        self.reads = (self.events,)
        self.sequences = (sql.Identifier(sequence.schema, sequence.name),)

    def rule(self) -> SettleRule:
        """Numbers in their order."""
        return NumbersInOrder(
            SequenceLockers(self.sequences[0], self._sequence.oid),
            self.events,
            self._number,
            partial(catalog.relation_tree, oid=self._table.oid),
            self._watched or _UNWATCHED,
            TRUE,
            # A number of a session's cache may be used long after the transaction that drew it.
            watched=self._watched is not None or self._sequence.cache > 1,
        )
