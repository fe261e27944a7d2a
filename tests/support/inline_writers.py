"""An application that writes a document with each append, as Marten's inline snapshots do: it loads
the document, then inserts the events and writes the document in one transaction.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import contextmanager

import psycopg
from psycopg.types.json import Jsonb

from tests.support import marten

TABLE = "mt_doc_cart"
DDL = f"""
CREATE TABLE {TABLE} (
    id varchar NOT NULL, data jsonb NOT NULL,
    mt_last_modified timestamptz DEFAULT transaction_timestamp(),
    mt_version bigint NOT NULL DEFAULT 0, mt_dotnet_type varchar,
    CONSTRAINT pkey_{TABLE}_id PRIMARY KEY (id));
CREATE INDEX {TABLE}_idx_items ON {TABLE} (((data ->> 'Items')::int));
"""
FOLD = """
from esops import fold

LOGIC = {logic}

@fold(key="stream")
def cart(row, event):
    data = apply(LOGIC, row and row["data"], event.stream, event.json())
    return {{"data": data, "mt_version": event.version, "mt_dotnet_type": "Shop.Cart"}}

def apply(logic, data, stream, event):
    data = dict(data or {{"Id": stream, "Items": 0}})
    if "Quantity" in event:
        data["Items"] += logic * event["Quantity"]
    return data
"""
Apply = Callable[[dict | None, str, dict], dict]


def logic(factor: int) -> Apply:
    """What the application makes of an event: each logic counts in another unit."""

    def apply(data: dict | None, stream: str, event: dict) -> dict:
        data = dict(data or {"Id": stream, "Items": 0})
        if "Quantity" in event:
            data["Items"] += factor * event["Quantity"]
        return data

    return apply


def create(connection) -> None:
    marten.create(connection, marten.Variant(text_ids=True))
    connection.execute(DDL)


def append(connection, stream: str, apply: Apply, quantity: int) -> None:
    """One append with its document. Raises UniqueViolation where somebody else was faster."""
    with connection.transaction():
        # Marten's loads are statements of their own.
        found = connection.execute(
            "SELECT version FROM mt_streams WHERE id = %s", (stream,)
        ).fetchone()
    document = connection.execute(
        f"SELECT data, mt_version FROM {TABLE} WHERE id = %s", (stream,)
    ).fetchone()
    before = found[0] if found else 0
    if (document[1] if document else 0) != before:
        raise psycopg.errors.UniqueViolation  # somebody appended between the two statements
    with connection.transaction():
        event = insert(connection, stream, before, quantity)
        upsert(connection, stream, apply(document and document[0], stream, event), before + 1)


def insert(connection, stream: str, before: int, quantity: int = 1) -> dict:
    """The event of an append, in the transaction that the connection is in."""
    event = {"Quantity": quantity}
    if not before:
        connection.execute("INSERT INTO mt_streams (id, version) VALUES (%s, 1)", (stream,))
    connection.execute(
        "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, timestamp) VALUES "
        "(nextval('mt_events_sequence'), %s, %s, %s, %s, 'item_added', now())",
        (uuid.uuid4(), stream, before + 1, Jsonb(event)),
    )
    connection.execute(
        "UPDATE mt_streams SET version = %s, timestamp = now() WHERE id = %s",
        (before + 1, stream),
    )
    return event


def upsert(connection, stream: str, data: dict, version: int) -> None:
    """The document of an append, in the same transaction."""
    connection.execute(
        f"INSERT INTO {TABLE} (id, data, mt_version, mt_dotnet_type) VALUES (%s, %s, %s, "
        "'Shop.Cart') ON CONFLICT (id) DO UPDATE SET data = EXCLUDED.data, mt_version = "
        "EXCLUDED.mt_version, mt_last_modified = transaction_timestamp()",
        (stream, Jsonb(data), version),
    )


class Application:
    """Writers and readers at work; `logic` may be changed meanwhile, as by a deployment."""

    def __init__(self, dsn: str, streams: int = 200, rest: float = 0.02) -> None:
        """`rest`: seconds between two appends of a writer, without which they take the whole machine."""
        self._dsn, self._streams, self._rest = dsn, streams, rest
        self._stop = threading.Event()
        self.appends = self.conflicts = 0
        self.longest = 0.0
        self.failures: list[str] = []

    @contextmanager
    def at_work(self, logics: list[Apply], readers: int = 1):
        threads = [
            threading.Thread(target=self._write, args=(n, each)) for n, each in enumerate(logics)
        ] + [threading.Thread(target=self._read) for _ in range(readers)]
        self._stop.clear()
        for each in threads:
            each.start()
        try:
            yield self
        finally:
            self._stop.set()
            for each in threads:
                each.join()

    def _write(self, seed: int, apply: Apply) -> None:
        random_ = random.Random(seed)
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stop.is_set():
                stream = f"cart-{random_.randrange(self._streams)}"
                since = time.monotonic()
                try:
                    append(connection, stream, apply, random_.randrange(1, 5))
                    self.appends += 1
                except psycopg.errors.UniqueViolation:
                    self.conflicts += 1
                except psycopg.Error as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                self.longest = max(self.longest, time.monotonic() - since)
                time.sleep(self._rest)

    def _read(self) -> None:
        seen: dict[str, int] = {}
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stop.is_set():
                try:
                    rows = connection.execute(f"SELECT id, mt_version FROM {TABLE}").fetchall()
                except psycopg.Error as error:
                    self.failures.append(f"reader: {type(error).__name__}: {error}")
                    continue
                now = dict(rows)
                if len(now) < len(rows):
                    self.failures.append("reader: a document was there twice")
                if any(now.get(key, 0) < version for key, version in seen.items()):
                    self.failures.append("reader: time went back")
                seen = now
                time.sleep(0.02)


def truth(connection, apply: Apply) -> dict[str, tuple[dict, int]]:
    found: dict[str, tuple[dict, int]] = {}
    for stream, version, event in connection.execute(
        "SELECT stream_id, version, data FROM mt_events ORDER BY stream_id, version"
    ):
        before = found.get(stream)
        found[stream] = (apply(before and before[0], stream, event), version)
    return found


def documents(connection) -> dict[str, tuple[dict, int]]:
    rows = connection.execute(f"SELECT id, data, mt_version FROM {TABLE}").fetchall()
    return {key: (data, version) for key, data, version in rows}


def wrong(connection, apply: Apply) -> list[str]:
    """The ids of documents that are missing, too many, or not as the events make them."""
    expected, found = truth(connection, apply), documents(connection)
    return [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
