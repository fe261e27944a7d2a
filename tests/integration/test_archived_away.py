"""What every rebuild says of events that were archived and removed, and how many those are."""

from __future__ import annotations

import json
import shutil
import uuid

import pytest

from esops.events import NewEvent
from esops.settings import EventStoreDBSettings
from esops.stores import open_store
from tests.support import shop
from tests.support.esdb import Nodes
from tests.support.waiting import end, until

POLICY = """
[archives.cold]
repository = "cold"
[archives.cold.policies.old]
store = "shop"
stream = "cart-*"
remove = "delete"
never_younger_than = "0s"
"""


@pytest.fixture
def carts(project, dsn):
    shop.make(dsn, 300)
    shop.configure(project, dsn)
    text = (project.folder / "esops.toml").read_text()
    other = text[text.index("[projections") :].replace("cart_summary]", "carts2]")
    other = other.replace('tables = ["cart_summary"]', 'tables = ["carts2"]')
    outside = """
[projections.outside]
kind = "external"
start = ["true"]
checkpoint = "Outside:V2:All"
tables = ["outside"]
switch = "hook"
hooks.switch = ["true"]
"""
    project.write("esops.toml", text + other + outside)
    project.ok("rebuild", "cart_summary", "--blue-green")
    project.write("esops.toml", text + other + outside + POLICY)
    return project


def restore(project, run: str, *streams: str) -> None:
    project.ok("archive", "restore", run, *streams, "--yes")


def archive(project) -> str:
    return project.ok("archive", "run", "old", "--output", "json").json["run"]


WAYS = (
    ["cart_summary", "--blue-green"],
    ["cart_summary", "--blue-green", "--workers", "2"],
    ["cart_summary", "carts2", "--blue-green"],
    ["cart_summary", "--yes"],
    ["cart_summary", "--ranges", "4", "--yes"],
    ["outside", "--blue-green"],
)


@pytest.mark.thorough
def test_every_rebuild_refuses_what_is_away_and_counts_it_once(carts, connection):
    number, events = connection.execute(
        "SELECT count(DISTINCT stream_id), count(*) FROM shop.mt_events"
    ).fetchone()
    first = archive(carts)
    assert connection.execute("SELECT count(*) FROM shop.mt_events").fetchone() == (0,)
    away = f"{events} events of {number} streams were archived and removed (1 run in"
    for way in WAYS:
        refused = carts.run("rebuild", *way)
        assert (refused.code, away in refused.err) == (6, True), (way, refused.err)

    # A second run of the same streams adds nothing, and neither counts what is back.
    restore(carts, first)
    assert carts.ok("rebuild", "cart_summary", "--dry-run").code == 0
    assert "archived" not in carts.ok("rebuild", "cart_summary", "--blue-green", "--dry-run").out
    second = archive(carts)
    twice = f"{events} events of {number} streams were archived and removed (2 runs in"
    restore(carts, second, "cart-00000001")
    (back,) = connection.execute("SELECT count(*) FROM shop.mt_events").fetchone()
    twice = twice.replace(str(events), str(events - back), 1).replace(
        f"of {number} ", f"of {number - 1} "
    )
    for way in (WAYS[0], WAYS[3]):
        refused = carts.run("rebuild", *way)
        assert (refused.code, twice in refused.err) == (6, True), (way, refused.err)
    found = carts.run("doctor", "--output", "json").json["findings"]
    messages = [each["message"] for each in found if each["code"] == "ESOPS-D049"]
    assert len(messages) == 3
    assert all(message.startswith(twice[:40]) for message in messages)

    # The policy is gone from esops.toml, and the archive still there.
    text = (carts.folder / "esops.toml").read_text()
    carts.write("esops.toml", text.replace(POLICY, '[archives.cold]\nrepository = "cold"\n'))
    assert carts.run("rebuild", "cart_summary", "--yes").code == 6
    # Whose events an archive has only itself can say, whatever store its policies name today.
    other = POLICY.replace('store = "shop"', 'store = "other"')
    shutil.move(carts.folder / "cold", carts.folder / "moved")
    assert carts.run("rebuild", "cart_summary", "--yes", "--accept-fewer").code != 0
    dsn = json.dumps(connection.info.dsn)
    carts.write("esops.toml", text.replace(POLICY, other) + f"[stores.other]\ndsn = {dsn}\n")
    assert carts.run("doctor").code in (0, 1)
    shutil.move(carts.folder / "moved", carts.folder / "cold")

    # What waits for the archive's own reader: the application reads none.
    carts.write("esops.toml", text.replace('schema = "shop"', 'schema = "shop"\narchive = "cold"'))
    assert carts.ok("rebuild", "cart_summary", "--blue-green", "--dry-run").code == 0
    refused = carts.run("rebuild", "outside", "--blue-green")
    assert refused.code == 6
    assert "esops archive restore" in refused.err
    said = carts.run("rebuild", "outside", "--blue-green", "--without-archived", "--dry-run")
    assert twice[:40] in said.out


def test_a_follower_counts_only_what_is_still_away(carts, connection):
    """A read model that is older than the run: refused, until the streams are back."""
    run = archive(carts)
    connection.execute(
        "UPDATE esops.versions SET position = '100', applied = NULL WHERE projection = 'cart_summary'"
    )
    refused = carts.run("run", "cart_summary", "--until-caught-up")
    assert "were archived and removed" in refused.err
    assert refused.code == 6
    restore(carts, run)
    again = carts.run("run", "cart_summary", "--until-caught-up")
    assert "were archived and removed" not in again.err


def test_a_version_that_had_read_events_does_not_follow_them_to_new_positions(
    carts, dsn, connection
):
    """It would count them twice, whether it runs at that moment or is started after it."""

    def rows() -> list:
        return connection.execute("SELECT * FROM cart_summary ORDER BY 1").fetchall()

    carts.ok("run", "cart_summary", "--until-caught-up")
    position = "SELECT position FROM esops.versions WHERE projection = 'cart_summary'"
    follower = carts.start("run", "cart_summary")
    shop.more(dsn, 5)
    (last,) = connection.execute("SELECT max(seq_id)::text FROM shop.mt_events").fetchone()
    until(lambda: connection.execute(position).fetchone() == (last,))
    run = archive(carts)
    before = rows()
    told = carts.ok("archive", "restore", run, "--yes", "--renumber", "--output", "json").json
    assert told["to_rebuild"] == ["cart_summary"]
    refused = carts.run("run", "cart_summary", "--until-caught-up")
    assert (refused.code, "new positions" in refused.err) == (6, True), refused.err
    end(follower)
    assert rows() == before
    found = carts.run("doctor", "--output", "json").json["findings"]
    assert any("new positions" in each["message"] for each in found)
    carts.ok("rebuild", "cart_summary", "--blue-green")
    carts.ok("run", "cart_summary", "--until-caught-up")


def test_nor_does_a_server_read_what_it_has_deleted(project):
    with Nodes() as nodes:
        node = {"backend": "eventstoredb", "uri": nodes.uri}
        with open_store("billing", EventStoreDBSettings(uri=nodes.uri)) as store:
            for number in range(3):
                events = [NewEvent(str(uuid.uuid4()), "placed", b"{}") for _ in range(4)]
                store.append(f"order-{number}", events)
        policy = POLICY.replace("cart-*", "order-*").replace('"shop"', '"billing"')
        projection = {"kind": "server", "javascript": "q.js", "store": "billing"}
        project.configure(stores={"billing": node}, projections={"sums": projection})
        text = (project.folder / "esops.toml").read_text()
        project.write("esops.toml", text + policy)
        project.write("q.js", "fromAll().when({$init: () => ({n: 0})})")
        archive(project)
        refused = project.run("rebuild", "sums", "--blue-green")
        assert refused.code == 6
        assert "12 events of 3 streams were archived and removed" in refused.err
        # It does not read the archive that the store is joined with, either.
        joined = '[stores.billing]\narchive = "cold"'
        project.write("esops.toml", text.replace("[stores.billing]", joined) + policy)
        refused = project.run("rebuild", "sums", "--blue-green")
        assert (refused.code, "esops archive restore" in refused.err) == (6, True), refused.err
