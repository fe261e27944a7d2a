"""An archive run's steps: each ended by a death, and resumed; nothing is lost at any moment."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from esops.archive.planning import NewestStreams, PlannedStream
from esops.archive.remover import Remover
from esops.archive_format.repository import Repository
from esops.events import Checkpoint, NewEvent
from esops.testing import MemoryStore
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


def test_a_run_is_not_continued_against_the_policy_of_today(shop, monkeypatch):
    """It was killed after its seal, and esops.toml was edited to take less."""
    before = {"remove": "delete", "stream": "cart-*", "min_length": 2, "never_younger_than": "0s"}
    run = ("archive", "run", "old", "--despite-checkpoints")

    def policy(store: str = "shop", of: Sequence[str] = (), **keys: object) -> None:
        old = {"store": store, **before, **keys}
        names = {"of": [*of]} if of else {}
        shop.project.configure(
            stores={store: {"backend": "memory", "log": shop.name, **names}},
            archives={"cold": {"repository": "cold", "policies": {"old": old}}},
        )

    def killed(*_: object) -> None:
        raise Died

    for step in ("export._seal", "run.remove_archived"):
        policy()
        with monkeypatch.context() as patched, pytest.raises(Died):
            patched.setattr(f"esops.archive.{step}", killed)
            shop.run(*run)
        policy(remove="keep")
        refused = shop.run(*run)
        assert (refused.code, "--start-again" in refused.err) == (6, True)
    less = {
        "remove": "keep",
        "stream": "cart-1",
        "min_length": 3,
        "idle_for": "1h",
        "keep_last": 2,
        "tenant": "red",
        "closed_by": ["closed"],
    }
    for key, value in less.items():
        policy(**{key: value})
        refused = shop.run(*run)
        assert (refused.code, f"{key} was " in refused.err) == (6, True), refused.err
    policy(store="renamed")
    refused = shop.run(*run)
    assert (refused.code, "--start-again" in refused.err, "of =" in refused.err) == (2, True, True)
    policy(store="renamed", of=["shop", "renamed"])
    assert shop.ok("archive", "plan", "old", "--output", "json").json["unfinished"]["streams"] == 10
    policy(remove="keep", stream="cart-1")
    assert len(shop.log.events) == 200
    told = shop.ok("archive", "plan", "old", "--output", "json").json
    assert (told["streams"], told["remove"]) == (0, "keep")
    unfinished = told["unfinished"]
    assert (unfinished["remove"], unfinished["streams"], unfinished["events"]) == (
        "delete",
        10,
        200,
    )
    assert "remove was" in unfinished["refused"]
    assert unfinished["run"] in shop.ok("archive", "plan", "old").out
    assert unfinished["run"] in shop.ok("archive", "plan", "old", "--streams").err
    # Finished where the command line says how, or where the file says as much as before, or more.
    policy(remove="keep", min_length=1)
    assert "nothing" not in shop.ok("archive", "plan", "old", "--remove", "delete").out
    done = shop.ok(*run, "--remove", "delete", "--output", "json").json
    assert (done["run"], done["removed"]) == (unfinished["run"], 10)
    assert shop.ok("archive", "plan", "old", "--output", "json").json["unfinished"] is None


def test_a_run_that_is_told_to_keep_the_rest_says_what_it_has_removed(shop, monkeypatch):
    archive(shop, "delete")
    path = shop.project.folder / "esops.toml"
    path.write_text(path.read_text().replace('remove = "delete"', 'remove = "delete"\nbatch = 20'))
    remove, batches = Remover._remove_batch, []

    def dying(*arguments) -> None:
        if len(batches) == 3:
            raise Died
        batches.append(remove(*arguments))

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(Remover, "_remove_batch", dying)
        shop.run("archive", "run", "old", "--despite-checkpoints")
    kept = shop.ok("archive", "run", "old", "--remove", "keep", "--output", "json").json
    [listed] = shop.ok("archive", "list", "--output", "json").json
    for each in (kept, listed):
        found = (each["remove"], each["removed"], each["removed_events"])
        assert found == ("delete", 3, 60)
    assert (len(shop.log.events), kept["left_alone"]) == (140, 7)


def test_a_plan_names_readers_of_types_that_no_stream_ends_with():
    store = MemoryStore()
    store.append("cart-1", [NewEvent(str(n), kind, b"{}") for n, kind in enumerate("aab")])
    newest = NewestStreams()
    newest.add(PlannedStream("cart-1", "", 3, 1, 3, None, None, None, 0))
    unread = newest.unread_of(store)
    for position, types, late in ((1, "a", 1), (2, "a", 0), (2, "b", 1), (0, "c", 0), (3, "", 0)):
        at = [each.position for each in store.log.events][position - 1] if position else None
        assert unread(Checkpoint("p", at, "", None, types=tuple(types))) == late, (position, types)
