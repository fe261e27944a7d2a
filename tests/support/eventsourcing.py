"""The tables of an application of Python's eventsourcing, as 9.5 makes them."""

from __future__ import annotations


def create(connection, application: str = "bankaccounts", schema: str = "public") -> None:
    connection.execute(f"""
        CREATE TABLE {schema}.{application}_events (
            originator_id uuid NOT NULL, originator_version bigint NOT NULL, topic text, state
            bytea, notification_id bigserial,
            PRIMARY KEY (originator_id, originator_version));
        CREATE UNIQUE INDEX ON {schema}.{application}_events (notification_id);
        CREATE TABLE {schema}.{application}_snapshots (
            originator_id uuid NOT NULL, originator_version bigint NOT NULL, topic text, state
            bytea,
            PRIMARY KEY (originator_id, originator_version));""")
