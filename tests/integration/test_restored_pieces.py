"""A stream of which several runs hold pieces comes back whole, in an order that is named, or is
refused: never outdated, and never with a gap.
"""

from __future__ import annotations

import uuid

import pytest

from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.integration.test_archive import new, of, write
from tests.support import emmett, eventsourcing, marten, messagedb
from tests.support.cases import thorough_but

DELETE = 'store = "s"\nstream = "*"\nremove = "delete"'
NAME = str(uuid.UUID(int=7))
MAKE = {
    "marten": lambda on: marten.create(on, marten.Variant(text_ids=True)),
    "emmett": emmett.create,
    "messagedb": messagedb.create,
    "eventsourcing": eventsourcing.create,
}
REOPEN = {
    "marten": "UPDATE mt_streams SET is_archived = false",
    "emmett": "UPDATE emt_streams SET is_archived = false",
}
STREAMS = {"marten": ["mt_streams"], "emmett": ["emt_streams"]}
EVENTS = {
    "marten": ("mt_events", "data"),
    "emmett": ("emt_messages", "message_data"),
    "messagedb": ("message_store.messages", "data"),
    "eventsourcing": ("bankaccounts_events", "state"),
}


@pytest.fixture
def layout(request, connection):
    MAKE[request.param](connection)
    return request.param


def quick(layout: str) -> str:
    return "quick" if layout == "marten" else "auto"


def archived(project, *options: str) -> str:
    return project.ok("archive", "run", "old", *options, "--output", "json").json["run"]


def restored(project, run: str, *options: str):
    return project.run("archive", "restore", run, "--yes", *options)


@pytest.mark.parametrize("layout", thorough_but(MAKE, "emmett"), indirect=True)
def test_pieces_of_a_stream_that_continued_come_back_in_the_order_that_is_named(
    project, dsn, connection, layout
):
    append = quick(layout)
    write(project, of(dsn, more=f'append = "{append}"'), DELETE)
    with open_store("s", PostgresSettings(dsn=dsn, append=append)) as store:

        def more(count: int = 2) -> None:
            if layout in REOPEN:
                connection.execute(REOPEN[layout])
            store.append(NAME, [new() for _ in range(count)])

        def ids() -> list[str]:
            return [event.id for event in store.read_stream(NAME)]

        runs, written = [], []
        for _ in range(3):
            more()
            written += [each for each in ids() if each not in written]
            runs.append(archived(project))
        # Nothing of the stream is there, or only its last event.
        refused = restored(project, runs[0])
        order = ", then ".join(reversed(runs))
        assert (refused.code, order in refused.err) == (6, True), refused.err
        before = ids()
        told = restored(project, runs[2], "--output", "json")
        assert told.json["restore_next"] == [runs[1], runs[0]]
        assert told.code == 1
        refused = restored(project, runs[0])
        assert (refused.code, f"{runs[1]}, then {runs[0]}" in refused.err) == (6, True)
        assert "there would be a gap" in refused.err
        assert restored(project, runs[1]).code == 1
        assert restored(project, runs[0]).code == 0
        assert ids() == written
        assert len(before) <= 1
        for run in runs:
            assert restored(project, run).code == 0, "all of it is there"
        project.ok("archive", "verify", "--against-store")
        more(1)
        assert ids()[:-1] == written
        project.ok("archive", "verify", "--against-store")


@pytest.mark.thorough
@pytest.mark.parametrize("layout", thorough_but(MAKE, "eventsourcing"), indirect=True)
def test_an_older_run_with_other_content_is_refused(project, dsn, connection, layout):
    append = quick(layout)
    write(project, of(dsn, more=f'append = "{append}"'), DELETE)
    with open_store("s", PostgresSettings(dsn=dsn, append=append)) as store:
        other = str(uuid.UUID(int=8))
        for name in (NAME, other):
            store.append(name, [new(name="Ann") for _ in range(3)])
        older = archived(project, "--remove", "keep")
        table, data = EVENTS[layout]
        stream = {"emmett": "stream_id", "messagedb": "stream_name"}.get(layout)
        stream = stream or ("originator_id" if layout == "eventsourcing" else "stream_id")
        connection.execute(
            f"UPDATE {table} SET {data} = %s WHERE {stream} = %s",
            (b"{}" if layout == "eventsourcing" else "{}", NAME),
        )
        newer = archived(project)
        refused = restored(project, older)
        assert (refused.code, f"esops archive restore {newer}" in refused.err) == (6, True)
        told = restored(project, older, "--skip-conflicts", "--output", "json")
        assert (told.code, [each["stream"] for each in told.json["skipped"]]) == (1, [NAME])
        assert len(list(store.read_stream(other))) == 3
        assert restored(project, newer).code == 0
        assert all(event.data != b'{"name":"Ann"}' for event in store.read_stream(NAME))
        assert len(list(store.read_stream(NAME))) == 3
    # Nor does it come back elsewhere.
    stores = of(dsn, more=f'append = "{append}"') + '[stores.m]\nbackend = "memory"\n'
    write(project, stores, DELETE)
    assert "is outdated" in restored(project, older, "--into", "m").err


@pytest.mark.parametrize("layout", thorough_but(MAKE, "marten"), indirect=True)
def test_pieces_at_new_and_at_old_positions_are_not_mixed(project, dsn, connection, layout):
    append = quick(layout)
    more_keys = f'append = "{append}"'
    joined = of(dsn, "j", f'{more_keys}\narchive = "cold"\nof = "s"')
    write(project, of(dsn, more=more_keys) + joined, DELETE)
    table, _ = EVENTS[layout]
    with open_store("s", PostgresSettings(dsn=dsn, append=append)) as store:

        def more() -> list[str]:
            if layout in REOPEN:
                connection.execute(REOPEN[layout])
            store.append(NAME, [new() for _ in range(3)])
            return [event.id for event in store.read_stream(NAME)]

        def log() -> list[str]:
            return [event.id for batch in store.read_all() for event in batch.events]

        def emptied() -> None:
            """As another database of the same kind is."""
            streams = "".join(f", {name}" for name in STREAMS.get(layout, ()))
            connection.execute(f"TRUNCATE {table}{streams}")

        written = more()
        older = archived(project)
        written += [each for each in more() if each not in written]
        newer = archived(project)
        emptied()
        assert restored(project, older, "--renumber").code == 1
        before = log()
        refused = restored(project, newer)
        assert (refused.code, "--renumber, too" in refused.err) == (6, True), refused.err
        # Nor are they read so, one from the store and the other from the archive.
        refused = project.run("events", "--store", "j")
        assert (refused.code, f"{newer} --renumber" in refused.err) == (6, True), refused.err
        left_out = restored(project, newer, "--skip-conflicts", "--output", "json")
        assert (left_out.code, left_out.json["left_out"], log()) == (1, 1, before)
        assert restored(project, newer, "--renumber").code == 0
        assert log() == [event.id for event in store.read_stream(NAME)] == written
        read = project.ok("events", "--store", "j", "--output", "json").json
        assert [event["id"] for event in read] == written
        for run in (older, newer):
            assert restored(project, run).code == 0, "all of it is there"
        emptied()
        # The other way round: what was archived at new positions would come behind newer events.
        restored(project, older, "--renumber")
        again = archived(project)
        emptied()
        assert restored(project, newer).code == 1
        refused = restored(project, again)
        assert refused.code == 6
        if layout in REOPEN:  # elsewhere the last event is in both
            assert f"esops archive restore {older}" in refused.err
        assert restored(project, older).code == 0
        assert log() == written
        project.ok("archive", "verify", "--against-store")


def test_another_store_takes_no_stream_whose_newest_events_are_elsewhere(project, dsn, connection):
    messagedb.create(connection)
    connection.execute("CREATE SCHEMA uuids; CREATE SCHEMA texts; CREATE SCHEMA same")
    marten.create(connection, marten.Variant(schema="uuids"))
    marten.create(connection, marten.Variant(schema="texts", text_ids=True))
    messagedb.create(connection, "same")
    stores = of(dsn, more='schema = "message_store"')
    for name in ("uuids", "texts", "same"):
        stores += of(dsn, name, f'schema = "{name}"')
    write(project, stores, DELETE + "\nkeep_last = 1")
    with open_store("s", PostgresSettings(dsn=dsn, schema="message_store")) as store:
        store.append("till-1", [new() for _ in range(3)])
        run = archived(project)
        for into in ("same", "texts"):
            refused = restored(project, run, "--into", into)
            assert (refused.code, "in store s itself" in refused.err) == (6, True), refused.err
        # As does one that names its streams in another way, before it is asked.
        refused = restored(project, run, "--into", "uuids")
        assert (refused.code, "names its streams by UUIDs" in refused.err) == (6, True), refused.err


def test_what_another_run_removed_is_not_counted_and_what_was_only_marked_is(
    project, dsn, connection
):
    marten.create(connection, marten.Variant(text_ids=True))
    head = """[archives.cold.policies.head]
store = "s"
stream = "*"
until = "sum"
remove = "delete"
never_younger_than = "0s"
"""
    write(project, of(dsn), DELETE, head)
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        store.append("till-1", [new(kind) for kind in ("a", "a", "sum", "a")])
    connection.execute("INSERT INTO mt_event_progression VALUES ('Trip:All', 1)")
    for policy in ("old", "head"):
        assert project.run("archive", "run", policy).code == 6, "sealed, and waits for a reader"
    connection.execute("DELETE FROM mt_event_progression")
    told = [
        project.ok("archive", "run", policy, "--output", "json").json["removed_events"]
        for policy in ("head", "old")
    ]
    assert told == [2, 2]


def test_what_is_missing_behind_events_at_new_positions_comes_back_at_new_ones(
    project, dsn, connection
):
    messagedb.create(connection)
    write(project, of(dsn, more=""), DELETE)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("till-1", [new(), new(), new()])
        written = [event.id for event in store.read_stream("till-1")]
        run = archived(project)
        connection.execute("TRUNCATE message_store.messages")
        assert restored(project, run, "--renumber").code == 0
        connection.execute("DELETE FROM message_store.messages WHERE position = 2")

        def log() -> list[str]:
            return [event.id for batch in store.read_all() for event in batch.events]

        refused = restored(project, run)
        assert (refused.code, "restored with --renumber" in refused.err) == (6, True), refused.err
        assert log() == written[:2]
        assert restored(project, run, "--renumber").code == 0
        assert log() == written


def test_a_stream_whose_older_events_came_back_is_not_removed_by_a_run_that_waited(
    project, dsn, connection
):
    messagedb.create(connection)
    write(project, of(dsn, more=""), DELETE)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("till-1", [new(), new(), new()])
        older = archived(project)
        store.append("till-1", [new(), new()])
        store.append("till:position-reader", [new("Recorded")])
        assert project.run("archive", "run", "old").code == 6, "sealed, and waits for a reader"
        assert restored(project, older).code == 0
        connection.execute(
            "DELETE FROM message_store.messages WHERE stream_name = 'till:position-reader'"
        )
        said = project.ok("archive", "run", "old", "--output", "json").json
        # Without its last events the older ones would stay in front of a gap.
        assert [event.version for event in store.read_stream("till-1")] == [0, 1, 2, 3, 4]
        assert [each["stream"] for each in said["skipped"]] == ["till-1"]


def test_streams_that_were_only_marked_come_back_with_their_events(project, dsn, connection):
    emmett.create(connection)
    write(project, of(dsn, more=""), DELETE.replace("delete", "archive"))
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("till-1", [new(), new(), new()])
        run = archived(project)
        told = restored(project, run)
        assert "1 stream with 3 events into store s, 3 of which it had marked" in told.out
        assert len(list(store.read_stream("till-1"))) == 3
