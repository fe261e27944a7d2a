"""Erasures that named places where a value is left, kept until an operator says that these are
cleared.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from esops.readmodel import migrations

_ROUNDS = 10_000
"""Of the hashes of values that were asked for: about five milliseconds each."""


class AskedFor(NamedTuple):
    """What an erasure was asked for: streams, and conditions as text."""

    streams: Sequence[str]
    conditions: Sequence[str]

    def hashes(self, salt: bytes) -> list[bytes]:
        """Those of each; slow ones of the conditions, which may hold an address."""
        return [
            *(hashlib.sha256(salt + each.encode()).digest() for each in self.streams),
            *(
                hashlib.pbkdf2_hmac("sha256", each.encode(), salt, _ROUNDS)
                for each in self.conditions
            ),
        ]


class OpenErasure(NamedTuple):
    """One of them."""

    id: int
    store: str
    reason: str
    places_left: int
    places: Sequence[Sequence[Any]]
    ended: bool
    """Whether it came to its end; else it was killed, or is at work."""
    at: datetime


def of_request(connection: psycopg.Connection, asked: AskedFor) -> list[OpenErasure]:
    """Those that asked for one of the same things, oldest first."""
    found = []
    if migrations.has(connection, "erasures"):
        for (salt,) in connection.execute("SELECT DISTINCT salt FROM esops.erasures").fetchall():
            rows = connection.execute(
                "SELECT id, store, reason, places_left, places, ended, at FROM esops.erasures "
                "WHERE salt = %s AND asked && %s::bytea[]",
                (salt, asked.hashes(salt)),
            ).fetchall()
            found += [OpenErasure(*row) for row in rows]
    return sorted(found)


def note(
    connection: psycopg.Connection,
    asked: AskedFor,
    store: str,
    reason: str,
    left: int,
    places: Sequence[Sequence[str]],
) -> int:
    """Note one before it masks anything; its number."""
    row = connection.execute("SELECT salt FROM esops.erasures LIMIT 1").fetchone()
    salt = row[0] if row is not None else secrets.token_bytes(16)
    inserted = connection.execute(
        "INSERT INTO esops.erasures (store, reason, salt, asked, places_left, places, ended) "
        "VALUES (%s, %s, %s, %s, %s, %s, FALSE) RETURNING id",
        (store, reason, salt, asked.hashes(salt), left, Jsonb([list(each) for each in places])),
    ).fetchone()
    assert inserted is not None
    return int(inserted[0])


def end(
    connection: psycopg.Connection, number: int, left: int, places: Sequence[Sequence[str]]
) -> None:
    """It came to its end, with these places left; with none it is forgotten."""
    if not left:
        connection.execute("DELETE FROM esops.erasures WHERE id = %s", (number,))
        return
    connection.execute(
        "UPDATE esops.erasures SET places_left = %s, places = %s, ended = TRUE WHERE id = %s",
        (left, Jsonb([list(each) for each in places]), number),
    )


def forget(connection: psycopg.Connection, number: int, store: str) -> bool:
    """Its places are cleared. Returns whether it was there."""
    if not migrations.has(connection, "erasures"):
        return False
    gone = connection.execute(
        "DELETE FROM esops.erasures WHERE id = %s AND store = %s", (number, store)
    )
    return gone.rowcount > 0
