"""What is special about each library's tables: metadata columns, binary payloads, gap fillers,
tenants, checkpoints, detection.
"""

from __future__ import annotations

import uuid
from datetime import timedelta

import orjson
import psycopg
import pytest

from esops.errors import Unavailable, UsageError
from esops.events import EventFilter, NewEvent, Position
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import emmett, marten
from tests.support.waiting import DEADLINE


def store_of(dsn, **settings):
    return open_store(
        "s", PostgresSettings(dsn=dsn, hole_threshold=timedelta(seconds=0.2), **settings)
    )


def new(kind="x", metadata=None, **data):
    return NewEvent(str(uuid.uuid4()), kind, orjson.dumps(data), orjson.dumps(metadata or {}))


def every(store, **filter):
    return [
        event for batch in store.read_all(filter=EventFilter(**filter)) for event in batch.events
    ]


def test_marten_metadata_columns_become_metadata(dsn, connection):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    with store_of(dsn) as store:
        metadata = {
            "correlationId": "c-1",
            "causationId": "e-0",
            "userName": "ann",
            "headers": {"tenant": "x"},
        }
        store.append("s-1", [new(metadata=metadata), new()])
        first, second = every(store)
    assert first.meta() == metadata
    assert (first.correlation_id, first.causation_id) == ("c-1", "e-0")
    assert second.meta() == {}
    assert second.correlation_id is None


def test_marten_binary_payloads_come_as_they_are(dsn, connection):
    marten.create(connection, marten.VARIANTS["marten-binary"])
    with store_of(dsn) as store:
        stream = str(uuid.uuid4())
        store.append(stream, [new(a=1), new()])
        connection.execute("UPDATE mt_events SET bdata = %s WHERE version = 2", (b"\x00\xffpack",))
        first, second = every(store)
    assert first.json() == {"a": 1}
    assert second.data == b"\x00\xffpack"


def test_marten_tombstones_and_skipped_events_are_not_events(dsn, connection):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    with store_of(dsn) as store:
        store.append("mt_tombstone", [new("tombstone")])
        store.append("s-1", [new("a"), new("b")])
        connection.execute("UPDATE mt_events SET is_skipped = TRUE WHERE type = 'a'")
        assert [event.type for event in every(store)] == ["b"]
        assert store.counts.between(None, store.head().position) == 1
        assert store.stream_info("mt_tombstone") is None


def test_marten_category_is_the_streams_type(dsn, connection):
    marten.create(connection)
    with store_of(dsn) as store:
        first, second = str(uuid.uuid4()), str(uuid.uuid4())
        store.append(first, [new("a")])
        store.append(second, [new("b")])
        connection.execute("UPDATE mt_streams SET type = 'it''s a cart' WHERE id = %s", (first,))
        assert [event.type for event in every(store, category="it's a cart")] == ["a"]


def test_marten_tenants_share_ids_and_keep_apart(dsn, connection):
    marten.create(connection, marten.VARIANTS["marten-conjoined"])
    for tenant in ("red", "blue"):
        with store_of(dsn, tenant=tenant) as store:
            assert not store.capabilities.tenants
            store.append("cart-1", [new(tenant)], 0)
            assert [event.type for event in every(store)] == [tenant]
    with store_of(dsn) as store:
        assert store.capabilities.tenants
        assert [(e.tenant, e.stream, e.type) for e in every(store)] == [
            ("red", "cart-1", "red"),
            ("blue", "cart-1", "blue"),
        ]
        assert [(s.tenant, s.length) for s in store.streams()] == [("blue", 1), ("red", 1)]


def test_marten_events_numbered_by_tenant_want_a_tenant(dsn, connection):
    marten.create_numbered_by_tenant(connection)
    with pytest.raises(UsageError, match="several event stores: marten of Blue Inc") as several:
        store_of(dsn)
    assert several.value.hint == "Name one with `tenant`."
    with pytest.raises(UsageError, match="no numbers for a tenant 'Green'"):
        store_of(dsn, tenant="Green")
    for tenant in ("Red Inc", "Blue Inc"):
        with store_of(dsn, tenant=tenant) as store:
            assert store.append("cart-1", [new(tenant), new(tenant)]) == Position((2,))
            assert store.head(timedelta(seconds=DEADLINE)).position == Position((2,))
            assert [(e.position, e.type) for e in every(store)] == [((1,), tenant), ((2,), tenant)]


def test_marten_progression_rows_are_checkpoints(dsn, connection):
    marten.create(connection)
    connection.execute(
        "INSERT INTO mt_event_progression VALUES ('HighWaterMark', 40), ('Cart:V2:All', 30), "
        "('New:All', NULL)"
    )
    connection.execute("SELECT setval('mt_events_sequence', 40)")  # else nothing has these numbers
    with store_of(dsn) as store:
        found = {c.name: (c.position, c.state) for c in store.checkpoints()}
    assert found == {
        "HighWaterMark": (Position((40,)), "high-water mark"),
        "Cart:V2:All": (Position((30,)), "unknown"),
        "New:All": (None, "unknown"),
    }


def test_emmett_checkpoints_of_both_forms(dsn, connection):
    emmett.create(connection)
    with store_of(dsn) as store:
        position = [store.append(f"cart-{n}", [new()]) for n in range(5)][3]
        transaction, number = position
        connection.execute(
            "INSERT INTO emt_processors (processor_id, last_processed_checkpoint, "
            "last_processed_transaction_id) VALUES "
            "('old', %s, '1'), ('new', %s, '1'), ('fresh', '0000000000000000000', '0')",
            (f"{number:019}", f"{transaction:020}:{number:019}"),
        )
        found = {c.name: (c.position, c.detail["form"]) for c in store.checkpoints()}
    assert found == {
        "old": (position, "global position"),
        "new": (position, "pair"),
        "fresh": (None, "global position"),
    }


def test_emmett_commands_are_not_events(dsn, connection):
    emmett.create(connection)
    with store_of(dsn) as store:
        store.append("cart-1", [new("event"), new("command")])
        connection.execute(
            "UPDATE emt_messages SET message_kind = 'C' WHERE message_type = 'command'"
        )
        assert [event.type for event in every(store)] == ["event"]


def test_emmett_transaction_ids_from_the_future_are_found(dsn, connection):
    emmett.create(connection)
    with store_of(dsn) as store:
        store.append("cart-1", [new()])
        assert store.ping().warnings == []
        connection.execute("UPDATE emt_messages SET transaction_id = '99999999'")
        assert "future" in store.ping().warnings[0]
    with store_of(dsn, ordering="position") as store:
        assert store.ping().warnings == []
        assert len(every(store)) == 1


def test_a_huge_gap_in_the_numbers_costs_nothing(dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    with store_of(dsn, append="quick") as store:
        store.append("a", [new("first")])
        connection.execute("SELECT setval('mt_events_sequence', 10000000000000)")
        store.append("a", [new("second")])
        assert [event.type for event in every(store)] == ["first", "second"]


def test_a_database_with_several_stores_or_none_says_so(dsn, connection):
    with pytest.raises(UsageError, match="holds no event store that esops knows"):
        store_of(dsn)
    marten.create(connection, marten.Variant(schema="one"))
    marten.create(connection, marten.Variant(schema="two"))
    emmett.create(connection)
    with pytest.raises(
        UsageError,
        match="several event stores: marten in schema 'one', marten in schema 'two', emmett in "
        "schema 'public'",
    ):
        store_of(dsn)
    with store_of(dsn, db_schema="two") as store:
        assert store.layout.schema == "two"
    with store_of(dsn, layout="emmett") as store:
        assert store.layout.name == "emmett"
    with pytest.raises(UsageError, match="no layout named 'martin'"):
        store_of(dsn, layout="martin")


def test_no_rights_is_a_sentence(dsn, connection):
    marten.create(connection)
    connection.execute("CREATE ROLE poor LOGIN")
    try:
        with (
            store_of(psycopg.conninfo.make_conninfo(dsn, user="poor")) as store,
            pytest.raises(Unavailable, match="permission denied"),
        ):
            store.head()
    finally:
        connection.execute("DROP ROLE poor")


def test_the_password_is_in_no_error():
    with pytest.raises(Unavailable) as caught:
        store_of("postgresql://ann:s3cret@localhost:1/db")
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(PostgresSettings(dsn="postgresql://ann:s3cret@localhost:1/db"))
