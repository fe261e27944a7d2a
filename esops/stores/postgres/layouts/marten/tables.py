"""Marten's tables (6 to 9): mt_streams, mt_events, mt_event_progression.

Numbers come from `mt_events_sequence`, drawn inside the appending transaction by the quick modes
and possibly outside of
it by the rich one; so holes are watched unless the store says `append = "quick"`. Facts: Marten's
schema sources
(src/Marten/Events/Schema) and its daemon's gap detection; see docs/reference/layouts.md.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from esops.errors import Unavailable, UsageError
from esops.postgres import catalog
from esops.settings import PostgresSettings
from esops.stores.postgres.layouts.base import (
    NO_TENANT,
    NOTHING,
    TRUE,
    AppendBesideStreamRow,
    Layout,
    Mapped,
    StreamTable,
    category_in,
    same_uuid,
)
from esops.stores.postgres.layouts.marten import archiving as marten_archiving
from esops.stores.postgres.layouts.marten import daemon as marten_daemon
from esops.stores.postgres.missing import NumbersInOrder
from esops.stores.postgres.settle import SequenceLockers, SettleRule

DEFAULT_TENANT = "*DEFAULT*"
_METADATA = (
    ("correlationId", "correlation_id"),
    ("causationId", "causation_id"),
    ("userName", "user_name"),
    ("headers", "headers"),
)
_C = sql.Identifier


def detect(connection: psycopg.Connection, settings: PostgresSettings) -> list[Layout]:
    """Marten's stores in a database, each in the variant that its catalogue shows.

    Where each tenant's events are numbered on their own they have no common order, so that each
    tenant is a store.
    """
    found: list[Layout] = []
    for schema in catalog.schemas_with(connection, "mt_events", "mt_streams"):
        if settings.db_schema is None or schema == settings.db_schema:
            own_numbers = _sequences_of_tenants(connection, schema)
            if own_numbers and settings.tenant is not None and settings.tenant not in own_numbers:
                raise UsageError(
                    f"schema {schema!r} has no numbers for a tenant {settings.tenant!r}",
                    hint="There is: " + ", ".join(own_numbers),
                )
            tenants = (
                list(own_numbers) if own_numbers and settings.tenant is None else [settings.tenant]
            )
            found += [
                _read(connection, schema, settings, tenant, own_numbers.get(tenant or ""))
                for tenant in tenants
            ]
    return found


def _read(
    connection: psycopg.Connection,
    schema: str,
    settings: PostgresSettings,
    tenant: str | None,
    own_sequence: str | None,
) -> Layout:
    events = catalog.find_table(connection, schema, "mt_events")
    streams = catalog.find_table(connection, schema, "mt_streams")
    assert events is not None
    assert streams is not None
    by_string = streams.column("id").kind != "uuid"
    conjoined = "tenant_id" in streams.key
    sequence_name = own_sequence or "mt_events_sequence"
    sequence = catalog.sequence_of(connection, schema, sequence_name)
    if sequence is None:
        raise Unavailable(
            f"schema {schema!r} has mt_events but no sequence {sequence_name}",
            hint="Is it a copy without it?",
        )

    data: sql.Composable = _C("data")
    if events.has("bdata"):
        data = sql.SQL("CASE WHEN bdata IS NULL THEN convert_to(data::text, 'UTF8') ELSE bdata END")
    kept = [(key, column) for key, column in _METADATA if events.has(column)]
    metadata: sql.Composable = NOTHING
    if kept:
        pairs = [sql.SQL("{}, {}").format(sql.Literal(key), _C(column)) for key, column in kept]
        metadata = sql.SQL("jsonb_strip_nulls(jsonb_build_object({}))").format(
            sql.SQL(", ").join(pairs)
        )
    own: list[sql.Composable] = [sql.SQL("type <> 'tombstone'")]
    if events.has("is_skipped"):
        own.append(sql.SQL("is_skipped IS NOT TRUE"))
    scope: sql.Composable = TRUE
    if tenant is not None and events.has("tenant_id"):
        scope = sql.SQL("tenant_id = {}").format(sql.Literal(tenant))
    archivable = events.has("is_archived")
    has_progression = catalog.find_table(connection, schema, "mt_event_progression") is not None

    def make_rule() -> SettleRule:
        lockers = SequenceLockers(_C(schema, sequence_name), sequence[0])
        return NumbersInOrder(
            lockers,
            _C(schema, "mt_events"),
            _C("seq_id"),
            lambda on: catalog.relation_tree(on, events.oid),
            settings.hole_threshold,
            tenant_condition if own_sequence else TRUE,
            lambda on: (
                marten_daemon.high_water_mark(on, schema, tenant if own_sequence else None)
                if has_progression
                else None
            ),
            watched=settings.append != "quick" or sequence[1] > 1,
        )

    tenant_condition = sql.SQL("tenant_id = {}").format(sql.Literal(tenant or DEFAULT_TENANT))
    return Layout(
        name="marten",
        schema=schema,
        version="9 or later"
        if events.has("bdata")
        else "8 or earlier"
        if streams.has("snapshot")
        else "6 to 9",
        events=_C(schema, "mt_events"),
        mapped=Mapped(
            id=sql.SQL("id::text"),
            stream=_C("stream_id") if by_string else sql.SQL("stream_id::text"),
            version=_C("version"),
            type=_C("type"),
            data=data,
            metadata=metadata,
            recorded_at=_C("timestamp"),
            tenant=_C("tenant_id") if conjoined or own_sequence else NO_TENANT,
        ),
        order=(_C("seq_id"),),
        order_columns=(_C("seq_id"),),
        order_casts=("bigint",),
        rule=make_rule,
        reads=tuple(
            _C(schema, name)
            for name in ("mt_events", "mt_streams", "mt_event_progression", *marten_daemon.TABLES)
            if catalog.find_table(connection, schema, name)
        ),
        sequences=(_C(schema, sequence_name),),
        own=sql.SQL(" AND ").join([*own, scope]),
        scope=scope,
        alive=sql.SQL("is_archived IS NOT TRUE") if archivable else TRUE,
        archived=sql.SQL("is_archived IS TRUE") if archivable else sql.SQL("FALSE"),
        in_category=lambda name: _in_category(schema, name, by_string, conjoined),
        id_equals=lambda value: same_uuid("id", value),
        id_column=_C("id"),
        payloads=(_C("bdata"), _C("data")) if events.has("bdata") else (),
        stream_equals=lambda name: _stream_equals(name, by_string),
        append=_appending(schema, by_string, sequence_name, tenant, streams, events),
        checkpoints=lambda on: marten_daemon.checkpoints(on, schema),
        hand_over=lambda on, name, position: marten_daemon.hand_over(on, schema, name, position),
        concerns=lambda on: marten_daemon.concerns(on, schema, streams),
        stream_column=_C("stream_id"),
        stream_kind="varchar" if by_string else "uuid",
        stream_table=_stream_table(schema, by_string, conjoined, tenant, streams),
        fields={key: _C(column) for key, column in kept if key != "headers"},
        loose=_C("headers") if events.has("headers") else None,
        archiving=marten_archiving.archiving_rules(
            connection, schema, streams, events, data_is_binary=events.has("bdata")
        ),
        tenants=conjoined and tenant is None,
        detail={
            "stream ids": "text" if by_string else "uuid",
            "tenancy": "conjoined" if conjoined else "single",
            "partitioned by": ", ".join(events.partitioned_by) or "nothing",
            "append": settings.append,
            **({"tenant": tenant} if own_sequence and tenant else {}),
        },
    )


def _sequences_of_tenants(connection: psycopg.Connection, schema: str) -> dict[str, str]:
    """The sequence of each tenant, where events are partitioned by tenant and numbered for each on
    its own.
    """
    events = catalog.find_table(connection, schema, "mt_events")
    if events is None or events.partitioned_by != ("tenant_id",):
        return {}
    rows = connection.execute(
        "SELECT substr(c.relname, length('mt_events_sequence_') + 1), c.relname FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind = 'S' AND c.relname LIKE 'mt\\_events\\_sequence\\_%%' "
        "ORDER BY 1",
        (schema,),
    ).fetchall()
    by_suffix: dict[str, str] = dict(rows)
    if catalog.find_table(connection, schema, "mt_tenant_partitions") is None:
        return by_suffix
    named = sql.SQL("SELECT partition_value, partition_suffix FROM {} ORDER BY 1").format(
        _C(schema, "mt_tenant_partitions")
    )
    return {
        tenant: by_suffix[suffix]
        for tenant, suffix in connection.execute(named).fetchall()
        if suffix in by_suffix
    }


def _in_category(schema: str, name: str, by_string: bool, conjoined: bool) -> sql.Composable:
    """A category is the aggregate type of the stream; with text ids also what stands before the
    first `-`.
    """
    columns = sql.SQL("tenant_id, stream_id" if conjoined else "stream_id")
    selected = sql.SQL("tenant_id, id" if conjoined else "id")
    by_type = sql.SQL("({}) IN (SELECT {} FROM {} WHERE type = {})").format(
        columns, selected, _C(schema, "mt_streams"), sql.Literal(name)
    )
    if not by_string:
        return by_type
    return sql.SQL("({} OR split_part(stream_id, '-', 1) = {})").format(by_type, sql.Literal(name))


def _stream_table(
    schema: str, by_string: bool, conjoined: bool, tenant: str | None, streams: catalog.Table
) -> StreamTable:
    """mt_streams, whose version is what has ever been written: it does not go back where a stream
    is compacted or trimmed.
    """
    of_name = sql.SQL("FALSE")
    category: sql.Composable = _C("type")
    scope: sql.Composable = TRUE
    if by_string:
        category = category_in(_C("id"))
        of_name = sql.SQL("split_part(id, '-', 1) = {}")
    if tenant is not None and streams.has("tenant_id"):
        scope = sql.SQL("tenant_id = {}").format(sql.Literal(tenant))
    return StreamTable(
        table=_C(schema, "mt_streams"),
        stream=_C("id"),
        tenant=_C("tenant_id") if conjoined else NO_TENANT,
        category=category,
        length=_C("version"),
        alive=sql.SQL("is_archived IS NOT TRUE") if streams.has("is_archived") else TRUE,
        in_category=lambda name: sql.SQL("(type = {} OR {})").format(
            sql.Literal(name), of_name.format(sql.Literal(name))
        ),
        note="the versions in mt_streams: a stream that was compacted or trimmed counts as long as "
        "it has ever been",
        scope=scope,
    )


def _stream_equals(name: str, by_string: bool) -> sql.Composable:
    if by_string:
        return sql.SQL("stream_id = {}").format(sql.Literal(name))
    return same_uuid("stream_id", name)


def _appending(
    schema: str,
    by_string: bool,
    sequence: str,
    tenant: str | None,
    streams: catalog.Table,
    events: catalog.Table,
) -> AppendBesideStreamRow:
    """What Marten's quick append does, so that numbers are drawn inside the transaction."""
    extra = [(key, column) for key, column in _METADATA if events.has(column)]
    names = {
        "streams": _C(schema, "mt_streams"),
        "events": _C(schema, "mt_events"),
        "sequence": sql.Literal(_C(schema, sequence).as_string(None)),
        "tenant": sql.Literal(tenant or DEFAULT_TENANT),
        "id": sql.SQL("%(stream)s::varchar" if by_string else "%(stream)s::uuid"),
        "columns": sql.SQL("").join(sql.SQL(", {}").format(_C(column)) for _, column in extra),
        "values": sql.SQL("").join(
            sql.SQL(", %(metadata)s::jsonb {} {}").format(
                sql.SQL("->" if key == "headers" else "->>"), sql.Literal(key)
            )
            for key, _ in extra
        ),
    }
    of_stream = "WHERE id = {id}" + (
        " AND tenant_id = {tenant}" if "tenant_id" in streams.key else ""
    )
    column, value = (", tenant_id", ", {tenant}") if streams.has("tenant_id") else ("", "")
    return AppendBesideStreamRow(
        make=sql.SQL(
            f"INSERT INTO {{streams}} (id, version{column}) SELECT {{id}}, 0{value} "
            f"WHERE NOT EXISTS (SELECT FROM {{streams}} {of_stream}) ON CONFLICT DO NOTHING"
        ).format(**names),
        lock=sql.SQL(
            f"SELECT version, is_archived FROM {{streams}} {of_stream} ORDER BY is_archived DESC "
            "LIMIT 1 FOR UPDATE"
        ).format(**names),
        insert=sql.SQL(
            "INSERT INTO {events} (seq_id, id, stream_id, version, data, type, tenant_id{columns}) "
            "VALUES (nextval({sequence}), "
            "%(id)s, {id}, %(version)s, %(data)s::jsonb, %(type)s, {tenant}{values}) "
            "RETURNING seq_id"
        ).format(**names),
        move=sql.SQL(
            f"UPDATE {{streams}} SET version = %(version)s, timestamp = now() {of_stream}"
        ).format(**names),
    )
