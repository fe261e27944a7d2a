"""Layouts of one table in the order of one column, which a sequence fills."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import psycopg
from psycopg import sql

from esops.errors import Unavailable
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.settings import PostgresSettings
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.missing import NumbersInOrder
from esops.stores.postgres.numbered_events import NumberedEvents
from esops.stores.postgres.settle import SettleRule


class SequenceName(NamedTuple):
    """The sequence behind a column."""

    schema: str
    name: str


@dataclass(frozen=True)
class Dying:
    """When a missing number is dead."""

    threshold: timedelta = timedelta(seconds=3)
    """How long ago it must have been drawn, where missing numbers are watched."""
    watched: bool = False
    """Whether they are: numbers may be drawn outside of the writers' transactions. They always are
    where somebody may hold numbers in advance.
    """
    promised: bool = False
    """Whether the settings say that every writer uses each number in the transaction that drew
    it.
    """
    after: timedelta | None = None
    """After which time it is dead though somebody may hold it; None: never."""

    @classmethod
    def by(cls, settings: PostgresSettings, *, watched: bool = False) -> Dying:
        """As the settings of a store say."""
        promised = settings.append == "quick"
        return cls(settings.hole_threshold, watched and not promised, promised, settings.dead_after)


def sequence_behind(connection: psycopg.Connection, table: Table, number: str) -> SequenceName:
    """The sequence that fills a column. Raises Unavailable where there is none."""
    found = catalog.sequence_behind(connection, table, number)
    if found is None:
        raise Unavailable(
            f"no sequence fills {table.schema}.{table.name}.{number}, so esops cannot tell what is "
            "settled",
            hint="The table may be a copy without its sequence. For a table of your own, name the "
            '`sequence` in esops.toml, or set position_by = "max_plus_one" where each writer takes '
            "the highest number and one.",
        )
    return SequenceName(*found)


class NumberedLayout(Layout):
    """A layout whose positions are the numbers of one column."""

    order_casts = ("bigint",)

    def __init__(
        self,
        table: Table,
        number: str,
        sequence: SequenceName | None,
        dying: Dying = Dying(),
    ) -> None:
        """`number` names the column; `dying` says when a missing number is dead. Without a
        sequence each writer takes the highest number and one.
        """
        self._table, self._number, self._dying = table, sql.Identifier(number), dying
        self.schema = table.schema
        self.events = sql.Identifier(table.schema, table.name)
        self.order = self.order_columns = (self._number,)
        self.reads = (self.events,)
        self.sequences = () if sequence is None else (sql.Identifier(*sequence),)

    def rule(self) -> SettleRule:
        """Numbers in their order."""
        dying = self._dying
        return NumbersInOrder(
            NumberedEvents(
                next(iter(self.sequences), None),
                self.events,
                self._number,
                dying.threshold,
                dying.watched,
                dying.promised,
                dying.after,
            )
        )
