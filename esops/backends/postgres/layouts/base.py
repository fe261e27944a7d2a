"""What a table layout is: a mapping from a library's tables to events, and the little SQL that differs.

A layout's file finds its tables in the catalogue, names the expression for each part of an event, its order and its rule
of settling, and writes the statements for appending and for the application's checkpoints. All reading is done elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import psycopg
from psycopg import sql

from esops.backends.postgres.settle import SettleRule
from esops.events import Checkpoint, EventFilter, NewEvent, Position

TRUE = sql.SQL("TRUE")


@dataclass(frozen=True)
class Mapped:
    """The expressions that give each part of an event. `data` and `metadata` give json, jsonb, text or bytea."""

    id: sql.Composable
    stream: sql.Composable
    version: sql.Composable
    type: sql.Composable
    data: sql.Composable
    metadata: sql.Composable
    recorded_at: sql.Composable
    tenant: sql.Composable


class Append(Protocol):
    """Append events to a stream inside the transaction that the connection is in."""

    def __call__(
        self, connection: psycopg.Connection, stream: str, events: Sequence[NewEvent], expected_version: int | None
    ) -> Position:
        """Return the last event's position; raise WrongExpectedVersion."""
        ...


@dataclass(frozen=True)
class Layout:
    """One library's tables in one schema, in the variant that was found."""

    name: str
    schema: str
    version: str
    """Which versions of the library write this variant, as far as the tables tell."""
    events: sql.Identifier
    mapped: Mapped
    order: tuple[sql.Composable, ...]
    """The columns that make up a position, each a bigint when selected."""
    order_columns: tuple[sql.Composable, ...]
    """The same columns as an index has them, to be compared with a position's numbers by `order_cast`."""
    order_casts: tuple[str, ...]
    rule: Callable[[], SettleRule]
    """Makes the rule of settling; each reader has its own."""
    own: sql.Composable
    """What holds for events, as against gap fillers and commands; and for the tenant where one is asked for."""
    alive: sql.Composable
    """What holds for events of streams that are not archived."""
    in_category: Callable[[str], sql.Composable]
    stream_equals: Callable[[str], sql.Composable]
    archived: sql.Composable
    append: Append
    checkpoints: Callable[[psycopg.Connection], list[Checkpoint]]
    tenants: bool = False
    detail: Mapping[str, str] = field(default_factory=dict)
    warnings: Callable[[psycopg.Connection], list[str]] = lambda _: []

    def where(self, filter: EventFilter) -> sql.Composable:
        """The condition for the events that a filter wants."""
        conditions = [self.own]
        if not filter.archived:
            conditions.append(self.alive)
        if filter.types:
            conditions.append(sql.SQL("{} = ANY({})").format(self.mapped.type, sql.Literal(list(filter.types))))
        if filter.category is not None:
            conditions.append(self.in_category(filter.category))
        if filter.stream is not None:
            conditions.append(self.stream_equals(filter.stream))
        return sql.SQL(" AND ").join(conditions)

    def beyond(self, position: Position, strictly: bool = True) -> sql.Composable:
        """The condition for what lies after a position."""
        return self._compare(">" if strictly else ">=", position)

    def up_to(self, position: Position) -> sql.Composable:
        """The condition for what lies at or before a position."""
        return self._compare("<=", position)

    @property
    def ascending(self) -> sql.Composable:
        """What to order by."""
        return sql.SQL(", ").join(self.order_columns)

    def _compare(self, operator: str, position: Position) -> sql.Composable:
        if len(position) != len(self.order):
            raise ValueError(f"{position} is not a position of layout {self.name}")
        numbers = [
            sql.SQL("{}::" + cast).format(sql.Literal(str(number)))
            for number, cast in zip(position, self.order_casts, strict=True)
        ]
        left, right = sql.SQL(", ").join(self.order_columns), sql.SQL(", ").join(numbers)
        if len(numbers) == 1:
            return sql.SQL("{} " + operator + " {}").format(left, right)
        return sql.SQL("({}) " + operator + " ({})").format(left, right)
