"""A store joined with its archive: streams, totals and events are those of both parts, each once."""

from __future__ import annotations

import json
import uuid

import pytest

from esops.archive.run import run
from esops.config import load_config
from esops.events import EventFilter, NewEvent, Position
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import marten

CONFIG = """
[stores.s]
dsn = {dsn}
append = "quick"
[archives.cold]
repository = "cold"
[archives.cold.policies.kept]
store = "s"
stream = "a-*"
remove = "keep"
[archives.cold.policies.gone]
store = "s"
stream = "m-*"
remove = "delete"
"""


def new(kind: str = "added") -> NewEvent:
    return NewEvent(str(uuid.uuid4()), kind, b'{"n": 1}')


@pytest.fixture
def config(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for name in ("z-1", "m-1", "a-1", "m-2", "a-2", "b-1"):
            store.append(name, [new() for _ in range(5)])
        store.append("m-1", [new("closed")])
        store.append("z-1", [new("closed")])
    path = project.write("esops.toml", CONFIG.format(dsn=json.dumps(dsn)))
    loaded = load_config(path)
    run(loaded, "kept")
    run(loaded, "gone", despite_checkpoints=True)
    return loaded


def joined(config):
    cold = config.stores["s"].model_copy(update={"cold": config.archives["cold"]})
    return open_store("s", cold)


def test_streams_come_by_name_whole_closed_and_with_their_bytes(config):
    with joined(config) as store:
        found = list(store.streams(closed_by=["closed"], measured=True))
        names = ["a-1", "a-2", "b-1", "m-1", "m-2", "z-1"]
        assert [info.name for info in found] == names
        assert [info.length for info in found] == [5, 5, 5, 6, 5, 6]
        assert [info.closed for info in found] == [False, False, False, True, False, True]
        assert all(info.bytes for info in found)
        assert [info.name for info in store.streams(limit=4)] == names[:4]
        only = list(store.streams(EventFilter(types=("closed",))))
        assert [(info.name, info.length) for info in only] == [("m-1", 1), ("z-1", 1)]


def test_a_stream_that_goes_on_is_as_long_and_as_closed_as_both_parts(config, connection):
    """Its head is in the archive; the rest, with the closing event, in the store, or the reverse."""
    connection.execute("DELETE FROM mt_events WHERE stream_id = 'a-1' AND version < 3")
    with joined(config) as store:
        store.append("a-1", [new("closed")])
        for info in (store.stream_info("a-1"), next(iter(store.streams(closed_by=["closed"])))):
            assert (info.first_version, info.last_version, info.length) == (1, 6, 6)
        assert info.closed
        size = next(iter(store.streams(measured=True))).bytes
    connection.execute("DELETE FROM mt_events WHERE stream_id = 'a-2' AND version > 3")
    with joined(config) as store:
        infos = {info.name: info for info in store.streams(closed_by=["added"], measured=True)}
        assert infos["a-2"].closed, "its last event is in the archive"
        assert infos["a-2"].length == 5
    with open_store("s", config.stores["s"]) as hot:
        alone = next(iter(hot.streams(measured=True)))
    assert (alone.name, size > alone.bytes) == ("a-1", True)


def test_totals_are_not_doubled(config):
    with joined(config) as store:
        head = store.head().position
        events = [event for batch in store.read_all() for event in batch.events]
        assert len(events) == 32
        assert store.count_between(None, head) == 32
        assert store.count_between(Position([16]), head) == 16
        assert store.count_between(head, head) == 0


def test_progress_and_audit_of_a_rebuild_count_each_event_once(config, project, dsn):
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text.replace("[stores.s]", '[stores.s]\narchive = "cold"'))
    audit = project.ok("audit", "streams", "--output", "json").json
    assert audit["summary"]["events"] == 32
    assert audit["summary"]["streams"] == 6
