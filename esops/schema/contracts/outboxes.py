"""Messages in outboxes: what an application has written to be sent to others.

Wolverine's table, and those of its queues in Postgres, are found by their columns. Tables of the
application's own are those that contracts describe. Facts: Wolverine's EnvelopeSerializer, and its
storage and transport in Postgres.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from psycopg import sql

from esops.errors import UsageError, nearest
from esops.postgres import catalog
from esops.settings import OutboxTable

_WOLVERINE = ["id", "destination", "message_type", "body", "owner_id", "deliver_by"]
"""Columns of `wolverine_outgoing_envelopes`. Incoming ones have no destination."""
_QUEUE = ["id", "body", "message_type", "keep_until", "timestamp"]
_QUEUE_NAME = re.compile(r"wolverine_queue_(.+?)(_scheduled)?")
_PAGE = 500
_USER = re.compile(r"(?<=://)[^/?#\s]*@")
"""User and password: a password may have `@` in it, and so may the path behind."""
_SECRET = re.compile(
    r"([\w.-]*(?:key|password|passwd|pwd|secret|token|credential)[\w.-]*=)[^;&\s]+", re.IGNORECASE
)
_NO_JSON = b"\xff"


class OutboxMessage(NamedTuple):
    """One message that waits to be sent."""

    table: str
    destination: str
    type: str
    data: bytes | None
    """Its data, where that can be read."""
    row: str
    """Where it is in the table, as Postgres names a row."""


@dataclass(frozen=True)
class Outbox:
    """A table with messages to be sent."""

    name: str
    """`schema.table`."""
    described: OutboxTable
    wrapped: bool = False
    """Whether Wolverine's headers come before the data."""
    queue: str | None = None
    """Where all its messages go to, where no column says so."""


def outboxes(
    connection: psycopg.Connection, described: Iterable[tuple[str, OutboxTable]], schema: str
) -> list[Outbox]:
    """All outboxes of a database: those that a library made, and those that contracts describe,
    each with the contract's name. `schema` is where a table without one is looked for.

    Raises UsageError where a table or column is not there.
    """
    found = {}
    for table in catalog.tables_with(connection, _WOLVERINE):
        columns = OutboxTable(
            table=table.name, type="message_type", payload="body", destination="destination"
        )
        name = catalog.written_name(table.schema, table.name)
        found[table.schema, table.name] = Outbox(name, columns, wrapped=True)
    for table in catalog.tables_with(connection, _QUEUE):
        queue = _QUEUE_NAME.fullmatch(table.name)
        if queue is not None:
            columns = OutboxTable(table=table.name, type="message_type", payload="body")
            name = catalog.written_name(table.schema, table.name)
            found[table.schema, table.name] = Outbox(
                name, columns, wrapped=True, queue=f"postgresql://{queue[1]}"
            )
    for contract, each in described:
        named, table_name = catalog.parse_name(each.table)
        place = (named or schema, table_name)
        _check(connection, f"contracts.{contract}.outbox_tables", each, *place)
        if place not in found:
            found[place] = Outbox(catalog.written_name(*place), each)
    return list(found.values())


def _check(
    connection: psycopg.Connection, key: str, described: OutboxTable, schema: str, name: str
) -> None:
    table = catalog.any_table(connection, schema, name)
    if table is None:
        raise UsageError(f"{key}: there is no table {schema}.{name} in the store's database")
    for column in (described.type, described.payload, described.destination):
        if column is not None and not table.has(column):
            raise UsageError(
                f"{key}: table {schema}.{name} has no column {column!r}",
                hint=nearest(column, [each.name for each in table.columns]),
            )


def messages(connection: psycopg.Connection, outbox: Outbox) -> Iterator[OutboxMessage]:
    """All messages of an outbox, read in one transaction, in pages."""
    columns = outbox.described
    selected = [sql.SQL("ctid::text"), _text(columns.type)]
    selected.append(sql.SQL("NULL") if columns.destination is None else _text(columns.destination))
    if columns.payload is None:
        selected.append(sql.SQL("NULL"))
    else:
        # Bytes come in hexadecimal digits, and everything else as it is written.
        selected.append(sql.SQL("{}::text").format(sql.Identifier(columns.payload)))
    statement = sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join(selected), sql.Identifier(*_parts(outbox.name))
    )
    with connection.transaction(), connection.cursor("esops_outbox") as cursor:
        cursor.itersize = _PAGE
        for row, type_, destination, payload in cursor.execute(statement):
            where = without_user(destination or outbox.queue or outbox.name)
            message = OutboxMessage(outbox.name, where, type_ or "", _bytes(payload), row)
            yield _behind_headers(message) if outbox.wrapped else message


def _text(column: str) -> sql.Composed:
    return sql.SQL("{}::text").format(sql.Identifier(column))


def _parts(name: str) -> tuple[str, str]:
    schema, table = catalog.parse_name(name)
    return schema or "public", table


def _bytes(text: str | None) -> bytes | None:
    if text is None:
        return None
    return bytes.fromhex(text[2:]) if text.startswith("\\x") else text.encode()


def _behind_headers(message: OutboxMessage) -> OutboxMessage:
    """A message of Wolverine's with the data behind its headers; with what is no JSON where that
    cannot be read, or is of another type by its own word.
    """
    try:
        headers, data = unwrapped(message.data or b"")
    except (IndexError, ValueError):
        return message._replace(data=_NO_JSON)
    said = headers.get("content-type", "").lower()
    return message._replace(data=data if not said or "json" in said else _NO_JSON)


def unwrapped(body: bytes) -> tuple[dict[str, str], bytes]:
    """The headers and the data of a body: eight bytes of time, the number of headers, these as
    pairs of texts, the length of the data, and the data. Raises ValueError or IndexError.
    """
    at = 8
    number, at = _int32(body, at)
    headers = {}
    for _ in range(number):
        key, at = _text_at(body, at)
        value, at = _text_at(body, at)
        headers[key] = value
    length, at = _int32(body, at)
    if length < 0 or at + length > len(body):
        raise ValueError("the data is cut off")
    return headers, body[at : at + length]


def _int32(body: bytes, at: int) -> tuple[int, int]:
    if at + 4 > len(body):
        raise ValueError("a number is cut off")
    return int.from_bytes(body[at : at + 4], "little", signed=True), at + 4


def _text_at(body: bytes, at: int) -> tuple[str, int]:
    """A text of .NET's BinaryWriter: its length in groups of seven bits, and UTF-8."""
    length = shift = 0
    while True:
        byte = body[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if at + length > len(body):
        raise ValueError("a text is cut off")
    return body[at : at + length].decode(), at + length


def without_user(address: str) -> str:
    """An address without user and password, and without secrets among its parameters."""
    return _SECRET.sub(r"\1…", _USER.sub("", address))
