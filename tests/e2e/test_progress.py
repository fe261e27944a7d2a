"""The progress line of a rebuild as a person sees it, at a terminal of its own."""

from __future__ import annotations

import os
import pty
import re
import subprocess

import pytest

from tests.support import shop
from tests.support.waiting import DEADLINE, until

EVENTS = 3_000
SLOW = "from time import sleep\n" + shop.PROJECTION.replace(
    "def cart_summary(row, event):\n", "def cart_summary(row, event):\n    sleep(1e-3)\n"
)
FIGURES = re.compile(r"([\d,]+) of ([\d,]+)  ([\d,]+)/s(?:  about ([\d.]+) s left)?")


@pytest.mark.installed
def test_the_bar_moves_before_the_first_commit_and_names_what_comes_after(dsn, project, connection):
    shop.make(dsn, EVENTS)
    connection.execute(
        "CREATE FUNCTION slowly(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM pg_sleep(0.003); RETURN $1; END$$"
    )
    ddl = shop.DDL + "CREATE INDEX ON {table} (public.slowly(client));"
    shop.configure(project, dsn, code=SLOW, ddl=ddl)
    master, slave = pty.openpty()
    command = project.command("--no-color", "rebuild", "--blue-green")
    process = subprocess.Popen(
        command,
        cwd=project.folder,
        env={**project.environ(), "TERM": "xterm", "COLUMNS": "140"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown, committed = "", []

    def look() -> bool:
        nonlocal shown
        try:
            shown += os.read(master, 65_536).decode()
        except OSError:  # the other side is closed
            return True
        if FIGURES.search(shown) and not committed:
            [events] = connection.execute("SELECT max(events) FROM esops.versions").fetchone()
            committed.append(events)
        return False

    try:
        until(look, every=0)
        assert process.wait(DEADLINE) == 0, shown
    finally:
        process.kill()
        os.close(master)
    found = FIGURES.findall(shown)
    done = [int(each[0].replace(",", "")) for each in found]
    assert {each[1] for each in found} == {f"{EVENTS:,}"}
    assert committed == [0]
    # It moves several times on the way, with a time left.
    assert len({each for each in done if 0 < each < EVENTS}) >= 5
    assert sum(1 for each in found if each[3]) >= 5
    assert "rebuild cart_summary: events applied" in shown
    assert "rebuild cart_summary: building keys and indexes" in shown
    shop.check_version(connection, 1)
