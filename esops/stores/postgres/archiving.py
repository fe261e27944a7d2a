"""Streams out of Postgres and back: exported as the archive's batches, removed in small
transactions, restored row by row.

What a layout's `LayoutArchiving` says is executed here. No statement waits long for a lock, and a
stream that a writer works on is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Literal

import psycopg
import pyarrow as pa
from psycopg import sql

from esops.archive_format import schema as archived
from esops.archive_format.schema import StreamRow
from esops.errors import Refused, UsageError
from esops.events import StreamKey, StreamRef
from esops.postgres import catalog
from esops.postgres.connection import connect, translated
from esops.stores.ahead import ahead
from esops.stores.archiving import (
    ArchivedGroup,
    HeadRemoval,
    RemovalStrategy,
    Removed,
    Renumbered,
    VersionRange,
)
from esops.stores.postgres import removing
from esops.stores.postgres.archived_rows import WritableTable
from esops.stores.postgres.bulk import BulkReader
from esops.stores.postgres.comparing import Comparison, array_of, shape_of
from esops.stores.postgres.exporting import as_archived, export_statement, groups_of
from esops.stores.postgres.insert_triggers import refuse_rules
from esops.stores.postgres.layouts.archiving import LayoutArchiving, SqlRemoval
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.light import sized
from esops.stores.postgres.obstacles import Obstacles
from esops.stores.postgres.restorer import StreamRestorer
from esops.stores.postgres.restoring import table_of
from esops.stores.postgres.side_effects import refuse_side_effects
from esops.stores.postgres.trial import Trial

_CONTINUING = ", continuing"
"""Ends the name of a strategy after which names continue."""
_BY_INDEX = "SET enable_seqscan = off"
"""Each group of streams is a statement: where the planner scanned the table for each, a run would
take the square of its size. Between an index's order and a bitmap it may choose.
"""


class StreamArchiver:
    """Archiving of a Postgres store: exports, removes and restores the streams of one layout."""

    def __init__(
        self,
        layout: Layout,
        dsn: str,
        control: Callable[[], AbstractContextManager[psycopg.Connection]],
    ) -> None:
        """`control` gives the connection for short questions."""
        self._layout, self._dsn, self._control = layout, dsn, control
        self._rules = layout.archiving
        """None where events can only be copied into an archive."""
        self._bulk = BulkReader(dsn, setting=_BY_INDEX)
        self._table: catalog.Table | None = None
        self._compared: tuple[str, Comparison] | None = None
        """For a table of that shape."""

    @property
    def removals(self) -> Sequence[str]:
        """What the layout's rules know in the variant that was found."""
        return sorted(self._rules.removals) if self._rules is not None else ()

    @property
    def restores(self) -> Literal["", "anywhere"]:
        """Wherever the layout's tables are, since rows keep all that they were."""
        return "anywhere" if self._rules is not None else ""

    def close(self) -> None:
        """Close the connection for exports."""
        self._bulk.close()

    # -- export

    def extra_columns(self) -> list[str]:
        """The columns of the events' table that are not part of every event."""
        with self._control() as connection:
            return sorted(self._extra(connection))

    def _extra(self, connection: psycopg.Connection) -> Mapping[str, sql.Composable]:
        table = self._events_table(connection)
        return self._rules.kept_as_text(table) if self._rules is not None else {}

    def _events_table(self, connection: psycopg.Connection) -> catalog.Table:
        if self._table is None:
            self._table = table_of(connection, self._layout.events)
        return self._table

    def export(
        self, streams: Iterable[StreamRef], columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """All events of the streams, also those that the store does not give out, by stream and
        version, in groups of streams that are a statement and a snapshot each.
        """
        with self._control() as connection:
            extra = self._extra(connection)
        names = sorted(extra) if columns is None else list(columns)
        if missing := [name for name in names if name not in extra]:
            raise Refused(
                f"the archive has a column {missing[0]!r}, and the store's table has lost it"
            )
        schema = archived.schema_with(names)
        groups = map(self._checked, groups_of(streams))
        statements = (
            sized(
                sum(each.events for each in group),
                export_statement(self._layout, group, [extra[name] for name in names]),
            )
            for group in groups
        )
        # A statement names thousands of streams: while the server works at one, the next is
        # written.
        for batch in self._bulk.read(ahead(statements, 1, "esops-statements")):
            if batch.num_rows:
                yield as_archived(self._layout, batch, schema)

    def _checked(self, group: list[StreamRef]) -> list[StreamRef]:
        """The same group. Raises Refused where an archive could not tell its events apart."""
        with self._control() as connection:
            self._layout.check_versions(connection, [each.stream for each in group])
        return group

    def stream_rows(self, streams: Sequence[StreamKey]) -> Mapping[tuple[str, str], StreamRow]:
        """From the layout's table of streams, or from its events where they have the category."""
        of_events = self._layout.categories([each.stream for each in streams])
        of_rows = None if self._rules is None else self._rules.row
        if of_rows is None and of_events is None:
            return {}
        names, tenants = zip(*streams, strict=True)
        keys = {"stream": array_of(names), "tenant": array_of(tenants)}
        with self._control() as connection:
            # A name may hold a percent sign, which would be taken for a parameter's.
            asked = (of_rows, keys) if of_rows is not None else (of_events, None)
            found = connection.execute(*asked).fetchall()
        return {row[:2]: StreamRow._make(row[2:]) for row in found}

    # -- removal

    def removal_strategy(self, removal: str) -> RemovalStrategy:
        """See Archiving. Raises Refused where rows of other tables would go with the events."""
        rules = self._rules
        if rules is None or removal not in rules.removals:
            why, remedy = (rules and rules.not_here.get(removal)) or ("", "")
            raise UsageError(
                f'layout {self._layout.name} in this variant does not support remove = "{removal}"'
                + (f": {why}" if why else ""),
                hint=f"{remedy} " * bool(remedy)
                + f"It supports: {', '.join(['keep', *self.removals])}.",
            )
        return self._strategy(removal, rules, rules.removals[removal])

    def _strategy(self, name: str, rules: LayoutArchiving, how: SqlRemoval) -> RemovalStrategy:
        with self._control() as connection:
            refuse_side_effects(connection, rules, how, self._layout.events)
            if how.deletes:
                for table in (self._layout.events, *rules.streams):
                    refuse_rules(connection, table_of(connection, table))
            compared, columns = self._comparison(connection), self._all_columns(connection)
        taken = "delete_equal" if how.deletes else "lock_equal"
        taking = compared.statement(taken, compared.whole(columns))
        statements = [each.as_string(None) for each in (rules.guard, taking, *how.end)]
        return RemovalStrategy(
            name,
            how.keeps,
            whole=not how.deletes,
            heads=_heads(how, statements[1]),
            only_whole=how.only_whole,
            never=how.never,
            what=how.what,
            statements=statements,
            reuse=how.reuse,
            again=how.again,
            continuing=None
            if how.continuing is None
            else self._strategy(f"{name}{_CONTINUING}", rules, how.continuing),
        )

    def _how(self, name: str) -> SqlRemoval:
        """The removal of a strategy's name."""
        assert self._rules is not None
        how = self._rules.removals[name.removesuffix(_CONTINUING)]
        return how.continuing or how if name.endswith(_CONTINUING) else how

    def _comparison(self, connection: psycopg.Connection) -> Comparison:
        assert self._rules is not None
        # As it is now, whatever it was when the store was opened.
        shape = shape_of(connection, self._layout.events)
        if self._compared is not None and self._compared[0] == shape:
            return self._compared[1]
        table = table_of(connection, self._layout.events)
        made = Comparison(self._rules, self._layout.events, WritableTable.of(connection, table))
        self._compared = shape, made
        return made

    def _all_columns(self, connection: psycopg.Connection) -> list[str]:
        """The columns of the table that come back from an archive, in the table's order."""
        rules, table = self._rules, self._events_table(connection)
        assert rules is not None
        back = dict.fromkeys([*rules.columns.values(), *rules.position, *self._extra(connection)])
        rules.fill(back)
        return [each.name for each in table.columns if each.name in back]

    def head_limits(self, removal: str, streams: Sequence[StreamKey]) -> Mapping[StreamKey, int]:
        """See Archiving: from the layout's rules."""
        with self._control() as connection:
            return removing.head_limits(connection, self._how(removal), streams)

    def remove(
        self,
        removal: str,
        parts: Sequence[VersionRange],
        lock_timeout: timedelta,
        statement_timeout: timedelta,
    ) -> list[Removed]:
        """Remove ranges in one transaction; where it fails, in smaller ones, down to the stream
        that is to blame.
        """
        return self._remove(removal, parts, lock_timeout, statement_timeout, tried=False)

    def obstacles(self, removal: str, parts: Sequence[VersionRange]) -> Mapping[StreamKey, str]:
        """See Archiving: rows that refer to streams, and archived ones of their names."""
        assert self._rules is not None
        with translated(), connect(self._dsn, "archive") as connection:
            looking = Obstacles(connection, self._rules, self._how(removal), self._layout.events)
            return looking.of(parts)

    def try_removal(
        self,
        removal: str,
        parts: Sequence[VersionRange],
        lock_timeout: timedelta,
        statement_timeout: timedelta,
    ) -> list[Removed]:
        """See Archiving: the same transactions, rolled back."""
        return self._remove(removal, parts, lock_timeout, statement_timeout, tried=True)

    def _remove(
        self,
        removal: str,
        parts: Sequence[VersionRange],
        lock_timeout: timedelta,
        statement_timeout: timedelta,
        *,
        tried: bool,
    ) -> list[Removed]:
        assert self._rules is not None
        with translated(), connect(self._dsn, "archive") as connection:
            for name, timeout in (
                ("lock_timeout", lock_timeout),
                ("statement_timeout", statement_timeout),
            ):
                milliseconds = f"{round(timeout.total_seconds() * 1000)}ms"
                connection.execute("SELECT set_config(%s, %s, false)", (name, milliseconds))
            remover = removing.StreamRemover(
                connection,
                self._rules,
                self._how(removal),
                self._layout.events,
                self._comparison,
                lock_timeout,
                self._waits_for_writers(connection),
                tried,
            )
            return remover.remove(parts)

    def prove(self, rows: Sequence[str | None], batches: Iterable[pa.RecordBatch]) -> int:
        """See Archiving: in temporary copies of the tables."""
        rules = self._rules
        if rules is None:
            return 0
        with translated(), connect(self._dsn, "trial") as connection:
            streams = [table_of(connection, name) for name in rules.streams]
            tried = Trial(
                connection,
                rules,
                self.export,
                WritableTable.of(connection, self._events_table(connection)),
                [WritableTable.of(connection, each) for each in streams],
            )
            return tried.prove(rows, batches)

    def _waits_for_writers(self, connection: psycopg.Connection) -> bool:
        rules = self._rules
        assert rules is not None
        return not rules.streams_first and not all(
            removing.insert_locks_stream(connection, self._layout.events, streams)
            for streams in rules.streams
        )

    # -- restore

    def restore_streams(
        self,
        streams: Sequence[StreamKey],
        rows: Sequence[str | None] | None,
        batches: Iterable[pa.RecordBatch],
    ) -> int:
        """In one transaction. Raises Refused where an event of the same stream and version is
        there and another, or a stream's row cannot be made.
        """
        return self._restorer().restore(streams, rows, batches)

    def check_room(self, batches: Iterable[pa.RecordBatch]) -> None:
        """See Archiving: positions that other events have, and transactions yet to come."""
        with self._control() as connection:
            self._restorer().check_room(connection, batches)

    def restore_renumbered(
        self,
        groups: Iterable[ArchivedGroup],
        *,
        skip_conflicts: bool,
        confirm: Callable[[], None],
    ) -> Renumbered:
        """All of it in one transaction; the numbers are drawn when the events are inserted."""
        return self._restorer().renumber(groups, skip_conflicts=skip_conflicts, confirm=confirm)

    def _restorer(self) -> StreamRestorer:
        if self._rules is None:
            raise UsageError(
                f"events cannot be restored as they were into layout {self._layout.name}",
                hint="Restore into another store with --into.",
            )
        return StreamRestorer(self._layout, self._rules, self._dsn)


def _heads(how: SqlRemoval, taking: str) -> HeadRemoval | None:
    if how.heads is None or not how.deletes:
        return None
    statements = [how.heads.limits.as_string(None), taking]
    return HeadRemoval(how.heads.what, statements, how.heads.until_only, how.heads.at_once)
