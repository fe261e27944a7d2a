"""What Marten's quick append does, in each variant of its tables."""

from __future__ import annotations

from psycopg import sql

from esops.postgres.statements import statements
from esops.stores.postgres.layouts.appending import AppendBesideStreamRow
from esops.stores.postgres.layouts.marten.variant import DEFAULT_TENANT, MartenVariant

_APPENDING = statements(__package__, "appending")
_C = sql.Identifier


def appending_of(variant: MartenVariant) -> AppendBesideStreamRow:
    """How events are appended to the tables of a variant."""
    # Marten writes this tenant where the application names none.
    tenant = sql.Literal(variant.tenant or DEFAULT_TENANT)
    has_tenant = variant.streams.has("tenant_id")
    empty = sql.SQL("")
    names: dict[str, sql.Composable] = {
        "streams": variant.table("mt_streams"),
        "events": variant.table("mt_events"),
        "sequence": sql.Literal(variant.table(variant.sequence_name).as_string(None)),
        "id": sql.SQL("%(stream)s::{}").format(sql.SQL(variant.id_kind)),
        "tenant": tenant,
        "tenant_column": sql.SQL(", tenant_id") if has_tenant else empty,
        "tenant_value": sql.SQL(", {}").format(tenant) if has_tenant else empty,
        "and_tenant": sql.SQL(" AND tenant_id = {}").format(tenant) if variant.conjoined else empty,
        "columns": empty.join(sql.SQL(", {}").format(_C(name)) for _, name in variant.metadata),
        "values": empty.join(
            sql.SQL(", %(metadata)s::jsonb {} {}").format(
                sql.SQL("->" if key == "headers" else "->>"), sql.Literal(key)
            )
            for key, _ in variant.metadata
        ),
    }
    return AppendBesideStreamRow(
        **{name: sql.SQL(text).format(**names) for name, text in _APPENDING.items()}
    )
