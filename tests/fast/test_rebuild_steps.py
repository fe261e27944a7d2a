"""A rebuild's steps: in their order, each resumed after a death in it, and the ways out."""

from __future__ import annotations

import pytest

from esops.rebuild import journal
from tests.fast.conftest import CODE
from tests.support.cases import thorough_but

STATES = ("provisioned", "catching-up", "following", "verified", "switched")


class Died(BaseException):
    """The process is gone: nothing of esops catches it."""


def dying(monkeypatch, state: str, moment: str):
    """Die where the journal is to note a state."""
    real = journal.enter

    def enter(connection, rebuild, to, **named):
        if to == state and moment == "before":
            raise Died
        real(connection, rebuild, to, **named)
        if to == state:
            raise Died

    monkeypatch.setattr(journal, "enter", enter)


def test_the_journal_tells_the_steps_in_their_order(shop):
    done = shop.ok("rebuild", "--blue-green", "--output", "json").json
    assert (done["state"], done["to_version"], done["events"], done["rows"]) == (
        "switched",
        1,
        200,
        10,
    )
    steps = [
        step
        for (step,) in shop.connection.execute(
            "SELECT step FROM esops.rebuild_log WHERE event = 'done' ORDER BY ctid"
        )
    ]
    assert steps == ["planned", *STATES]
    assert shop.table() == shop.truth


@pytest.mark.parametrize("moment", thorough_but(["before", "after"], "before"))
@pytest.mark.parametrize("state", STATES)
def test_a_rebuild_that_dies_at_a_step_is_resumed(shop, monkeypatch, state, moment):
    """Both where the journal does not know of the step yet, and where it does."""
    shop.ok("rebuild", "--blue-green")
    shop.append(50)
    with monkeypatch.context() as patched:
        dying(patched, state, moment)
        with pytest.raises(Died):
            shop.run("rebuild", "--blue-green")
    shop.append(50)
    shop.ok("rebuild", "--blue-green", "--resume")
    assert shop.state() == "switched"
    assert set(shop.table("carts__v2").items()) <= set(shop.truth.items()) or state == "switched"
    assert shop.connection.execute("SELECT active_version FROM esops.projections").fetchone() == (
        2,
    )


@pytest.mark.parametrize(
    "state",
    [
        STATES[0],
        *thorough_but(STATES[1:-2]),
        STATES[-2],
    ],
)
def test_a_rebuild_that_died_is_aborted_and_leaves_blue_as_it_was(shop, monkeypatch, state):
    shop.ok("rebuild", "--blue-green")
    before = shop.table()
    with monkeypatch.context() as patched:
        dying(patched, state, "after")
        with pytest.raises(Died):
            shop.run("rebuild", "--blue-green")
    assert shop.run("rebuild", "--blue-green").code == 6, "one at a time"
    shop.ok("rebuild", "--blue-green", "--abort", "--yes")
    assert shop.state() == "aborted"
    assert shop.table() == before
    assert shop.connection.execute("SELECT to_regclass('carts__v2')").fetchone() == (None,)
    shop.ok("rebuild", "--blue-green")
    assert shop.table() == shop.truth


def test_differences_pause_it_until_they_are_allowed(shop):
    shop.ok("rebuild", "--blue-green")
    shop.connection.execute("UPDATE carts__v1 SET items = -1 WHERE cart IN ('cart-1', 'cart-2')")
    held = shop.run("rebuild", "--blue-green", "--output", "json")
    assert (held.code, held.json["state"], held.json["verification"]["differing"]) == (
        1,
        "paused",
        2,
    )
    assert held.json["verification"]["columns"] == {"items": 2}
    assert shop.run("rebuild", "--blue-green", "--resume", "--max-diff", "1").code == 1
    shop.ok("rebuild", "--blue-green", "--resume", "--max-diff", "2")
    assert shop.table() == shop.truth


def test_the_switch_waits_for_its_command_or_is_left_out(shop):
    done = shop.ok("rebuild", "--blue-green", "--no-switch", "--output", "json").json
    assert done["state"] == "verified"
    assert shop.connection.execute("SELECT to_regclass('carts')").fetchone() == (None,)
    shop.ok("projection", "switch", "carts", "--to", "1")
    assert shop.table() == shop.truth
    shop.ok("rebuild", "--blue-green")
    shop.ok("projection", "rollback", "carts")
    shop.ok("projection", "switch", "carts", "--to", "2")
    shop.ok("projection", "retire", "carts", "--yes")
    assert shop.connection.execute("SELECT to_regclass('carts__v1')").fetchone() == (None,)


def test_in_place_the_same_rows_come_again(shop):
    shop.ok("rebuild", "--blue-green")
    shop.connection.execute("UPDATE carts__v1 SET items = -1")
    assert shop.run("rebuild").code == 2
    done = shop.ok("rebuild", "--yes", "--output", "json").json
    assert (done["state"], done["to_version"]) == ("rebuilt", 1)
    assert shop.table() == shop.truth


def test_a_dry_run_changes_nothing(shop):
    plan = shop.ok("rebuild", "--blue-green", "--dry-run").out
    assert 'CREATE TABLE "public"."carts__v1"' in plan
    assert shop.connection.execute("SELECT to_regnamespace('esops')").fetchone() == (None,)


def test_other_code_does_not_resume(shop, monkeypatch):
    shop.ok("rebuild", "--blue-green")
    with monkeypatch.context() as patched:
        dying(patched, "catching-up", "after")
        with pytest.raises(Died):
            shop.run("rebuild", "--blue-green")
    shop.module += "_changed"
    shop.configure(CODE.replace("+ event", "- event"))
    refused = shop.run("rebuild", "--blue-green", "--resume")
    assert refused.code == 6
    shop.ok("rebuild", "--blue-green", "--abort", "--yes")


def test_events_that_do_not_settle_are_said(shop):
    shop.ok("rebuild", "--blue-green")
    shop.log.hold()
    shop.append(5)
    store = shop.project.folder / "esops.toml"
    store.write_text(
        store.read_text().replace("[stores.shop]", '[stores.shop]\nsettle_timeout = "1ms"')
    )
    assert shop.run("events").code == 5
    shop.log.release()
    assert len(shop.ok("events").out.splitlines()) == 205
