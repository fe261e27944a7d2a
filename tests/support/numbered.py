"""Stores of every layout whose events are numbered by a sequence, for tests that set the sequence
and write explicit numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.support import emmett, eventsourcing, marten, messagedb


@dataclass(frozen=True)
class Numbered:
    """A layout: how its tables are made, what its sequence is called, how a row is written."""

    create: Callable
    sequence: str
    table: str
    number: str
    row: str
    """An INSERT of one row; `{number}` is an expression for its number."""
    settings: dict = field(default_factory=dict)
    prepare: str = ""

    def insert(self, connection, numbers: Iterable[int | None]) -> None:
        """Rows with these numbers; None takes the sequence's next one."""
        for number in numbers:
            self.write(connection, f"nextval('{self.sequence}')" if number is None else number)

    def write(self, connection, number: object) -> None:
        """A row with a number that is an expression."""
        connection.execute(self.row.format(number=number))

    def make(self, connection) -> None:
        """The tables, empty."""
        self.create(connection)
        if self.prepare:
            connection.execute(self.prepare)

    def numbers(self, connection) -> list[int]:
        """All that are there."""
        return [
            row[0]
            for row in connection.execute(f"SELECT {self.number} FROM {self.table} ORDER BY 1")
        ]


MARTEN = {
    "create": lambda connection: marten.create(connection, marten.Variant(text_ids=True)),
    "sequence": "mt_events_sequence",
    "table": "mt_events",
    "number": "seq_id",
    "row": "WITH n AS (SELECT {number} AS n) INSERT INTO mt_events (seq_id, id, stream_id, version, "
    "data, type) SELECT n, gen_random_uuid(), 'cart-1', n, '{{}}', 'x' FROM n",
    "prepare": "INSERT INTO mt_streams (id, version) VALUES ('cart-1', 1)",
}
EMMETT = {
    "create": emmett.create,
    "sequence": "emt_global_message_position",
    "table": "emt_messages",
    "number": "global_position",
    "row": "WITH n AS (SELECT {number} AS n) INSERT INTO emt_messages (stream_id, stream_position, "
    "global_position, message_schema_version, message_id, message_type, message_data, "
    "message_metadata, transaction_id) SELECT 'cart-1', n, n, '1', gen_random_uuid()::text, 'x', "
    "'{{}}', '{{}}', pg_current_xact_id() FROM n",
}
LAYOUTS = {
    "marten": Numbered(**MARTEN, settings={"hole_threshold": "500ms"}),
    "marten quick": Numbered(**MARTEN, settings={"append": "quick"}),
    "emmett": Numbered(**EMMETT),
    "emmett by position": Numbered(**EMMETT, settings={"ordering": "position"}),
    "messagedb": Numbered(
        messagedb.create,
        "message_store.messages_global_position_seq",
        "message_store.messages",
        "global_position",
        "WITH n AS (SELECT {number} AS n) INSERT INTO message_store.messages (global_position, "
        "position, stream_name, type, data) SELECT n, n - 1, 'cart-1', 'x', '{{}}' FROM n",
    ),
    "eventsourcing": Numbered(
        eventsourcing.create,
        "bankaccounts_events_notification_id_seq",
        "bankaccounts_events",
        "notification_id",
        "WITH n AS (SELECT {number} AS n) INSERT INTO bankaccounts_events (notification_id, "
        "originator_id, originator_version, topic, state) SELECT n, "
        "'00000000-0000-0000-0000-000000000001', n, 'app:Cart.X', '{{}}' FROM n",
    ),
    "custom": Numbered(
        lambda connection: connection.execute(
            "CREATE TABLE journal (id bigserial PRIMARY KEY, stream text, version int, type text, "
            "data jsonb)"
        ),
        "journal_id_seq",
        "journal",
        "id",
        "WITH n AS (SELECT {number} AS n) INSERT INTO journal SELECT n, 'cart-1', n, 'x', '{{}}' "
        "FROM n",
        {
            "hole_threshold": "500ms",
            "table": {
                "name": "journal",
                "stream": "stream",
                "version": "version",
                "position": "id",
                "type": "type",
                "data": "data",
            },
        },
    ),
}
