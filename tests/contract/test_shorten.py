"""Streams that continue lose their heads to an archive, piece by piece, and are read whole with it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from esops.archive.planning import plan, planned_streams
from esops.archive.restore import restore
from esops.archive.run import RunRequest
from esops.archive.verify import verify
from esops.errors import Refused, UsageError
from esops.events import EventFilter
from esops.stores import open_store
from esops.testing import eventually
from tests.contract.test_archive import PATIENCE, catalog_of, configured, tag
from tests.support.archived import run
from tests.support.layout_kits import any_kit, kits

BATCH = 4
KITS = [
    "marten-text",
    "marten-partitioned-conjoined",
    "emmett",
    "messagedb",
    "eventsourcing",
    "eventstoredb",
    "eventstoredb-real",
]


PLANNED = {"marten-text", "eventsourcing", "eventstoredb-real"}
"""Where `make test` looks at each policy: where the policy says so, and where the library does."""


@pytest.fixture(params=kits(KITS, {"marten-partitioned-conjoined"}))
def kit(request):
    yield from any_kit(request, request.param)


def way(kit) -> str:
    return "truncate" if kit.store.archiving.removals[-1] == "truncate" else "delete"


def snapshot(kit, stream: str) -> None:
    """What an aggregate is loaded from in Python's eventsourcing, up to its last event."""
    if "snapshots" in way_statements(kit):
        kit.connection.execute(
            "INSERT INTO bankaccounts_snapshots SELECT originator_id, max(originator_version), 't', "
            "'{}' FROM bankaccounts_events WHERE originator_id = %s GROUP BY 1 ON CONFLICT DO NOTHING",
            (stream,),
        )


def way_statements(kit) -> str:
    heads = kit.store.archiving.removal_strategy(way(kit)).heads
    return "\n".join(heads.statements)


def append(kit, stream: str, *types: str) -> None:
    kit.store.append(stream, kit.events(*types))
    kit.store.head(PATIENCE)


def fill(kit) -> str:
    """A stream with two events that carry its state, and another one without."""
    stream, other = kit.stream(tag(kit)), kit.stream(tag(kit))
    append(kit, other, "added", "added")
    append(kit, stream, *["added"] * 4, "summed", "added", "added", "summed", "added", "added")
    snapshot(kit, stream)
    wanted = EventFilter(category=tag(kit)) if kit.text_ids else EventFilter()
    assert eventually(lambda: {stream, other} <= {info.name for info in kit.store.streams(wanted)})
    return stream


@contextmanager
def writing(kit, stream: str):
    """A writer that holds the row of a stream, where there is one."""
    layout = getattr(kit.store, "layout", None)
    if layout is None or not layout.archiving.streams:
        yield
        return
    (table,) = layout.archiving.streams
    with psycopg.connect(kit.settings.dsn) as writer, writer.transaction():
        key = "id" if layout.name == "marten" else "stream_id"
        where = sql.SQL("WHERE {} = %s FOR NO KEY UPDATE").format(sql.Identifier(key))
        writer.execute(sql.SQL("SELECT FROM {} {}").format(table, where), (stream,))
        yield


def versions(events) -> list[int]:
    return [event.version for event in events]


def test_a_live_stream_is_shortened_piece_by_piece_and_read_whole_with_its_archive(kit, tmp_path):
    stream, first = fill(kit), kit.store.capabilities.first_version
    config = configured(kit, tmp_path, remove=way(kit), until="summed", batch=BATCH)
    planned = plan(config, "old")
    assert (planned.streams, planned.events) == (1, 7)
    assert planned.statements
    (lost,) = planned_streams(config, "old")
    assert (lost.name, lost.first_version, lost.last_version) == (stream, first, first + 6)
    assert (lost.length, lost.stays) == (7, 3)

    begins: set[int] = set()

    def progress(what: str, done: int, total: int | None) -> None:
        if what in ("events exported", "streams removed"):  # a writer that never stops
            append(kit, stream, "added")
            begins.add(versions(kit.store.read_stream(stream))[0])

    outcome = run(config, "old", RunRequest(despite_checkpoints=True), progress=progress)
    assert (outcome.state, outcome.events, outcome.removed_events) == ("done", 7, 7)
    assert (outcome.removed, outcome.skipped) == (1, [])
    assert outcome.bytes == lost.bytes
    if kit.store.archiving.removal_strategy(way(kit)).heads.at_once:
        assert begins <= {first, first + 7}, "nobody loads a stream from the middle of its head"
    whole = range(first, kit.store.stream_info(stream).last_version + 1)
    assert len(whole) > 11
    assert versions(kit.store.read_stream(stream)) == list(whole[7:])
    assert run(config, "old", RunRequest(despite_checkpoints=True)).state == "nothing"
    # A rebuild without the archive would see it from there on.
    own = EventFilter(stream=stream)
    if kit.store.admin is not None:
        assert kit.store.losses.shortened(own) == [], "the server has all of it until a scavenge"
    else:
        assert kit.store.losses.shortened(own) == [("summed", 1, 7, stream)]
        assert kit.store.losses.shortened(replace(own, types=("added",)))
        # The other stream tells what this category has, where there is a category at all.
        unheard = kit.store.losses.shortened(replace(own, types=("unheard",)))
        assert [each.streams for each in unheard] == ([] if kit.text_ids else [1])

    append(kit, stream, "added", "summed", "added")
    snapshot(kit, stream)
    newest = kit.store.stream_info(stream).last_version
    with writing(kit, stream):
        again = run(config, "old", RunRequest(despite_checkpoints=True))
    assert again.removed_events == newest - 1 - whole[7]
    assert versions(kit.store.read_stream(stream)) == [newest - 1, newest]
    append(kit, stream, "added")

    with open_store("s", kit.settings.model_copy(update={"cold": config.archives["cold"]})) as both:
        expected = list(range(first, newest + 2))
        assert versions(both.read_stream(stream)) == expected
        assert versions(both.read_stream(stream, backwards=True)) == expected[::-1]
        info = both.stream_info(stream)
        assert (info.length, info.first_version) == (len(expected), first)
        seen = [
            event.version
            for batch in both.read_all(kit.begin)
            for event in batch.events
            if event.stream == stream
        ]
        assert seen == expected
    runs = {run.name: (run, manifest) for run, manifest in catalog_of(config).sealed()}
    older, newer = runs[str(outcome.run)], runs[str(again.run)]
    for sealed in (older, newer):
        assert verify(*sealed, kit.store).ok
    with pytest.raises(Refused, match="there would be a gap"):
        restore(*older, kit.store)
    for sealed in (newer, older):
        with writing(kit, stream):  # and has not committed
            assert restore(*sealed, kit.store).streams == 1
        assert restore(*sealed, kit.store).there == 1
    assert versions(kit.store.read_stream(stream)) == expected
    for sealed in (older, newer):
        assert verify(*sealed, kit.store).ok, "what lies before a piece is in another run"
    append(kit, stream, "added")
    assert kit.store.stream_info(stream).last_version == expected[-1] + 1


@pytest.mark.parametrize("kit", kits(KITS, {*KITS} - PLANNED), indirect=True)
def test_what_stays_is_never_nothing_and_begins_where_the_policy_says(kit, tmp_path):
    stream, first = fill(kit), kit.store.capabilities.first_version
    remove = way(kit)
    cases = [
        ({"keep_last": 4}, 6),
        ({"keep_last": 1}, 9),
        ({"keep_last": 10}, 0),
        ({"until": "summed", "keep_last": 4}, 4),
        ({"until": ["summed", "added"]}, 9),
        ({"until": "summed", "older_than": "1h"}, 0),
        ({"until": "summed", "min_length": 11}, 0),
    ]
    for policy, events in cases:
        config = configured(kit, tmp_path, remove=remove, **{"min_length": 3, **policy})
        if "until" not in policy and kit.store.archiving.removal_strategy(remove).heads.until_only:
            with pytest.raises(UsageError, match="carries the state"):
                plan(config, "old")
            continue
        assert plan(config, "old").events == events, policy
    assert versions(kit.store.read_stream(stream))[0] == first
    config = configured(kit, tmp_path, remove="keep", keep_last=4)
    for removal in set(kit.store.archiving.removals) - {remove}:
        with pytest.raises(UsageError, match="only remove whole streams"):
            run(config, "old", RunRequest(removal=removal))
    nothing = configured(kit, tmp_path, keep_last=4, min_length=99)
    assert run(nothing, "old").state == "nothing"
    cold = kit.settings.model_copy(update={"cold": config.archives["cold"]})
    with open_store("s", cold) as both:  # an archive without a run
        assert versions(event for batch in both.read_all(kit.begin) for event in batch.events)
    assert run(config, "old").events == 6, "a copy of a head needs nothing of the library"
    assert run(config, "old").state == "nothing", "all of it is archived"
