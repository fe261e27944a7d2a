"""How Marten's streams leave and come back: its own `mt_archive_stream`, or deleted events behind a
stream row that stays.

Facts: Marten's ArchiveStreamFunction and UnArchiveStreamOperation.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Literal

import psycopg
from psycopg import sql

from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.stores.postgres.layouts.archiving import (
    STREAMS,
    LayoutArchiving,
    SqlHeads,
    SqlRemoval,
)
from esops.stores.postgres.layouts.base import NO_TENANT
from esops.stores.postgres.layouts.marten.variant import MartenVariant

_EVENT = {
    "stream": "stream_id",
    "version": "version",
    "type": "type",
    "id": "id",
    "data": "data",
    "recorded_at": "timestamp",
}
_BINARY = "payload_is_bdata"
_NO_FUNCTION = "there is no function mt_archive_stream in schema {}"
_MAKE_FUNCTION = (
    "Marten makes it with the rest of its schema: apply that "
    "(ApplyAllConfiguredChangesToDatabaseAsync, or `db-apply`)."
)
_BEGINS = (
    "A new stream can take the id of a removed one, at version 1, since the archived partition "
    "keeps its ids apart (UseArchivedStreamPartitioning). Marten keeps them unique with "
    "EnableStrictStreamIdentityEnforcement."
)
_SQL = statements(__package__, "archiving")


def archiving_rules(connection: psycopg.Connection, variant: MartenVariant) -> LayoutArchiving:
    """The statements for the variant that the tables show."""
    parameters = _parameters_of_archive(connection, variant.schema)
    own = catalog.defaults(connection, variant.streams.oid)
    generated = {name for name, (form, itself) in own.items() if itself and form is not None}
    made = _made(variant, parameters, generated)
    reuse, again = _reuse(connection, variant)
    removals = {
        "delete": SqlRemoval(
            deletes=True,
            end=(made["tombstone"],) if variant.archivable else (),
            what="deletes events; each stream's row stays as its tombstone"
            + (", marked as archived" if variant.archivable else ""),
            reuse=reuse,
            again=again,
            heads=SqlHeads(made["head_limits"], until_only=True),
        )
    }
    # Offered only where Marten's own function is there to be called.
    if parameters:
        removals["archive"] = SqlRemoval(
            end=(made["archive"],),
            what="calls Marten's own mt_archive_stream for each stream",
            reuse=reuse,
            again=again,
        )
    return LayoutArchiving(
        columns={**_EVENT, **({"tenant": "tenant_id"} if variant.conjoined else {})},
        position=("seq_id",),
        beside=("is_archived", "bdata"),
        extra={_BINARY: sql.SQL("(bdata IS NOT NULL)::text")} if variant.binary else {},
        fill=_fill,
        guard=made["guard"],
        of_stream=made["of_stream"],
        of_any=made["of_any"],
        of_row=made["of_row"],
        # A quick append to a stream that is there inserts events first, and then updates the row
        # (QuickAppendEventFunction); a rich one, and each first append, have the row first.
        streams_first=False,
        twice=made["twice"] if "is_archived" in variant.streams.key else None,
        removals=removals,
        not_here={"archive": (_NO_FUNCTION.format(variant.schema), _MAKE_FUNCTION)},
        streams=(variant.table("mt_streams"),),
        advance=(made["advance"],),
        revive=_revive(variant, made) if variant.archivable else (),
        row=made["row"],
    )


def _reuse(
    connection: psycopg.Connection, variant: MartenVariant
) -> tuple[Literal["begins", "continues", "refused"], str]:
    """What an append to the id of a removed stream does, and that as a sentence."""
    if not variant.archivable:
        return "continues", ""
    # Only a key with the mark in it lets an id be used on both sides.
    if "is_archived" not in variant.streams.key or catalog.has_table(
        connection, variant.schema, "mt_streams_identity"
    ):
        return "refused", ""
    return "begins", _BEGINS


def _revive(variant: MartenVariant, made: dict[str, sql.Composed]) -> tuple[sql.Composed, ...]:
    """What Marten's UnArchiveStream does."""
    # Where the mark is part of the key, it cannot be updated in place: a copy takes the new mark.
    if "is_archived" in variant.streams.key:
        return made["copy_streams"], made["revive_events"], made["delete_streams"]
    return made["revive_streams"], made["revive_events"]


def _made(
    variant: MartenVariant, parameters: int, generated: Container[str]
) -> dict[str, sql.Composed]:
    """The statements of archiving.sql for a variant, by their names.

    `parameters` is how many mt_archive_stream takes, `generated` which columns of a stream's row
    the server computes.
    """
    conjoined, kind = variant.conjoined, sql.SQL(variant.id_kind)
    # Every column by its name, since options and versions add some.
    others = [
        each.name
        for each in variant.streams.columns
        if each.name != "is_archived" and each.name not in generated
    ]

    def only(condition: bool, text: str) -> sql.Composable:
        return sql.SQL(text if condition else "")

    def of_stream(table: str, column: str) -> sql.Composed:
        stream = sql.SQL("{} = k.stream::{}").format(sql.Identifier(table, column), kind)
        tenant = only(conjoined, f" AND {table}.tenant_id = k.tenant")
        return sql.SQL("{}{}").format(stream, tenant)

    names: dict[str, sql.Composable] = {
        "streams": variant.table("mt_streams"),
        "events": variant.table("mt_events"),
        "archive": variant.table("mt_archive_stream"),
        "k": STREAMS,
        "kind": kind,
        "of_streams": of_stream("s", "id"),
        "of_events": of_stream("e", "stream_id"),
        "own_tenant": sql.Identifier("s", "tenant_id") if conjoined else NO_TENANT,
        "and_any_tenant": only(conjoined, " AND s.tenant_id = ANY(%(tenant)s::text[])"),
        "by_name": only(variant.text_ids, "split_part(s.id, '-', 1), "),
        "prefix": sql.SQL("split_part(s.id, '-', 1)" if variant.text_ids else "NULL"),
        "and_not_archived": only(variant.archivable, " AND e.is_archived IS NOT TRUE"),
        "arguments": sql.SQL("k.stream::{}{}").format(kind, only(parameters > 1, ", k.tenant")),
        "others": sql.SQL(", ").join(map(sql.Identifier, others)),
        "theirs": sql.SQL(", ").join(sql.Identifier("s", name) for name in others),
    }
    made = {name: sql.SQL(text).format(**names) for name, text in _SQL.items()}
    made["of_any"] = sql.SQL("{of_events}").format(**names)
    made["of_row"] = sql.SQL("{of_streams}").format(**names)
    made["of_stream"] = sql.SQL("{of_events}{and_not_archived}").format(**names)
    return made


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
