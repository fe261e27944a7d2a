"""What a table layout is: a mapping from a library's tables to events, and the little SQL that
differs.

A layout's file finds its tables in the catalogue, names the expression for each part of an event,
its order and its rule
of settling, and writes the statements for appending and for the application's checkpoints. All
reading is done elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import psycopg
from psycopg import sql

from esops.errors import Refused, Unavailable
from esops.events import Checkpoint, EventFilter, NewEvent, Position
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.sharding import shard_predicate
from esops.stores.base import WrongExpectedVersion
from esops.stores.capabilities import missing
from esops.stores.parts import Concern
from esops.stores.postgres.bulk import Decode
from esops.stores.postgres.layouts.archiving import LayoutArchiving
from esops.stores.postgres.missing import NumbersInOrder
from esops.stores.postgres.settle import SequenceLockers, SettleRule

TRUE = sql.SQL("TRUE")


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
    tenant: sql.Composable


@dataclass(frozen=True)
class StreamTable:
    """A library's own list of its streams: expressions over one table, a row a stream."""

    table: sql.Identifier
    stream: sql.Composable
    tenant: sql.Composable
    category: sql.Composable
    length: sql.Composable
    alive: sql.Composable
    in_category: Callable[[str], sql.Composable]
    note: str
    """What its lengths mean."""
    scope: sql.Composable = field(default_factory=lambda: TRUE)


HandOver = Callable[[psycopg.Connection, str, Position], None]
"""Give a processor of the application's a checkpoint, in the transaction that the connection is in.
Raises Refused.
"""


class Append(Protocol):
    """Append events to a stream inside the transaction that the connection is in."""

    def __call__(
        self,
        connection: psycopg.Connection,
        stream: str,
        events: Sequence[NewEvent],
        expected_version: int | None,
    ) -> Position:
        """Return the last event's position; raise WrongExpectedVersion."""
        ...


def same_uuid(column: str, text: str) -> sql.Composable:
    """The condition that a uuid column has a value given as text; a text that is no uuid names
    nothing.
    """
    try:
        return sql.SQL("{} = {}::uuid").format(sql.Identifier(column), sql.Literal(str(UUID(text))))
    except ValueError:
        return sql.SQL("FALSE")


def category_in(name: sql.Composable) -> sql.Composable:
    """The category in a stream's name: what stands before the first `-`, and nothing where the
    whole is a UUID.
    """
    # The length first: it is told without a look at the text, and few names have that of a UUID.
    return sql.SQL(
        "CASE WHEN octet_length({0}) = 36 AND {0} LIKE '________-____-____-____-____________' "
        "THEN NULL "
        "ELSE split_part({0}, '-', 1) END"
    ).format(name)


def expect(stream: str, version: int, expected_version: int | None) -> None:
    """Raises WrongExpectedVersion where a stream is not at the version that was expected."""
    if expected_version is not None and version != expected_version:
        raise WrongExpectedVersion(
            f"stream {stream!r} is at version {version}, not {expected_version}"
        )


def insert_each(
    connection: psycopg.Connection,
    statement: sql.Composed,
    rows: Iterable[Sequence[Any] | Mapping[str, Any]],
) -> Position:
    """Insert rows one after the other, so that their numbers are in their order; the position that
    the last one RETURNs.
    """
    last: tuple[int, ...] = (0,)
    for row in rows:
        written = connection.execute(statement, row).fetchone()
        assert written is not None
        last = written
    return Position(last)


class AppendBesideStreamRow:
    """Appending where each stream has a row of its own: the row is made or locked and checked,
    events inserted, the row moved on.

    The statements take `stream`; `insert` also `version`, `id`, `type`, `data` and `metadata` as
    text, and RETURNs the position;
    `move` also `version`. `lock` gives the stream's version and whether it is archived.
    """

    def __init__(
        self, *, make: sql.Composed, lock: sql.Composed, insert: sql.Composed, move: sql.Composed
    ) -> None:
        """Take the four statements."""
        self._make, self._lock, self._insert, self._move = make, lock, insert, move

    def __call__(
        self,
        connection: psycopg.Connection,
        stream: str,
        events: Sequence[NewEvent],
        expected_version: int | None,
    ) -> Position:
        """Append; raises Refused for an archived stream."""
        known = {"stream": stream}
        connection.execute(self._make, known)
        row = connection.execute(self._lock, known).fetchone()
        assert row is not None
        version, archived = row
        if archived:
            raise Refused(f"stream {stream!r} is archived and takes no more events")
        expect(stream, version, expected_version)
        rows = (
            {
                **known,
                "version": number,
                "id": event.id,
                "type": event.type,
                "data": event.data.decode(),
                "metadata": event.metadata.decode(),
            }
            for number, event in enumerate(events, version + 1)
        )
        position = insert_each(connection, self._insert, rows)
        connection.execute(self._move, {**known, "version": version + len(events)})
        return position


def numbered(
    connection: psycopg.Connection,
    table: Table,
    number: str,
    *,
    name: str,
    version: str,
    mapped: Mapped,
    append: Append,
    sequence: tuple[str, str, int, int] | None = None,
    watched: timedelta | None = None,
    **more: Any,
) -> Layout:
    """A layout of one table in the order of one column, which a sequence fills.

    `watched`: holes are watched, and taken for dead after so long, as where numbers may be drawn
    outside of the writers'
    transactions; so they are where the sequence gives out numbers ahead. Raises Unavailable where
    no sequence is behind the column.
    """
    found = sequence or catalog.sequence_behind(connection, table, number)
    if found is None:
        raise Unavailable(
            f"no sequence is behind {table.schema}.{table.name}.{number}, so that nobody can say "
            "what is settled",
            hint="Is it a copy without it? A table of your own can name its `sequence`.",
        )
    schema, sequence_name, oid, cache = found
    identifier = sql.Identifier(schema, sequence_name)
    column = sql.Identifier(number)
    events = sql.Identifier(table.schema, table.name)

    def rule() -> SettleRule:
        lockers = SequenceLockers(identifier, oid)
        threshold, tree = (
            watched or timedelta(seconds=3),
            partial(catalog.relation_tree, oid=table.oid),
        )
        return NumbersInOrder(
            lockers, events, column, tree, threshold, TRUE, watched=watched is not None or cache > 1
        )

    stream = mapped.stream
    parts: dict[str, Any] = {
        "own": TRUE,
        "alive": TRUE,
        "archived": sql.SQL("FALSE"),
        "in_category": lambda value: sql.SQL("split_part({}, '-', 1) = {}").format(
            stream, sql.Literal(value)
        ),
        "stream_equals": lambda value: sql.SQL("{} = {}").format(stream, sql.Literal(value)),
        "checkpoints": lambda _: [],
    }
    return Layout(
        name=name,
        schema=table.schema,
        version=version,
        events=events,
        mapped=mapped,
        order=(column,),
        order_columns=(column,),
        order_casts=("bigint",),
        rule=rule,
        append=append,
        reads=(events,),
        sequences=(identifier,),
        **{**parts, **more},
    )


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
    """The same columns as an index has them, to be compared with a position's numbers by
    `order_cast`.
    """
    order_casts: tuple[str, ...]
    rule: Callable[[], SettleRule]
    """Makes the rule of settling; each reader has its own."""
    own: sql.Composable
    """What holds for events, as against gap fillers and commands; and for the tenant where one is
    asked for.
    """
    alive: sql.Composable
    """What holds for events of streams that are not archived."""
    in_category: Callable[[str], sql.Composable]
    stream_equals: Callable[[str], sql.Composable]
    archived: sql.Composable
    append: Append
    checkpoints: Callable[[psycopg.Connection], list[Checkpoint]]
    reads: tuple[sql.Identifier, ...] = ()
    """The tables that are read, with their schema."""
    sequences: tuple[sql.Identifier, ...] = ()
    """The sequences that number the events."""
    tenants: bool = False
    id_equals: Callable[[str], sql.Composable] | None = None
    """The condition that finds an event by its id through an index; None where there is none."""
    id_column: sql.Composable | None = None
    """The id as it is stored, where its column is a uuid."""
    payloads: tuple[sql.Composable, ...] = ()
    """Columns of which the first that is not null holds the payload, as they are stored: a bulk
    read takes all, and spares the server a
    conversion; left out: as it is mapped."""
    appends: bool = True
    """Whether esops knows how events are appended."""
    first_version: int = 1
    """The version of a stream's first event."""
    decode: Decode | None = None
    """Makes plain JSON of a payload that the library wrapped, and tells the time that is inside
    (microseconds since 1970).
    """
    stream_column: sql.Composable | None = None
    """The column of the stream's id as an index has it; left out: as it is mapped."""
    stream_kind: str = "text"
    """That column's type."""
    scope: sql.Composable = field(default_factory=lambda: TRUE)
    """What holds for all rows of the tenant that was asked for."""
    archiving: LayoutArchiving | None = None
    """How streams leave and come back; None where events can only be copied out."""
    stream_table: StreamTable | None = None
    """The library's own list of streams; None where streams are found from their events alone."""
    fields: Mapping[str, sql.Composable] = field(default_factory=dict)
    """Keys of the metadata that have a column of their own."""
    loose: sql.Composable | None = None
    """The column that other keys of the metadata are in; left out: as it is mapped."""
    detail: Mapping[str, str] = field(default_factory=dict)
    hand_over: HandOver | None = None
    warnings: Callable[[psycopg.Connection], list[str]] = lambda _: []
    """What makes reading wrong; a rebuild is refused while there is any."""
    concerns: Callable[[psycopg.Connection], list[Concern]] = lambda _: []
    """What an operator should look at in the library's own bookkeeping."""

    def set_checkpoint(self, connection: psycopg.Connection, name: str, position: Position) -> None:
        """Set the checkpoint of a processor of the application's; see SqlAccess."""
        if self.hand_over is None:
            raise missing(self, "checkpoints to set")
        self.hand_over(connection, name, position)

    @property
    def payload_columns(self) -> tuple[sql.Composable, ...]:
        """What a bulk read asks for as the payload: one column, or several of which the first that
        is not null counts.
        """
        return self.payloads or (self.mapped.data,)

    def where(self, filter: EventFilter) -> sql.Composable:
        """The condition for the events that a filter wants."""
        conditions = [self.own]
        if not filter.archived:
            conditions.append(self.alive)
        if filter.types:
            conditions.append(
                sql.SQL("{} = ANY({})").format(self.mapped.type, sql.Literal(list(filter.types)))
            )
        if filter.category is not None:
            conditions.append(self.in_category(filter.category))
        if filter.stream is not None:
            conditions.append(self.stream_equals(filter.stream))
        if filter.shard is not None:
            conditions.append(
                shard_predicate(self.stream_column or self.mapped.stream, *filter.shard)
            )
        return sql.SQL(" AND ").join(conditions)

    def field(self, key: str) -> sql.Composable:
        """A value in the metadata, as an index would have it."""
        own = self.fields.get(key)
        if own is not None:
            return own
        return sql.SQL("({})::jsonb ->> {}").format(
            self.loose or self.mapped.metadata, sql.Literal(key)
        )

    def any_stream(self, names: Sequence[str]) -> sql.Composable:
        """The condition for events of any of these streams, which an index answers."""
        column = self.stream_column or self.mapped.stream
        return sql.SQL("{} = ANY({}::{}[])").format(
            column, sql.Literal(list(names)), sql.SQL(self.stream_kind)
        )

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

    def literal(self, position: Position | None) -> str:
        """A position as values for SQL; None: the one before all events."""
        return self._numbers(
            Position([0] * len(self.order)) if position is None else position
        ).as_string(None)

    def _numbers(self, position: Position) -> sql.Composed:
        casts = zip(position, self.order_casts, strict=True)
        return sql.SQL(", ").join(
            sql.SQL("{}::" + cast).format(sql.Literal(str(number))) for number, cast in casts
        )

    def _compare(self, operator: str, position: Position) -> sql.Composable:
        if len(position) != len(self.order):
            raise ValueError(f"{position} is not a position of layout {self.name}")
        left, right = sql.SQL(", ").join(self.order_columns), self._numbers(position)
        if len(position) == 1:
            return sql.SQL("{} " + operator + " {}").format(left, right)
        return sql.SQL("({}) " + operator + " ({})").format(left, right)
