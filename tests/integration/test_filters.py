"""A filter that nothing passes is most often a mistake, and is answered with the nearest name."""

from __future__ import annotations

import json

import pytest
from psycopg import sql

from esops.events import EventFilter
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.stores.postgres import known
from tests.support import shop
from tests.support.waiting import end, heard

EVENTS = 200


@pytest.fixture
def carts(dsn, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    return project


def test_a_projection_of_names_that_nobody_has_is_not_built(carts, connection, dsn):
    def configured(options: str):
        shop.configure(carts, dsn, projection_options=options)

    configured('events = ["shoping_cart_opened"]')
    for way in (["--blue-green"], ["--blue-green", "--dry-run"], ["--yes"]):
        wrong = carts.run("rebuild", *way)
        assert wrong.code == 2, wrong.err
        assert "Did you mean 'shopping_cart_opened'?" in wrong.err
    found = carts.run("doctor", "--output", "json").json["findings"]
    [named] = [each for each in found if each["code"] == "ESOPS-D051"]
    assert "shopping_cart_opened" in named["fix"]
    configured('category = "carts"')
    wrong = carts.run("rebuild", "--blue-green")
    assert wrong.code == 2
    assert "Did you mean 'cart'?" in wrong.err
    # One that was not written yet is no mistake, beside others.
    configured('events = ["shopping_cart_opened", "shopping_cart_paid"]')
    plan = carts.ok("rebuild", "--blue-green", "--dry-run", "--output", "json").json
    assert any("shopping_cart_paid" in note for note in plan["notes"])
    # Types and category exist, but not together.
    connection.execute("ALTER TABLE shop.mt_events DROP CONSTRAINT mt_events_stream_id_fkey")
    connection.execute("UPDATE shop.mt_events SET stream_id = 'order-1' WHERE seq_id = 1")
    kind = connection.execute("SELECT type FROM shop.mt_events WHERE seq_id = 1").fetchone()[0]
    connection.execute(
        "UPDATE shop.mt_events SET type = 'other' WHERE type = %s AND seq_id > 1", (kind,)
    )
    configured(f'events = ["{kind}"]\ncategory = "cart"')
    assert carts.run("rebuild", "--blue-green").code == 2
    # Whoever says so builds it all the same.
    # The stream of its first event has lost that one, too.
    carts.ok("rebuild", "--blue-green", "--accept-fewer", "--accept-shortened")


def test_run_does_not_pass_over_events_because_of_a_wrong_name(carts, connection, dsn):
    carts.ok("rebuild", "--blue-green")
    shop.more(dsn, 10)
    shop.configure(carts, dsn, projection_options='events = ["shoping_cart_opened"]')

    def positions() -> list[str]:
        shown = carts.ok("projection", "versions", "cart_summary", "--output", "json").json
        return [each["position"] for each in shown]

    before = positions()
    wrong = carts.run("run", "--until-caught-up")
    assert wrong.code == 2, wrong.err
    assert "Did you mean 'shopping_cart_opened'?" in wrong.err
    assert positions() == before
    names = [
        kind
        for (kind,) in connection.execute("SELECT DISTINCT type FROM shop.mt_events").fetchall()
    ]
    some = json.dumps([*names, "shoping_cart_opened"])
    shop.configure(carts, dsn, projection_options=f"events = {some}")
    warned = carts.ok("run", "--until-caught-up")
    assert "no event of type 'shoping_cart_opened'" in warned.err
    assert shop.check_version(connection, 1) > 10


@pytest.mark.thorough
def test_commands_that_read_name_the_nearest(carts, connection):
    for command, near in (
        (["events", "--type", "product_item_aded"], "product_item_added"),
        (["events", "--category", "Carts"], "cart"),
        (["audit", "streams", "--category", "carts"], "cart"),
        (["audit", "events", "--category", "carts"], "cart"),
        (["audit", "modelling", "--category", "carts"], "cart"),
        (["events", "--stream", "cart-000000"], "cart-00000020"),
        (["audit", "stream", "cart-000000"], "cart-00000020"),
    ):
        wrong = carts.run(*command)
        assert (wrong.code, wrong.out) == (1, ""), command
        assert near in wrong.err, wrong.err
    shown = carts.run("events", "show", "nope")
    assert (shown.code, shown.out) == (1, "")
    assert "error: store shop has no event" in shown.err
    # Names that exist, and nothing after that position.
    none = carts.ok("events", "--type", "product_item_added", "--after", str(EVENTS))
    assert none.out == ""
    assert "no such event" in none.err
    # Archived events are no mistake, and are not shown.
    connection.execute("UPDATE shop.mt_events SET is_archived = TRUE WHERE type LIKE 'product%'")
    assert carts.ok("events", "--type", "product_item_added").out == ""
    # What is waited for may be the first.
    process = carts.start("events", "--follow", "--type", "shopping_cart_paid")
    heard(process, "shopping_cart_paid")
    end(process)


def test_an_empty_store_knows_no_names(dsn, project):
    shop.make(dsn)
    shop.configure(project, dsn, projection_options='events = ["shopping_cart_opened"]')
    project.ok("rebuild", "--blue-green")
    project.ok("events", "--type", "anything")


def d051(project) -> list[str]:
    found = project.run("doctor", "--output", "json").json["findings"]
    return [each["subject"] for each in found if each["code"] == "ESOPS-D051"]


POLICY = (
    "[archives.cold]\nrepository = 'cold'\n[archives.cold.policies.old]\n"
    "category = '{category}'\nremove = 'delete'\nnever_younger_than = '0s'\n"
)


def test_a_policy_of_a_category_that_nobody_has_archives_nothing_and_says_so(carts, connection):
    text = (carts.folder / "esops.toml").read_text()
    carts.write("esops.toml", text + POLICY.format(category="carts"))
    for command in (["plan", "old"], ["run", "old"]):
        wrong = carts.run("archive", *command)
        assert wrong.code == 2
        assert "Did you mean 'cart'?" in wrong.err
    assert d051(carts) == ["policy old"]


@pytest.mark.thorough
def test_policies_and_budgets(carts, connection):
    text = (carts.folder / "esops.toml").read_text()
    for key, value in (("until", "shopping_cart_confirmd"), ("closed_by", ["closed"])):
        wrong = POLICY.format(category="cart") + f"{key} = {json.dumps(value)}\n"
        carts.write("esops.toml", text + wrong)
        assert d051(carts) == ["policy old"], key
    carts.write("esops.toml", text + POLICY.format(category="cart"))
    assert d051(carts) == []
    carts.ok("archive", "run", "old", "--despite-checkpoints")
    # What an archive run took away is no wrong name, of a policy or of a projection.
    closed = POLICY.format(category="cart") + "closed_by = ['shopping_cart_confirmed']\n"
    some = text + 'events = ["shopping_cart_confirmed"]\n'
    connection.execute("UPDATE shop.mt_events SET type = 'other' WHERE type LIKE '%confirmed'")
    carts.write("esops.toml", some + closed)
    found = carts.run("doctor", "--output", "json").json["findings"]
    assert {each["code"] for each in found} & {"ESOPS-D049", "ESOPS-D051"} == {"ESOPS-D049"}
    carts.write("esops.toml", text + POLICY.format(category="cart"))
    connection.execute("ALTER TABLE shop.mt_events DROP CONSTRAINT mt_events_stream_id_fkey")
    connection.execute("DELETE FROM shop.mt_events")
    shop.store.generate(connection, 10, after=EVENTS, first_cart=EVENTS)
    connection.execute("UPDATE shop.mt_events SET stream_id = 'order-1', version = seq_id")
    carts.ok("archive", "run", "old")  # all that there was is archived
    carts.write("esops.toml", text)
    assert "No budget is set" in carts.ok("audit", "streams").out
    carts.write("esops.toml", text + "[audit.budgets]\nordre = 5\n")
    wrong = carts.run("audit", "streams", "--count")
    assert wrong.code == 2
    assert "Did you mean 'order'?" in wrong.err
    carts.write("esops.toml", text + "[audit.budgets]\nordre = 5\norder = 500\n")
    partly = carts.run("audit", "streams", "--count", "--quiet", "--output", "json")
    assert (partly.code, len(partly.json["unmatched_budgets"])) == (1, 1)
    assert "warning: the budget of 'ordre'" in partly.err


def test_what_cannot_be_found_out_quickly_is_not_an_error(dsn, monkeypatch):
    shop.make(dsn, 4_000)
    with open_store("shop", PostgresSettings(dsn=dsn, schema="shop", append="quick")) as store:
        assert store.names.any_passes(EventFilter(types=("nope",))) is False
        assert "product_item_added" in store.names.of("event type")
        assert store.names.of("category") == ["cart"]
        # As over a hundred million events without an index.
        monkeypatch.setattr(store.layout, "own", sql.SQL("pg_sleep(0.01) IS NULL"))
        monkeypatch.setattr(known, "_PATIENCE", known.timedelta(milliseconds=50))
        assert store.names.any_passes(EventFilter(types=("product_item_added",))) is None
        with store.control() as connection:
            assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)
