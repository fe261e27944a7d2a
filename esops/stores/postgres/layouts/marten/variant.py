"""Which variant of Marten's tables a schema holds, by what its versions and options leave there."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql

from esops.errors import NoTenant, Unavailable
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.statements import statements

DEFAULT_TENANT = "*DEFAULT*"
_SQL = statements(__package__, "variant")
_MOST_NAMED = 20
_METADATA = (
    ("correlationId", "correlation_id"),
    ("causationId", "causation_id"),
    ("userName", "user_name"),
    ("headers", "headers"),
)


@dataclass(frozen=True)
class MartenVariant:
    """Marten's tables in one schema, and the tenant whose events are read."""

    schema: str
    events: Table
    streams: Table
    sequence_name: str
    has_progression: bool
    """Whether the daemon's table of progress is there."""
    tenant: str | None = None
    """The only tenant whose events are read; None: all of them."""
    own_numbers: bool = False
    """Whether each tenant's events are numbered on their own, from a sequence of its own."""

    @property
    def text_ids(self) -> bool:
        """Whether streams are named by text, and not by a UUID."""
        return self.streams.column("id").kind != "uuid"

    @property
    def id_kind(self) -> str:
        """The type of a stream's id."""
        return "varchar" if self.text_ids else "uuid"

    @property
    def conjoined(self) -> bool:
        """Whether several tenants share the tables, so that a key has two parts."""
        return "tenant_id" in self.streams.key

    @property
    def archivable(self) -> bool:
        """Whether streams can be marked as archived."""
        return self.events.has("is_archived")

    @property
    def binary(self) -> bool:
        """Whether payloads may be in `bdata` (since 9)."""
        return self.events.has("bdata")

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """The keys of the metadata and their columns, of those that the options keep."""
        return [(key, column) for key, column in _METADATA if self.events.has(column)]

    @property
    def versions(self) -> str:
        """Which versions of Marten write such tables."""
        if self.binary:
            return "9 or later"
        return "8 or earlier" if self.streams.has("snapshot") else "6 to 9"

    def table(self, name: str) -> sql.Identifier:
        """A table of the schema."""
        return sql.Identifier(self.schema, name)


def read_variant(
    connection: psycopg.Connection, schema: str, tenant: str | None, own_sequence: str | None
) -> MartenVariant:
    """Look at the tables of a schema. Raises Unavailable where the sequence is missing."""
    events = catalog.find_table(connection, schema, "mt_events")
    streams = catalog.find_table(connection, schema, "mt_streams")
    assert events is not None
    assert streams is not None
    sequence_name = own_sequence or "mt_events_sequence"
    if catalog.sequence_of(connection, schema, sequence_name) is None:
        raise Unavailable(
            f"schema {schema!r} has mt_events but no sequence {sequence_name}",
            hint="Is it a copy without it?",
        )
    return MartenVariant(
        schema,
        events,
        streams,
        sequence_name,
        has_progression=catalog.has_table(connection, schema, "mt_event_progression"),
        tenant=tenant,
        own_numbers=own_sequence is not None,
    )


def check_tenant(connection: psycopg.Connection, variant: MartenVariant) -> None:
    """Raises UsageError for a tenant that tables of a single one cannot have."""
    if variant.tenant is None or variant.own_numbers or variant.conjoined:
        return
    # Tables that were conjoined once may have the rows of several yet.
    if not variant.events.has("tenant_id") or (
        variant.tenant != DEFAULT_TENANT and not _has_tenant(connection, variant, "mt_events")
    ):
        raise NoTenant(
            f"tenant: Marten's tables in schema {variant.schema!r} are those of a single tenant, "
            f"and no event has tenant {variant.tenant!r}",
            hint="Remove `tenant`, or name the schema or database with this tenant's events.",
        )


def absent_tenant(connection: psycopg.Connection, variant: MartenVariant) -> str | None:
    """What to say of a tenant that no stream has, where there are others."""
    if variant.tenant is None or variant.own_numbers or not variant.conjoined:
        return None
    if _has_tenant(connection, variant, "mt_streams"):
        return None
    statement = sql.SQL(_SQL["tenants"]).format(
        streams=variant.table("mt_streams"), most=sql.Literal(_MOST_NAMED + 1)
    )
    known = [name for (name,) in connection.execute(statement).fetchall()]
    more = ", …" if len(known) > _MOST_NAMED else ""
    return (
        f"no stream has tenant {variant.tenant!r}; there is: {', '.join(known[:_MOST_NAMED])}{more}"
        if known
        else None
    )


def _has_tenant(connection: psycopg.Connection, variant: MartenVariant, table: str) -> bool:
    statement = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE tenant_id = {})").format(
        variant.table(table), sql.Literal(variant.tenant)
    )
    row = connection.execute(statement).fetchone()
    return row is not None and bool(row[0])


def sequences_of_tenants(connection: psycopg.Connection, schema: str) -> dict[str, str]:
    """The sequence of each tenant, where events are partitioned by tenant and numbered for each on
    its own.
    """
    rows = connection.execute(
        "SELECT substr(c.relname, length('mt_events_sequence_') + 1), c.relname FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind = 'S' AND c.relname LIKE 'mt\\_events\\_sequence\\_%%' "
        "ORDER BY 1",
        (schema,),
    ).fetchall()
    events = catalog.find_table(connection, schema, "mt_events") if rows else None
    # Only where the events are partitioned by tenant alone may each have a sequence of its own.
    if events is None or events.partitioned_by != ("tenant_id",):
        return {}
    # A suffix is a tenant's name made fit for a table's; the table of partitions has the name
    # itself.
    by_suffix: dict[str, str] = dict(rows)
    if not catalog.has_table(connection, schema, "mt_tenant_partitions"):
        return by_suffix
    named = sql.SQL("SELECT partition_value, partition_suffix FROM {} ORDER BY 1").format(
        sql.Identifier(schema, "mt_tenant_partitions")
    )
    return {
        tenant: by_suffix[suffix]
        for tenant, suffix in connection.execute(named).fetchall()
        if suffix in by_suffix
    }
