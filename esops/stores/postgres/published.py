"""What carries rows of the events' table out of the database by logical replication."""

from __future__ import annotations

from dataclasses import replace

import psycopg
from psycopg import sql

from esops.postgres.publications import decoded, decoding_slots, of_rows
from esops.stores.readers import EventReader, EventsRead


def published(
    connection: psycopg.Connection, events: sql.Identifier, type_: sql.Composable
) -> list[EventReader]:
    """The publications with the events' table, and the slots that decode every table. `type_` is
    the event's type in SQL. Where WAL is not decoded, publications are asleep.
    """
    asleep = "" if decoded(connection) else "nobody gets them while wal_level is not logical"
    row = connection.execute(
        "SELECT %s::regclass::oid::bigint", (events.as_string(connection),)
    ).fetchone()
    assert row is not None
    found = [
        EventReader(
            name,
            (name,),
            "publication",
            replace(_rows(connection, events, type_, condition), asleep=asleep),
        )
        for name, condition in of_rows(connection, row[0])
    ]
    for name, plugin in [] if asleep else decoding_slots(connection):
        everything = EventsRead(words=f"all rows, by plug-in {plugin}")
        found.append(EventReader(name, (name,), "replication slot", everything))
    return found


def _rows(
    connection: psycopg.Connection,
    events: sql.Identifier,
    type_: sql.Composable,
    condition: str | None,
) -> EventsRead:
    if condition is None:
        return EventsRead(words="all rows of the table")
    # The condition is one that the catalogue holds, as Postgres itself wrote it.
    statement = sql.SQL("SELECT DISTINCT {}::text FROM {} WHERE {}").format(
        type_,
        events,
        sql.SQL(condition),
    )
    types = frozenset(row[0] for row in connection.execute(statement).fetchall())
    words = f"rows WHERE {condition}"
    return EventsRead(types=types, nothing=not types, words=words)
