"""The libraries themselves write, several processes at once, while esops reads: it misses nothing
and sees nothing twice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.stores.base import EventStore
from tests.support import bank
from tests.support.cases import thorough_but
from tests.support.waiting import DEADLINE

ROOT = Path(__file__).parents[2]


def read_while(store: EventStore, writers: Sequence[subprocess.Popen]) -> list[int]:
    """All numbers in the order in which esops gives them, until the writers are done and nothing
    more comes.
    """
    seen: list[int] = []
    position = None
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        writing = any(writer.poll() is None for writer in writers)
        head = store.head(timedelta(milliseconds=50), position).position
        if head is not None and (position is None or head > position):
            for batch in store.read_all(position, head):
                seen += [event.position[-1] for event in batch.events]
            position = head
        elif not writing:
            break
    assert all(writer.wait(timeout=DEADLINE) == 0 for writer in writers)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(
    "functions", thorough_but(["n", "y"], "n"), ids=["table lock", "database functions, no lock"]
)
def test_eventsourcings_own_application_is_read_whole(dsn, connection, functions):
    parts = conninfo_to_dict(dsn)
    environment = {
        **os.environ,
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts["dbname"],
        "POSTGRES_HOST": parts["host"],
        "POSTGRES_PORT": str(parts.get("port", 5432)),
        "POSTGRES_USER": parts["user"],
        "POSTGRES_PASSWORD": "none",
        "POSTGRES_ENABLE_DB_FUNCTIONS": functions,
    }
    command = [sys.executable, "-m", "tests.support.bank"]
    subprocess.run([*command, "1", "0"], cwd=ROOT, env=environment, check=True)  # makes the tables
    with open_store("bank", PostgresSettings(dsn=dsn)) as store:
        assert store.ping().detail["application"] == "accounts"
        writers = [
            subprocess.Popen([*command, "80", str(seed)], cwd=ROOT, env=environment)
            for seed in range(1, 4)
        ]
        seen = read_while(store, writers)
        truth = [
            row[0]
            for row in connection.execute("SELECT notification_id FROM accounts_events ORDER BY 1")
        ]
        assert len(truth) > 500
        assert seen == truth
        events = [event for batch in store.read_all() for event in batch.events]
        assert {event.type for event in events} == {"Opened", "Deposited"}
        deposited = next(event for event in events if event.type == "Deposited")
        assert isinstance(deposited.json()["amount"], int)
        assert deposited.recorded_at.year >= 2026
    assert bank.Account  # the topics name the module that this test imports


pytestmark = pytest.mark.xdist_group("real writers")  # they share what npm installs


@pytest.mark.thorough
@pytest.mark.slow
def test_emmetts_own_event_store_writes_and_is_read_whole(
    dsn, connection, emmett_uri, emmett_writer
):
    command = ["node", str(emmett_writer), emmett_uri]
    subprocess.run([*command, "0", "0"], check=True, timeout=DEADLINE)
    with open_store("carts", PostgresSettings(dsn=dsn)) as store:
        assert store.ping().layout == "emmett"
        writers = [subprocess.Popen([*command, str(seed), "120"]) for seed in range(1, 4)]
        seen = read_while(store, writers)
        truth = [
            row[0]
            for row in connection.execute(
                "SELECT global_position FROM emt_messages ORDER BY transaction_id, global_position"
            )
        ]
        assert len(truth) > 500
        assert seen == truth
        assert sum(info.length for info in store.streams()) == len(truth)


@pytest.mark.thorough
@pytest.mark.slow
def test_message_dbs_own_function_writes_and_is_read_whole(dsn, connection, message_db):
    connection.execute(
        "CREATE SCHEMA IF NOT EXISTS message_store; SET search_path = message_store, public"
    )
    for statement in message_db:
        connection.execute(statement.replace("CONCURRENTLY", ""))
    command = [sys.executable, "-m", "tests.support.messagedb_writer", dsn]
    with open_store("messages", PostgresSettings(dsn=dsn)) as store:
        writers = [subprocess.Popen([*command, str(seed), "120"], cwd=ROOT) for seed in range(4)]
        seen = read_while(store, writers)
        truth = [
            row[0]
            for row in connection.execute(
                "SELECT global_position FROM message_store.messages ORDER BY 1"
            )
        ]
        assert len(truth) > 500
        assert seen == truth
        assert truth != list(range(1, len(truth) + 1)), "no writer rolled back"
