"""The installed `esops projection check`, as cron runs it: quiet, limited, and interrupted."""

from __future__ import annotations

import signal

import pytest

from tests.support import shop
from tests.support.waiting import until


@pytest.mark.installed
def test_a_nightly_check_and_one_that_is_interrupted(dsn, project, connection):
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    nightly = project.ok(
        "projection", "check", "cart_summary", "--sample", "50%", "--max-rate", "90000"
    )
    last = nightly.out.splitlines()[-1]
    assert last.startswith("check 1: ")
    assert last.endswith("every row is what its events make of it")
    slow = project.start("projection", "check", "cart_summary", "--max-rate", "20")
    running = "SELECT count(*) FROM esops.checks WHERE state = 'running'"
    until(lambda: connection.execute(running).fetchone() == (1,))
    slow.send_signal(signal.SIGINT)
    assert slow.wait() == 5
    assert connection.execute("SELECT state FROM esops.checks ORDER BY id").fetchall() == [
        ("done",),
        ("stopped",),
    ]
