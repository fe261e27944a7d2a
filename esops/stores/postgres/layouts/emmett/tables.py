"""Emmett's tables (0.38 to 0.44): emt_streams, emt_messages, emt_processors (up to 0.41:
emt_subscriptions).

Rows carry their transaction's id, and the library reads in the order of (transaction id, global
position) what lies below
the oldest running transaction; esops does the same, or reads by global position with `ordering =
"position"`. A
partition of Emmett's is a tenant here. Facts: Emmett's PostgreSQL event store sources; see
docs/reference/layouts.md.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from esops.errors import Unavailable
from esops.postgres import catalog
from esops.settings import PostgresSettings
from esops.stores.postgres.layouts.base import (
    NO_TENANT,
    TRUE,
    AppendBesideStreamRow,
    Layout,
    Mapped,
    StreamTable,
    category_in,
)
from esops.stores.postgres.layouts.emmett import archiving as emmett_archiving
from esops.stores.postgres.layouts.emmett import processors as emmett_processors
from esops.stores.postgres.settle import SequenceLockers, SettleRule, TransactionIds

DEFAULT_PARTITION = "emt:default"
SEQUENCE = "emt_global_message_position"
_C = sql.Identifier


def detect(connection: psycopg.Connection, settings: PostgresSettings) -> list[Layout]:
    """Emmett's stores in a database."""
    schemas = catalog.schemas_with(connection, "emt_messages", "emt_streams")
    return [
        _read(connection, schema, settings)
        for schema in schemas
        if settings.db_schema is None or schema == settings.db_schema
    ]


def _read(connection: psycopg.Connection, schema: str, settings: PostgresSettings) -> Layout:
    sequence = catalog.sequence_of(connection, schema, SEQUENCE)
    if sequence is None:
        raise Unavailable(
            f"schema {schema!r} has emt_messages but no sequence {SEQUENCE}",
            hint="Is it a copy without it?",
        )
    processors = (
        "emt_processors"
        if catalog.find_table(connection, schema, "emt_processors")
        else "emt_subscriptions"
    )
    partitions = connection.execute(
        sql.SQL("SELECT count(*) FROM pg_inherits WHERE inhparent = {}::regclass").format(
            sql.Literal(_C(schema, "emt_messages").as_string(None))
        )
    ).fetchone()
    tenants = settings.tenant is None and partitions is not None and partitions[0] > 1
    scope: sql.Composable = TRUE
    if settings.tenant is not None:
        scope = sql.SQL("partition = {}").format(sql.Literal(settings.tenant))
    by_position = settings.ordering == "position"

    def make_rule() -> SettleRule:
        name = _C(schema, SEQUENCE)
        return SequenceLockers(name, sequence[0]) if by_position else TransactionIds(name)

    number = (_C("global_position"), _C("global_position"), "bigint")
    transaction = (sql.SQL("transaction_id::text::bigint"), _C("transaction_id"), "xid8")
    order = (number,) if by_position else (transaction, number)
    return Layout(
        name="emmett",
        schema=schema,
        version="0.42 or later" if processors == "emt_processors" else "0.41 or earlier",
        events=_C(schema, "emt_messages"),
        mapped=Mapped(
            id=_C("message_id"),
            stream=_C("stream_id"),
            version=_C("stream_position"),
            type=_C("message_type"),
            data=_C("message_data"),
            metadata=_C("message_metadata"),
            recorded_at=_C("created"),
            tenant=_C("partition") if tenants else NO_TENANT,
        ),
        order=tuple(selected for selected, _, _ in order),
        order_columns=tuple(column for _, column, _ in order),
        order_casts=tuple(cast for _, _, cast in order),
        rule=make_rule,
        reads=tuple(_C(schema, name) for name in ("emt_messages", "emt_streams", processors)),
        sequences=(_C(schema, SEQUENCE),),
        own=sql.SQL("message_kind = 'E' AND {}").format(scope),
        scope=scope,
        alive=sql.SQL("is_archived = FALSE"),
        archived=_C("is_archived"),
        in_category=lambda name: sql.SQL("split_part(stream_id, '-', 1) = {}").format(
            sql.Literal(name)
        ),
        stream_equals=lambda name: sql.SQL("stream_id = {}").format(sql.Literal(name)),
        append=_appending(schema, settings.tenant or DEFAULT_PARTITION, by_position),
        checkpoints=lambda on: emmett_processors.checkpoints(on, schema, processors, by_position),
        hand_over=lambda on, name, position: emmett_processors.hand_over(
            on, schema, processors, name, position
        ),
        tenants=tenants,
        stream_column=_C("stream_id"),
        stream_table=StreamTable(
            table=_C(schema, "emt_streams"),
            stream=_C("stream_id"),
            tenant=_C("partition") if tenants else NO_TENANT,
            category=category_in(_C("stream_id")),
            length=_C("stream_position"),
            alive=sql.SQL("is_archived = FALSE"),
            in_category=lambda name: sql.SQL("split_part(stream_id, '-', 1) = {}").format(
                sql.Literal(name)
            ),
            note="the positions in emt_streams",
            scope=scope,
        ),
        archiving=emmett_archiving.archiving_rules(schema, tenants, settings.tenant, by_position),
        detail={
            "ordering": "global position" if by_position else "transaction id, global position",
            "processors": processors,
        },
        warnings=lambda on: [] if by_position else _from_the_future(on, schema),
    )


def _from_the_future(connection: psycopg.Connection, schema: str) -> list[str]:
    """After a restore into another cluster, transaction ids may not have happened yet there; such
    events are invisible.
    """
    row = connection.execute(
        sql.SQL(
            "SELECT transaction_id::text FROM {} WHERE transaction_id >= "
            "pg_snapshot_xmax(pg_current_snapshot()) LIMIT 1"
        ).format(_C(schema, "emt_messages"))
    ).fetchone()
    if row is None:
        return []
    return [
        (
            f"there are events with transaction ids in this cluster's future (such as {row[0]}): "
            "restored from another cluster, "
            'they are invisible to readers; read with ordering = "position", or raise the '
            "cluster's transaction counter"
        )
    ]


def _appending(schema: str, partition: str, by_position: bool) -> AppendBesideStreamRow:
    """What Emmett's append function does: the stream's row first, then its messages with their
    transaction's id.
    """
    names = {
        "streams": _C(schema, "emt_streams"),
        "messages": _C(schema, "emt_messages"),
        "partition": sql.Literal(partition),
        "number": sql.SQL(
            "global_position" if by_position else "transaction_id::text::bigint, global_position"
        ),
    }
    of_stream = "WHERE stream_id = %(stream)s AND partition = {partition}"
    return AppendBesideStreamRow(
        make=sql.SQL(
            "INSERT INTO {streams} (stream_id, stream_position, partition, stream_type, "
            "stream_metadata, is_archived) "
            "SELECT %(stream)s, 0, {partition}, split_part(%(stream)s, '-', 1), '{{}}', FALSE "
            f"WHERE NOT EXISTS (SELECT FROM {{streams}} {of_stream}) ON CONFLICT DO NOTHING"
        ).format(**names),
        lock=sql.SQL(
            f"SELECT stream_position, is_archived FROM {{streams}} {of_stream} ORDER BY "
            "is_archived DESC LIMIT 1 FOR UPDATE"
        ).format(**names),
        insert=sql.SQL(
            "INSERT INTO {messages} (stream_id, stream_position, partition, message_kind, "
            "message_schema_version, message_id, "
            "message_type, message_data, message_metadata, transaction_id) VALUES (%(stream)s, "
            "%(version)s, {partition}, 'E', '1', "
            "%(id)s, %(type)s, %(data)s::jsonb, %(metadata)s::jsonb, pg_current_xact_id()) "
            "RETURNING {number}"
        ).format(**names),
        move=sql.SQL(f"UPDATE {{streams}} SET stream_position = %(version)s {of_stream}").format(
            **names
        ),
    )
