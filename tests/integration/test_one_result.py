"""What a command writes to standard output is its result, whatever the projection's code does."""

from __future__ import annotations

import pytest

from tests.support import shop

# Where the module is loaded, and at each event, in each process.
NOISY = "print('loaded')\n" + shop.PROJECTION.replace(
    "def cart_summary(row, event):", "def cart_summary(row, event):\n    print('seen', event.type)"
)


@pytest.fixture
def noisy(project, dsn):
    shop.make(dsn, 300)
    shop.configure(project, dsn, code=NOISY)
    return project


def test_what_a_projection_prints_stands_in_no_result(noisy, connection):
    built = noisy.ok("rebuild", "--blue-green", "--output", "json")
    assert built.json["state"] == "switched"
    assert "seen shopping_cart_opened" in built.err
    (key,) = connection.execute("SELECT cart_id FROM cart_summary LIMIT 1").fetchone()
    for command in (
        ["plan"],
        ["projection", "check", "cart_summary"],
        ["projection", "step", "cart_summary", key],
        ["projection", "step", "cart_summary", key, "--python", "shop_projections:cart_summary"],
        ["status"],
    ):
        done = noisy.run(*command, "--output", "json")
        assert done.json, command
    followed = noisy.ok("run", "--until-caught-up", "--log-format", "json")
    assert followed.out == ""


@pytest.mark.thorough
def test_what_several_processes_and_a_trial_print_stands_in_no_result(noisy, connection):
    built = noisy.ok("rebuild", "--blue-green", "--workers", "2", "--output", "json")
    assert built.json["state"] == "switched"
    assert "seen shopping_cart_opened" in built.err
    assert noisy.ok("projection", "test", "cart_summary", "--output", "json").json


def test_a_report_that_cannot_be_written_keeps_a_rebuild_from_its_beginning(noisy, connection):
    refused = noisy.run("rebuild", "--blue-green", "--report", "no/such/page.html")
    assert (refused.code, "there is no folder no/such" in refused.err) == (2, True)
    assert connection.execute("SELECT to_regnamespace('esops')").fetchone() == (None,)
