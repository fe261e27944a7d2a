"""How far the application's readers are behind is measured in what they read, and what nobody knows
is no number.
"""

from __future__ import annotations

import uuid

import pytest
from esdbclient import EventStoreDBClient

from esops.config import load_config
from esops.errors import Refused
from esops.events import NewEvent
from esops.health import lag
from esops.health.metrics import samples
from esops.health.status import look
from esops.readmodel.registry import CHECKPOINT, Version
from esops.rebuild.variants.external.checkpoint import check_unused
from esops.settings import EventStoreDBSettings, PostgresSettings
from esops.stores import open_store
from esops.stores.checkpoints import checkpoint_of, has_read
from esops.stores.eventstoredb.node import _in_stream, _reads
from tests.support import emmett, messagedb
from tests.support.cases import thorough_but
from tests.support.esdb import Nodes
from tests.support.waiting import DEADLINE, until


def new(number: int) -> list[NewEvent]:
    return [NewEvent(str(uuid.uuid4()), "added", b"{}") for _ in range(number)]


def version_of(checkpoint: str) -> Version:
    """A version that the application keeps fresh, long after its checkpoint moved last."""
    tables = {"carts": ("public", "carts")}
    return Version("carts", 1, "standby", "s", None, 0, None, tables, CHECKPOINT + checkpoint)


def lags(store) -> dict[str, tuple[int | None, bool | None]]:
    """Events behind by name, and whether an event waits."""
    found = {each.name: lag.lag_of(store, each, store.head()) for each in store.checkpoints()}
    return {
        name: (each.events, None if each.seconds is None else each.seconds > 0)
        for name, each in found.items()
        if not name.startswith("$by_") and not name.startswith("$st")
    }


def test_a_reader_of_a_stream_is_measured_in_that_stream():
    with Nodes() as nodes, open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
        client = EventStoreDBClient(nodes.uri)
        for stream in ("cart-1", "order-1"):
            store.append(stream, new(3))
        for stream in ("cart-1", "$ce-order"):
            client.create_subscription_to_stream("mail", stream)
        client.create_subscription_to_all("all")
        # Nobody knows where a group begins that has noted nothing yet.
        assert lags(store) == dict.fromkeys(
            ("cart-1::mail", "$ce-order::mail", "$all::all"), (None, None)
        )
        for stream in ("cart-1", "$ce-order"):
            subscription = client.read_subscription_to_stream("mail", stream, timeout=DEADLINE)
            for _, message in zip(range(3), subscription, strict=False):
                subscription.ack(message)
            subscription.stop()
        client.close()
        store.append("other-1", new(40))
        # A group notes its place a moment after it was told.
        until(
            lambda: lags(store)["cart-1::mail"] == lags(store)["$ce-order::mail"] == (0, False),
            every=0.2,
        )
        store.append("order-2", new(2))
        until(lambda: lags(store)["$ce-order::mail"] == (2, True), every=0.2)
        assert lags(store)["cart-1::mail"] == (0, False)
        (place,) = [e.place for e in store.checkpoints() if e.name == "$ce-order::mail"]
        assert place == "$ce-order: 2"


def test_a_projection_of_a_category_has_its_place_in_the_stream_of_links():
    assert _in_stream("$ce-order: 8274") == ("$ce-order", "8274")
    assert _in_stream("C:12/P:12") == _in_stream("a: 1; b: 2") == ("", "")
    assert _reads(*_in_stream("$ce-order: 8274"), None)["in_stream"] == ("$ce-order", 8274)
    assert _reads(*_in_stream("a: 1; b: 2"), None)["evidence"]


def test_bytes_of_a_node_are_not_events():
    """After a scavenge positions continue at the next 256 MiB."""
    with Nodes() as nodes, open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
        before = store.append("cart-1", new(30))
        with store.admin.http() as admin:
            scavenge = admin.start_scavenge()
            assert list(store.admin.scavenges.watch(scavenge, poll=0.02))[-1].result == "Success"
        after = store.append("cart-1", new(3))
        assert after[0] - before[0] > 200_000_000
        assert store.counts.between(before, after) == 3


def test_a_consumer_of_a_category_is_behind_by_events_of_that_category(project, dsn, connection):
    messagedb.create(connection)
    connection.execute(
        "INSERT INTO message_store.messages (stream_name, position, type, data, time) "
        "SELECT CASE WHEN n <= 4 THEN 'account-1' ELSE 'other-1' END, n, 'x', '{}', "
        "now() AT TIME ZONE 'utc' - interval '1 minute' FROM generate_series(0, 50) AS n"
    )
    connection.execute(
        "INSERT INTO message_store.messages (stream_name, position, type, data) "
        "VALUES ('account:position-mail', 0, 'Recorded', '{\"position\": 3}')"
    )
    project.configure(stores={"s": {"dsn": dsn}})
    with open_store("s", load_config(project.folder / "esops.toml").stores["s"]) as store:
        assert lags(store) == {"account:position-mail": (2, True)}


def test_a_consumer_of_commands_is_one(project, dsn, connection):
    """Eventide adds `position` to the types of a category."""
    messagedb.create(connection)
    connection.execute(
        "INSERT INTO message_store.messages (stream_name, position, type, data, time) "
        "SELECT s || '-' || n % 2, (n - 1) / 2, 'x', '{}', now() AT TIME ZONE 'utc' - interval '1 minute' "
        "FROM generate_series(1, 6) AS n, unnest(ARRAY['account', 'account:command', 'x:a+b']) s "
        "ORDER BY n, s"
    )
    connection.execute(
        "INSERT INTO message_store.messages (stream_name, position, type, data) SELECT s, 0, "
        "'Recorded', '{\"position\": 9}' FROM unnest(ARRAY['account:command+position', "
        "'account:command+position-two', 'x:a+b+position', 'x:a+position+b-1', "
        "'account:positions', 'account:preposition-1']) AS s"
    )
    stores = {"s": {"dsn": dsn}}
    policy = {"store": "s", "stream": "*", "remove": "delete", "never_younger_than": "0s"}
    project.configure(
        stores=stores,
        archives={"cold": {"repository": "cold", "policies": {"all": policy}}},
    )
    with open_store("s", load_config(project.folder / "esops.toml").stores["s"]) as store:
        assert lags(store) == dict.fromkeys(
            [
                "account:command+position",
                "account:command+position-two",
                "x:a+b+position",
                "x:a+position+b-1",
            ],
            (3, True),
        )
    done = project.run("archive", "run", "all")
    assert (done.code, "account:command+position-two" in done.err) == (6, True)


def test_bookkeeping_is_behind_nothing(project, dumps, dsn, connection):
    """Marten's stuck gap stays for ever, and the fence is above what is there."""
    emmett.restore(connection, (dumps / "marten-9.58-v1.sql").read_text())
    connection.execute(
        "INSERT INTO mt_event_progression (name, last_seq_id) VALUES ('HighWaterStuckGap', 0), "
        "('HighWaterAllocationFence', 3) ON CONFLICT (name) DO UPDATE SET last_seq_id = 0"
    )
    project.configure(stores={"s": {"dsn": dsn}})
    status = look(load_config(project.folder / "esops.toml"))
    kinds = {
        each["name"]: (each["kind"], each["lag_events"], each["lag_seconds"])
        for each in status.processors
    }
    for name in ("HighWaterMark", "HighWaterStuckGap", "HighWaterAllocationFence"):
        assert kinds[name] == ("bookkeeping", None, None)
    shards = {name for name, (kind, *_) in kinds.items() if kind == "processor"}
    assert shards
    told = {
        labels[1] for name, labels, _ in samples(status) if name.startswith("esops_processor_lag")
    }
    assert told == shards


def test_a_processor_of_several_versions_has_a_series_for_each(project, dsn, connection):
    emmett.create(connection)
    connection.execute(
        "INSERT INTO emt_processors (processor_id, version, status, last_processed_checkpoint, "
        "last_processed_transaction_id) SELECT 'mail', n, 'stopped', '0', '1' FROM "
        "generate_series(0, 1) AS n"
    )
    project.configure(stores={"s": {"dsn": dsn}})
    found = samples(look(load_config(project.folder / "esops.toml")))
    assert [tuple(labels) for name, labels, _ in found if name == "esops_processor_lag_events"] == [
        ("s", "mail/0/emt:default"),
        ("s", "mail/1/emt:default"),
    ]


@pytest.mark.parametrize("ordering", thorough_but(["native", "position"], "native"))
def test_the_transaction_of_a_pair_is_a_decimal_number(dumps, dsn, connection, ordering):
    """It begins with zeros, and Postgres would take it for an octal one."""
    emmett.restore(connection, (dumps / "emmett-0.43.0-beta.39.sql").read_text())
    settings = PostgresSettings(dsn=dsn, tenant="emt:default", ordering=ordering)
    with open_store("s", settings) as store:
        assert lags(store)["mailer"] == (0, False)
        messages = connection.execute(
            "SELECT transaction_id::text::bigint, global_position FROM emt_messages "
            "WHERE partition = 'emt:default' AND message_kind = 'E' ORDER BY 1, 2"
        ).fetchall()
        at = next(each for each in reversed(messages) if set(str(each[0])) & set("89"))
        unread = [each for each in messages if each > at]
        if ordering == "position":
            unread = [each for each in messages if each[1] >= min(other[1] for other in unread)]
        connection.execute(
            "UPDATE emt_processors SET last_processed_checkpoint = %s WHERE processor_id = 'mailer'",
            (f"{at[0]:020d}:{at[1]:019d}",),
        )
        assert lags(store)["mailer"] == (len(unread), True)


def test_the_version_of_a_shard_that_a_daemon_may_run_is_not_dropped(dumps, dsn, connection):
    """One that lives, and has nothing to do, touches other rows than its own. Its row's age is told
    by the server's clock.
    """
    emmett.restore(connection, (dumps / "marten-9.58-v1.sql").read_text())
    idle = "UPDATE mt_event_progression SET last_updated = now() - interval '40 s' WHERE name <> %s"
    connection.execute(idle, ("HighWaterMark",))
    connection.execute("UPDATE mt_event_progression SET last_updated = now() WHERE name LIKE 'Hi%'")
    cart = version_of("ShoppingCart:All")
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        with pytest.raises(Refused, match="at the head, and Marten's daemon may be running"):
            check_unused(store, cart)
        # It does not run this shard: there is an event, and the shard does not move.
        connection.execute(
            "UPDATE mt_event_progression SET last_seq_id = 1400 WHERE name = %s",
            ("ShoppingCart:All",),
        )
        check_unused(store, cart)
        connection.execute(idle, ("",))
        connection.execute(
            "UPDATE mt_event_progression SET last_seq_id = 1492 WHERE name = %s",
            ("ShoppingCart:All",),
        )
        connection.execute("SELECT 1")
        check_unused(store, cart)


def test_the_types_that_only_the_configuration_can_tell(project, dumps, dsn, connection):
    """A reactor of Emmett 0.42 with `canHandle`: its checkpoint stays at the last of its types."""
    emmett.restore(connection, (dumps / "emmett-0.42.0.sql").read_text())
    connection.execute(
        "DELETE FROM emt_processors WHERE processor_id <> 'shipping'; UPDATE emt_processors SET "
        "last_processed_checkpoint = (SELECT lpad(max(global_position)::text, 19, '0') FROM "
        "emt_messages WHERE message_type = 'ShoppingCartOpened')"
    )
    policy = {"store": "s", "stream": "*", "remove": "delete", "never_younger_than": "0s"}
    archives = {"cold": {"repository": "cold", "policies": {"all": policy}}}
    project.configure(stores={"s": {"dsn": dsn}}, archives=archives)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        assert lags(store)["shipping"][0] > 0
    assert project.run("archive", "run", "all").code == 6
    for name in ("shipping", "shipping/1"):
        handled = {name: ["ShoppingCartOpened"]}
        with open_store("s", PostgresSettings(dsn=dsn, processors=handled)) as store:
            assert lags(store) == {"shipping": (0, False)}
    project.configure(stores={"s": {"dsn": dsn, "processors": handled}}, archives=archives)
    project.ok("archive", "run", "all")


def test_a_quiet_partition_is_behind_by_its_own_events(dumps, dsn, connection, monkeypatch):
    """However many events of others lie between."""
    monkeypatch.setattr(lag, "COUNTED", 20)
    emmett.restore(connection, (dumps / "emmett-0.43.0-beta.39.sql").read_text())
    connection.execute(
        "INSERT INTO emt_processors (processor_id, partition, last_processed_checkpoint, "
        "last_processed_transaction_id) SELECT 'quiet', 'tenant-b', lpad(transaction_id::text, "
        "20, '0') || ':' || lpad(global_position::text, 19, '0'), '0' FROM emt_messages WHERE "
        "partition = 'tenant-b' ORDER BY transaction_id DESC, global_position DESC LIMIT 1"
    )
    added = (
        "INSERT INTO emt_messages (stream_position, transaction_id, stream_id, partition, "
        "message_schema_version, message_id, message_type, message_data, message_metadata) SELECT "
        "n, pg_current_xact_id(), %s, %s, '1', %s || n, 'X', '{}', '{}' FROM generate_series(1, %s) n"
    )
    for partition, number in (("emt:default", 30), ("tenant-b", 7)):
        connection.execute(added, (f"{partition}-more", partition, partition, number))
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        assert lags(store)["quiet"] == (7, True)
        assert not has_read(store, checkpoint_of(store, "quiet"), store.head().position)
        connection.execute("DELETE FROM emt_messages WHERE stream_id = 'tenant-b-more'")
        assert lags(store)["quiet"] == (0, False)
        assert has_read(store, checkpoint_of(store, "quiet"), store.head().position)


def test_emmetts_projector_is_measured_in_its_types_and_partition(project, dumps, dsn, connection):
    emmett.restore(connection, (dumps / "emmett-0.42.0.sql").read_text())
    # Up to 0.42 its checkpoint moves over the types alone that it handles.
    connection.execute(
        "UPDATE emt_projections SET definition = jsonb_set(definition, '{canHandle}', "
        "'[\"ShoppingCartOpened\"]'); "
        "INSERT INTO emt_processors (processor_id, version, status, last_processed_checkpoint, "
        "last_processed_transaction_id) SELECT 'emt:processor:projector:shopping_cart_summary', 1, "
        "'running', (SELECT lpad(max(global_position)::text, 19, '0') FROM emt_messages WHERE "
        "message_type = 'ShoppingCartOpened'), '1'; "
        "INSERT INTO emt_processors (processor_id, version, status, last_processed_checkpoint, "
        "last_processed_transaction_id) SELECT 'shipping', 2, 'running', '0', '1'"
    )
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        found = {
            each.name + "/" + each.detail["version"]: (each, lag.lag_of(store, each, store.head()))
            for each in store.checkpoints()
        }
        projector, its_lag = found["emt:processor:projector:shopping_cart_summary/1"]
        assert its_lag == (0, 0.0)
        assert has_read(store, projector, store.head().position)
        # One more of its types, and it is behind by that.
        append = [NewEvent(str(uuid.uuid4()), each, b"{}") for each in ("Other", "Other")]
        store.append("shopping_cart-new", append)
        assert lags(store)[projector.name] == (0, False)
        store.append(
            "shopping_cart-new", [NewEvent(str(uuid.uuid4()), "ShoppingCartOpened", b"{}")]
        )
        behind = next(each for each in store.checkpoints() if each.name == projector.name)
        assert lags(store)[projector.name] == (1, True)
        assert not has_read(store, behind, store.head().position)
        # A version of a read model whose processor may live is not dropped under it: one that has
        # nothing to do does not move.
        connection.execute("UPDATE emt_processors SET last_updated = now() - interval '1 hour'")
        check_unused(store, version_of(projector.name))
        connection.execute(
            "UPDATE emt_processors SET last_processed_checkpoint = (SELECT "
            "lpad(max(global_position)::text, 19, '0') FROM emt_messages) WHERE processor_id = %s",
            (projector.name,),
        )
        with pytest.raises(Refused, match="at the head, and its row says 'running'"):
            check_unused(store, version_of(projector.name))
        # Whether one lives that says so is not known: it may have been killed.
        assert behind.alive == "unknown"
        # The event of a number is gone, and its row tells the transaction that stored it.
        (unread,) = connection.execute(
            "SELECT count(*) FROM emt_messages WHERE global_position > 400"
        ).fetchone()
        connection.execute(
            "DELETE FROM emt_messages WHERE global_position = 400; "
            "UPDATE emt_processors SET last_processed_transaction_id = '99999'; "
        )
        (shipping,) = [each for each in store.checkpoints() if each.called("shipping/1")]
        assert lag.lag_of(store, shipping, store.head()).events == unread
        # Of a version above 1 nobody knows where it stands.
        second, its_lag = found["shipping/2"]
        assert (second.position, its_lag) == (None, lag.UNKNOWN)
        assert "from the checkpoint of version 1" in second.evidence
