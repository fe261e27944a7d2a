"""What carries rows of the events' table out of the database by logical replication."""

from __future__ import annotations

import psycopg
from psycopg import sql

from esops.postgres.publications import decoded, decoding_slots, of_rows
from esops.stores.readers import EventReader, EventsRead


def published(
    connection: psycopg.Connection, events: sql.Identifier, type_: sql.Composable
) -> list[EventReader]:
    """The publications with the events' table, and the slots that decode every table. `type_` is
    the event's type in SQL. Nothing where WAL is not decoded.
    """
    if not decoded(connection):
        return []
    row = connection.execute(
        "SELECT %s::regclass::oid::bigint", (events.as_string(connection),)
    ).fetchone()
    assert row is not None
    found = [
        EventReader(name, (name,), "publication", _rows(connection, events, type_, condition))
        for name, condition in of_rows(connection, row[0])
    ]
    for name, plugin in decoding_slots(connection):
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
