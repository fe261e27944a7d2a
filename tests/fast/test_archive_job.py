"""An archive run's steps: each ended by a death, and resumed; nothing is lost at any moment."""

from __future__ import annotations

import pytest

from esops.archive_format.repository import Repository
from tests.fast.test_rebuild_steps import Died


def archive(shop, removal: str) -> None:
    path = shop.project.folder / "esops.toml"
    path.write_text(path.read_text().replace('remove = "keep"', f'remove = "{removal}"'))


def ids(events) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for event in events:
        found.setdefault(event.stream, []).append(event.id)
    return found


def test_kept_streams_are_archived_once(shop):
    first = shop.ok("archive", "run", "old", "--output", "json").json
    assert (first["streams"], first["events"], first["removed"]) == (10, 200, 0)
    assert shop.ok("archive", "verify", "--output", "json").json["ok"]
    assert shop.ok("archive", "run", "old", "--output", "json").json["streams"] == 0


def test_removed_streams_come_back_as_they_were(shop):
    before = ids(shop.log.events)
    archive(shop, "delete")
    run = shop.ok("archive", "run", "old", "--despite-checkpoints", "--output", "json").json
    assert run["streams"] == 10
    assert len(shop.log.events) < 200
    shop.ok("archive", "restore", run["run"], "--yes")
    assert ids(sorted(shop.log.events, key=lambda event: event.version)) == before


def test_a_dry_run_writes_nothing(shop):
    shop.ok("archive", "plan", "old")
    assert not list((shop.project.folder / "cold").rglob("*.parquet"))
    assert len(shop.log.events) == 200


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_that_dies_at_any_write_is_resumed(shop, monkeypatch, moment):
    """Again and again at the next write, until a run comes through."""
    before = {event.id for event in shop.log.events}
    archive(shop, "delete")
    put = Repository.put
    deaths = 0
    for number in range(1, 60):
        count = [0]

        def dying(self, name, *arguments, count=count, number=number, **named):
            if name.startswith("locks/"):  # whose holder, this process, is still there
                return put(self, name, *arguments, **named)
            count[0] += 1
            if count[0] == number and moment == "before":
                raise Died
            result = put(self, name, *arguments, **named)
            if count[0] == number:
                raise Died
            return result

        with monkeypatch.context() as patched:
            patched.setattr(Repository, "put", dying)
            try:
                shop.run("archive", "run", "old", "--despite-checkpoints")
                break
            except Died:
                deaths += 1
        hot = {event.id for event in shop.log.events}
        if hot != before:
            assert shop.run("archive", "verify").code == 0
    assert deaths >= 3
    assert shop.ok("archive", "verify", "--output", "json").json["ok"]
    rows = shop.ok(
        "archive", "query", "SELECT count(DISTINCT id) AS n FROM events", "--output", "json"
    )
    assert rows.json == [{"n": 200}]
