"""Databases that message-db and Python's eventsourcing themselves wrote: read, counted, rebuilt,
and their checkpoints known.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest

from esops.errors import UsageError
from esops.events import EventFilter, NewEvent, Position
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.stores.payloads import decode_state
from tests.support import emmett
from tests.support import eventsourcing as tables

BALANCES = """
from esops import fold

def account(row, event):
    data = event.json()
    if event.type == "Opened":
        return {"account": event.stream, "balance": 0, "closed": False}
    if event.type == "Closed":
        return {**row, "closed": True}
    sign = {"Deposited": 1, "Withdrawn": -1}.get(event.type, 0)
    return {**row, "balance": row["balance"] + sign * data.get("amount", 0)} if row else None

accounts = fold(key="stream")(account)
"""
DDL = (
    "CREATE TABLE {table} (account text PRIMARY KEY, balance integer NOT NULL, closed boolean "
    "NOT NULL);\n"
)


@pytest.fixture(params=["message-db-1.3.1", "eventsourcing-9.5.6"])
def restored(request, dumps, dsn, connection):
    emmett.restore(connection, (dumps / f"{request.param}.sql").read_text())
    truth = json.loads((dumps / f"{request.param}.json").read_text())
    with open_store("bank", PostgresSettings(dsn=dsn)) as store:
        yield store, truth, request.param


def test_every_event_is_read_and_counted(restored):
    store, truth, name = restored
    events = [event for batch in store.read_all() for event in batch.events]
    assert len(events) == truth.get("total_messages", truth.get("total_events"))
    assert Counter(event.stream for event in events) == truth["streams"]
    if "types" in truth:
        assert Counter(event.type for event in events) == truth["types"]
    assert {info.name: info.length for info in store.streams()} == truth["streams"]
    assert store.ping().layout == name.rpartition("-")[0].replace("-", "")
    assert len({event.id for event in events}) == len(events)
    assert all(event.recorded_at.year == 2026 for event in events)


def test_the_checkpoints_that_are_there(restored):
    store, _, name = restored
    found = {checkpoint.name: checkpoint.position for checkpoint in store.checkpoints()}
    if name.startswith("message-db"):
        assert Position((700,)) in found.values()
    else:
        assert found == {"account_summary/BankAccounts": Position((150,))}


def test_a_read_model_is_rebuilt_as_the_truth_says(restored, project, dsn, connection):
    _, truth, name = restored
    category = "account" if name.startswith("message-db") else "BankAccount"
    project.write(
        "esops.toml",
        f"""
        [stores.bank]
        dsn = {json.dumps(dsn)}
        [projections.accounts]
        python = "balances:accounts"
        tables = ["account_balances"]
        ddl = "accounts.sql"
        category = "{category}"
        """,
    )
    project.write("balances.py", BALANCES)
    project.write("accounts.sql", DDL)
    project.ok("rebuild", "accounts", "--blue-green")
    rows = connection.execute("SELECT account, balance, closed FROM account_balances").fetchall()
    assert {
        account: {"balance": balance, "closed": closed} for account, balance, closed in rows
    } == truth["accounts"]


def test_several_applications_in_one_database_want_a_name(dsn, connection):
    tables.create(connection, "orders")
    tables.create(connection, "payments")
    with pytest.raises(
        UsageError, match="eventsourcing of orders in schema 'public', eventsourcing of payments"
    ) as error:
        open_store("s", PostgresSettings(dsn=dsn))
    assert error.value.hint == "Name one with `application`."
    with open_store("s", PostgresSettings(dsn=dsn, application="payments")) as store:
        store.append(
            "5d5c58f5-1b0e-4c9f-9d3a-0a4b8c1f3d11",
            [NewEvent("", "payments:Payment.Received", b'{"n": 1}')],
            0,
        )
        event = next(iter(store.read_stream("5d5c58f5-1b0e-4c9f-9d3a-0a4b8c1f3d11")))
        assert (event.type, event.version) == ("Received", 1)
        filtered = [
            e
            for batch in store.read_all(filter=EventFilter(category="Payment"))
            for e in batch.events
        ]
        assert [e.type for e in filtered] == ["Received"]


def test_states_are_unwrapped_and_what_is_no_json_is_left_alone(dsn, connection):
    wrapped = b'{"timestamp":{"_type_":"datetime_iso","_data_":"2026-01-02T03:04:05+00:00"},"ids":{"_type_":"tuple_as_list","_data_":[1,{"_type_":"uuid_hex","_data_":"ab"}]}}'
    plain, micros = decode_state(wrapped)
    assert json.loads(plain) == {"timestamp": "2026-01-02T03:04:05+00:00", "ids": [1, "ab"]}
    assert micros == 1767323045000000
    for state in (b"\x78\x9c\x01\x02", b"{broken", b"[]", b'{"timestamp": "never"}'):
        assert decode_state(state) == (state, None)
    tables.create(connection)
    connection.execute(
        "INSERT INTO bankaccounts_events VALUES (gen_random_uuid(), 1, "
        "'bank:BankAccount.Opened', %s, 1)",
        (b"\x78\x9c\x01\x02",),
    )
    connection.execute("SELECT setval('bankaccounts_events_notification_id_seq', 1)")
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        assert "compressed or encrypted" in store.ping().detail["states"]
        (event,) = [e for batch in store.read_all() for e in batch.events]
        assert event.data == b"\x78\x9c\x01\x02"
        assert event.recorded_at is None
