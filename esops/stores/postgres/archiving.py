"""Streams out of Postgres and back: exported as the archive's batches, removed in small
transactions, restored row by row.

What a layout's `LayoutArchiving` says is executed here. No statement waits long for a lock, and a
stream that a writer works on is
passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

import orjson
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import errors, sql

from esops.archive_format import schema as archived
from esops.errors import Refused, UsageError
from esops.events import StreamKey, StreamRef
from esops.postgres import catalog
from esops.postgres.connection import connect, translated
from esops.stores.ahead import ahead
from esops.stores.base import RemovalStrategy, Removed, VersionRange
from esops.stores.postgres.bulk import BulkReader
from esops.stores.postgres.layouts.archiving import LayoutArchiving, SqlRemoval
from esops.stores.postgres.layouts.base import NO_TENANT, NOTHING, Layout

_AT_ONCE_EVENTS = 200_000
_AT_ONCE_STREAMS = 20_000
_BY_INDEX = "SET enable_seqscan = off"
"""Each group of streams is a statement: where the planner scanned the table for each, a run would
take the square of its size. Between
an index's order and a bitmap it may choose."""
_PUT_BACK = 1_000


class StreamArchiver:
    """Exports, removes and restores the streams of one layout."""

    def __init__(self, layout: Layout, dsn: str) -> None:
        """Take the layout, and how to connect."""
        self._layout, self._dsn = layout, dsn
        self._bulk = BulkReader(dsn, setting=_BY_INDEX)
        self._table: catalog.Table | None = None

    def close(self) -> None:
        """Close the connection for exports."""
        self._bulk.close()

    # -- export

    def columns(self, connection: psycopg.Connection) -> list[str]:
        """The names of the further columns that an export keeps."""
        return sorted(self._further(connection))

    def _further(self, connection: psycopg.Connection) -> dict[str, sql.Composable]:
        archiving, table = self._layout.archiving, self._events_table(connection)
        return {} if archiving is None else archiving.kept_as_text(table)

    def _events_table(self, connection: psycopg.Connection) -> catalog.Table:
        if self._table is None:
            parts = self._layout.events._obj  # noqa: SLF001 - psycopg gives no other way to ask
            self._table = catalog.find_table(connection, *parts)
        assert self._table is not None
        return self._table

    def export(
        self,
        connection: psycopg.Connection,
        streams: Iterable[StreamRef],
        columns: Sequence[str] | None,
    ) -> Iterator[pa.RecordBatch]:
        """All events of the streams, also those that the store does not give out, by stream and
        version.
        """
        further = self._further(connection)
        names = sorted(further) if columns is None else list(columns)
        if missing := [name for name in names if name not in further]:
            raise Refused(
                f"the store's table has no column {missing[0]!r} any more, which the archive has"
            )
        schema = archived.schema_with(names)
        statements = (
            self._statement(group, [further[name] for name in names]) for group in _groups(streams)
        )
        # A statement names thousands of streams: while the server works at one, the next is
        # written.
        for batch in self._bulk.read(ahead(statements, 1, "esops-statements")):
            if batch.num_rows:
                yield self._as_archived(batch, schema)

    def _statement(self, streams: Sequence[StreamRef], further: Sequence[sql.Composable]) -> str:
        layout, m = self._layout, self._layout.mapped
        hidden = sql.SQL("NOT ({})").format(layout.own)
        columns = [
            m.stream,
            m.version,
            *layout.order,
            m.type,
            layout.id_column or m.id,
            m.recorded_at,
            hidden,
            *layout.payload_columns,
            *(column for column in (m.tenant, m.metadata) if column not in (NO_TENANT, NOTHING)),
            *further,
        ]
        by_tenant: dict[str, list[str]] = {}
        for name, tenant, _ in streams:
            by_tenant.setdefault(tenant, []).append(name)
        wanted = [
            sql.SQL("({} AND {})").format(
                layout.any_stream(names),
                sql.SQL("{} = {}").format(m.tenant, sql.Literal(tenant))
                if tenant
                else sql.SQL("TRUE"),
            )
            for tenant, names in by_tenant.items()
        ]
        order = [
            layout.stream_column or m.stream,
            *([m.tenant] if layout.tenants else []),
            m.version,
        ]
        return (
            sql.SQL("SELECT {} FROM {} WHERE {} AND {} AND ({}) ORDER BY {}")
            .format(
                sql.SQL(", ").join(columns),
                layout.events,
                layout.alive,
                layout.scope,
                sql.SQL(" OR ").join(wanted),
                sql.SQL(", ").join(order),
            )
            .as_string(None)
        )

    def _as_archived(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """A batch as the server gave it, in the archive's schema."""
        count, given = batch.num_rows, iter(batch.columns)
        stream, version = next(given), next(given)
        positions = [next(given).cast(pa.int64()) for _ in self._layout.order]
        kind, identifier, recorded_at, hidden = islice(given, 4)
        data = pc.coalesce(*(_plain(next(given)) for _ in self._layout.payload_columns))
        tenant = next(given) if self._layout.mapped.tenant != NO_TENANT else pa.repeat("", count)
        metadata = (
            next(given) if self._layout.mapped.metadata != NOTHING else pa.nulls(count, pa.binary())
        )
        if self._layout.id_column is not None:
            packed, text = identifier.storage, pa.nulls(count, pa.string())
        else:
            packed, text = archived.split_ids(identifier)
        columns = [
            stream,
            tenant,
            version.cast(pa.int64()),
            positions[0],
            positions[1] if len(positions) > 1 else pa.nulls(count, pa.int64()),
            kind,
            packed,
            text,
            _in_utc(recorded_at),
            data,
            _plain(metadata),
            hidden,
            *given,
        ]
        return pa.RecordBatch.from_arrays(
            [
                column.cast(field.type) if column.type != field.type else column
                for column, field in zip(columns, schema, strict=True)
            ],
            schema=schema,
        )

    def rows(
        self, connection: psycopg.Connection, streams: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], str]:
        """The store's own rows of streams, as JSON text."""
        archiving = self._layout.archiving
        if archiving is None or archiving.row is None:
            return {}
        names, tenants = zip(*streams, strict=True)
        keys = {"stream": _array(names), "tenant": _array(tenants)}
        found = connection.execute(archiving.row, keys).fetchall()
        return {row[:2]: row[2] for row in found}

    # -- removal

    def way(self, connection: psycopg.Connection, how: str) -> RemovalStrategy:
        """A way out, with the statements that it takes.

        Raises UsageError where the layout has none of that name, Refused where rows of other tables
        would go with it.
        """
        archiving = self._layout.archiving
        if archiving is None or how not in archiving.ways:
            there_are = ", ".join(sorted(archiving.ways)) if archiving else "none"
            hint = f"Ways that it offers: {there_are}; or `keep`."
            raise UsageError(
                f"layout {self._layout.name} in this variant has no way {how!r} out of the store",
                hint=hint,
            )
        way = archiving.ways[how]
        if way.rows is not None and (
            others := catalog.cascading_dependents(connection, self._events_table(connection).oid)
        ):
            raise Refused(
                f"deleting events of {self._layout.events.as_string(None)} deletes or changes rows "
                f"of {', '.join(others)}, "
                "which no archive has",
                hint='That is what their foreign keys say (ON DELETE). remove = "keep" archives, '
                "and removes nothing.",
            )
        statements = [
            each.as_string(None)
            for each in (archiving.guard, way.rows, *way.end)
            if each is not None
        ]
        return RemovalStrategy(
            how,
            way.keeps,
            whole=way.rows is None,
            never=way.never,
            what=way.what,
            statements=statements,
        )

    def remove(
        self,
        how: str,
        parts: Sequence[VersionRange],
        lock_timeout: timedelta,
        statement_timeout: timedelta,
    ) -> list[Removed]:
        """Remove parts of streams in one transaction; where it fails, in smaller ones, down to the
        stream that is to blame.
        """
        archiving = self._layout.archiving
        assert archiving is not None
        with translated(), connect(self._dsn, "archive") as connection:
            connection.execute(
                "SELECT set_config('lock_timeout', %s, false)",
                (f"{round(lock_timeout.total_seconds() * 1000)}ms",),
            )
            connection.execute(
                "SELECT set_config('statement_timeout', %s, false)",
                (f"{round(statement_timeout.total_seconds() * 1000)}ms",),
            )
            return _remove(connection, archiving, archiving.ways[how], list(parts))

    # -- restore

    def restore_streams(
        self,
        streams: Sequence[StreamKey],
        rows: Sequence[str | None],
        batches: Iterable[pa.RecordBatch],
    ) -> int:
        """Bring events of streams back as they were, in one transaction; returns how many were not
        there.

        Raises Refused where an event of the same stream and version is there and another, or a
        stream's row cannot be made.
        """
        archiving = self._layout.archiving
        if archiving is None:
            raise UsageError(f"esops knows no way back into layout {self._layout.name}")
        with translated(), connect(self._dsn, "restore") as connection, connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '5s'")
            self._make_streams(connection, archiving, streams, rows)
            put = 0
            for batch in batches:
                put += self._insert(connection, archiving, batch)
            return put

    def _make_streams(
        self,
        connection: psycopg.Connection,
        archiving: LayoutArchiving,
        streams: Sequence[StreamKey],
        rows: Sequence[str | None],
    ) -> None:
        keys = _keys(streams)
        for statement in archiving.revive:
            connection.execute(statement, keys)
        if archiving.adopt is None:
            return
        there = {
            (stream, tenant)
            for stream, tenant, *_ in connection.execute(archiving.guard, keys).fetchall()
        }
        new = [
            row
            for key, row in zip(streams, rows, strict=True)
            if key not in there and row is not None
        ]
        if len(new) + len(there) < len(streams):
            raise Refused(
                "a stream's row is in use by a writer, or the archive has none of it",
                hint="Try again later.",
            )
        if new:
            connection.execute(archiving.adopt, {"row": new})

    def _insert(
        self, connection: psycopg.Connection, archiving: LayoutArchiving, batch: pa.RecordBatch
    ) -> int:
        rows = _values(batch, archiving)
        if not rows:
            return 0
        table = self._events_table(connection)
        kinds = {column.name: column.type for column in table.columns}
        names = [name for name in rows[0] if name in kinds]
        if lost := [name for name in rows[0] if name not in kinds]:
            raise Refused(
                f"the table {table.name} has no column {lost[0]!r}, which the archive has"
            )
        insert = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
            self._layout.events,
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(_placeholder(kinds[name]) for name in names),
        )
        put = 0
        with connection.cursor() as cursor:
            for at in range(0, len(rows), _PUT_BACK):
                group = rows[at : at + _PUT_BACK]
                cursor.executemany(
                    insert,
                    [[_parameter(row[name], kinds[name]) for name in names] for row in group],
                )
                put += cursor.rowcount
        return put


def _placeholder(kind: str) -> sql.Composable:
    return sql.SQL("%s") if kind == "bytea" else sql.SQL("%s::text::{}").format(sql.SQL(kind))


def _parameter(value: Any, kind: str) -> Any:
    if isinstance(value, bytes) and kind != "bytea":
        return value.decode()
    return value


def _values(batch: pa.RecordBatch, archiving: LayoutArchiving) -> list[dict[str, Any]]:
    """Each event of a batch as the values of its columns, as text or bytes."""
    columns: dict[str, list[Any]] = {}
    for field, column in archiving.columns.items():
        if field == "id":
            columns[column] = archived.join_ids(batch)
        elif field == "recorded_at":
            columns[column] = [
                None if time is None else f"{time:%Y-%m-%d %H:%M:%S.%f}+00"
                for time in batch.column("recorded_at").to_pylist()
            ]
        else:
            columns[column] = [
                str(value) if isinstance(value, int) else value
                for value in batch.column(field).to_pylist()
            ]
    for number, column in enumerate(archiving.position, 1):
        columns[column] = [str(value) for value in batch.column(f"position_{number}").to_pylist()]
    for name in archived.extra_columns_in(batch.schema):
        columns[name] = batch.column(f"{archived.EXTRA_PREFIX}{name}").to_pylist()
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    for row in rows:
        archiving.fill(row)
    return rows


def _in_utc(times: pa.Array) -> pa.Array:
    return times.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.timestamp("us", "UTC"))


def _plain(column: pa.Array) -> pa.Array:
    plain = column.storage if isinstance(column, pa.ExtensionArray) else column
    return plain.cast(pa.binary())


def _groups(streams: Iterable[StreamRef]) -> Iterator[list[StreamRef]]:
    """Streams in groups that a statement can name and that are read in about a second."""
    group: list[StreamRef] = []
    events = 0
    for wanted in streams:
        group.append(wanted)
        events += wanted.events
        if events >= _AT_ONCE_EVENTS or len(group) >= _AT_ONCE_STREAMS:
            yield group
            group, events = [], 0
    if group:
        yield group


def _array(texts: Sequence[str]) -> str | Sequence[str]:
    """Texts as the literal of an array, where it needs no escapes: psycopg's own takes as long as
    the statement.
    """
    json = orjson.dumps(texts).decode()
    return list(texts) if "\\" in json else f"{{{json[1:-1]}}}"


def _keys(streams: Sequence[StreamKey]) -> dict[str, Any]:
    return {"stream": [key.stream for key in streams], "tenant": [key.tenant for key in streams]}


def _remove(
    connection: psycopg.Connection,
    archiving: LayoutArchiving,
    way: SqlRemoval,
    parts: list[VersionRange],
) -> list[Removed]:
    try:
        with connection.transaction():
            return _remove_at_once(connection, archiving, way, parts)
    except (
        errors.LockNotAvailable,
        errors.QueryCanceled,
        errors.IntegrityError,
        errors.RaiseException,
    ) as error:
        if len(parts) == 1:
            reason = (
                "a writer holds it"
                if isinstance(error, errors.LockNotAvailable)
                else str(error).splitlines()[0]
            )
            return [Removed(parts[0], 0, reason)]
    middle = len(parts) // 2
    return [
        *_remove(connection, archiving, way, parts[:middle]),
        *_remove(connection, archiving, way, parts[middle:]),
    ]


def _remove_at_once(
    connection: psycopg.Connection,
    archiving: LayoutArchiving,
    way: SqlRemoval,
    parts: list[VersionRange],
) -> list[Removed]:
    there = {
        StreamKey(stream, tenant): (version, archived)
        for stream, tenant, version, archived in connection.execute(
            archiving.guard, _keys([part.key for part in parts])
        ).fetchall()
    }
    done: list[Removed] = []
    going: list[VersionRange] = []
    for part in parts:
        version, archived = there.get(part.key, (None, False))
        if version is None:
            done.append(Removed(part, 0, "a writer holds it, or it is gone"))
        elif version != part.last_version:
            done.append(
                Removed(
                    part,
                    0,
                    f"it changed since it was archived: at version {version}, not "
                    f"{part.last_version}",
                )
            )
        elif archived and way.rows is None:
            done.append(Removed(part, 0, None))  # by a run before
        else:
            going.append(part)
    if way.rows is not None and going:
        keys = {
            **_keys([part.key for part in going]),
            "low": [part.low for part in going],
            "high": [part.high for part in going],
        }
        connection.execute(way.rows, keys)
    # Where events stay, the stream stays as it is.
    ending = [part for part in going if part.ends and part.high == part.last_version]
    if ending:
        for statement in way.end:
            connection.execute(statement, _keys([part.key for part in ending]))
    return [*done, *(Removed(part, part.high - part.low + 1, None) for part in going)]
