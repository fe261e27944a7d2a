"""Marten's tables in the variants of its versions and options, from its schema sources (see docs/reference/layouts.md)."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql


@dataclass(frozen=True)
class Variant:
    schema: str = "public"
    text_ids: bool = False
    conjoined: bool = False
    partitioned: bool = False
    optional: bool = False
    binary: bool = False
    marten_6: bool = False


def create(connection, v: Variant = Variant()) -> None:
    schema = sql.Identifier(v.schema).as_string(None)
    identity = "varchar" if v.text_ids else "uuid"
    stream_key = (
        (["tenant_id"] if v.conjoined else []) + ["id"] + (["is_archived"] if v.partitioned else [])
    )
    event_key = ["seq_id"] + (["is_archived"] if v.partitioned else [])
    unique = ["tenant_id"] if v.conjoined else []
    unique += ["stream_id", "version"] + (["is_archived"] if v.partitioned else [])
    partition = "PARTITION BY LIST (is_archived)" if v.partitioned else ""
    optional = (
        ", correlation_id varchar, causation_id varchar, headers jsonb, user_name varchar, is_skipped boolean DEFAULT FALSE"
        if v.optional
        else ""
    )
    foreign = ""
    if not v.conjoined and not v.partitioned:
        foreign = f", FOREIGN KEY (stream_id) REFERENCES {schema}.mt_streams (id) ON DELETE CASCADE"
    connection.execute(f"""
        CREATE SCHEMA IF NOT EXISTS {schema};
        CREATE TABLE {schema}.mt_streams (
            {"tenant_id varchar DEFAULT '*DEFAULT*'," if v.conjoined else ""}
            id {identity} NOT NULL, type varchar, version bigint, timestamp timestamptz NOT NULL DEFAULT now(),
            {"snapshot jsonb, snapshot_version integer," if v.marten_6 else ""}
            created timestamptz NOT NULL DEFAULT now(),
            {"" if v.conjoined else "tenant_id varchar DEFAULT '*DEFAULT*',"}
            is_archived boolean DEFAULT FALSE, PRIMARY KEY ({", ".join(stream_key)})
        ) {partition};
        CREATE SEQUENCE {schema}.mt_events_sequence;
        CREATE TABLE {schema}.mt_events (
            seq_id bigint NOT NULL, id uuid NOT NULL, stream_id {identity} NOT NULL, version bigint NOT NULL,
            data jsonb NOT NULL {", bdata bytea" if v.binary else ""}, type varchar(500) NOT NULL,
            timestamp timestamptz NOT NULL DEFAULT now(), tenant_id varchar DEFAULT '*DEFAULT*', mt_dotnet_type varchar
            {optional}, is_archived boolean DEFAULT FALSE, PRIMARY KEY ({", ".join(event_key)}) {foreign}
        ) {partition};
        CREATE UNIQUE INDEX pk_mt_events_stream_and_version ON {schema}.mt_events ({", ".join(unique)});
        CREATE TABLE {schema}.mt_event_progression (
            name varchar PRIMARY KEY, last_seq_id bigint, last_updated timestamptz DEFAULT transaction_timestamp());
    """)
    if v.partitioned:
        for table in ("mt_streams", "mt_events"):
            connection.execute(f"""
                CREATE TABLE {schema}.{table}_default PARTITION OF {schema}.{table} DEFAULT;
                CREATE TABLE {schema}.{table}_archived PARTITION OF {schema}.{table} FOR VALUES IN (TRUE);
            """)
    create_archive_function(connection, v)


def create_archive_function(connection, v: Variant) -> None:
    """`mt_archive_stream` as it behaves: marks the stream and its events, or moves both to the archived partitions."""
    schema = sql.Identifier(v.schema).as_string(None)
    identity = "varchar" if v.text_ids else "uuid"
    parameters = f"streamid {identity}" + (", tenantid varchar" if v.conjoined else "")
    of_stream = "id = streamid" + (" AND tenant_id = tenantid" if v.conjoined else "")
    of_events = "stream_id = streamid" + (" AND tenant_id = tenantid" if v.conjoined else "")
    body = f"""
        UPDATE {schema}.mt_streams SET is_archived = TRUE WHERE {of_stream};
        UPDATE {schema}.mt_events SET is_archived = TRUE WHERE {of_events};
    """
    if v.partitioned:
        # As Marten writes it: with the columns that it knows, whatever others the tables have.
        tables = (("mt_streams", of_stream), ("mt_events", of_events))
        body = "".join(
            f"""
            INSERT INTO {schema}.{table} ({_known(connection, v.schema, table)}, is_archived)
            SELECT {_known(connection, v.schema, table)}, TRUE FROM {schema}.{table} WHERE {which};
            """
            for table, which in tables
        ) + "".join(
            f"DELETE FROM {schema}.{table} WHERE {which} AND NOT is_archived;"
            for table, which in reversed(tables)
        )
    connection.execute(
        f"CREATE OR REPLACE FUNCTION {schema}.mt_archive_stream({parameters}) RETURNS void LANGUAGE plpgsql AS $f$ BEGIN {body} END; $f$"
    )


def _known(connection, schema: str, table: str) -> str:
    """The columns that a table is made with, but for the mark."""
    query = (
        "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute "
        "WHERE attrelid = format('%%I.%%I', %s::text, %s::text)::regclass AND attnum > 0 "
        "AND attname <> 'is_archived'"
    )
    return connection.execute(query, (schema, table)).fetchone()[0]


def create_numbered_by_tenant(connection) -> None:
    """Events partitioned by tenant, each tenant with numbers of its own."""
    connection.execute("""
        CREATE TABLE mt_streams (tenant_id varchar, id varchar, type varchar, version bigint, timestamp timestamptz DEFAULT now(),
            created timestamptz DEFAULT now(), is_archived boolean DEFAULT FALSE, PRIMARY KEY (tenant_id, id));
        CREATE TABLE mt_events (seq_id bigint, id uuid NOT NULL, stream_id varchar NOT NULL, version bigint NOT NULL,
            data jsonb NOT NULL, type varchar(500) NOT NULL, timestamp timestamptz NOT NULL DEFAULT now(), tenant_id varchar,
            mt_dotnet_type varchar, is_archived boolean DEFAULT FALSE, PRIMARY KEY (seq_id, tenant_id)) PARTITION BY LIST (tenant_id);
        CREATE TABLE mt_tenant_partitions (partition_value varchar PRIMARY KEY, partition_suffix varchar);
        INSERT INTO mt_tenant_partitions VALUES ('Red Inc', 'red'), ('Blue Inc', 'blue');
        CREATE TABLE mt_events_red PARTITION OF mt_events FOR VALUES IN ('Red Inc');
        CREATE TABLE mt_events_blue PARTITION OF mt_events FOR VALUES IN ('Blue Inc');
        CREATE SEQUENCE mt_events_sequence; CREATE SEQUENCE mt_events_sequence_red; CREATE SEQUENCE mt_events_sequence_blue;
    """)


def archive(connection, v: Variant, stream: str) -> None:
    """What mt_archive_stream does."""
    schema = sql.Identifier(v.schema).as_string(None)
    connection.execute(
        f"UPDATE {schema}.mt_events SET is_archived = TRUE WHERE stream_id::text = %s", (stream,)
    )
    connection.execute(
        f"UPDATE {schema}.mt_streams SET is_archived = TRUE WHERE id::text = %s", (stream,)
    )


VARIANTS = {
    "marten-uuid": Variant(),
    "marten-text": Variant(text_ids=True),
    "marten-6": Variant(marten_6=True),
    "marten-conjoined": Variant(conjoined=True, text_ids=True),
    "marten-partitioned": Variant(partitioned=True),
    "marten-partitioned-conjoined": Variant(partitioned=True, conjoined=True),
    "marten-optional": Variant(optional=True, text_ids=True),
    "marten-binary": Variant(binary=True),
    "marten-schema": Variant(schema='We"ird Schema.select'),
}
