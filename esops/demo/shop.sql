-- A shop's event store as Marten 9 lays it out (quick append), with text stream ids. {schema} is the schema's quoted name.
CREATE SCHEMA IF NOT EXISTS {schema};

CREATE TABLE {schema}.mt_streams (
    id          varchar PRIMARY KEY,
    type        varchar NULL,
    version     bigint NULL,
    timestamp   timestamptz NOT NULL DEFAULT now(),
    created     timestamptz NOT NULL DEFAULT now(),
    tenant_id   varchar DEFAULT '*DEFAULT*',
    is_archived boolean DEFAULT FALSE
);

CREATE SEQUENCE {schema}.mt_events_sequence;

CREATE TABLE {schema}.mt_events (
    seq_id         bigint PRIMARY KEY,
    id             uuid NOT NULL,
    stream_id      varchar NOT NULL REFERENCES {schema}.mt_streams (id) ON DELETE CASCADE,
    version        bigint NOT NULL,
    data           jsonb NOT NULL,
    bdata          bytea NULL,
    type           varchar(500) NOT NULL,
    timestamp      timestamptz NOT NULL DEFAULT now(),
    tenant_id      varchar DEFAULT '*DEFAULT*',
    mt_dotnet_type varchar NULL,
    is_archived    boolean DEFAULT FALSE
);
CREATE UNIQUE INDEX pk_mt_events_stream_and_version ON {schema}.mt_events (stream_id, version);

CREATE TABLE {schema}.mt_event_progression (
    name         varchar PRIMARY KEY,
    last_seq_id  bigint NULL,
    last_updated timestamptz DEFAULT transaction_timestamp()
);

CREATE FUNCTION {schema}.mt_archive_stream(streamid varchar) RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    UPDATE {schema}.mt_streams SET is_archived = TRUE WHERE id = streamid;
    UPDATE {schema}.mt_events SET is_archived = TRUE WHERE stream_id = streamid;
END;
$function$;
