"""How a layout's streams leave the hot store and come back: the columns that events are kept in,
and the statements.

All statements take arrays, so that one serves many streams: `stream` and `tenant`, and where ranges
of a stream's versions go, also `low` and `high`. A library's own functions are called where it has
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from psycopg import sql

from esops.postgres.catalog import Table

STREAMS = sql.SQL("unnest(%(stream)s::text[], %(tenant)s::text[]) AS k(stream, tenant)")
RANGES = sql.SQL(
    "unnest(%(stream)s::text[], %(tenant)s::text[], %(low)s::bigint[], %(high)s::bigint[]) AS "
    "k(stream, tenant, low, high)"
)


@dataclass(frozen=True)
class SqlHeads:
    """How far streams that continue can be shortened; the rows go as those of whole streams do."""

    limits: sql.Composed
    """Gives stream, tenant and the version up to which the head of the stream can go, where the
    library loads what stays.
    """
    what: str = "deletes the first events of streams that continue; the streams' own rows stay"
    until_only: bool = False
    at_once: bool = True
    """See HeadRemoval."""


@dataclass(frozen=True)
class SqlRemoval:
    """What is executed to remove streams."""

    deletes: bool = False
    """Whether events are deleted, in ranges; where not, `end` does all of it."""
    end: tuple[sql.Composed, ...] = ()
    """Executed for the streams whose last event goes, after it, in the same transaction."""
    keeps: int = 0
    """How many of a stream's last events have to stay, so that its versions do not begin again."""
    what: str = ""
    """What it does, for the plan."""
    reuse: Literal["", "begins", "continues", "refused"] = ""
    """See RemovalStrategy."""
    again: str = ""
    """See RemovalStrategy."""
    continuing: SqlRemoval | None = None
    """See RemovalStrategy."""
    marks: tuple[str, ...] = ("is_archived",)
    """The columns that `end` changes."""
    never: str = ""
    """A pattern of streams that are not taken."""
    heads: SqlHeads | None = None
    """How far it shortens streams that continue; None where it does not."""
    only_whole: str = ""
    """Why it does not."""


@dataclass(frozen=True)
class LayoutArchiving:
    """What archiving needs to know of a layout beside how it is read."""

    columns: Mapping[str, str]
    """The column that holds a field of an event as it is: stream, version, data, recorded_at and,
    where there are, id, type, metadata.
    """
    position: tuple[str, ...]
    """The columns of a position."""
    guard: sql.Composed
    """Gives stream, tenant, last version and whether it is archived, of the streams that are there
    and that no writer has locked.
    """
    of_stream: sql.Composed
    """The condition for the events `e` of a stream `k` that are not archived."""
    of_any: sql.Composed | None = None
    """The same with those that are archived, where streams can be archived in place."""
    of_row: sql.Composed | None = None
    """The condition for the own rows `s` of a stream `k`, archived or not."""
    twice: sql.Composed | None = None
    """Gives stream and tenant of those streams whose names have an archived row and another, where
    the tables take both.
    """
    streams_first: bool = True
    """Whether the library's writers lock a stream's row before they insert its events. Where not,
    only a foreign key makes an insert lock that row.
    """
    removals: Mapping[str, SqlRemoval] = field(default_factory=dict)
    """The removal strategies by name."""
    not_here: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Strategies that the library has and these tables do not: why, and what to do about it."""
    streams: tuple[sql.Identifier, ...] = ()
    """The tables of streams that archiving changes, beside the events."""
    beside: tuple[str, ...] = ()
    """Columns that are neither an event's nor to be kept, such as the mark that archiving itself
    sets.
    """
    extra: Mapping[str, sql.Composable] = field(default_factory=dict)
    """What else to keep, by name, as text, beside all columns that are not named here."""
    fill: Callable[[dict[str, Any]], None] = lambda _: None
    """Changes the values by column of an event that comes back, where `extra` asks for it."""
    renewed: Mapping[str, sql.Composable] = field(default_factory=dict)
    """What else gets another value, beside the number, where an event gets a new position."""
    advance: tuple[sql.Composed, ...] = ()
    """Brings streams' own rows up to the events that they have now, where a row says otherwise."""
    revive: tuple[sql.Composed, ...] = ()
    """Makes streams take events again; executed before their events come back."""
    row: sql.Composed | None = None
    """Gives stream, tenant and the stream's own row as JSON text; where streams and tenants cross,
    those of other pairs, too. No join: the
    planner would read the table from its beginning for each group of streams."""

    def kept_as_text(self, table: Table) -> dict[str, sql.Composable]:
        """The extra columns of an event, by name."""
        known = {*self.columns.values(), *self.position, *self.beside}
        others = {
            column.name: as_text(sql.Identifier(column.name), column.type)
            for column in table.columns
        }
        return {
            # What a later version of the library or the application added is kept, too, without
            # being known.
            **{name: value for name, value in others.items() if name not in known},
            **self.extra,
        }


def as_text(value: sql.Composable, kind: str) -> sql.Composed:
    """A value as Postgres prints it, compared byte by byte whatever the column's collation. A cast
    would cut the blanks off at the end of a bpchar.
    """
    form = "textin(bpcharout({}))" if kind == "bpchar" else "({})::text"
    return sql.SQL(form + ' COLLATE "C"').format(value)


_NEWEST = sql.SQL(
    "CROSS JOIN LATERAL (SELECT {version} AS version FROM {table} WHERE {stream} = "
    "k.stream::{cast} ORDER BY {version} DESC LIMIT 1) AS {alias}"
)
"""The last row that a table has of each of the streams."""


def numbered_archiving(
    events: sql.Identifier,
    columns: Mapping[str, str],
    number: str,
    cast: str = "text",
    never: str = "",
    *,
    snapshots: sql.Identifier | None = None,
    only_whole: str = "",
) -> LayoutArchiving:
    """The archiving of a layout of one table: rows are deleted but for the last, which keeps a
    stream's versions going.

    No row is locked: an append that is under way continues from the last event, which stays.
    message-db's writers take an advisory lock of the category (acquire_lock in write-message.sql),
    and those of eventsourcing lock the table (postgres.py), before they read the last version.

    `snapshots` is a table of the same columns without whose rows no stream is shortened;
    `only_whole` says why none is at all.
    """
    names = {
        "events": events,
        "stream": sql.Identifier(columns["stream"]),
        "version": sql.Identifier(columns["version"]),
        "streams": STREAMS,
        "ranges": RANGES,
        "cast": sql.SQL(cast),
    }
    of_events = _NEWEST.format(**names, table=events, alias=sql.Identifier("e"))
    of_snapshots: sql.Composable = sql.SQL("")
    limit, shortened = sql.SQL("e.version - 1"), "deletes the first events of streams that continue"
    if snapshots is not None:
        of_snapshots = _NEWEST.format(**names, table=snapshots, alias=sql.Identifier("s"))
        limit = sql.SQL("least(e.version - 1, s.version)")
        shortened += ", at most those that a snapshot stands for, at most `batch` at a time"
    limits = sql.SQL("SELECT k.stream, k.tenant, {} FROM {} {} {}").format(
        limit, STREAMS, of_events, of_snapshots
    )
    return LayoutArchiving(
        columns=columns,
        position=(number,),
        guard=sql.SQL("SELECT k.stream, k.tenant, e.version, FALSE FROM {} {}").format(
            STREAMS, of_events
        ),
        of_stream=sql.SQL("e.{stream} = k.stream::{cast}").format(**names),
        removals={
            "delete": SqlRemoval(
                deletes=True,
                keeps=1,
                reuse="continues",
                never=never,
                what="deletes events; the last one of each stream stays, so that its versions "
                "continue",
                heads=None
                if only_whole
                else SqlHeads(limits, what=shortened, at_once=snapshots is None),
                only_whole=only_whole,
            )
        },
    )
