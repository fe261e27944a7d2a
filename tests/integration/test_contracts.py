"""`esops schema contracts`: what leaves the application, and whether what is public keeps its word."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
from esdbclient import NewEvent, StreamState

from esops.postgres.publications import of_rows
from tests.support import emmett
from tests.support.esdb import Nodes
from tests.support.waiting import until


@pytest.fixture
def restored(dumps, connection, dsn, project):
    """A function that restores a dump, and writes contracts and their schemas."""

    def restore(dump: str, schemas: dict | None = None, **contracts) -> None:
        emmett.restore(connection, (dumps / f"{dump}.sql").read_text())
        write_contracts(project, {"dsn": dsn}, schemas or {}, contracts)

    return restore


def write_contracts(project, store, schemas, contracts) -> None:
    for name, schema in schemas.items():
        path = project.folder / "contracts" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(schema))
    project.configure(stores={"shop": store}, contracts=contracts)


def check(project, *names, code=1):
    result = project.run("schema", "contracts", "check", *names, "--output", "json")
    assert result.code == code, result.out + result.err
    return {each["name"]: each for each in result.json["contracts"]}


def findings(contract, *kinds):
    return {
        (each["kind"], each["type"], each["path"], each["where"]): each["events"]
        for each in contract["findings"]
        if not kinds or each["kind"] in kinds
    }


OBJECT = {"type": "object"}


def of(*fields, **more):
    return {**OBJECT, "properties": dict.fromkeys(fields, True), **more}


# -- Postgres


def test_a_message_in_an_outbox_of_wolverine_is_private_until_a_contract_names_it(
    restored, project, connection
):
    placed = of("Amount", "Customer", required=["Customer"])
    restored(
        "marten-9.58-v6",
        {"order_placed": placed},
        orders={"types": ["order_placed"], "schemas": "contracts", "own": ["Order:All"]},
    )
    found = check(project)["orders"]
    assert found["types"] == [{"type": "order_placed", "events": 20}]
    sent_to = "tcp://localhost:21265/"
    assert findings(found) == {("private-outbox", "NotifyCustomer", None, sent_to): 16}
    write_contracts(
        project,
        project_store(project),
        {"NotifyCustomer": of("order", required=["customer"])},
        {
            "orders": {"types": ["order_placed"], "schemas": "contracts", "own": ["Order:*"]},
            "mail": {"outbox": ["tcp://*"], "schemas": "contracts"},
        },
    )
    found = check(project)
    # The data behind Wolverine's headers is checked as an event's is.
    assert findings(found["mail"], "breaks-schema") == {
        ("breaks-schema", "NotifyCustomer", "$.customer", sent_to): 16
    }
    assert found["mail"]["types"] == [{"type": "NotifyCustomer", "events": 16}]
    assert "localhost" not in json.dumps(found["orders"])
    connection.execute("""
        CREATE TABLE wolverine_queue_billing (id uuid PRIMARY KEY, body bytea NOT NULL,
            message_type varchar NOT NULL, keep_until timestamptz, "timestamp" timestamptz);
        INSERT INTO wolverine_queue_billing
            SELECT id, body, message_type FROM wolverine_outgoing_envelopes LIMIT 3
    """)
    queue = ("private-outbox", "NotifyCustomer", None, "postgresql://billing")
    assert findings(check(project)["orders"], "private-outbox") == {queue: 3}
    # What cannot be read was not checked: it does not pass as JSON that keeps its schema.
    connection.execute("UPDATE wolverine_outgoing_envelopes SET body = '\\x0102'")
    assert findings(check(project)["mail"], "not-json") == {
        ("not-json", "NotifyCustomer", None, sent_to): 16
    }


def test_events_in_the_archive_are_history_and_the_outbox_is_that_of_the_hot_store(
    restored, project
):
    restored("marten-9.58-v6", c={"types": ["order_shipped"], "own": ["Order:All"]})
    store = project_store(project)
    policy = {"store": "shop", "category": "order", "closed_by": ["order_shipped"]}
    policy |= {"remove": "delete", "never_younger_than": "0s"}
    archives = {"cold": {"repository": "cold", "policies": {"old": policy}}}
    project.configure(stores={"shop": store}, archives=archives)
    project.ok("archive", "run", "old", "--despite-checkpoints")
    contract = {"types": ["order_shipped"], "own": ["Order:All"]}
    joined = {"shop": {**store, "archive": "cold"}}
    project.configure(stores=joined, archives=archives, contracts={"c": contract})
    found = check(project)["c"]
    assert found["types"] == [{"type": "order_shipped", "events": 16}]
    assert [each["kind"] for each in found["findings"]] == ["private-outbox", "no-schema"]


def test_a_consumer_of_a_category_reads_what_is_private_in_it(restored, project):
    restored(
        "message-db-1.3.1",
        {"Deposited": of("accountId", "amount", "sequence"), "Opened": of("accountId")},
        deposits={"types": ["Deposited", "Opened"], "schemas": "contracts"},
    )
    found = check(project)["deposits"]
    consumer = "processor account:position-accountSummary"
    assert findings(found, "private-read") == {
        ("private-read", "Closed", None, consumer): 10,
        ("private-read", "Withdrawn", None, consumer): 173,
    }
    assert findings(found, "unnamed-field")["unnamed-field", "Deposited", "$.currency", None] == 135
    first = next(each for each in found["findings"] if each["path"] == "$.currency")["samples"][0]
    assert (first["version"], first["position"]) == (1, "4")
    # Commands are in a category of their own, account:command, which it does not read.
    everything = {"deposits": {"categories": ["account"], "consumers": ["accountSummary"]}}
    write_contracts(project, project_store(project), {}, everything)
    assert not findings(check(project)["deposits"], "private-read", "unlisted-consumer")
    write_contracts(
        project,
        project_store(project),
        {},
        {"deposits": {"categories": ["acc?unt"], "consumers": ["x"]}},
    )
    assert findings(check(project)["deposits"], "unlisted-consumer")


def test_a_publication_of_changed_rows_sends_the_events_that_are_archived(
    restored, project, connection
):
    restored("marten-9.58-v6", orders={"types": ["order_placed"]})
    connection.execute("CREATE PUBLICATION p FOR TABLE mt_events WITH (publish = 'update')")
    connection.execute("CREATE PUBLICATION q FOR TABLE mt_events WITH (publish = 'truncate')")
    row = connection.execute("SELECT 'mt_events'::regclass::oid::bigint").fetchone()
    assert of_rows(connection, row[0]) == [("p", None)]
    found = [
        each for each in check(project)["orders"]["findings"] if each["kind"] == "private-read"
    ]
    assert {each["where"] for each in found} == {"publication p"}
    # A copy that was restored for CI is not silent about what production gives away.
    asleep = connection.execute("SHOW wal_level").fetchone()[0] != "logical"
    assert {each["note"] for each in found} == {asleep}
    assert asleep == ("wal_level is not logical" in found[0]["detail"])


def test_names_that_match_nothing_are_said_and_a_contract_without_events_is_a_finding(
    restored, project
):
    own = {"own": ["*"], "schemas": "contracts"}
    restored(
        "message-db-1.3.1",
        {"Opened": of("accountId", "customerId")},
        some={**own, "types": ["Opened", "Clsd*"], "categories": ["account", "acount"]},
        none={**own, "types": ["Opened"], "categories": ["acount"]},
    )
    found = check(project)
    notes = {("no-events", "Clsd*", None, None): 0, ("no-events", None, None, "category acount"): 0}
    assert findings(found["some"]) == notes
    assert ("no-events", None, None, None) in findings(found["none"])
    assert check(project, "some", code=0)["some"]["types"] == [{"type": "Opened", "events": 50}]


def test_of_a_processor_that_chooses_in_its_code_esops_says_that_it_does_not_know(
    restored, project, dsn
):
    contract = {"types": ["ShoppingCartConfirmed"], "schemas": "contracts"}
    restored("emmett-0.42.0", {"ShoppingCartConfirmed": of("at")}, carts=contract)
    unknown = {("unknown-reads", None, None, "processor shipping"): 0}
    assert findings(check(project)["carts"]) == unknown
    told = {"dsn": dsn, "processors": {"shipping": ["ShoppingCartConfirmed"]}}
    write_contracts(project, told, {}, {"carts": contract})
    assert check(project, code=0)["carts"]["findings"] == []
    told = {"dsn": dsn, "processors": {"shipping": ["ProductItemRemoved"]}}
    write_contracts(project, told, {}, {"carts": contract})
    assert findings(check(project)["carts"]) == {
        ("private-read", "ProductItemRemoved", None, "processor shipping"): 98
    }


def test_a_table_of_the_applications_own_is_an_outbox_where_a_contract_describes_it(
    restored, project, connection
):
    connection.execute("""
        CREATE TABLE "out box" (id int, kind text, body jsonb, topic text);
        INSERT INTO "out box" VALUES (1, 'a.b', '{"x": 1}', 'public'), (2, 'aXb', '{}', 'public'),
            (3, 'a.b', '{"x": "secret"}', 'amqp://user:word@host/q'), (4, 'aXb', '{}', 'internal')
    """)
    table = {"table": "out box", "type": "kind", "payload": "body", "destination": "topic"}
    restored(
        "emmett-0.42.0",
        {"a.b": of(properties={"x": {"type": "number"}})},
        out={
            "types": ["a.b"],
            "outbox": ["public", "amqp://*"],
            "outbox_tables": [table],
            "schemas": "contracts",
            "own": ["internal", "shipping"],
        },
    )
    result = project.run("schema", "contracts", "check", "--output", "json")
    assert result.code == 1, result.err
    found = result.json["contracts"][0]
    # A dot in a type's name stands for itself.
    assert findings(found) == {
        ("private-outbox", "aXb", None, "public"): 1,
        ("breaks-schema", "a.b", "$.x", "amqp://host/q"): 1,
    }
    assert not {"secret", "word"} & set(re.findall("[a-z]+", result.out))
    bad = {"types": ["a"], "outbox_tables": [{**table, "payload": "bdy"}]}
    write_contracts(project, project_store(project), {}, {"out": bad})
    result = project.run("schema", "contracts", "check")
    assert result.code == 2
    assert "contracts.out.outbox_tables: table public.out box has no column 'bdy'" in result.err


CODE = """
import json

def decode(event):
    data = event.json()
    if "currency" not in data:
        raise KeyError("currency")
    return data

def encode(data):
    item = {**data, "weight": 1}
    del item["quantity"]
    return json.dumps(item)
"""


def test_code_that_cannot_read_public_events_or_writes_others_breaks_the_contract(
    restored, project
):
    project.write("code.py", CODE)
    restored(
        "emmett-0.42.0",
        {"ProductItemAdded": of("productId", "quantity", "unitPrice", "currency")},
        carts={
            "types": ["ProductItemAdded"],
            "schemas": "contracts",
            "own": ["shipping"],
            "python": "code:decode",
            "encode": "code:encode",
        },
    )
    found = check(project)["carts"]["findings"]
    assert [(each["kind"], each["path"], each["rule"]) for each in found] == [
        ("code-fails", None, "KeyError"),
        ("code-changes", "$.quantity", "lost"),
        ("code-changes", "$.weight", "added"),
    ]
    assert {"stream", "version", "position"} == set(found[0]["samples"][0])


# -- EventStoreDB


QUERY = "fromCategory('cart').when({%s: function (s, e) { linkTo('out', e); }})"


def test_persistent_subscriptions_are_asked_for_their_filters_and_links(project):
    with Nodes() as nodes, nodes.client() as client:
        for stream, type_ in (
            ("cart-1", "Paid"),
            ("cart-1", "Note[a]"),
            ("cart-odd-2", "Paid"),
            ("mail-1", "Note"),
        ):
            event = NewEvent(type=type_, data=b'{"x": 1}')
            client.append_to_stream(stream, current_version=StreamState.ANY, events=event)
        client.create_projection(query=QUERY % "'Note[a]'", name="linker", emit_enabled=True)
        client.create_projection(query=QUERY % "Paid", name="quiet")
        until(lambda: client.get_stream("out"))
        client.create_subscription_to_all("everything", filter_exclude=())
        client.create_subscription_to_all("by-type", filter_include=("Pa.d",), filter_exclude=())
        client.create_subscription_to_all(
            "by-stream", filter_include=("mail-.*",), filter_by_stream_name=True
        )
        client.create_subscription_to_stream("cart", "$ce-cart", resolve_links=True)
        client.create_subscription_to_stream("names", "$ce-cart")
        # As a server makes it whose categories end at the last hyphen.
        link = NewEvent(type="$>", data=b"0@mail-1", content_type="application/octet-stream")
        client.append_to_stream("$ce-mail-box", current_version=StreamState.ANY, events=link)
        client.create_subscription_to_stream("hyphen", "$ce-mail-box", resolve_links=True)
        client.create_subscription_to_stream("type", "$et-Note[a]", resolve_links=True)
        client.create_subscription_to_stream("linked", "out", resolve_links=True)
        store = {"backend": "eventstoredb", "uri": nodes.uri}
        write_contracts(project, store, {"Paid": of("x")}, {"c": PAID})
        private = findings(check(project)["c"], "private-read")
        group = "persistent subscription"
        assert private == {
            ("private-read", "Note[a]", None, f"{group} $all::everything"): 1,
            ("private-read", "Note", None, f"{group} $all::everything"): 1,
            ("private-read", "Note", None, f"{group} $all::by-stream"): 1,
            ("private-read", "Note[a]", None, f"{group} $ce-cart::cart"): 1,
            ("private-read", "Note", None, f"{group} $ce-mail-box::hyphen"): 1,
            ("private-read", "Note[a]", None, f"{group} $et-Note[a]::type"): 1,
            ("private-read", "Note[a]", None, f"{group} out::linked"): 1,
            ("private-read", "Note[a]", None, "projection in the server that emits linker"): 1,
        }
        own = {**PAID, "own": ["linker", "linked", "$all::*", "cart", "type", "hyphen"]}
        write_contracts(project, store, {}, {"c": own})
        assert check(project, code=0)["c"]["findings"] == []


PAID = {"types": ["Paid"], "schemas": "contracts"}


# -- doctor


def test_doctor_names_readers_that_no_contract_knows_and_schemas_that_are_none(restored, project):
    contracts = {"deposits": {"types": ["Deposited"]}, "other": {"types": ["x"], "schemas": "no"}}
    restored("message-db-1.3.1", **contracts)
    assert {each["code"]: each["message"] for each in doctor(project)} == {
        "ESOPS-D096": "processor account:position-accountSummary reads category account; no "
        "contract names this reader",
        "ESOPS-D099": "the schema directory no does not exist",
    }
    contracts = {"deposits": {"types": ["Deposited"], "consumers": ["accountSummary"]}}
    write_contracts(project, project_store(project), {}, contracts)
    assert doctor(project) == []


def doctor(project):
    found = project.run("doctor", "--output", "json").json["findings"]
    return [each for each in found if each["code"] in {"ESOPS-D096", "ESOPS-D099"}]


# -- documents


def test_a_document_lives_in_git_and_ci_sees_that_it_is_old(project):
    contract = {"types": ["Pai*", "Other"], "schemas": "contracts"}
    write_contracts(project, {"dsn": "service=nowhere"}, {"Paid": of("x")}, {"c": contract})
    written = project.ok("schema", "contracts", "print", "c", "-o", "c.json")
    assert "no schema describes Other" in written.err
    assert "Pai* stands for those of its types that have a schema: Paid" in written.err
    assert json.loads((project.folder / "c.json").read_text())["asyncapi"] == "3.0.0"
    check = ("schema", "contracts", "print", "c", "--check", "c.json")
    assert project.ok(*check).out == ""
    write_contracts(project, {"dsn": "service=nowhere"}, {"Paid": of("y")}, {"c": contract})
    changed = project.run(*check)
    assert changed.code == 1
    assert '-          "x": true' in changed.out
    assert '+          "y": true' in changed.out
    examples = project.ok("schema", "contracts", "print", "c", "--format", "cloudevents").json
    assert [(each["type"], each.get("data")) for each in examples] == [
        ("Other", None),
        ("Paid", {"y": "text"}),
    ]


# -- help


def project_store(project):
    return tomllib.loads((project.folder / "esops.toml").read_text())["stores"]["shop"]
