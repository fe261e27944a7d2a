"""What an operator sees of a load: events that are applied, long before they are committed, and what
is done beside that."""

from __future__ import annotations

import sys

import pytest

from esops.config import load_config
from esops.rebuild.api import Operator, RebuildRequest, rebuild
from tests.support import kinds, shop

EVENTS = 3_000
SLOW = shop.PROJECTION.replace(
    "def cart_summary(row, event):\n",
    "def cart_summary(row, event):\n    sleep(8e-4)\n",
)


class Watcher(Operator):
    """Notes each report, with how many events were committed when it came."""

    def __init__(self, connection) -> None:
        self.connection, self.reports, self.done = connection, [], []

    def progress(self, projection, done, total):
        self.reports.append((done, total, self.committed()))

    def doing(self, projection, what, *, paused=False):
        self.done.append(what)

    def committed(self) -> int:
        events = 0
        for table in ("versions", "shards"):
            if self.connection.execute(f"SELECT to_regclass('esops.{table}')").fetchone()[0]:
                row = self.connection.execute(f"SELECT sum(events) FROM esops.{table}").fetchone()
                events += row[0] or 0
        return int(events)

    def ahead(self) -> list[int]:
        """How many events were applied, in reports of which nothing was committed yet."""
        return [done for done, _, committed in self.reports if done and not committed]


@pytest.fixture
def carts(dsn, project, monkeypatch):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn, code="from time import sleep\n" + SLOW)
    monkeypatch.delitem(sys.modules, "shop_projections", raising=False)
    yield project
    sys.modules.pop("shop_projections", None)


def watch(carts, connection, **request) -> Watcher:
    watcher = Watcher(connection)
    rebuild(
        load_config(carts.folder / "esops.toml"),
        request=RebuildRequest(**request),
        operator=watcher,
    )
    return watcher


def test_progress_is_what_is_applied_and_not_what_is_committed(carts, connection):
    watcher = watch(carts, connection)
    ahead = watcher.ahead()
    assert len(ahead) >= 5
    assert ahead == sorted(ahead)
    assert {total for _, total, _ in watcher.reports} == {EVENTS}
    assert watcher.reports[-1][0] == EVENTS
    written = watcher.done.index("writing rows")
    assert written < watcher.done.index("building keys and indexes")
    assert watcher.done[-1] == ""
    shop.check_version(connection, 1)
    second = watch(carts, connection)
    assert "comparing with v1" in second.done


@pytest.mark.thorough
def test_so_do_processes(carts, connection):
    watcher = watch(carts, connection, workers=2)
    # One is enough: the first of two processes commits when it has ended, on a busy machine early.
    assert len(watcher.ahead()) >= 1
    assert watcher.reports[-1][:2] == (EVENTS, EVENTS)
    shop.check_version(connection, 1)


ADDED = """
from time import thread_time as clock
from esops import fold

@fold(key="stream")
def cart_summary(row, event):
    end = clock() + 2e-4
    while clock() < end: pass
    return {"cart_id": event.stream, "client": "", "items": 0, "total": 0, "status": "", "position": event.position[0]}
"""


def test_a_filter_makes_the_total_an_estimate_that_is_soon_right(carts, connection, dsn):
    options = 'events = ["product_item_added"]'
    shop.configure(carts, dsn, code=ADDED, projection_options=options)
    watcher = watch(carts, connection)
    [passing] = connection.execute(
        "SELECT count(*) FROM shop.mt_events WHERE type = 'product_item_added'"
    ).fetchone()
    assert watcher.reports[-1][:2] == (passing, passing)
    later = [total for done, total, _ in watcher.reports if done > passing / 5]
    assert len(later) >= 3
    assert all(0.8 <= total / passing <= 1.2 for total in later), watcher.reports


@pytest.mark.thorough
def test_a_pause_is_told(carts, connection, dsn):
    class Pausing(Watcher):
        def progress(self, projection, done, total):
            super().progress(projection, done, total)
            if done and "waiting" not in self.done:
                carts.ok("projection", "pause", "cart_summary")

        def doing(self, projection, what, *, paused=False):
            super().doing(projection, what, paused=paused)
            if what == "waiting":
                assert paused
                carts.ok("projection", "resume", "cart_summary")

    watcher = Pausing(connection)
    config = load_config(carts.folder / "esops.toml")
    rebuild(config, operator=watcher)
    assert "waiting" in watcher.done
    assert watcher.reports[-1][:2] == (EVENTS, EVENTS)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["sql", "handlers"])
def test_other_kinds_commit_soon_and_often_enough_to_show_it(dsn, project, connection, kind):
    """Their events are worked on at the commit, so what is applied is what is committed."""
    events = {"sql": 30_000, "handlers": 15_000}[kind]
    shop.make(dsn, events)
    kinds.configure(project, dsn, kind)
    watcher = watch(project, connection)
    partial = {done for done, _, _ in watcher.reports if 0 < done < events}
    assert min(partial) <= events / 3
    assert all(done == committed for done, _, committed in watcher.reports)
    sys.modules.pop("shop_projections", None)
