"""What the columns of Marten's tables mean, in each variant: the metadata of an event, the
documents that can be masked, and the list of streams.
"""

from __future__ import annotations

from psycopg import sql

from esops.stores.masking import Document
from esops.stores.postgres.layouts.base import FALSE, NO_TENANT, NOTHING, TRUE, StreamTable
from esops.stores.postgres.layouts.expressions import category_in
from esops.stores.postgres.layouts.marten.variant import MartenVariant

_C = sql.Identifier


def metadata_of(variant: MartenVariant) -> sql.Composable:
    """The columns that the options keep, as one document."""
    pairs = [sql.SQL("{}, {}").format(sql.Literal(key), _C(name)) for key, name in variant.metadata]
    if not pairs:
        return NOTHING
    return sql.SQL("jsonb_strip_nulls(jsonb_build_object({}))").format(sql.SQL(", ").join(pairs))


def documents_of(variant: MartenVariant) -> list[Document]:
    """The payload in either column, and each column of the metadata, which is read as one document
    without what is null.
    """
    return [
        Document("data", "data", checked=True),
        *([Document("bdata", "data")] if variant.binary else []),
        *(
            Document(
                column,
                "metadata",
                (key,),
                plain=column != "headers",
                checked=True,
                drops_nulls=True,
            )
            for key, column in variant.metadata
        ),
    ]


def stream_table_of(variant: MartenVariant) -> StreamTable:
    """mt_streams, whose version is what has ever been written: it does not go back where a stream
    is compacted or trimmed. Since 9.58 another column says up to which version it was compacted.
    """
    streams, tenant = variant.streams, variant.tenant
    scope: sql.Composable = TRUE
    if tenant is not None and streams.has("tenant_id"):
        scope = sql.SQL("tenant_id = {}").format(sql.Literal(tenant))

    def in_category(name: str) -> sql.Composable:
        of_name: sql.Composable = FALSE
        if variant.text_ids:
            of_name = sql.SQL("split_part(id, '-', 1) = {}").format(sql.Literal(name))
        return sql.SQL("(type = {} OR {})").format(sql.Literal(name), of_name)

    compacted = streams.has("compacted_version")
    return StreamTable(
        table=variant.table("mt_streams"),
        stream=_C("id"),
        tenant=_C("tenant_id") if variant.conjoined else NO_TENANT,
        category=category_in(_C("id")) if variant.text_ids else _C("type"),
        length=_C("version"),
        alive=sql.SQL("is_archived IS NOT TRUE") if streams.has("is_archived") else TRUE,
        in_category=in_category,
        note="the versions in mt_streams"
        + (
            ", without what was compacted: a stream that was"
            if compacted
            else ": a stream that was"
        )
        + (" trimmed" if compacted else " compacted or trimmed")
        + " counts with its greatest length so far",
        scope=scope,
        # One event stands for all up to that version.
        left=sql.SQL("(version - greatest(compacted_version - 1, 0))") if compacted else None,
    )
