"""A trial restore: archived rows are inserted into temporary copies of a layout's tables, by the
statements of a restore, and compared there with the store's own, as text and by the server.

A copy has the name, columns, generated expressions, identities, checks, unique indexes and triggers
of its table; foreign keys are not part of it. It is rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import errors, sql

from esops.archive_format.schema import extra_columns_in, plain_rows
from esops.errors import Refused
from esops.events import StreamRef
from esops.postgres.statements import statements
from esops.stores.postgres.archived_rows import (
    WritableTable,
    insert_of_event,
    insert_of_streams,
    parameters,
    values_of,
)
from esops.stores.postgres.insert_triggers import fire_on_copy
from esops.stores.postgres.layouts.archiving import LayoutArchiving, as_text

_SQL = statements(__package__, "trial")
_ROWS_AT_ONCE = 5_000
_Key = tuple[str, str, int]
_HINT = (
    'Nothing was removed. With remove = "keep", esops archives the events and removes nothing; '
    "or change the table so that its rows can be inserted as they are."
)


@dataclass(frozen=True)
class Trial:
    """A trial over one connection, outside of a transaction."""

    connection: psycopg.Connection
    rules: LayoutArchiving
    export: Callable[[Iterable[StreamRef], Sequence[str]], Iterator[pa.RecordBatch]]
    """Gives what the store has now, in the columns of the archive."""
    events: WritableTable
    streams: Sequence[WritableTable]
    """The tables of streams, if there are any."""

    def prove(self, rows: Sequence[str | None], batches: Iterable[pa.RecordBatch]) -> int:
        """Try streams' own rows, and events; returns how many events were tried.

        Raises Refused where one would not come back as it is.
        """
        known = [row for row in rows if row is not None]
        for table in self.streams:
            for at in range(0, len(known), _ROWS_AT_ONCE):
                self._prove_streams(table, known[at : at + _ROWS_AT_ONCE])
        tried = 0
        for batch in batches:
            for at in range(0, batch.num_rows, _ROWS_AT_ONCE):
                some = batch.slice(at, _ROWS_AT_ONCE)
                self._prove_events(some)
                tried += some.num_rows
        return tried

    def _prove_streams(self, table: WritableTable, rows: Sequence[str]) -> None:
        with self._copied(table) as triggers:
            with _refused("a stream's row", table):
                put = self.connection.execute(
                    insert_of_streams(_copy(table), table), {"row": rows}
                ).rowcount
                self._end(triggers)
            names = self._names(table, table.table.key)
            # Some types take from JSON what they cannot print.
            with _refused("a stream's row", table):
                found = self.connection.execute(
                    sql.SQL(_SQL["other_streams"]).format(**names), {"row": rows}
                ).fetchone()
            if found is not None or put != len(rows):
                columns = ", ".join(found[0]) if found else "row"
                raise Refused(
                    f"a stream's row in {table.table.name} would not come back as it is: a "
                    f"restore would write another {columns}{_by(triggers)}",
                    hint=_HINT,
                )

    def _prove_events(self, batch: pa.RecordBatch) -> None:
        rows = values_of(batch, self.rules)
        table = self.events
        with self._copied(table) as triggers:
            names = table.written(list(rows[0]))
            insert = insert_of_event(_copy(table), table, names)
            put = 0
            with self.connection.cursor() as cursor, _refused("an event", table):
                cursor.executemany(insert, [parameters(row, table, names) for row in rows])
                put = cursor.rowcount
                self._end(triggers)
            if put != len(rows):
                why = _by(triggers) or (
                    f": a unique index of {table.table.name} takes them for the same as others"
                )
                raise Refused(
                    f"{len(rows) - put} of {len(rows)} archived events would not come back{why}",
                    hint=_HINT,
                )
            columns = self.rules.columns
            key = [columns["stream"], columns["version"], *self.rules.position, *table.table.key]
            found = self.connection.execute(
                sql.SQL(_SQL["other_events"]).format(
                    **self._names(table, key),
                    stream=sql.Identifier("t", columns["stream"]),
                    version=sql.Identifier("t", columns["version"]),
                )
            ).fetchall()
        others = {(stream, version): names for stream, version, names in found}
        self._refuse_others(batch, others, _by(triggers))

    def _refuse_others(
        self, batch: pa.RecordBatch, found: Mapping[tuple[str, int], Sequence[str]], why: str
    ) -> None:
        if not found:
            return
        # What was changed since it was archived says nothing of a restore.
        archived = dict(_rows(batch, found))
        streams = {key[:2] for key in archived}
        now: dict[_Key, dict[str, Any]] = {}
        for each in self.export(
            [StreamRef(*key, 0) for key in sorted(streams)], extra_columns_in(batch.schema)
        ):
            now.update(_rows(each, found))
        same = {key[::2] for key, row in archived.items() if now.get(key) == row}
        for (stream, version), columns in found.items():
            if (stream, version) in same:
                raise Refused(
                    f"version {version} of stream {stream!r} would not come back as it is: a "
                    f"restore would write another {', '.join(columns)}{why}",
                    hint=_HINT,
                )

    @contextmanager
    def _copied(self, table: WritableTable) -> Iterator[Sequence[str]]:
        """A temporary copy of a table, without its rows; gives the names of its triggers."""
        names = {"copy": _copy(table), "table": _name(table)}
        with self.connection.transaction(force_rollback=True):
            try:
                self.connection.execute(sql.SQL(_SQL["copy"]).format(**names))
            except errors.InsufficientPrivilege as error:
                raise Refused(
                    "esops may not make the temporary table in which it tries a restore before it "
                    f"removes anything: {str(error).splitlines()[0]}",
                    hint="Run GRANT TEMPORARY ON DATABASE … TO the role.",
                ) from None
            yield fire_on_copy(self.connection, table.table, _copy(table))

    def _end(self, triggers: Sequence[str]) -> None:
        if triggers:  # some fire at the end of a transaction
            self.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")

    def _names(self, table: WritableTable, key: Sequence[str]) -> dict[str, sql.Composable]:
        marks = self.rules.beside
        same = sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier("t", name), sql.Identifier("e", name))
            for name in dict.fromkeys(key)
            if name not in marks
        )
        different = sql.SQL(", ").join(
            sql.SQL("CASE WHEN {} IS DISTINCT FROM {} THEN {} END").format(
                as_text(sql.Identifier("e", each.name), each.type),
                as_text(sql.Identifier("t", each.name), each.type),
                sql.Literal(each.name),
            )
            for each in table.table.columns
        )
        return {
            "copy": _copy(table),
            "table": _name(table),
            "same": same,
            "different": different,
        }


def _rows(
    batch: pa.RecordBatch, wanted: Container[tuple[str, int]]
) -> Iterator[tuple[_Key, dict[str, Any]]]:
    """Some events of a batch, by stream, tenant and version."""
    places = [batch.column(name).to_pylist() for name in ("stream", "tenant", "version")]
    for at, (stream, tenant, version) in enumerate(zip(*places, strict=True)):
        if (stream, version) in wanted:
            yield (stream, tenant, version), plain_rows(batch.slice(at, 1))[0]


def _by(triggers: Sequence[str]) -> str:
    """Ends a sentence about a row that comes out otherwise."""
    if not triggers:
        return ""
    fire = "trigger fires" if len(triggers) == 1 else "triggers fire"
    return f"; this {fire} when it is inserted: {', '.join(triggers)}"


def _copy(table: WritableTable) -> sql.Identifier:
    # By its name, triggers take it for the table.
    return sql.Identifier("pg_temp", table.table.name)


def _name(table: WritableTable) -> sql.Identifier:
    return sql.Identifier(table.table.schema, table.table.name)


@contextmanager
def _refused(what: str, table: WritableTable) -> Iterator[None]:
    """Turns what the server says of a row that it does not take into Refused."""
    try:
        yield
    except (
        errors.IntegrityError,
        errors.DataError,
        errors.ProgrammingError,
        errors.InternalError,
    ) as error:
        raise Refused(
            f"{what} of {table.table.name} could not come back: {str(error).splitlines()[0]}",
            hint=_HINT,
        ) from None
