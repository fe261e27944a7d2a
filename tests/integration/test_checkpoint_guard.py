"""Nothing is removed that a reader has not read, by what each layout knows of its readers: over
databases that the real libraries wrote.
"""

from __future__ import annotations

import uuid

import pytest
from esdbclient import EventStoreDBClient

from esops.archive.checkpoint_guard import behind, needed_streams
from esops.archive.run import run
from esops.archive.unread import RunEvents
from esops.archive_format.repository import Repository
from esops.archive_format.runs import Catalog
from esops.config import load_config
from esops.events import NewEvent, StreamKey
from esops.health.status import look
from esops.settings import EventStoreDBSettings
from esops.stores import open_store
from tests.support import emmett, messagedb
from tests.support.cases import thorough_but
from tests.support.esdb import Nodes


def archived(project, stores: dict, **policy):
    """The store, and all of its streams in a run that removes nothing."""
    project.configure(
        stores=stores,
        archives={
            "cold": {
                "repository": "cold",
                "policies": {
                    "all": {"store": "s", "stream": "*", "never_younger_than": "0s", **policy}
                },
            }
        },
    )
    config = load_config(project.folder / "esops.toml")
    run(config, "all")
    ((found, manifest),) = Catalog(Repository(config.archives["cold"])).sealed(["s"])
    return config, RunEvents(found, manifest)


def late(config, events) -> dict[str, int]:
    """The events that each reader has not read, of those that hold a run back."""
    with open_store("s", config.stores["s"]) as store:
        names = {each.name for each in behind(config, store, "s", events.unread)}
        return {
            each.name: events.unread(each) for each in store.checkpoints() if each.name in names
        }


@pytest.mark.parametrize("ordering", thorough_but(["transaction", "position"], "transaction"))
def test_a_number_alone_whose_event_is_gone_is_not_the_head(
    project, dumps, dsn, connection, ordering
):
    """Emmett up to 0.42: the transaction of the row is the one that stored it, not the event's."""
    emmett.restore(connection, (dumps / "emmett-0.42.0.sql").read_text())
    more = {"ordering": "position"} if ordering == "position" else {}
    config, events = archived(project, {"s": {"dsn": dsn, **more}})
    (unread,) = connection.execute(
        "SELECT count(*) FROM emt_messages WHERE global_position > 400"
    ).fetchone()
    assert late(config, events) == {"shipping": unread}
    (stream,) = connection.execute(
        "SELECT stream_id FROM emt_messages WHERE global_position = 400"
    ).fetchone()
    with open_store("s", config.stores["s"]) as store:
        assert list(needed_streams(store)) == [StreamKey(stream)]
    # Gone, as by an archive run of before; and what lies before it was read for all that.
    connection.execute("DELETE FROM emt_messages WHERE global_position = 400")
    connection.execute("UPDATE emt_processors SET last_processed_transaction_id = '99999'")
    assert late(config, events) == {"shipping": unread + 1}
    assert project.run("archive", "run", "all", "--remove", "delete").code == 6
    # A projector moves its checkpoint over the types alone that it handles.
    connection.execute(
        "UPDATE emt_processors SET processor_id = 'emt:processor:projector:shopping_cart_summary', "
        "last_processed_checkpoint = (SELECT lpad(max(global_position)::text, 19, '0') FROM "
        "emt_messages WHERE message_type = 'ShoppingCartOpened')"
    )
    (opened,) = connection.execute(
        "UPDATE emt_projections SET definition = jsonb_set(definition, '{canHandle}', "
        "'[\"ShoppingCartOpened\"]') RETURNING 1"
    ).fetchone()
    assert opened
    assert late(config, events) == {}


def test_a_stream_that_waits_for_a_processor_is_no_finding_of_a_plan_or_a_run(
    project, dumps, dsn, connection
):
    emmett.restore(connection, (dumps / "emmett-0.42.0.sql").read_text())
    (stream,) = connection.execute(
        "SELECT stream_id FROM emt_messages WHERE global_position = 400"
    ).fetchone()
    project.configure(
        stores={"s": {"dsn": dsn}},
        archives={
            "cold": {
                "repository": "cold",
                "policies": {
                    "old": {
                        "store": "s",
                        "stream": stream,
                        "never_younger_than": "0s",
                        "remove": "delete",
                    }
                },
            }
        },
    )
    first = project.ok("archive", "run", "old", "--despite", "shipping", "--output", "json").json
    assert (first["left_alone"], first["stuck"]) == (1, 0)
    planned = project.ok("archive", "plan", "old", "--output", "json").json
    assert ([each["stream"] for each in planned["waiting"]], planned["stuck"]) == ([stream], [])
    assert "exit with 1" not in project.ok("archive", "plan", "old").out
    project.ok("archive", "run", "old")


def test_a_processor_reads_its_partition(project, dumps, dsn, connection):
    emmett.restore(connection, (dumps / "emmett-0.43.0-beta.39.sql").read_text())
    stores = {"s": {"dsn": dsn, "tenant": "tenant-b"}}
    config, events = archived(project, stores)
    assert late(config, events) == {}
    with open_store("s", config.stores["s"]) as store:
        assert store.checkpoints() == []


def test_what_is_no_position_is_unknown_and_no_defect(project, dsn, connection):
    emmett.create(connection)
    messagedb.create(connection)
    connection.execute(
        "INSERT INTO emt_processors (processor_id, last_processed_checkpoint, "
        "last_processed_transaction_id) VALUES ('none', NULL, '0'), ('text', 'abc', '0'), "
        "('far', repeat('9', 20) || ':' || repeat('9', 19), '0')"
    )
    connection.execute(
        "INSERT INTO message_store.messages (stream_name, position, type, data) SELECT "
        "'cart:position-' || n, 0, 'Recorded', data::jsonb FROM (VALUES "
        "('none', '{}'), ('text', '{\"position\": \"abc\"}')) AS v (n, data)"
    )
    read = {
        "emmett": ["far", "none", "text"],
        "messagedb": ["cart:position-none", "cart:position-text"],
    }
    stores = {layout: {"dsn": dsn, "layout": layout} for layout in read}
    policies = {
        layout: {"store": layout, "stream": "*", "remove": "delete", "never_younger_than": "0s"}
        for layout in read
    }
    project.configure(
        stores=stores, archives={"cold": {"repository": "cold", "policies": policies}}
    )
    config = load_config(project.folder / "esops.toml")
    for layout, names in read.items():
        with open_store(layout, config.stores[layout]) as store:
            store.append("cart-1", [NewEvent(str(uuid.uuid4()), "added", b"{}") for _ in range(3)])
        known = {each["name"]: each["evidence"] for each in look(config, layout).processors}
        assert sorted(known) == names
        assert all("which is no position" in each for each in known.values())
        done = project.run("archive", "run", layout)
        assert done.code == 6
        assert "it is not known where it stands" in done.err


@pytest.mark.thorough
def test_martens_bookkeeping_and_other_tenants_hold_nothing_back(project, dumps, dsn, connection):
    emmett.restore(connection, (dumps / "marten-9.58-v5t.sql").read_text())
    connection.execute(
        "INSERT INTO mt_event_progression (name, last_seq_id) VALUES ('HighWaterStuckGap:acme', 0),"
        " ('HighWaterAllocationFence', 3), ('HighWaterMark', 5), ('Old:All', 1)"
    )
    config, events = archived(project, {"s": {"dsn": dsn, "tenant": "acme"}})
    # A number that belongs to no tenant is none of this tenant's.
    assert list(late(config, events)) == ["Old:All"]
    connection.execute("DELETE FROM mt_event_progression WHERE name = 'Old:All'")
    assert late(config, events) == {}
    connection.execute(
        "UPDATE mt_event_progression SET last_seq_id = 3 WHERE name LIKE 'ShoppingCart:All:%'"
    )
    assert list(late(config, events)) == ["ShoppingCart:All:acme"]
    done = project.run("archive", "run", "all", "--remove", "delete")
    assert done.code == 6
    assert "--despite ShoppingCart:All:acme" in done.err
    # Who is named is ignored, and nobody else.
    connection.execute("UPDATE mt_event_progression SET last_seq_id = 4 WHERE name LIKE '%:acme'")
    told = ("archive", "run", "all", "--remove", "delete", "--despite", "ShoppingCart:All:acme")
    refused = project.run(*told)
    assert refused.code == 6
    # What is printed is to be run as it is: with those that were given.
    for each in ("ShoppingCart", "ClientTotals"):
        assert f"--despite {each}:All:acme" in refused.err
    plan = ("archive", "plan", "all", "--remove", "delete", "--output", "json")
    shown = project.ok(*plan, "--despite", "ShoppingCart:All:acme").json
    assert [each["despite"] for each in shown["late"]] == ["ClientTotals:All:acme"]
    assert project.run(*plan, "--despite", "Nobody").code == 2
    project.ok(*told, "--despite", "ClientTotals:All:acme")


def test_a_consumer_of_a_category_reads_that_category(project, dumps, dsn, connection):
    emmett.restore(connection, (dumps / "message-db-1.3.1.sql").read_text())
    config, events = archived(project, {"s": {"dsn": dsn}})
    (name, position, unread), *others = connection.execute(
        "SELECT p.stream_name, (p.data->>'position')::bigint, (SELECT count(*) FROM "
        "message_store.messages m WHERE split_part(m.stream_name, '-', 1) = "
        "split_part(p.stream_name, ':position', 1) AND m.global_position > "
        "(p.data->>'position')::bigint) FROM message_store.messages p WHERE type = 'Recorded' "
        "AND position = (SELECT max(position) FROM message_store.messages o WHERE "
        "o.stream_name = p.stream_name)"
    ).fetchall()
    assert not others
    assert position
    assert late(config, events) == {name: unread}


def test_a_reader_of_a_stream_is_asked_for_that_stream(project):
    with Nodes() as nodes:
        settings = EventStoreDBSettings(uri=nodes.uri)
        with open_store("s", settings) as store:
            for stream in ("cart-1", "order-1"):
                new = [NewEvent(str(uuid.uuid4()), "added", b"{}") for _ in range(3)]
                store.append(stream, new)
        client = EventStoreDBClient(nodes.uri)
        for stream in ("other-1", "cart-1", "$ce-order"):
            client.create_subscription_to_stream("mail", stream)
        client.close()
        config, events = archived(project, {"s": {"backend": "eventstoredb", "uri": nodes.uri}})
        assert late(config, events) == {"cart-1::mail": 3, "$ce-order::mail": 3}
