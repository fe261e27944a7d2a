"""Archived streams come back into a store that has events of its own: at new positions, or without
the streams that are in conflict; each whole or not at all. Every layout.
"""

from __future__ import annotations

import shutil

import pytest

from esops.archive.compare import compare
from esops.archive.restoration import RestoreOptions
from esops.archive.restore import restore
from esops.archive.run import RunRequest
from esops.archive.verify import verify
from esops.errors import Refused, UsageError
from esops.events import EventFilter, NewEvent
from esops.stores import open_store
from tests.contract.test_archive import (
    PATIENCE,
    catalog_of,
    configured,
    fill,
    rows,
    tag,
    wiped,
)
from tests.support.archived import run
from tests.support.cases import thorough_but
from tests.support.layout_kits import any_kit, kits

KITS = (
    "marten-text",
    "marten-uuid",
    "marten-partitioned-conjoined",
    "marten-tenant",
    "emmett",
    "emmett-by-position",
    "messagedb",
    "eventsourcing",
)
ALIKE_HERE = {"marten-uuid", "marten-partitioned-conjoined", "marten-tenant"}
"""Marten's text ids are in `make test`, and the ids of others are uuids."""


@pytest.fixture(params=kits(KITS, ALIKE_HERE))
def kit(request):
    yield from any_kit(request, request.param)


RENUMBER = RestoreOptions(renumber=True)
SKIP = RestoreOptions(skip_conflicts=True)
BOTH = RestoreOptions(renumber=True, skip_conflicts=True)


@pytest.fixture(scope="module")
def archives():
    """Of each layout, once it was made: the archive's folder, and what is in it by stream."""
    return {}


@pytest.fixture
def sealed(kit, request, archives, tmp_path, tmp_path_factory):
    """An archive of three streams, and a store that was restored to before any event."""
    layout = request.node.callspec.params["kit"]
    if layout not in archives:
        folder = tmp_path_factory.mktemp("archive")
        before = fill(kit)
        run(configured(kit, folder), "old")
        archives[layout] = folder, before
        wiped(kit)
    folder, before = archives[layout]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = configured(kit, tmp_path)
    ((found, manifest),) = catalog_of(config).sealed()
    log = sorted(
        (event for events in before.values() for event in events), key=lambda e: e.position
    )
    return found, manifest, before, log, config


def contents(events) -> list:
    return [(e.stream, e.version, e.id, e.type, e.data, e.metadata, e.recorded_at) for e in events]


def test_at_new_positions_in_the_old_order_after_all_others(kit, sealed):
    found, manifest, before, log, config = sealed
    with open_store("s", kit.settings) as store:
        others = [kit.stream(tag(kit)) for _ in range(3)]
        for stream in others:
            store.append(stream, kit.events("other", "other"))
        head = store.head(PATIENCE).position
        told = restore(found, manifest, store, (), RENUMBER)
        assert (told.streams, told.events, told.renumbered) == (len(before), len(log), True)
        now = [event for batch in store.read_all(head) for event in batch.events]
        assert contents(now) == contents(log), "settled reading sees them, after all others"
        for stream in before:
            assert contents(store.read_stream(stream)) == contents(before[stream])

        # Writers go on, at the next versions and positions.
        newest = now[-1].position
        longest = max(before, key=lambda name: len(before[name]))
        position = store.append(longest, kit.events("next"))
        assert position > newest
        last = before[longest][-1].version
        assert [e.version for e in store.read_stream(longest, last - 1)] == [last, last + 1]
        assert store.append(kit.stream(tag(kit)), kit.events("new")) > position
        assert store.head(PATIENCE).position > position

        # It is recognised: run again, by verify, and by a store that is joined with the archive.
        was = rows(kit)
        again = restore(found, manifest, store, (), RENUMBER)
        assert (again.streams, again.there, again.events) == (0, len(before), 0)
        assert rows(kit) == was
        digests = [digest for digest, _ in found.streams(manifest)]
        statuses = {d.stream: c for d, c in compare(found, manifest, digests, store)}
        assert {c.status for c in statuses.values()} == {"moved"}
        assert not any(c.lacks for c in statuses.values())
        assert verify(found, manifest, store).ok
    joined = kit.settings.model_copy(update={"cold": config.archives["cold"]})
    with open_store("s", joined) as both, open_store("s", kit.settings) as hot:
        seen = [event for batch in both.read_all() for event in batch.events]
        assert seen == [event for batch in hot.read_all() for event in batch.events]
        assert both.stream_info(longest).length == len(before[longest]) + 1
        for stream in before:
            assert list(both.read_stream(stream)) == list(hot.read_stream(stream))

    # Archived again from there, it is once in the archive, where it was last.
    run(config, "old", RunRequest(removal=None))
    with open_store("cold", config.stores["cold"]) as cold, open_store("s", kit.settings) as hot:
        kept = [event for batch in cold.read_all() for event in batch.events]
        there = [event for batch in hot.read_all() for event in batch.events]
        assert sorted(contents(kept)) == sorted(contents(there))
        assert [e for e in kept if e.stream == longest] == [e for e in there if e.stream == longest]
        middle = kept[len(kept) // 2].position
        parts = [
            *(e for b in cold.read_all(None, middle) for e in b.events),
            *(e for b in cold.read_all(middle) for e in b.events),
        ]
        # Two histories are in it, and may have two events at one position.
        assert sorted(contents(parts)) == sorted(contents(kept))
        assert cold.counts.between(None, kept[-1].position) == len(kept)
        infos = {info.name: info.length for info in cold.streams(EventFilter())}
        assert infos[longest] == len(before[longest]) + 1


def test_a_database_of_an_earlier_time_gets_the_rest_and_conflicts_are_left_out(kit, sealed):
    """The beginnings of streams are there, as they were; one stream went on in another way, and one
    event's id is taken.
    """
    found, manifest, before, _, _ = sealed
    single, short, long = sorted(before, key=lambda name: len(before[name]))
    with open_store("s", kit.settings) as store:
        restore(found, manifest, store)
        was = rows(kit)
        wiped(kit)
        begun = [event.version for event in before[long]][:4]
        # What a restore of the database to that time has: the first events of one stream.
        _write_beginning(kit, store, (found, manifest), before[long][:4])
        other = store.append(short, kit.events("another", "history"))
        assert [event.version for event in store.read_stream(long)] == begun

        for options in (RestoreOptions(), RENUMBER):
            there = rows(kit)
            with pytest.raises(Refused):
                restore(found, manifest, store, (), options)
            assert rows(kit) == there, "nothing was written"

        told = restore(found, manifest, store, (), BOTH)
        assert [each["stream"] for each in told.skipped] == [short]
        assert told.left_out == 1
        assert contents(store.read_stream(long)) == contents(before[long])
        assert contents(store.read_stream(single)) == contents(before[single])
        assert [event.type for event in store.read_stream(short)] == ["another", "history"]
        assert store.append(long, kit.events("next")) > other
        versions = [event.version for event in store.read_stream(long)]
        assert versions == list(range(versions[0], versions[0] + len(versions)))
        assert len(rows(kit)) == len(was)


def test_without_new_positions_only_the_streams_in_conflict_are_left_out(kit, sealed):
    found, manifest, before, _, _ = sealed
    with open_store("s", kit.settings) as store:
        # Its numbers are those of the first archived events.
        store.append(kit.stream(tag(kit)), kit.events("other", "other"))
        told = restore(found, manifest, store, (), SKIP)
        left = {each["stream"] for each in told.skipped}
        if not store.layout.by_transactions:
            assert left
        assert told.streams == len(before) - len(left)
        for stream in before:
            there = [] if stream in left else before[stream]
            assert list(store.read_stream(stream)) == there
        newest = max(event.position for events in before.values() for event in events)
        if told.streams:
            restored = [e.position for s in before if s not in left for e in before[s]]
            assert store.append(kit.stream(tag(kit)), kit.events("x")) > max(restored)
        assert newest


def test_later_events_of_a_stream_keep_its_head_from_coming_after_them(kit, sealed):
    found, manifest, before, _, _ = sealed
    with open_store("s", kit.settings) as store:
        restore(found, manifest, store)
        long = max(before, key=lambda name: len(before[name]))
        table = store.layout.events.as_string(kit.connection)
        version = store.layout.archiving.columns["version"]
        condition = store.layout.stream_equals(long).as_string(kit.connection)
        first = before[long][0].version
        kit.connection.execute(
            f"DELETE FROM {table} WHERE {condition} AND {version} <= {first + 1}"
        )
        with pytest.raises(Refused, match="later events of it"):
            restore(found, manifest, store, (), RENUMBER)
        told = restore(found, manifest, store, (), BOTH)
        assert [each["stream"] for each in told.skipped] == [long]
        assert restore(found, manifest, store).streams == 1
        assert list(store.read_stream(long)) == before[long]


@pytest.fixture(params=["eventstoredb"])
def node_kit(request):
    yield from any_kit(request, request.param)


def test_a_node_has_no_new_positions_and_leaves_out_what_is_gone_for_good(node_kit, tmp_path):
    kit = node_kit
    before = fill(kit)
    config = configured(kit, tmp_path, remove="delete")
    run(config, "old", RunRequest(despite_checkpoints=True))
    ((found, manifest),) = catalog_of(config).sealed()
    with pytest.raises(UsageError, match="renumber"):
        restore(found, manifest, kit.store, (), RENUMBER)
    gone = next(iter(before))
    kit.store.changes.tombstone(gone, before[gone][-1].version)
    with pytest.raises(Refused, match="tombstoned") as refused:
        restore(found, manifest, kit.store)
    # Its events can still be had.
    assert "--into" in (refused.value.hint or "")
    told = restore(found, manifest, kit.store, (), SKIP)
    assert [each["stream"] for each in told.skipped] == [gone]
    for stream in before:
        there = [] if stream == gone else before[stream]
        assert list(kit.store.read_stream(stream)) == there


@pytest.mark.parametrize("remove", thorough_but(["truncate", "delete"], "truncate"))
def test_a_node_keeps_what_an_operator_wrote_into_a_streams_metadata_since(
    node_kit, tmp_path, remove
):
    kit, changes = node_kit, node_kit.store.changes
    short, long, _ = fill(kit)
    changes.set_metadata(long, {"mine": 1, "$tb": 2})
    was = {name: list(kit.store.read_stream(name)) for name in kit.streams}
    config = configured(kit, tmp_path, remove=remove)
    run(config, "old", RunRequest(despite_checkpoints=True))
    ((found, manifest),) = catalog_of(config).sealed()
    since = {"$acl": {"$w": "$admins"}, "$maxCount": 50, "mine": 2}
    for name in (short, long):
        now, version = changes.metadata(name)
        changes.set_metadata(name, {**now, **since}, -1 if version is None else version)
    restore(found, manifest, kit.store)
    assert changes.metadata(short)[0] == since
    assert changes.metadata(long)[0] == {**since, "$tb": 2}
    assert {name: list(kit.store.read_stream(name)) for name in kit.streams} == was
    # A limit that hides what would come back is said, and stays.
    changes.truncate(short, 2)
    before = {**since, "$maxCount": 1, "$tb": 2}
    changes.set_metadata(short, before)
    with pytest.raises(Refused, match=r"\$maxCount 1"):
        restore(found, manifest, kit.store)
    assert changes.metadata(short)[0] == before


@pytest.mark.parametrize("kit", ["messagedb"], indirect=True)
def test_the_id_of_another_event_is_a_conflict_where_ids_are_unique(kit, sealed):
    found, manifest, before, _, _ = sealed
    taken = before[min(before)][0]
    with open_store("s", kit.settings) as store:
        store.append(kit.stream(tag(kit)), [NewEvent(taken.id, "other", b"{}")])
        for options in (RestoreOptions(), RENUMBER):
            with pytest.raises(Refused):
                restore(found, manifest, store, (), options)
        told = restore(found, manifest, store, (), BOTH)
        assert [each["stream"] for each in told.skipped] == [taken.stream]
        assert told.streams == len(before) - 1


def _write_beginning(of, store, archived, events) -> None:
    """Events as they were."""
    table, archiving = store.layout.events.as_string(of.connection), store.layout.archiving
    condition = store.layout.stream_equals(events[0].stream).as_string(of.connection)
    version, at = archiving.columns["version"], archiving.columns.get("recorded_at")
    if at is None:
        # Its time is inside the payload.
        restore(*archived, store, [events[0].stream])
        of.connection.execute(
            f"DELETE FROM {table} WHERE {condition} AND {version} > {events[-1].version}"
        )
        return
    new = [NewEvent(e.id, e.type, e.data, e.metadata or b"{}") for e in events]
    store.append(events[0].stream, new)
    for event in events:
        of.connection.execute(
            f"UPDATE {table} SET {at} = %s WHERE {condition} AND {version} = {event.version}",
            (event.recorded_at,),
        )
