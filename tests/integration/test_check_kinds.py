"""`esops projection check` of the kinds that read the whole log, and of tables that the application
writes itself: Emmett's own documents, of which one is short of an event.
"""

from __future__ import annotations

import json

import pytest

from tests.support import emmett, kinds, shop
from tests.support.cases import thorough_but

EVENTS = 1_000
DOCUMENTS = """
from esops import fold

def by_client(event):
    return event.json()["clientId"]

def by_product(event):
    return event.json()["productItem"]["productId"] if "productItem" in event.json() else event.json()["productId"]

@fold(key=by_client)
def clients(row, event):
    carts = row["data"]["carts"] if row else 0
    return {"data": {"_id": by_client(event), "carts": carts + 1}}

@fold(key=by_product)
def products(row, event):
    data = row["data"] if row else {"sold": 0, "times": 0}
    sold = data["sold"] + event.json()["quantity"]
    return {"data": {"_id": by_product(event), "sold": sold, "times": data["times"] + 1}}

@fold(key="stream")
def changes(row, event):
    if event.type == "ShoppingCartCancelled":
        return None
    return {"data": {"_id": event.stream, "changes": (row["data"]["changes"] if row else 0) + 1}}
"""


def found(project, name: str, *options: str, code: int) -> dict:
    done = project.run("projection", "check", name, *options, "--output", "json")
    assert done.code == code, done.err
    return done.json


@pytest.mark.parametrize("kind", thorough_but(["handlers", "sql"], "sql"))
def test_kinds_that_read_the_log(dsn, project, connection, kind):
    shop.make(dsn, EVENTS)
    kinds.configure(project, dsn, kind)
    project.ok("rebuild", "--blue-green")
    rows = connection.execute("SELECT count(*) FROM cart_summary").fetchone()[0]
    clean = found(project, "cart_summary", code=0)
    assert (clean["keys"], clean["events"], clean["position"]) == (rows, EVENTS, str(EVENTS))
    shop.more(dsn, 100)
    first, second = (
        row[0] for row in connection.execute("SELECT cart_id FROM cart_summary ORDER BY 1 LIMIT 2")
    )
    connection.execute(
        "UPDATE cart_summary__v1 SET items = 2 * items + 1 WHERE cart_id = %s", (first,)
    )
    connection.execute("DELETE FROM cart_summary__v1 WHERE cart_id = %s", (second,))
    connection.execute("INSERT INTO cart_summary__v1 VALUES ('zzz', 'x', 1, 1, 'open', 1)")
    wrong = found(project, "cart_summary", code=1)
    assert (wrong["differing"], wrong["missing"], wrong["surplus"]) == (3, 1, 1)
    assert wrong["position"] == str(EVENTS)
    assert {each["key"] for each in wrong["samples"]} == {first, second, "zzz"}
    named = found(project, "cart_summary", "--keys", f"{second},zzz", code=1)
    assert (named["keys"], named["differing"]) == (2, 2)
    assert project.run("projection", "check", "cart_summary", "--streams", first).code == 2


@pytest.mark.thorough
def test_a_fold_with_a_key_function_reads_only_the_keys_of_the_sample(dsn, project, connection):
    shop.make(dsn, EVENTS)
    code = """
from esops import fold

@fold(key=lambda event: event.type)
def cart_summary(row, event):
    return {"events": (row["events"] if row else 0) + 1}
"""
    ddl = "CREATE TABLE {table} (type text PRIMARY KEY, events bigint);"
    shop.configure(project, dsn, code=code, ddl=ddl)
    project.ok("rebuild", "--blue-green")
    assert found(project, "cart_summary", code=0)["differing"] == 0
    drawn = found(project, "cart_summary", "--sample", "60%", "--seed", "b", code=0)
    named = found(project, "cart_summary", "--keys", "shopping_cart_opened,none", code=1)
    assert (drawn["differing"], named["keys"], named["differing"]) == (0, 1, 0)
    connection.execute("UPDATE cart_summary__v1 SET events = events + 1")
    some = found(project, "cart_summary", "--sample", "60%", "--seed", "b", code=1)
    kinds_of = connection.execute("SELECT count(*) FROM cart_summary").fetchone()[0]
    assert 0 < some["keys"] == drawn["keys"] < kinds_of
    assert some["differing"] == some["keys"]
    opened = found(project, "cart_summary", "--keys", "shopping_cart_opened", code=1)
    assert (opened["keys"], opened["differing"]) == (1, 1)
    streams = found(project, "cart_summary", "--streams", "cart-00000004", code=1)
    assert 0 < streams["keys"] <= kinds_of


@pytest.fixture
def documents(dumps, dsn, connection, project):
    emmett.restore(connection, (dumps / "emmett-0.43.0-beta.39.sql").read_text())
    project.write("documents.py", DOCUMENTS)
    of_emmett = {"switch": "rename", "verify": {"ignore": ["data.at"]}}
    project.configure(
        stores={"s": {"dsn": dsn, "tenant": "emt:default"}},
        projections={
            "clients": {
                "python": "documents:clients",
                "tables": ["client_totals_v2"],
                "events": ["ShoppingCartOpened"],
                "live": "inline",
                **of_emmett,
            },
            "products": {
                "python": "documents:products",
                "tables": ["product_stats"],
                "events": ["ProductItemAdded"],
                "live": "app",
                "checkpoint": "emt:processor:projector:product_stats",
                **of_emmett,
            },
            "carts": {
                "python": "documents:changes",
                "tables": ["shopping_cart_summary"],
                "category": "shopping_cart",
                "live": "inline",
                "switch": "rename",
                "verify": {"ignore": ["data.cents", "data.items", "data.client", "data.status"]},
            },
        },
    )
    return json.loads((dumps / "emmett-0.43.0-beta.39.json").read_text())


@pytest.mark.thorough
def test_the_document_that_emmett_left_short_is_found(documents, project, connection):
    served = dict(connection.execute("SELECT _id, (data->>'carts')::int FROM client_totals_v2"))
    short = {each for each, carts in documents["clients"].items() if served[each] != carts}
    wrong = found(project, "clients", code=1)
    assert {each["key"] for each in wrong["samples"]} == short
    assert (wrong["keys"], wrong["differing"], len(short)) == (len(served), 1, 1)
    (sample,) = wrong["samples"]
    (client,) = short
    assert sample["folded"]["data.carts"] - sample["served"]["data.carts"] == 1
    assert sample["folded"]["data.carts"] == documents["clients"][client]
    text = project.run("projection", "check", "clients").out
    assert f"{client}: data.carts is {served[client]}, should be {served[client] + 1}" in text
    # A processor's documents, up to where its checkpoint is.
    assert found(project, "products", code=0)["position"] == "127:307"
    connection.execute(
        "UPDATE product_stats SET data = jsonb_set(data, '{sold}', '0') WHERE _id = 'p-2'"
    )
    assert [each["key"] for each in found(project, "products", code=1)["samples"]] == ["p-2"]


def test_documents_that_are_written_with_each_append_are_checked_stream_by_stream(
    documents, project, connection
):
    clean = found(project, "carts", code=0)
    assert (clean["differing"], clean["position"], clean["version"]) == (0, None, None)
    rows = connection.execute("SELECT count(*) FROM shopping_cart_summary").fetchone()[0]
    assert (clean["keys"], clean["unchecked"]) == (rows, 0)
    connection.execute(
        "UPDATE shopping_cart_summary SET data = jsonb_set(data, '{changes}', '1') "
        "WHERE _id = 'shopping_cart-0005'"
    )
    wrong = found(project, "carts", code=1)
    assert [each["key"] for each in wrong["samples"]] == ["shopping_cart-0005"]
    before = connection.execute("SELECT * FROM shopping_cart_summary ORDER BY 1").fetchall()
    healed = found(project, "carts", "--heal", "--yes", "--longest-session", "100ms", code=0)
    assert (healed["differing"], healed["healed"]) == (1, 1)
    assert found(project, "carts", code=0)["differing"] == 0
    after = connection.execute("SELECT * FROM shopping_cart_summary ORDER BY 1").fetchall()
    assert len(set(map(repr, after)) ^ set(map(repr, before))) == 2


def test_nothing_is_called_wrong_while_it_is_followed_and_every_fault_is_found(
    dsn, project, connection
):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    following = project.start("run")
    try:
        planted = [f"cart-{number:08d}" for number in (2, 5, 9)]
        for _ in range(2):
            shop.more(dsn, 300)
            assert found(project, "cart_summary", code=0)["unchecked"] == 0
        connection.execute(
            "UPDATE cart_summary__v1 SET total = total + 1 WHERE cart_id = ANY(%s)", (planted,)
        )
        shop.more(dsn, 300)
        wrong = found(project, "cart_summary", code=1)
        assert {each["key"] for each in wrong["samples"]} == set(planted)
    finally:
        following.terminate()
        following.wait()


@pytest.mark.thorough
def test_streams_of_several_tenants_have_keys_of_their_own(dumps, dsn, project, connection):
    emmett.restore(connection, (dumps / "marten-9.58-v2.sql").read_text())
    project.configure(
        stores={"s": {"dsn": dsn, "schema": "es"}},
        projections={"p": {"python": "p:p", "tables": ["p"], "ddl": "p.sql"}},
    )
    project.write(
        "p.sql",
        "CREATE TABLE {table} (tenant text, id text, events int, PRIMARY KEY (tenant, id));",
    )
    project.write(
        "p.py",
        "from esops import fold\n\n@fold(key='stream')\ndef p(row, event):\n"
        "    return {'events': (row['events'] if row else 0) + 1}\n",
    )
    project.ok("rebuild", "p", "--blue-green")
    rows = connection.execute("SELECT count(*) FROM p").fetchone()[0]
    assert found(project, "p", code=0)["keys"] == rows
    twice = connection.execute(
        "SELECT id FROM p GROUP BY id HAVING count(*) = 3 ORDER BY 1"
    ).fetchone()[0]
    connection.execute("UPDATE p__v1 SET events = 0 WHERE (tenant, id) = ('globex', %s)", (twice,))
    wrong = found(project, "p", code=1)
    assert [each["key"] for each in wrong["samples"]] == [{"tenant": "globex", "id": twice}]
    assert found(project, "p", "--streams", twice, code=1)["keys"] == 3
    key = json.dumps(["globex", twice])
    assert found(project, "p", "--keys", key, code=1)["keys"] == 1
    assert project.run("projection", "check", "p", "--keys", twice).code == 2
