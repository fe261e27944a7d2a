"""Search for events by their ids, or by ids in their metadata: the condition, and whether an index
answers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import orjson
import psycopg
from psycopg import sql
from psycopg.types.string import TextLoader

from esops.causality import (
    CAUSATION_KEYS,
    CAUSATION_STREAM,
    CORRELATION_KEYS,
    TRACE_KEYS,
    TRACEPARENT,
    one_writing,
)
from esops.errors import Refused
from esops.escaping import visible
from esops.events import Position, RecordedEvent
from esops.postgres import catalog
from esops.stores.parts import SearchResult
from esops.stores.postgres.layouts.base import TRUE, Layout
from esops.stores.postgres.layouts.expressions import same_uuid, storable
from esops.stores.postgres.light import Few
from esops.stores.postgres.plans import scans_all
from esops.stores.postgres.reading import PagedReader
from esops.stores.searching import IdSearch, SoughtIds

_NEWEST, _PLACES, _EACH = 1_000, 32, 50
"""How many of the newest events, at how many places of the log, and how many events at each, are
asked which keys their metadata has: writers, and what they write, change over the years.
"""
_Asked = tuple[sql.Composable, sql.Composable]
"""A field of an event, and the condition that it has to meet."""
_BEGINNING = len("00-") + 32 + len("-")
"""The length of a W3C traceparent's beginning, up to its span."""


class IndexedSearch(IdSearch):
    """`store.search` of a Postgres store."""

    def __init__(
        self,
        layout: Layout,
        control: Callable[[], AbstractContextManager[psycopg.Connection]],
        reader: PagedReader,
    ) -> None:
        """`control` gives the connection for short questions; `reader` reads what is found."""
        self._layout, self._control, self._reader = layout, control, reader

    def find_ids(self, sought: SoughtIds) -> SearchResult:
        """Find events by an index where there is one, otherwise by a scan of the table."""
        with self._control() as connection:
            search = _IdSearch(connection, self._layout, sought)
            scans = search.scans()
        conditions = (self._layout.own, search.condition)
        statement = self._reader.select(*conditions, self._layout.ascending)
        # An id has few events, and the events of a correlation are seldom many.
        pages = self._reader.statements(iter([Few(statement)]))
        events: Iterator[RecordedEvent] = (event for page in pages for event in page)
        if self._layout.made_up_ids:
            events = _of_their_own(events)
        if scans is None:
            return SearchResult(events, f"an index on {search.what}")
        table = self._layout.events.as_string(None)
        how = f"a scan of {table} for {search.what}"
        return SearchResult(events, how, scans, search.index())

    def not_events(self, ids: Sequence[str]) -> set[str]:
        """The rows of the same table that are no events, found as an event of this id would be."""
        layout = self._layout
        if not layout.hidden_rows or not ids:
            return set()
        with self._control() as connection:
            search = _IdSearch(connection, layout, SoughtIds("event_id", tuple(ids), ()))
            statement = sql.SQL("SELECT {}::text FROM {} WHERE {} AND NOT ({}) AND {}").format(
                layout.mapped.id, layout.events, layout.scope, layout.own, search.condition
            )
            return {one_writing(each) for (each,) in connection.execute(statement)}


def _of_their_own(events: Iterable[RecordedEvent]) -> Iterator[RecordedEvent]:
    """The events. Raises Refused where two have one id, which is made of stream and version."""
    seen: dict[str, Position] = {}
    for event in events:
        position = seen.setdefault(event.id, event.position)
        if position != event.position:
            raise Refused(
                f"stream {visible(event.stream)} has version {event.version} more than once, at "
                f"positions {position} and {event.position}, so both events have the id {event.id}",
                hint="esops doctor says what to do.",
            )
        yield event


class _IdSearch:
    """One search: its condition, and how the server would answer it."""

    def __init__(
        self,
        connection: psycopg.Connection,
        layout: Layout,
        sought: SoughtIds,
    ) -> None:
        """Where several keys of the metadata are possible, this asks which ones are in use."""
        self._connection, self._layout = connection, layout
        if sought.kind == "event_id":
            self.what = "its id"
            self._asked = [self._by_id(sought)]
        elif sought.kind == "trace_id":
            self._asked = self._by_trace(sought)
        else:
            wanted = sought.keys or self._in_use(
                CORRELATION_KEYS
                if sought.kind == "correlation_id"
                else (*CAUSATION_KEYS, CAUSATION_STREAM)
            )
            self.what = ", ".join(wanted)
            fields = [layout.field(key) for key in wanted]
            self._asked = [(field, _is_one_of(field, sought.values)) for field in fields]
        self.condition = _any(condition for _, condition in self._asked)

    def _by_id(self, sought: SoughtIds) -> _Asked:
        column = self._layout.id_column
        if column is not None:
            return column, _any(same_uuid(column, value) for value in sought.asked)
        text = self._layout.mapped.id
        return text, _is_one_of(text, sought.values)

    def _by_trace(self, sought: SoughtIds) -> list[_Asked]:
        causes = (*(sought.keys or CAUSATION_KEYS), TRACEPARENT)
        keys = (*CORRELATION_KEYS, *TRACE_KEYS, *causes)
        # A table can have columns for some of them, and the others in its metadata.
        seen = self._seen()
        wanted = [key for key in keys if key in self._layout.fields or key in seen] or list(keys)
        self.what = ", ".join(wanted)
        same = [self._layout.field(key) for key in wanted if key not in causes]
        # A traceparent begins with its version, of which there is one, and the trace id. An index
        # on that beginning answers for any number of traces.
        begun = [
            sql.SQL("left({}, {})").format(self._layout.field(key), sql.Literal(_BEGINNING))
            for key in wanted
            if key in causes
        ]
        beginnings = [f"00-{value}-" for value in sought.asked]
        return [
            *((field, _is_one_of(field, sought.values)) for field in same),
            *((field, _is_one_of(field, beginnings)) for field in begun),
        ]

    def _in_use(self, keys: Sequence[str]) -> list[str]:
        """Of several possible keys, those that have a column of their own; or else those that the
        newest events have; or else all.
        """
        own = [key for key in keys if key in self._layout.fields]
        if own:
            return own
        seen = self._seen()
        return [key for key in keys if key in seen] or list(keys)

    def _seen(self) -> set[str]:
        """The keys that the metadata has, of the newest events and of some all over the log."""
        layout = self._layout
        column = layout.order_columns[0]
        descending = sql.SQL(", ").join(sql.SQL("{} DESC").format(c) for c in layout.order_columns)
        ends = self._connection.execute(
            sql.SQL(
                "(SELECT {0} FROM {1} ORDER BY {2} LIMIT 1) UNION ALL "
                "(SELECT {0} FROM {1} ORDER BY {3} LIMIT 1)"
            ).format(layout.order[0], layout.events, layout.ascending, descending)
        ).fetchall()
        # An event without a position is no place; doctor has a finding of its own for it.
        known = [place for (place,) in ends if place is not None]
        if not known:
            return set()
        low, high = known[0], known[-1]
        places = sorted({low + (high - low) * n // _PLACES for n in range(_PLACES)})
        statements = [self._some(TRUE, descending, _NEWEST)]
        statements += [
            self._some(
                sql.SQL("{} >= {}::{}").format(
                    column, sql.Literal(str(place)), sql.SQL(layout.order_casts[0])
                ),
                layout.ascending,
                _EACH,
            )
            for place in places
        ]
        seen: set[str] = set()
        with self._connection.cursor() as cursor:
            for kind in ("json", "jsonb"):  # orjson decodes in a fifth of the time
                cursor.adapters.register_loader(kind, TextLoader)
            for (metadata,) in cursor.execute(sql.SQL(" UNION ALL ").join(statements)):
                seen |= _keys_of(metadata)
        return seen

    def _some(self, where: sql.Composable, order: sql.Composable, limit: int) -> sql.Composable:
        layout = self._layout
        return sql.SQL("(SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT {})").format(
            layout.mapped.metadata, layout.events, where, order, sql.Literal(limit)
        )

    def scans(self) -> int | None:
        """About how many events a scan would read; None where an index answers the question."""
        if not scans_all(self._connection, self._layout.events, self.condition):
            return None
        table = catalog.find_table(self._connection, *self._layout.events._obj)  # noqa: SLF001 - psycopg gives no other way to ask
        assert table is not None
        tree = catalog.relation_tree(self._connection, table.oid)
        rows = self._connection.execute(
            "SELECT sum(greatest(reltuples, 0)) FROM pg_class WHERE oid = ANY(%s)", (list(tree),)
        ).fetchone()
        estimate = int(rows[0]) if rows and rows[0] else 0
        return estimate or self._count()

    def _count(self) -> int:
        """The number of events, counted: for a table that was never analysed."""
        row = self._connection.execute(
            sql.SQL("SELECT count(*) FROM {}").format(self._layout.events)
        ).fetchone()
        assert row is not None
        return int(row[0])

    def index(self) -> str:
        """The statements that would create the missing indexes, a line each."""
        events = self._layout.events.as_string(None)
        missing = [
            field
            for field, condition in self._asked
            if scans_all(self._connection, self._layout.events, condition)
        ]
        return "\n".join(
            f"CREATE INDEX CONCURRENTLY ON {table} (({field.as_string(None)}));"
            for table in catalog.row_tables(self._connection, events)
            for field in missing
        )


def _any(conditions: Iterable[sql.Composable]) -> sql.Composable:
    return sql.SQL("({})").format(sql.SQL(" OR ").join(conditions))


def _is_one_of(field: sql.Composable, values: Sequence[str]) -> sql.Composable:
    return sql.SQL("{} = ANY({}::text[])").format(field, sql.Literal(storable(values)))


def _keys_of(metadata: Any) -> set[str]:
    if isinstance(metadata, bytes | str):
        try:
            metadata = orjson.loads(metadata)
        except orjson.JSONDecodeError:
            return set()
    return set(metadata) if isinstance(metadata, dict) else set()
