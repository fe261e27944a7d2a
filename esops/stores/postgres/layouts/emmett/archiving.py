"""How Emmett's streams leave and come back: to its archived partitions, or deleted behind a stream
row that stays.
"""

from __future__ import annotations

from psycopg import sql

from esops.stores.postgres.layouts.archiving import PARTS, STREAMS, LayoutArchiving, SqlRemoval
from esops.stores.postgres.layouts.base import NO_TENANT

_EVENT = {
    "stream": "stream_id",
    "version": "stream_position",
    "type": "message_type",
    "id": "message_id",
    "data": "message_data",
    "metadata": "message_metadata",
    "recorded_at": "created",
}
_C = sql.Identifier


def archiving_rules(
    schema: str, tenants: bool, tenant: str | None, by_position: bool
) -> LayoutArchiving:
    """Streams and messages move to the archived partitions together; a stream's row stays when its
    messages are deleted.
    """
    partition = (
        "k.tenant" if tenants else "{partition}" if tenant is not None else "{table}.partition"
    )
    of_tenants = "ANY(%(tenant)s::text[])" if tenants else partition
    names = {
        "streams": _C(schema, "emt_streams"),
        "messages": _C(schema, "emt_messages"),
        "k": STREAMS,
        "parts": PARTS,
        "own_tenant": _C("s", "partition") if tenants else NO_TENANT,
        "partition": sql.Literal(tenant or ""),
    }
    of_streams = f"s.stream_id = k.stream AND s.partition = {partition.replace('{table}', 's')}"
    of_messages = f"m.stream_id = k.stream AND m.partition = {partition.replace('{table}', 'm')}"
    which = "k.stream, k.tenant"
    moved = [
        sql.SQL(
            f"UPDATE {{messages}} m SET is_archived = {after} FROM {{k}} WHERE {of_messages} AND "
            f"m.is_archived = {before}"
        ).format(**names)
        for before, after in (("FALSE", "TRUE"), ("TRUE", "FALSE"))
    ]
    marked = [
        sql.SQL(
            f"UPDATE {{streams}} s SET is_archived = {after} FROM {{k}} WHERE {of_streams} AND "
            f"s.is_archived = {before}"
        ).format(**names)
        for before, after in (("FALSE", "TRUE"), ("TRUE", "FALSE"))
    ]
    rows = sql.SQL(
        f"DELETE FROM {{messages}} m USING {{parts}} WHERE {of_messages} AND m.stream_position "
        "BETWEEN k.low AND k.high "
        "AND m.is_archived = FALSE"
    ).format(**names)
    return LayoutArchiving(
        columns=_EVENT,
        position=("global_position",) if by_position else ("transaction_id", "global_position"),
        beside=("is_archived",),
        streams=(_C(schema, "emt_streams"),),
        guard=sql.SQL(
            f"SELECT {which}, s.stream_position, s.is_archived FROM {{streams}} s JOIN {{k}} ON "
            f"{of_streams} "
            "ORDER BY s.is_archived DESC FOR UPDATE OF s SKIP LOCKED"
        ).format(**names),
        removals={
            "archive": SqlRemoval(
                end=(moved[0], marked[0]),
                what="moves messages and streams to the archived partitions",
            ),
            "delete": SqlRemoval(
                rows=rows,
                end=(marked[0],),
                what="deletes messages; each stream's row stays, marked as archived",
            ),
        },
        revive=(moved[1], marked[1]),
        row=sql.SQL(
            "SELECT s.stream_id, {own_tenant}, row_to_json(s)::text FROM {streams} s "
            "WHERE s.stream_id = ANY(%(stream)s::text[]) AND s.partition = "
            f"{of_tenants.replace('{table}', 's')}"
        ).format(**names),
        adopt=sql.SQL(
            "INSERT INTO {streams} SELECT (jsonb_populate_record(NULL::{streams}, r::jsonb)).* "
            "FROM unnest(%(row)s::text[]) AS r"
        ).format(**names),
    )
