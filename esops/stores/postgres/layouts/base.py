"""What a table layout is: a mapping from a library's tables to events, and the little SQL that
differs.

A layout finds its tables in the catalogue, and derives from `Layout`, or from `NumberedLayout`
(numbered.py) where one table is ordered by one column that a sequence fills. It names the
expression for each part of an event, the order and the rule of settling, and says how events are
appended and where the application's checkpoints are (library.py). All reading is done elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from psycopg import sql

from esops.events import (
    EventFilter,
    Position,
)
from esops.postgres.sharding import shard_predicate
from esops.stores.masking import Document
from esops.stores.payloads import Decode
from esops.stores.postgres.layouts.expressions import storable
from esops.stores.postgres.layouts.library import LibraryFeatures
from esops.stores.postgres.settle import SettleRule

TRUE, FALSE = sql.SQL("TRUE"), sql.SQL("FALSE")
NOTHING, NO_TENANT = sql.SQL("NULL::text"), sql.SQL("''")
"""Parts of an event that a layout does not have."""


@dataclass(frozen=True)
class Mapped:
    """The expressions that give each part of an event.

    `data` and `metadata` give json, jsonb, text or bytea.
    """

    id: sql.Composable
    stream: sql.Composable
    version: sql.Composable
    type: sql.Composable
    data: sql.Composable
    metadata: sql.Composable
    recorded_at: sql.Composable
    tenant: sql.Composable = field(default_factory=lambda: NO_TENANT)


@dataclass(frozen=True)
class StreamTable:
    """A library's own list of its streams: expressions over one table, a row a stream."""

    table: sql.Identifier
    stream: sql.Composable
    tenant: sql.Composable
    category: sql.Composable
    length: sql.Composable
    """The version of the last event, which does not go back where events are removed."""
    alive: sql.Composable
    in_category: Callable[[str], sql.Composable]
    note: str
    """What its lengths mean."""
    scope: sql.Composable = field(default_factory=lambda: TRUE)
    left: sql.Composable | None = None
    """How many events are left of that length, where the library knows; left out: all."""
    counted_in: sql.Composable | None = None
    """What `left` is counted in, where the table alone does not tell; left out: the table."""

    @property
    def events(self) -> sql.Composable:
        """How many events a stream has, as far as the library knows."""
        return self.length if self.left is None else self.left


class Layout(LibraryFeatures, ABC):
    """One library's tables in one schema, in the variant that was found.

    `__init__` sets what has no default here; the rest is overridden where a library has it.
    """

    first_version: ClassVar[int] = 1
    """The version of a stream's first event."""
    decode: Decode | None = None
    """Makes plain JSON of a payload that the library wrapped (esops.stores.payloads)."""

    # -- set by each layout

    schema: str
    version: str
    """Which versions of the library write this variant, as far as the tables tell."""
    events: sql.Identifier
    mapped: Mapped
    order: Sequence[sql.Composable]
    """The columns that make up a position, each a bigint when selected."""
    order_columns: Sequence[sql.Composable]
    """The same columns as an index has them, to be compared with numbers cast by `order_casts`."""
    order_casts: Sequence[str]
    reads: Sequence[sql.Identifier]
    """The tables that are read, with their schema."""
    sequences: Sequence[sql.Identifier]
    """The sequences that number the events."""

    by_transactions: bool = False
    """Whether positions begin with the id of a transaction, which counts in one cluster only."""
    made_up_ids: bool = False
    """Whether the ids of events are made of stream and version, and so say nothing of what is in
    them.
    """
    commands: sql.Composable | None = None
    """What holds for commands that lie in streams beside the events; None: the library has none."""
    hidden_rows: bool = False
    """Whether a stream with events may have rows that are given out to nobody."""
    shares_numbers: bool = False
    """Whether several events may be written with one number on purpose."""
    appended_by: sql.Composable | None = None
    """The transaction that appended an event, as the server has it in `xmin` of a row; None: the
    rows do not tell.
    """
    reuses_names: bool = False
    """Whether the name of an archived stream may be the name of another one that is not archived;
    each of the two has a first event of its own.
    """
    compacts: bool = False
    """Whether the library puts snapshots in the place of older events
    (esops.archive_format.snapshots).
    """

    order_indexed: bool = True
    """Whether an index gives the events in their order."""
    dated: bool = True
    """Whether the rows tell when events were recorded; if not, their payloads may."""
    naive_time: sql.Composable | None = None
    """The column of their times, where that has no time zone and is in UTC: as an index has it."""
    in_order_of_versions: bool = True
    """Whether the library gives a later event of a stream a later position."""

    # -- conditions on rows

    numbered: sql.Composable = TRUE
    """What holds for all rows whose positions are of one sequence."""

    own: sql.Composable = TRUE
    """What holds for events, as against gap fillers and commands; and for the tenant where one is
    asked for.
    """
    scope: sql.Composable = TRUE
    """What holds for all rows of the tenant that was asked for."""
    alive: sql.Composable = TRUE
    """What holds for events of streams that are not archived."""
    archived: sql.Composable = FALSE
    """Whether the stream of an event is archived."""

    # -- columns

    id_column: sql.Composable | None = None
    """The id as it is stored, where its column is a uuid with an index."""
    payloads: Sequence[sql.Composable] = ()
    """Columns of which the first that is not null holds the payload, as they are stored: a bulk
    read takes all, which spares the server a conversion; left out: as it is mapped.
    """
    stream_column: sql.Composable | None = None
    """The column of the stream's id as an index has it; left out: as it is mapped."""
    stream_kind: str = "text"
    """That column's type."""
    fields: Mapping[str, sql.Composable] = {}
    """Keys of the metadata that have a column of their own."""
    documents: Sequence[Document] = ()
    """The columns with data and metadata, whose values can be masked."""
    category: sql.Composable | None = None
    """An event's category, where its row tells it; None: its stream's name does, or the library's
    list of streams.
    """
    loose: sql.Composable | None = None
    """The column that other keys of the metadata are in; left out: as it is mapped."""

    # -- what else the library has

    tenant_column: str | None = None
    """The library's column with the tenant, by which `scope` limits the rows; None where it has no
    tenants.
    """
    tenants: bool = False
    """Whether a stream's name may stand for a stream in each of several tenants."""
    stream_table: StreamTable | None = None
    """The library's own list of streams; None where streams are found from their events only."""
    used_again: sql.Composable | None = None
    """Gives stream and tenant of the names that an archived stream and another one share; None
    where there can be none.
    """

    @abstractmethod
    def rule(self) -> SettleRule:
        """A new rule of settling; each reader has its own."""

    # -- conditions and orders

    def in_category(self, name: str) -> sql.Composable:
        """The condition for events of a category."""
        if self.category is not None:
            return sql.SQL("{} = {}").format(self.category, sql.Literal(name))
        return sql.SQL("split_part({}, '-', 1) = {}").format(self.mapped.stream, sql.Literal(name))

    def categories(self, streams: Sequence[str]) -> sql.Composable | None:
        """What gives stream, tenant, a null and a JSON array of the categories in which
        `in_category` finds a stream, from its events; None where it goes by the stream's name or
        its row.
        """
        if self.category is None:
            return None
        return sql.SQL(
            "SELECT stream, tenant, NULL, coalesce(json_agg(DISTINCT category) FILTER (WHERE "
            "category IS NOT NULL), '[]')::text FROM (SELECT {} AS stream, {} AS tenant, {} AS "
            "category FROM {} WHERE {}) AS e GROUP BY stream, tenant"
        ).format(
            self.mapped.stream,
            self.mapped.tenant,
            self.category,
            self.events,
            self.any_stream(streams),
        )

    def stream_equals(self, name: str) -> sql.Composable:
        """The condition for events of a stream, which an index answers."""
        return sql.SQL("{} = {}").format(self.mapped.stream, sql.Literal(name))

    def same_stream(self, name: sql.Composable) -> sql.Composable:
        """The condition for events of the stream whose name an expression gives as text, which an
        index answers.
        """
        column = self.stream_column or self.mapped.stream
        return sql.SQL("{} = {}::{}").format(column, name, sql.SQL(self.stream_kind))

    def same_as(self, stream: sql.Composable) -> sql.Composable:
        """The same, where the expression gives what `stream_column` has, or else the name."""
        return sql.SQL("{} = {}").format(self.stream_column or self.mapped.stream, stream)

    @property
    def payload_columns(self) -> Sequence[sql.Composable]:
        """What a bulk read asks for as the payload: one column, or several of which the first that
        is not null counts.
        """
        return self.payloads or (self.mapped.data,)

    def where(self, filter: EventFilter) -> sql.Composable:
        """The condition for the events that a filter wants."""
        conditions = [self.own]
        if not filter.archived:
            conditions.append(self.alive)
        if len(storable([filter.stream or "", filter.category or ""])) < 2:
            return FALSE
        if filter.types:
            types = sql.Literal(storable(filter.types))
            conditions.append(sql.SQL("{} = ANY({}::text[])").format(self.mapped.type, types))
        if filter.category is not None:
            conditions.append(self.in_category(filter.category))
        if filter.stream is not None:
            conditions.append(self.stream_equals(filter.stream))
        if filter.shard is not None:
            conditions.append(
                shard_predicate(self.stream_column or self.mapped.stream, *filter.shard)
            )
        if filter.tenant is not None:
            if not storable([filter.tenant]):
                return FALSE
            conditions.append(
                sql.SQL("{} = {}").format(self.mapped.tenant, sql.Literal(filter.tenant))
            )
        return sql.SQL(" AND ").join([*conditions, *self.within_times(filter)])

    def within_times(self, filter: EventFilter) -> list[sql.Composable]:
        """The conditions for the times of a filter, which an index on the column of times answers;
        none where the rows do not tell.
        """
        if not self.dated:
            return []
        ends = ((">=", filter.since), ("<", filter.before))
        column, form = self.mapped.recorded_at, "{} {} {}::timestamptz"
        if self.naive_time is not None:
            column, form = self.naive_time, "{} {} ({}::timestamptz AT TIME ZONE 'utc')"
        return [
            sql.SQL(form).format(column, sql.SQL(sign), sql.Literal(at.isoformat()))
            for sign, at in ends
            if at is not None
        ]

    def field(self, key: str) -> sql.Composable:
        """A value in the metadata, as an index would have it."""
        own = self.fields.get(key)
        if own is not None:
            return own
        # Cast as an index would have to be, since an index on an expression answers only the same
        # one.
        return sql.SQL("({})::jsonb ->> {}").format(
            self.loose or self.mapped.metadata, sql.Literal(key)
        )

    def any_stream(self, names: Sequence[str]) -> sql.Composable:
        """The condition for events of any of these streams, which an index answers."""
        column = self.stream_column or self.mapped.stream
        return sql.SQL("{} = ANY({}::{}[])").format(
            column, sql.Literal(storable(names)), sql.SQL(self.stream_kind)
        )

    def beyond(self, position: Position, strictly: bool = True) -> sql.Composable:
        """The condition for what lies after a position."""
        return self._compare(">" if strictly else ">=", position)

    def up_to(self, position: Position) -> sql.Composable:
        """The condition for what lies at or before a position."""
        return self._compare("<=", position)

    def below(self, position: Position) -> sql.Composable:
        """The condition for what lies before a position."""
        return self._compare("<", position)

    @property
    def descending(self) -> sql.Composable:
        """What to order by, the newest first."""
        return sql.SQL(", ").join(sql.SQL("{} DESC").format(each) for each in self.order_columns)

    @property
    def ascending(self) -> sql.Composable:
        """What to order by."""
        return sql.SQL(", ").join(self.order_columns)

    def literal(self, position: Position | None) -> str:
        """A position as values for SQL; None: the one before all events."""
        return self._numbers(
            Position([0] * len(self.order)) if position is None else position
        ).as_string(None)

    def _numbers(self, position: Position) -> sql.Composed:
        casts = zip(position, self.order_casts, strict=True)
        return sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Literal(str(number)), sql.SQL(cast))
            for number, cast in casts
        )

    def _compare(self, operator: str, position: Position) -> sql.Composable:
        # A position of another store: SQL would compare rows of different widths, or only a part.
        if len(position) != len(self.order):
            raise ValueError(f"{position} is not a position of layout {self.name}")
        left, right = sql.SQL(", ").join(self.order_columns), self._numbers(position)
        form = sql.SQL("{} {} {}" if len(position) == 1 else "({}) {} ({})")
        return form.format(left, sql.SQL(operator), right)
