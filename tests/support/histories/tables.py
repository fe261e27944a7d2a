"""Where each layout keeps its events, and how its library writes them, in plain SQL."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support import emmett, eventsourcing, marten, messagedb

_CUSTOM = """
CREATE TABLE entries (number bigserial PRIMARY KEY, book text NOT NULL, line int NOT NULL,
    kind text NOT NULL, body jsonb NOT NULL, UNIQUE (book, line))
"""


@dataclass(frozen=True)
class Tables:
    """One layout, as it is configured in one way."""

    name: str
    create: Callable[[Any], None]
    events: str
    number: str
    sequence: str
    insert: str
    """Takes `stream`, `version` and `data`; `{number}` is the expression for the number."""
    position: str
    """What is selected for a position."""
    stream: str
    version: str
    token: str
    """The expression for the mark that tells an event from any other."""
    settings: Mapping[str, Any]
    outside: bool = False
    """Whether writers may draw a number outside of the transaction that writes it."""
    fills: bool = True
    """Whether the column's default draws the number."""
    unique: bool = True
    """Whether a number can be in the table only once."""
    by_transaction: bool = False
    """Whether transaction ids put the events in order."""
    remembers: bool = True
    """Whether an index leads to numbers, without which esops keeps no memory of passed ones."""
    also: tuple[str, ...] = ()
    """Other tables to be emptied."""
    key: Callable[[str], Any] = field(default=str)
    """The value of a stream's column for a stream's name."""


_MARTEN = Tables(
    name="marten-rich",
    create=lambda connection: marten.create(
        connection, marten.Variant(text_ids=True, partitioned=True)
    ),
    events="mt_events",
    number="seq_id",
    sequence="mt_events_sequence",
    insert="INSERT INTO mt_events (seq_id, id, stream_id, version, data, type) VALUES ({number}, "
    "gen_random_uuid(), %(stream)s, %(version)s, %(data)s::jsonb, 'x') RETURNING seq_id",
    position="seq_id",
    stream="stream_id",
    version="version",
    token="data ->> 'token'",
    settings={"layout": "marten"},
    outside=True,
    fills=False,
    also=("mt_streams", "mt_event_progression"),
)
_EMMETT = Tables(
    name="emmett",
    create=emmett.create,
    events="emt_messages",
    number="global_position",
    sequence="emt_global_message_position",
    insert="INSERT INTO emt_messages (stream_id, stream_position, message_schema_version, message_id, "
    "message_type, message_data, message_metadata, transaction_id, global_position) VALUES "
    "(%(stream)s, %(version)s, '1', gen_random_uuid()::text, 'x', %(data)s::jsonb, '{{}}', "
    "pg_current_xact_id(), {number}) RETURNING transaction_id::text::bigint, global_position",
    position="transaction_id::text::bigint, global_position",
    stream="stream_id",
    version="stream_position",
    token="message_data ->> 'token'",
    settings={"layout": "emmett"},
    unique=False,
    by_transaction=True,
    also=("emt_streams",),
)
_BY_POSITION = {
    "insert": _EMMETT.insert.replace("RETURNING transaction_id::text::bigint, ", "RETURNING "),
    "position": "global_position",
    "settings": {"layout": "emmett", "ordering": "position"},
    "by_transaction": False,
    "remembers": False,
}
_MESSAGEDB = Tables(
    name="messagedb",
    create=messagedb.create,
    events="message_store.messages",
    number="global_position",
    sequence="message_store.messages_global_position_seq",
    insert="INSERT INTO message_store.messages (global_position, position, stream_name, type, data) "
    "VALUES ({number}, %(version)s, %(stream)s, 'x', %(data)s::jsonb) RETURNING global_position",
    position="global_position",
    stream="stream_name",
    version="position",
    token="data ->> 'token'",
    settings={"layout": "messagedb"},
)
_EVENTSOURCING = Tables(
    name="eventsourcing",
    create=eventsourcing.create,
    events="bankaccounts_events",
    number="notification_id",
    sequence="bankaccounts_events_notification_id_seq",
    insert="INSERT INTO bankaccounts_events (notification_id, originator_id, originator_version, "
    "topic, state) VALUES ({number}, %(stream)s, %(version)s, 'bank:Account.Opened', "
    "convert_to(%(data)s, 'UTF8')) RETURNING notification_id",
    position="notification_id",
    stream="originator_id",
    version="originator_version",
    token="convert_from(state, 'UTF8')::jsonb ->> 'token'",
    settings={"layout": "eventsourcing", "schema": "public"},
    key=lambda name: uuid.uuid5(uuid.NAMESPACE_OID, name),
)
_ENTRIES = Tables(
    name="custom-watched",
    create=lambda connection: connection.execute(_CUSTOM),
    events="entries",
    number="number",
    sequence="entries_number_seq",
    insert="INSERT INTO entries (number, book, line, kind, body) VALUES ({number}, %(stream)s, "
    "%(version)s, 'x', %(data)s::jsonb) RETURNING number",
    position="number",
    stream="book",
    version="line",
    token="body ->> 'token'",
    settings={
        "table": {
            "name": "public.entries",
            "stream": "book",
            "version": "line",
            "position": "number",
            "type": "kind",
            "data": "body",
        }
    },
    outside=True,
)


def _changed(tables: Tables, **changes: Any) -> Tables:
    return Tables(**{**vars(tables), **changes})


def _quick(tables: Tables, name: str) -> Tables:
    settings = {**tables.settings, "append": "quick"}
    return _changed(tables, name=name, settings=settings, outside=False)


LAYOUTS = {
    tables.name: tables
    for tables in (
        _MARTEN,
        _quick(_MARTEN, "marten-quick"),
        _EMMETT,
        _changed(_EMMETT, name="emmett-by-position", **_BY_POSITION),
        _MESSAGEDB,
        _EVENTSOURCING,
        _ENTRIES,
        _quick(_ENTRIES, "custom-quick"),
    )
}
