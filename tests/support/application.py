"""An application that builds its own read model as Marten's daemon does: a document table and a
progression row a version.

Run as `python -m tests.support.application DSN VERSION [--wrong N] [--slow SECONDS]`; it follows
until it is killed, and goes on where it
was when it is started again. Documents and progress are written in one transaction, progress by
compare-and-set.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import psycopg
from psycopg.types.json import Jsonb

from esops.settings import PostgresSettings
from esops.stores import open_store

_BATCH = 500


def table(version: int) -> str:
    """Where a version's documents are."""
    return "shop.mt_doc_cartsummary" + (f"_{version}" if version > 1 else "")


def shard(version: int) -> str:
    """The name of a version's progress."""
    return "CartSummary:All" if version == 1 else f"CartSummary:V{version}:All"


def create(connection: psycopg.Connection, version: int) -> None:
    """What the daemon makes at its start."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS shop.mt_event_progression (name varchar PRIMARY KEY, "
        "last_seq_id bigint, "
        "last_updated timestamptz DEFAULT transaction_timestamp())"
    )
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {table(version)} (id varchar PRIMARY KEY, data jsonb "
        "NOT NULL, "
        "mt_last_modified timestamptz DEFAULT transaction_timestamp(), mt_version bigint NOT NULL "
        "DEFAULT 0, mt_dotnet_type varchar)"
    )
    connection.execute(
        "INSERT INTO shop.mt_event_progression VALUES ('HighWaterMark', 0), (%s, 0) ON CONFLICT "
        "DO NOTHING",
        (shard(version),),
    )


def applied(document: dict | None, number: int, kind: str, data: dict, wrong: int) -> dict:
    """The document after an event."""
    if kind == "shopping_cart_opened":
        return {
            "client": data["ClientId"],
            "items": 0,
            "total": 0,
            "status": "open",
            "position": number,
        }
    assert document is not None
    if kind.startswith("product"):
        count = data["Quantity"] if kind.endswith("added") else -data["Quantity"]
        total = round(document["total"] + count * data["UnitPrice"], 2)
        return {
            **document,
            "items": document["items"] + count + wrong,
            "total": total,
            "position": number,
        }
    return {**document, "status": kind.rpartition("_")[2], "position": number}


def follow(dsn: str, version: int, *, wrong: int, slow: float) -> None:
    """Keep a version fresh.

    `wrong` is added to the items with each event, `slow` waited after each batch.
    """
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        open_store("shop", PostgresSettings(dsn=dsn, schema="shop")) as store,
    ):
        create(connection, version)
        while True:
            (done,) = connection.execute(
                "SELECT last_seq_id FROM shop.mt_event_progression WHERE name = %s",
                (shard(version),),
            ).fetchone()
            head = store.head().position
            events = connection.execute(
                "SELECT seq_id, stream_id, type, data FROM shop.mt_events WHERE seq_id > %s AND "
                "seq_id <= %s ORDER BY seq_id LIMIT %s",
                (done, head[0] if head else 0, _BATCH),
            ).fetchall()
            if not events:
                time.sleep(0.1)
                continue
            with connection.transaction():
                streams = list({each[1] for each in events})
                documents = dict(
                    connection.execute(
                        f"SELECT id, data FROM {table(version)} WHERE id = ANY(%s)", (streams,)
                    ).fetchall()
                )
                for number, stream, kind, data in events:
                    documents[stream] = applied(documents.get(stream), number, kind, data, wrong)
                with connection.cursor() as cursor:
                    cursor.executemany(
                        f"INSERT INTO {table(version)} (id, data, mt_version) VALUES (%s, %s, %s) "
                        "ON CONFLICT (id) DO UPDATE "
                        "SET data = EXCLUDED.data, mt_version = EXCLUDED.mt_version, "
                        "mt_last_modified = now()",
                        [(stream, Jsonb(documents[stream]), version) for stream in streams],
                    )
                moved = connection.execute(
                    "UPDATE shop.mt_event_progression SET last_seq_id = %s, last_updated = now() "
                    "WHERE name = %s AND last_seq_id = %s",
                    (events[-1][0], shard(version), done),
                ).rowcount
                assert moved == 1, "progression out of order"
            time.sleep(slow)


def main() -> None:
    """Start in the background with --daemon (as a deployment would), or follow here."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("dsn")
    arguments.add_argument("version", type=int)
    arguments.add_argument("--wrong", type=int, default=0)
    arguments.add_argument("--slow", type=float, default=0.0)
    arguments.add_argument("--daemon", metavar="FILE", help="where the process id goes")
    given = arguments.parse_args()
    if given.daemon:
        if os.path.exists(given.daemon):
            sys.exit(0)  # started before a crash of the rebuild
        if pid := os.fork():
            with open(given.daemon, "w") as file:
                file.write(str(pid))
            sys.exit(0)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
    follow(given.dsn, given.version, wrong=given.wrong, slow=given.slow)


if __name__ == "__main__":
    main()
