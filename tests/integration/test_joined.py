"""A store joined with its archive: streams, totals and events are those of both parts, each once."""

from __future__ import annotations

import json
import shutil
import uuid
from contextlib import ExitStack
from itertools import islice

import pytest

from esops.archive.run import RunRequest, run
from esops.config import load_config
from esops.errors import Refused
from esops.events import EventFilter, NewEvent, Position
from esops.settings import ArchiveStoreSettings, PostgresSettings
from esops.stores import open_store
from esops.stores.archive import downwards
from esops.stores.postgres import backwards
from esops.trace.log import LogReader, LogRequest
from tests.support import marten
from tests.support.cases import thorough_but

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
never_younger_than = "0s"
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
    run(loaded, "gone", RunRequest(despite_checkpoints=True))
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
        assert store.counts.between(None, head) == 32
        assert store.counts.between(Position([16]), head) == 16
        assert store.counts.between(head, head) == 0


@pytest.mark.thorough
def test_progress_and_audit_of_a_rebuild_count_each_event_once(config, project, dsn):
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text.replace("[stores.s]", '[stores.s]\narchive = "cold"'))
    audit = project.ok("audit", "streams", "--output", "json").json
    assert audit["summary"]["events"] == 32
    assert audit["summary"]["streams"] == 6


EVERY = """
[stores.s]
dsn = {dsn}
append = "quick"
archive = "cold"
[archives.cold]
repository = "cold"
[archives.cold.policies.first]
store = "s"
stream = "z-*"
remove = "{remove}"
never_younger_than = "0s"
[archives.cold.policies.gone]
store = "s"
stream = "m-*"
remove = "{remove}"
never_younger_than = "0s"
"""


@pytest.fixture(params=thorough_but(["delete", "archive"], "delete"))
def begun(request, project, dsn, connection):
    """A configuration whose archive has a run, and 36 events of which the next run takes a half."""
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        store.append("z-1", [new()])
        path = project.write("esops.toml", EVERY.format(dsn=json.dumps(dsn), remove=request.param))
        loaded = load_config(path)
        run(loaded, "first")
        for name in ("m-1", "b-1") * 3:
            store.append(name, [new() for _ in range(6)])
    return loaded


def test_a_store_that_was_opened_before_a_run_reads_what_left_since(begun):
    questions = {
        "all": lambda s: [e.position for b in s.read_all() for e in b.events],
        "again": lambda s: [
            e.position for b in s.read_all(until=s.head().position) for e in b.events
        ],
        "stream": lambda s: [e.version for e in s.read_stream("m-1")],
        "back": lambda s: [e.version for e in s.read_stream("m-1", backwards=True, limit=7)],
        "info": lambda s: s.stream_info("m-1").length,
        "streams": lambda s: [(i.name, i.length) for i in s.streams()],
        "passes": lambda s: s.names.any_passes(EventFilter(stream="m-1")),
        "found": lambda s: [e.version for e in s.search.find(event_id=ids).events],
        "count": lambda s: s.counts.between(None, s.head().position),
    }
    with open_store(*begun.store("s")) as store:
        ids = [e.id for e in store.read_stream("m-1")]
        expected = {name: ask(store) for name, ask in questions.items()}
    assert (len(expected["all"]), expected["count"]) == (37, 37)
    early = {name: open_store(*begun.store("s")) for name in questions}
    run(begun, "gone")
    for name, ask in questions.items():
        with early[name] as store:
            assert ask(store) == expected[name], name


@pytest.mark.parametrize("begun", ["delete", "archive"], indirect=True)
def test_a_run_in_the_middle_of_a_read_takes_nothing_from_it(begun, monkeypatch):
    """The store gives pages of ten events, and the run comes between the first two."""
    monkeypatch.setattr("esops.stores.postgres.reading.PAGE", 10)
    monkeypatch.setattr("esops.stores.archive.joined._AT_ONCE", 5)
    monkeypatch.setattr("esops.stores.archive.in_step._AT_ONCE", 5)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_store(*begun.store("s"))) for _ in range(3)]
        log, backwards = opened[0].read_all(), opened[1].read_stream("m-1", backwards=True)
        followed = opened[2].follow()
        events, versions = list(next(log).events), [next(backwards).version]
        seen = list(next(followed).events)
        run(begun, "gone")
        events += [event for batch in log for event in batch.events]
        versions += [event.version for event in backwards]
        for batch in followed:
            seen += batch.events
            if not batch.events:
                break
        assert [event.position[0] for event in events] == list(range(1, 38))
        assert versions == list(range(18, 0, -1))
        assert [event.position[0] for event in seen] == list(range(1, 38))


@pytest.mark.thorough
def test_a_follower_reads_what_a_run_takes_before_it_came_to_it(begun):
    with open_store(*begun.store("s")) as store:
        followed = store.follow()
        while next(followed).events:
            pass
        store.append("m-2", [new() for _ in range(3)])
        store.append("b-2", [new()])
        run(begun, "gone", RunRequest(despite_checkpoints=True))
        seen: list[tuple[str, int]] = []
        for batch in islice(followed, 20):
            seen += [(event.stream, event.version) for event in batch.events]
        assert seen == [("m-2", 1), ("m-2", 2), ("m-2", 3), ("b-2", 1)]


def test_runs_that_vanish_from_under_a_reader_are_missed(begun, project):
    copy = project.folder / "copy"
    shutil.copytree(project.folder / "cold", copy)
    run(begun, "gone")
    with open_store(*begun.store("s")) as store:
        shutil.rmtree(project.folder / "cold")
        shutil.move(copy, project.folder / "cold")
        with pytest.raises(Refused, match="replaced by an older copy"):
            list(store.read_all())


def test_the_newest_events_of_both_parts_are_the_end_of_the_whole_log(config):
    cold = ArchiveStoreSettings(cold=config.archives["cold"])
    with joined(config) as store, open_store("s", cold) as archive:
        store.append("b-1", [new("closed")])
        for each in (store, archive):
            every = [event for batch in each.read_all() for event in batch.events]
            places = [(event.position, event.id) for event in every]
            for number in (1, 3, 12, 100):
                request = LogRequest(EventFilter(), last=number)
                found = [(event.position, event.id) for event in LogReader(each, request)]
                assert found == places[-number:]
            reverse = LogReader(each, LogRequest(EventFilter(), reverse=True))
            assert [(e.position, e.id) for e in reverse] == places[::-1]
            middle = every[len(every) // 2].moment
            dated = EventFilter(since=middle)
            found = LogReader(each, LogRequest(dated, last=4))
            assert [e.id for e in found] == [e.id for e in every if e.moment >= middle][-4:]
            m_1 = EventFilter(stream="m-1")
            found = LogReader(each, LogRequest(m_1, last=2))
            assert [(e.version, e.type) for e in found] == [(5, "added"), (6, "closed")]


@pytest.mark.thorough
def test_what_leaves_the_store_while_it_is_read_backwards_comes_from_the_archive(
    config, monkeypatch
):
    monkeypatch.setattr(backwards, "FEW", 2)  # pages of two numbers
    monkeypatch.setattr(downwards, "_AT_ONCE", 1)
    with joined(config) as store:
        for name in ("z-3", "m-3", "z-4", "m-4", "z-5"):
            store.append(name, [new() for _ in range(4)])
        head = store.head().position
        places = [(e.position, e.id) for batch in store.read_all(None, head) for e in batch.events]
        reading = store.read_backwards(head)
        found = [event for batch in islice(reading, 3) for event in batch.events]
        assert run(config, "gone", RunRequest(despite_checkpoints=True)).streams == 2
        found += [event for batch in reading for event in batch.events]
        assert [(event.position, event.id) for event in found] == places[::-1]
