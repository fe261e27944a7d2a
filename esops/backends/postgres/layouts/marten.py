"""Marten's tables (6 to 9): mt_streams, mt_events, mt_event_progression.

Numbers come from `mt_events_sequence`, drawn inside the appending transaction by the quick modes and possibly outside of
it by the rich one; so holes are watched unless the store says `append = "quick"`. Facts: Marten's schema sources
(src/Marten/Events/Schema) and its daemon's gap detection; see docs/reference/layouts.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from esops.backends.postgres import catalog
from esops.backends.postgres.layouts.base import TRUE, Layout, Mapped, expect, same_uuid
from esops.backends.postgres.settle import HolesWatched, SequenceLockers, SettleRule
from esops.config import StoreSettings
from esops.errors import Refused, Unavailable, UsageError
from esops.events import Checkpoint, NewEvent, Position

DEFAULT_TENANT = "*DEFAULT*"
_METADATA = (
    ("correlationId", "correlation_id"),
    ("causationId", "causation_id"),
    ("userName", "user_name"),
    ("headers", "headers"),
)
_C = sql.Identifier


def detect(connection: psycopg.Connection, settings: StoreSettings) -> list[Layout]:
    """Marten's stores in a database, each in the variant that its catalogue shows."""
    schemas = catalog.schemas_with(connection, "mt_events", "mt_streams")
    return [
        _read(connection, schema, settings) for schema in schemas if settings.db_schema is None or schema == settings.db_schema
    ]


def _read(connection: psycopg.Connection, schema: str, settings: StoreSettings) -> Layout:
    events = catalog.find_table(connection, schema, "mt_events")
    streams = catalog.find_table(connection, schema, "mt_streams")
    assert events is not None
    assert streams is not None
    by_string = streams.column("id").kind != "uuid"
    conjoined = "tenant_id" in streams.key
    tenant = settings.tenant
    sequence_name = _sequence_name(connection, schema, events, tenant)
    sequence = catalog.sequence_of(connection, schema, sequence_name)
    if sequence is None:
        raise Unavailable(f"schema {schema!r} has mt_events but no sequence {sequence_name}", hint="Is it a copy without it?")
    per_tenant = sequence_name != "mt_events_sequence"

    data: sql.Composable = _C("data")
    if events.has("bdata"):
        data = sql.SQL("CASE WHEN bdata IS NULL THEN convert_to(data::text, 'UTF8') ELSE bdata END")
    kept = [(key, column) for key, column in _METADATA if events.has(column)]
    metadata: sql.Composable = sql.SQL("NULL::text")
    if kept:
        pairs = [sql.SQL("{}, {}").format(sql.Literal(key), _C(column)) for key, column in kept]
        metadata = sql.SQL("jsonb_strip_nulls(jsonb_build_object({}))").format(sql.SQL(", ").join(pairs))
    own: list[sql.Composable] = [sql.SQL("type <> 'tombstone'")]
    if events.has("is_skipped"):
        own.append(sql.SQL("is_skipped IS NOT TRUE"))
    if tenant is not None and events.has("tenant_id"):
        own.append(sql.SQL("tenant_id = {}").format(sql.Literal(tenant)))
    archivable = events.has("is_archived")

    def make_rule() -> SettleRule:
        lockers = SequenceLockers(_C(schema, sequence_name), sequence[0])
        if settings.append == "quick" and sequence[1] == 1:
            return lockers
        return HolesWatched(
            lockers,
            _C(schema, "mt_events"),
            _C("seq_id"),
            lambda on: catalog.relation_tree(on, events.oid),
            settings.hole_threshold,
            tenant_condition if per_tenant else TRUE,
        )

    tenant_condition = sql.SQL("tenant_id = {}").format(sql.Literal(tenant or DEFAULT_TENANT))
    return Layout(
        name="marten",
        schema=schema,
        version="9 or later" if events.has("bdata") else "8 or earlier" if streams.has("snapshot") else "6 to 9",
        events=_C(schema, "mt_events"),
        mapped=Mapped(
            id=sql.SQL("id::text"),
            stream=_C("stream_id") if by_string else sql.SQL("stream_id::text"),
            version=_C("version"),
            type=_C("type"),
            data=data,
            metadata=metadata,
            recorded_at=_C("timestamp"),
            tenant=_C("tenant_id") if conjoined or per_tenant else sql.SQL("''"),
        ),
        order=(_C("seq_id"),),
        order_columns=(_C("seq_id"),),
        order_casts=("bigint",),
        rule=make_rule,
        reads=tuple(
            _C(schema, name)
            for name in ("mt_events", "mt_streams", "mt_event_progression")
            if catalog.find_table(connection, schema, name)
        ),
        sequences=(_C(schema, sequence_name),),
        own=sql.SQL(" AND ").join(own),
        alive=sql.SQL("is_archived IS NOT TRUE") if archivable else TRUE,
        archived=sql.SQL("is_archived IS TRUE") if archivable else sql.SQL("FALSE"),
        in_category=lambda name: _in_category(schema, name, by_string, conjoined),
        id_equals=lambda value: same_uuid("id", value),
        stream_equals=lambda name: _stream_equals(name, by_string),
        append=_Append(schema, by_string, conjoined, sequence_name, tenant or DEFAULT_TENANT, streams, events),
        checkpoints=lambda on: _checkpoints(on, schema),
        tenants=(conjoined or per_tenant) and tenant is None,
        detail={
            "stream ids": "text" if by_string else "uuid",
            "tenancy": "conjoined" if conjoined else "single",
            "partitioned by": ", ".join(events.partitioned_by) or "nothing",
            "append": settings.append,
        },
    )


def _sequence_name(connection: psycopg.Connection, schema: str, events: catalog.Table, tenant: str | None) -> str:
    """The sequence that numbers come from; with events partitioned by tenant each tenant may have its own."""
    if events.partitioned_by != ("tenant_id",):
        return "mt_events_sequence"
    rows = connection.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind = 'S' AND c.relname LIKE 'mt\\_events\\_sequence\\_%%' ORDER BY 1",
        (schema,),
    ).fetchall()
    if not rows:
        return "mt_events_sequence"
    if tenant is None:
        raise UsageError(
            f"the events in schema {schema!r} are numbered for each tenant on its own, so they have no common order",
            hint="Name one tenant with `tenant` in the store's section.",
        )
    suffixes = {row[0].removeprefix("mt_events_sequence_"): row[0] for row in rows}
    if catalog.find_table(connection, schema, "mt_tenant_partitions") is not None:
        found = connection.execute(
            sql.SQL("SELECT partition_suffix FROM {} WHERE partition_value = %s").format(_C(schema, "mt_tenant_partitions")),
            (tenant,),
        ).fetchone()
        if found is not None and found[0] in suffixes:
            return str(suffixes[found[0]])
    if tenant in suffixes:
        return str(suffixes[tenant])
    raise UsageError(f"schema {schema!r} has no numbers for a tenant {tenant!r}", hint="There is: " + ", ".join(suffixes))


def _in_category(schema: str, name: str, by_string: bool, conjoined: bool) -> sql.Composable:
    """A category is the aggregate type of the stream; with text ids also what stands before the first `-`."""
    columns = sql.SQL("tenant_id, stream_id" if conjoined else "stream_id")
    selected = sql.SQL("tenant_id, id" if conjoined else "id")
    by_type = sql.SQL("({}) IN (SELECT {} FROM {} WHERE type = {})").format(
        columns, selected, _C(schema, "mt_streams"), sql.Literal(name)
    )
    if not by_string:
        return by_type
    return sql.SQL("({} OR split_part(stream_id, '-', 1) = {})").format(by_type, sql.Literal(name))


def _stream_equals(name: str, by_string: bool) -> sql.Composable:
    if by_string:
        return sql.SQL("stream_id = {}").format(sql.Literal(name))
    return same_uuid("stream_id", name)


class _Append:
    """What Marten's quick append does, statement by statement, so that numbers are drawn inside the transaction."""

    def __init__(
        self,
        schema: str,
        by_string: bool,
        conjoined: bool,
        sequence: str,
        tenant: str,
        streams: catalog.Table,
        events: catalog.Table,
    ) -> None:
        self._id = "%(stream)s" if by_string else "%(stream)s::uuid"
        self._tenant_and = "AND tenant_id = %(tenant)s" if conjoined else ""
        self._sequence = sql.Literal(sql.Identifier(schema, sequence).as_string(None))
        self._streams, self._events = _C(schema, "mt_streams"), _C(schema, "mt_events")
        self._tenant = tenant
        self._stream_tenant = streams.has("tenant_id")
        self._metadata = [(key, column) for key, column in _METADATA if events.has(column)]

    def __call__(
        self, connection: psycopg.Connection, stream: str, events: Sequence[NewEvent], expected_version: int | None
    ) -> Position:
        known: dict[str, Any] = {"stream": stream, "tenant": self._tenant}
        tenant_column, tenant_value = (", tenant_id", ", %(tenant)s") if self._stream_tenant else ("", "")
        connection.execute(
            self._sql(
                f"INSERT INTO {{}} (id, version{tenant_column}) VALUES ({self._id}, 0{tenant_value}) ON CONFLICT DO NOTHING"
            ),
            known,
        )
        row = connection.execute(
            self._sql(f"SELECT version, is_archived FROM {{}} WHERE id = {self._id} {self._tenant_and} FOR UPDATE"), known
        ).fetchone()
        version, archived = row if row is not None else (0, False)
        if archived:
            raise Refused(f"stream {stream!r} is archived and takes no more events (MT001)")
        expect(stream, version, expected_version)
        number = 0
        for offset, event in enumerate(events, 1):
            number = self._insert(connection, known, version + offset, event)
        connection.execute(
            self._sql(f"UPDATE {{}} SET version = %(version)s, timestamp = now() WHERE id = {self._id} {self._tenant_and}"),
            {**known, "version": version + len(events)},
        )
        return Position((number,))

    def _insert(self, connection: psycopg.Connection, known: dict[str, Any], version: int, event: NewEvent) -> int:
        drawn = connection.execute(sql.SQL("SELECT nextval({}::regclass)").format(self._sequence)).fetchone()
        assert drawn is not None
        extra = "".join(f", {column}" for _, column in self._metadata)
        values = "".join(
            f", %(metadata)s::jsonb -> '{key}'" if column == "headers" else f", %(metadata)s::jsonb ->> '{key}'"
            for key, column in self._metadata
        )
        connection.execute(
            sql.SQL(
                f"INSERT INTO {{}} (seq_id, id, stream_id, version, data, type, tenant_id{extra}) "
                f"VALUES (%(number)s, %(id)s, {self._id}, %(version)s, %(data)s::jsonb, %(type)s, %(tenant)s{values})"
            ).format(self._events),
            {
                **known,
                "number": drawn[0],
                "id": event.id,
                "version": version,
                "data": event.data.decode(),
                "type": event.type,
                "metadata": event.metadata.decode(),
            },
        )
        return int(drawn[0])

    def _sql(self, statement: str) -> sql.Composed:
        return sql.SQL(statement).format(self._streams)


def _checkpoints(connection: psycopg.Connection, schema: str) -> list[Checkpoint]:
    """The daemon's shards and its high-water mark."""
    if catalog.find_table(connection, schema, "mt_event_progression") is None:
        return []
    rows = connection.execute(
        sql.SQL("SELECT name, last_seq_id, last_updated FROM {} ORDER BY name").format(_C(schema, "mt_event_progression"))
    ).fetchall()
    return [
        Checkpoint(
            name,
            None if number is None else Position((number,)),
            "high-water mark" if name.startswith("HighWaterMark") else "shard",
            updated,
        )
        for name, number, updated in rows
    ]
