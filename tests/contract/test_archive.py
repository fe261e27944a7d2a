"""Streams of every store leave it by each way that it has, are read from the archive as they were,
and come back as they were.
"""

from __future__ import annotations

from datetime import timedelta

import orjson
import pytest

from esops.archive.planning import plan
from esops.archive.restore import restore
from esops.archive.run import RunRequest
from esops.archive.verify import verify
from esops.archive_format.repository import Repository
from esops.archive_format.runs import Catalog
from esops.config import parse_config
from esops.errors import Refused, UsageError
from esops.events import EventFilter, NewEvent
from esops.stores import open_store
from esops.stores.postgres import counted, light
from esops.testing import eventually
from tests.support.archived import run
from tests.support.layout_kits import ALIKE, LAYOUTS, NODES, LayoutKit, any_kit, kits
from tests.support.soak import SOAK
from tests.support.waiting import DEADLINE

PATIENCE = timedelta(seconds=DEADLINE)


KITS = [*LAYOUTS, *NODES]
ALIKE_HERE = ALIKE | {
    "marten-6",
    "marten-optional",
    "marten-quick",
    "emmett-0.41",
    "eventstoredb-21.10",
}
"""Variants whose columns and statements the first test covers in the thorough half; what the others
look at is the same in them as in other variants.
"""
DIFFERENT = {
    "marten-text",
    "marten-partitioned-conjoined",
    "marten-binary",
    "emmett",
    "messagedb",
    "eventsourcing",
    "eventstoredb",
    "eventstoredb-real",
}
"""The stores from which the streams of the first test, which is dear, leave in `make test`."""


@pytest.fixture(params=kits(KITS, ALIKE_HERE))
def kit(request):
    yield from any_kit(request, request.param)


def configured(kit, folder, **policy):
    pattern = f"{tag(kit)}-*" if kit.text_ids else "*"
    document = {
        "archives": {
            "cold": {
                "repository": "cold",
                "file_size": 1 << 16,
                "policies": {"old": {"stream": pattern, "never_younger_than": "0s", **policy}},
            }
        },
        "stores": {"cold": {"backend": "archive", "archive": "cold"}},
    }
    config = parse_config(document, folder / "esops.toml")
    policies = config.archives["cold"].policies["old"].model_copy(update={"store": "s"})
    archives = {"cold": config.archives["cold"].model_copy(update={"policies": {"old": policies}})}
    return config.model_copy(
        update={"stores": {**config.stores, "s": kit.settings}, "archives": archives}
    )


def catalog_of(config) -> Catalog:
    return Catalog(Repository(config.archives["cold"]))


def rows(kit) -> list:
    """All that the store has: every row of its tables, or every event and the metadata of this
    test's streams.
    """
    if isinstance(kit, LayoutKit):
        tables = [
            each.as_string(kit.connection)
            for each in kit.store.layout.reads
            if "progress" not in each.as_string(kit.connection)
        ]
        return [
            kit.connection.execute(f"SELECT t::text FROM {table} t ORDER BY 1").fetchall()
            for table in tables
        ]
    return [
        (list(kit.store.read_stream(stream)), kit.store.changes.metadata(stream)[0])
        for stream in kit.streams
    ]


def tag(kit) -> str:
    """A category of this test's own where the store is shared, as nodes are."""
    return "own" if isinstance(kit, LayoutKit) else f"c{id(kit):x}"


def fill(kit, hundreds: int = 0) -> dict[str, list]:
    """Three streams, one of them long if that is asked for, their events among each other's; what
    each is made of.
    """
    short, long, single = (kit.stream(tag(kit)) for _ in range(3))
    kit.store.append(short, kit.events("opened", "added"))
    kit.store.append(long, kit.events(*["added"] * 20))
    for _ in range(hundreds):
        kit.store.append(long, kit.events(*["added"] * 100))
    metadata = orjson.dumps({"correlationId": "c-1", "causationId": "e-1"})
    extra = [
        NewEvent(event.id, event.type, event.data, metadata)
        for event in kit.events("confirmed", text="ü\u2028\\", big=2**60)
    ]
    kit.store.append(short, extra)
    kit.store.append(single, kit.events("opened"))
    kit.store.append(long, kit.events("closed"))
    kit.store.head(PATIENCE)
    # A node's own list of streams comes a moment after the events.
    wanted = EventFilter(category=tag(kit)) if kit.text_ids else EventFilter()
    assert eventually(
        lambda: {short, long, single} <= {info.name for info in kit.store.streams(wanted)}
    )
    return {stream: list(kit.store.read_stream(stream)) for stream in (short, long, single)}


def ways(kit) -> list[str]:
    return [way for way in kit.store.archiving.removals if way != "tombstone"]


@pytest.mark.parametrize("kit", kits(KITS, {*KITS} - DIFFERENT), indirect=True)
def test_streams_leave_by_each_way_and_come_back_as_they_were(kit, tmp_path, request, monkeypatch):
    # In some layouts a stream has more events than the block that its hash is made of, and all are
    # read as those of a large store are.
    long = SOAK or request.node.callspec.params["kit"] in ("marten-text", "emmett", "messagedb")
    if long:
        monkeypatch.setattr(light, "FEW", 1_000)
        monkeypatch.setattr(counted, "_SMALL_BYTES", 0)
    before = fill(kit, hundreds=11 if long else 1)
    was = rows(kit)
    log = kit.read()
    assert ways(kit)
    for number, how in enumerate(ways(kit)):
        folder = tmp_path / how
        folder.mkdir()
        config = configured(kit, folder, remove=how, batch=64)
        names = set(before)
        stays = kit.store.archiving.removal_strategy(how).keeps
        planned = plan(config, "old")
        assert planned.statements
        outcome = run(config, "old", RunRequest(despite_checkpoints=True))
        left = {
            stream: [event.version for event in kit.store.read_stream(stream)] for stream in names
        }
        hot = {
            stream: info
            for stream in names
            if (info := kit.store.stream_info(stream)) is not None and not info.deleted
        }
        (found,) = catalog_of(config).sealed()
        archived = {digest.stream: digest for digest, _ in found[0].streams(found[1])}
        gone = {stream for stream in names if stream in archived}
        assert outcome.state == "done"
        assert gone == {stream for stream in names if len(before[stream]) > stays}
        for stream in gone:
            assert archived[stream].events == len(before[stream])
            if how == "archive" or (how == "delete" and not stays):
                assert hot.get(stream) is None or hot[stream].archived or not left[stream]
            else:
                assert left[stream] == [before[stream][-1].version]

        with open_store("cold", config.stores["cold"]) as cold:
            for stream in gone:
                assert list(cold.read_stream(stream)) == before[stream]
        joined = kit.settings.model_copy(update={"cold": config.archives["cold"]})
        with open_store("s", joined) as both:
            seen = [
                event
                for batch in both.read_all(kit.begin)
                for event in batch.events
                if event.stream in kit.streams
            ]
            assert seen == log
            for stream in names:
                assert list(both.read_stream(stream)) == before[stream]
                assert both.stream_info(stream).length == len(before[stream])

        told = restore(*found, kit.store)
        assert told.streams == outcome.streams
        assert rows(kit) == was, (number, how)
        assert {stream: list(kit.store.read_stream(stream)) for stream in before} == before
        assert restore(*found, kit.store).there == outcome.streams
        assert verify(*found, kit.store).ok


def wiped(kit) -> None:
    """As a database is that was restored to before any event."""
    connection = kit.connection
    tables = [
        each.as_string(connection)
        for each in kit.store.layout.reads
        if "progress" not in each.as_string(connection)
    ]
    connection.execute(f"TRUNCATE {', '.join(tables)}")
    for sequence in kit.store.layout.sequences:
        connection.execute(f"ALTER SEQUENCE {sequence.as_string(connection)} RESTART")


def test_what_changed_since_is_left_alone_and_what_left_goes_on_or_says_that_it_cannot(
    kit, tmp_path
):
    """Versions never begin again: an append gets the next one, or is refused by the store."""
    before = fill(kit)
    changed, left, _ = before
    late = []

    def progress(what: str, done: int, total: int | None) -> None:
        if what == "streams removed" and not late:
            late.append(kit.store.append(changed, kit.events("late")))

    how = ways(kit)[0]
    config = configured(kit, tmp_path, remove=how)
    outcome = run(config, "old", RunRequest(despite_checkpoints=True), progress=progress)
    reasons = {each["stream"]: each["reason"] for each in outcome.skipped}
    assert reasons.keys() == {changed}
    assert "changed" in reasons[changed]
    now = list(kit.store.read_stream(changed))
    assert [event.id for event in now[:-1]] == [event.id for event in before[changed]]

    stays = kit.store.archiving.removal_strategy(how).keeps
    assert outcome.removed == sum(len(before[each]) > stays for each in before if each != changed)
    try:
        kit.store.append(left, kit.events("next"))
    except Refused:
        return
    newest = list(kit.store.read_stream(left))[-1].version
    assert newest == before[left][-1].version + 1


def test_a_copy_is_read_as_a_store_and_restored_over_nothing(kit, tmp_path):
    """What is archived without leaving the store."""
    before = fill(kit)
    config = configured(kit, tmp_path)
    run(config, "old")
    selected(kit, config, before)
    if isinstance(kit, LayoutKit):  # events of a node cannot be changed, nor can it be set back
        ((found, manifest),) = catalog_of(config).sealed()
        other_data(kit, found, manifest, before)
        taken_numbers(kit, found, manifest, before)


def selected(kit, config, before) -> None:
    """Positions, filters, search: what the contract asks of a store that is read-only."""
    log = [event for event in kit.read() if event.stream in before]
    with open_store("cold", config.stores["cold"]) as cold:
        assert cold.ping().backend == "archive"
        read = [
            event for batch in cold.read_all() for event in batch.events if event.stream in before
        ]
        assert read == log
        middle = log[len(log) // 2].position
        after = [
            event
            for batch in cold.read_all(middle)
            for event in batch.events
            if event.stream in before
        ]
        assert after == [event for event in log if event.position > middle]
        kinds = [
            event
            for batch in cold.read_all(filter=EventFilter(("opened",)))
            for event in batch.events
        ]
        assert [event for event in kinds if event.stream in before] == [
            event for event in log if event.type == "opened"
        ]
        assert [event.id for event in cold.search.find(event_id=log[0].id).events] == [log[0].id]
        assert cold.counts.between(None, cold.head().position) >= len(log)
        stream = next(iter(before))
        assert cold.stream_info(stream).length == len(before[stream])
        assert list(cold.read_stream(stream, backwards=True, limit=1)) == before[stream][-1:]
        with pytest.raises(UsageError, match="read-only"):
            cold.append(stream, kit.events("x"))


def other_data(kit, found, manifest, before) -> None:
    """A stream whose events are not those of the archive is told, and not written over."""
    stream = next(iter(before))
    archiving = kit.store.layout.archiving
    data, version = archiving.columns["data"], archiving.columns["version"]
    table = kit.store.layout.events.as_string(kit.connection)
    condition = kit.store.layout.stream_equals(stream).as_string(kit.connection)
    changed = "'\\x7b2278223a317d'" if kit.store.layout.name == "eventsourcing" else "'{\"x\": 1}'"
    kit.connection.execute(
        f"UPDATE {table} SET {data} = {changed} WHERE {condition} AND {version} = {kit.after(1)}"
    )
    assert not verify(found, manifest, kit.store).ok
    with pytest.raises(Refused, match=f"version {kit.after(1)} differs"):
        restore(found, manifest, kit.store, [stream])
    with pytest.raises(UsageError, match="no stream 'nonesuch'"):
        restore(found, manifest, kit.store, ["nonesuch"])


def taken_numbers(kit, found, manifest, before) -> None:
    """A restore is refused whole where its numbers are taken, and moves the sequence."""
    wiped(kit)
    with open_store("s", kit.settings) as store:
        # Two of them: the archived streams beyond have their numbers to themselves.
        store.append(kit.stream(tag(kit)), kit.events("other", "other"))
        was = rows(kit)
        if store.layout.by_transactions:
            assert restore(found, manifest, store).streams == len(before)
        else:
            with pytest.raises(Refused, match="the store has other events at positions of"):
                restore(found, manifest, store)
            assert rows(kit) == was
    wiped(kit)
    with open_store("s", kit.settings) as store:
        assert restore(found, manifest, store).streams == len(before)
        assert {stream: list(store.read_stream(stream)) for stream in before} == before
        newest = max(event.position for events in before.values() for event in events)
        assert store.append(kit.stream(tag(kit)), kit.events("next")) > newest
        assert store.head(PATIENCE).position > newest


def test_a_way_that_the_store_has_not_is_refused(kit, tmp_path):
    how = "tombstone" if "tombstone" not in kit.store.archiving.removals else "archive"
    with pytest.raises(UsageError, match=f'remove = "{how}"'):
        plan(configured(kit, tmp_path, remove=how), "old")


def test_a_store_without_ways_says_so(tmp_path, connection, dsn):
    connection.execute(
        "CREATE TABLE mine (at bigserial, stream text, version int, kind text, body jsonb, PRIMARY "
        "KEY (stream, version));"
        "INSERT INTO mine (stream, version, kind, body) VALUES ('a-1', 1, 'x', '{\"a\": 1.10}'), "
        "('a-1', 2, 'y', '{}')"
    )
    table = {
        "name": "mine",
        "stream": "stream",
        "version": "version",
        "position": "at",
        "type": "kind",
        "data": "body",
    }
    document = {
        "archives": {
            "cold": {"repository": "cold", "policies": {"old": {"category": "a", "store": "mine"}}}
        },
        "stores": {"mine": {"dsn": dsn, "table": table}},
    }
    config = parse_config(document, tmp_path / "esops.toml")
    assert run(config, "old").events == 2
    (found,) = catalog_of(config).sealed()
    with open_store("mine", config.stores["mine"]) as store:
        assert verify(*found, store).ok
        with pytest.raises(UsageError, match='remove = "delete"'):
            plan(config, "old", "delete")
