"""How Marten's streams leave and come back: its own `mt_archive_stream`, or deleted events behind a
stream row that stays.

Where both tables are partitioned by is_archived, a stream's key holds the mark, and the events'
foreign key too: so its row is
copied before its events move, and deleted after. Facts: Marten's ArchiveStreamFunction and
UnArchiveStreamOperation.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from esops.postgres.catalog import Table
from esops.stores.postgres.layouts.archiving import PARTS, STREAMS, LayoutArchiving, SqlRemoval

_EVENT = {
    "stream": "stream_id",
    "version": "version",
    "type": "type",
    "id": "id",
    "data": "data",
    "recorded_at": "timestamp",
}
_BINARY = "payload_is_bdata"


def archiving_rules(
    connection: psycopg.Connection,
    schema: str,
    streams: Table,
    events: Table,
    *,
    data_is_binary: bool,
) -> LayoutArchiving:
    """The statements for the variant that the tables show."""
    conjoined = "tenant_id" in streams.key
    kind = "uuid" if streams.column("id").kind == "uuid" else "varchar"
    marked = events.has("is_archived")
    names: dict[str, sql.Composable] = {
        "streams": sql.Identifier(schema, "mt_streams"),
        "events": sql.Identifier(schema, "mt_events"),
        "archive": sql.Identifier(schema, "mt_archive_stream"),
        "k": STREAMS,
        "parts": PARTS,
    }
    tenant = "s.tenant_id" if conjoined else "''"
    of_streams = f"s.id = k.stream::{kind}" + (" AND s.tenant_id = k.tenant" if conjoined else "")
    of_events = f"e.stream_id = k.stream::{kind}" + (
        " AND e.tenant_id = k.tenant" if conjoined else ""
    )

    def made(text: str) -> sql.Composed:
        return sql.SQL(text).format(**names)

    tombstone = (
        made(
            f"UPDATE {{streams}} s SET is_archived = TRUE FROM {{k}} WHERE {of_streams} AND "
            "s.is_archived IS NOT TRUE"
        ),
    )
    removals = {
        "delete": SqlRemoval(
            rows=made(
                f"DELETE FROM {{events}} e USING {{parts}} WHERE {of_events} AND e.version BETWEEN "
                "k.low AND k.high" + (" AND e.is_archived IS NOT TRUE" if marked else "")
            ),
            end=tombstone if marked else (),
            what="deletes events; each stream's row stays as its tombstone, marked as archived, so "
            "that nobody appends to it",
        )
    }
    parameters = _parameters_of_archive(connection, schema)
    if parameters:
        arguments = f"k.stream::{kind}" + (", k.tenant" if parameters > 1 else "")
        removals["archive"] = SqlRemoval(
            end=(made(f"SELECT {{archive}}({arguments}) FROM {{k}}"),),
            what="calls Marten's own mt_archive_stream for each stream",
        )
    return LayoutArchiving(
        columns={**_EVENT, **({"tenant": "tenant_id"} if conjoined else {})},
        position=("seq_id",),
        beside=("is_archived", "bdata"),
        extra={_BINARY: sql.SQL("(bdata IS NOT NULL)::text")} if data_is_binary else {},
        fill=_fill,
        guard=made(
            f"SELECT k.stream, k.tenant, s.version, s.is_archived IS TRUE FROM {{streams}} s JOIN "
            f"{{k}} ON {of_streams} "
            "ORDER BY s.is_archived DESC FOR UPDATE OF s SKIP LOCKED"
        ),
        removals=removals,
        streams=(sql.Identifier(schema, "mt_streams"),),
        revive=_revive(streams, of_streams, of_events, names) if marked else (),
        row=made(
            f"SELECT s.id::text, {tenant}, row_to_json(s)::text FROM {{streams}} s "
            f"WHERE s.id = ANY(%(stream)s::{kind}[])"
            + (" AND s.tenant_id = ANY(%(tenant)s::text[])" if conjoined else "")
        ),
        adopt=made(
            "INSERT INTO {streams} SELECT (jsonb_populate_record(NULL::{streams}, r::jsonb)).* "
            "FROM unnest(%(row)s::text[]) AS r"
        ),
    )


def _revive(
    streams: Table, of_streams: str, of_events: str, names: dict[str, sql.Composable]
) -> tuple[sql.Composed, ...]:
    """What Marten's UnArchiveStream does."""

    def made(text: str) -> sql.Composed:
        return sql.SQL(text).format(**names)

    events = made(
        f"UPDATE {{events}} e SET is_archived = FALSE FROM {{k}} WHERE {of_events} AND "
        "e.is_archived"
    )
    if "is_archived" not in streams.key:
        return (
            made(
                f"UPDATE {{streams}} s SET is_archived = FALSE FROM {{k}} WHERE {of_streams} AND "
                "s.is_archived"
            ),
            events,
        )
    others = [column.name for column in streams.columns if column.name != "is_archived"]
    names = {
        **names,
        "others": sql.SQL(", ").join(map(sql.Identifier, others)),
        "theirs": sql.SQL(", ").join(sql.Identifier("s", name) for name in others),
    }
    copy = made(
        f"INSERT INTO {{streams}} ({{others}}, is_archived) SELECT {{theirs}}, FALSE FROM "
        f"{{streams}} s JOIN {{k}} ON {of_streams} "
        "WHERE s.is_archived"
    )
    return (
        copy,
        events,
        made(f"DELETE FROM {{streams}} s USING {{k}} WHERE {of_streams} AND s.is_archived"),
    )


def _parameters_of_archive(connection: psycopg.Connection, schema: str) -> int:
    """How many parameters mt_archive_stream takes here; 0 where it is not there."""
    row = connection.execute(
        "SELECT max(p.pronargs) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
        "WHERE n.nspname = %s AND p.proname = 'mt_archive_stream'",
        (schema,),
    ).fetchone()
    return int(row[0] or 0) if row is not None else 0


def _fill(values: dict[str, Any]) -> None:
    """A binary payload goes back to bdata, with Marten's placeholder in its stead."""
    if _BINARY in values:
        values["bdata"] = None  # each row has the same columns
        if values.pop(_BINARY) == "true":
            values["bdata"], values["data"] = values["data"], b"{}"
