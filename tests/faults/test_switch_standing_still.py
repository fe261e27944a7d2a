"""esops is stopped (SIGSTOP) at each statement of a switch, a rollback, an adoption and a retirement:
the server ends its transaction, and readers wait for a second or two at most.
"""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta

import psycopg
import pytest

from esops.postgres import held
from tests.support import shop
from tests.support.cases import thorough_but
from tests.support.soak import rounds
from tests.support.waiting import finish, until

pytestmark = pytest.mark.slow
EVERY = rounds(9, 1)
"""Stopped at every fourth statement, or at each in a long series."""
LONG = 15.0
"""Seconds that no read takes, on however busy a machine: without an end of the transaction it would
take as long as the process is stopped, or half a minute by the limit of the whole.
"""
STOPPING = """
import os, signal
from esops.postgres import held
from esops.rebuild import carried, retiring
import psycopg

real, at, step = psycopg.Connection.execute, {at}, {step}
armed, seen = [], []

def arm(connection, *arguments, **options):
    held_before(connection, *arguments, **options)
    if "whole" in options:
        armed.append(connection)
        seen.clear()

held_before = held.end_if_still
carried.end_if_still = retiring.end_if_still = arm

def execute(self, query, *arguments, **options):
    global at
    if self in armed:
        seen.append(query)
        if len(seen) == at:
            at += step  # a rebuild tries again by itself, and comes further each time
            open("stopped", "w").close()
            os.kill(os.getpid(), signal.SIGSTOP)
    return real(self, query, *arguments, **options)

psycopg.Connection.execute = execute
"""


def longest_read(dsn, stop) -> float:
    """Read again and again until told to stop; the longest time that one read took, in seconds."""
    longest = 0.0
    with psycopg.connect(dsn, autocommit=True) as reading:
        while not stop():
            began = time.monotonic()
            reading.execute("SELECT count(*) FROM cart_summary")
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.02)
    return longest


@pytest.mark.parametrize(
    "what",
    [
        "switch",
        "retire",
        *thorough_but(("rollback", "adoption")),
    ],
)
def test_readers_do_not_wait_for_a_process_that_stands_still(dsn, connection, project, what):
    shop.make(dsn, 300)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    if what == "adoption":
        connection.execute(
            "CREATE TABLE kept (LIKE cart_summary__v1 INCLUDING ALL);"
            "INSERT INTO kept SELECT * FROM cart_summary; DROP VIEW cart_summary;"
            "DROP TABLE cart_summary__v1; DROP SCHEMA esops CASCADE;"
            "ALTER TABLE kept RENAME TO cart_summary"
        )
    else:
        project.ok("rebuild", "--blue-green")
    command = {
        "switch": ("projection", "switch", "cart_summary"),
        "rollback": ("projection", "rollback", "cart_summary"),
        "adoption": ("rebuild", "--blue-green"),
        "retire": ("projection", "retire", "cart_summary", "1", "--yes"),
    }[what]
    assert held.STILL <= timedelta(seconds=2)
    at, ended, stopped = 1, 0, project.folder / "stopped"
    while True:
        project.patch(STOPPING.replace("{at}", str(at)).replace("{step}", str(EVERY)))
        process, stops = project.start(*command), 0
        while True:
            until(lambda p=process: p.poll() is not None or stopped.exists())
            if not stopped.exists():
                break
            stopped.unlink()
            stops += 1
            began = time.monotonic()
            longest = longest_read(dsn, lambda began=began: time.monotonic() - began > 1.4)
            assert longest < LONG, f"stopped at statement {at}, time {stops}"
            os.kill(process.pid, signal.SIGCONT)
        _, err = finish(process)
        if process.returncode == 0:
            break
        assert process.returncode == 3, err
        assert "stood still" in err
        ended += 1
        at += EVERY
    # A rebuild goes on by itself; the last stop may come when all is committed.
    assert (stops if what == "adoption" else ended) >= 1
    assert connection.execute("SELECT count(*) FROM cart_summary").fetchone()[0] > 0
