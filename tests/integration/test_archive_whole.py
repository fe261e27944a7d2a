"""What leaves a store comes back as it was, or is refused before anything is removed."""

from __future__ import annotations

import os
import threading
import uuid

import psycopg
import pytest

from esops.archive.run import RunRequest, run
from esops.archive.verify import verify
from esops.archive_format.repository import Missing, Repository
from esops.archive_format.runs import Catalog, Run
from esops.archive_format.schema import Damaged
from esops.config import load_config
from esops.errors import Refused
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.testing import eventually
from tests.integration.test_archive import new, of, write
from tests.support import emmett, eventsourcing, marten, messagedb
from tests.support.cases import thorough_but

DELETE = 'store = "s"\nstream = "*"\nremove = "delete"'


def test_each_file_is_read_once_where_streams_differ(project, dsn, connection, monkeypatch):
    """What stays of each stream is compared; for each of them a whole file was read once more."""
    messagedb.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for number in range(12):
            store.append(f"cart-{number}", [new(n=n) for n in range(4)])
        write(project, of(dsn, more=""), DELETE)
        config = load_config(project.folder / "esops.toml")
        run(config, "old", RunRequest(despite_checkpoints=True))
        ((found, manifest),) = Catalog(Repository(config.archives["cold"])).sealed()
        read = []
        content = Run.content
        monkeypatch.setattr(
            Run, "content", lambda self, entry: read.append(entry.name) or content(self, entry)
        )
        assert verify(found, manifest, store).ok
        assert sorted(read) == sorted(entry.name for entry in manifest.files)
        # Without the rows at hand: of the larger groups, and for a restore.
        monkeypatch.setattr("esops.archive.verify._BYTES_KEPT", 0)
        connection.execute(
            "UPDATE message_store.messages SET data = '{}' WHERE stream_name = 'cart-7'"
        )
        read.clear()
        (problem,) = verify(found, manifest, store).problems
        assert problem == "stream cart-7: version 3 differs from the store's in data"
        assert len(read) <= 2 * len(manifest.files)


def rows(connection, *tables: str) -> list:
    return [
        connection.execute(f"SELECT t::text FROM {table} t ORDER BY 1").fetchall()
        for table in tables
    ]


def test_columns_that_nobody_can_write_come_back(project, dsn, connection):
    """Generated ones are computed again, identities and streams' own columns are as they were."""
    marten.create(connection, marten.Variant(text_ids=True))
    connection.execute(
        "ALTER TABLE mt_events ADD n int GENERATED ALWAYS AS ((data->>'n')::int) STORED, "
        "ADD line bigint GENERATED ALWAYS AS IDENTITY (START 500)"
    )
    connection.execute(
        "ALTER TABLE mt_streams ADD line bigint GENERATED ALWAYS AS IDENTITY, ADD note json, "
        "ADD up text GENERATED ALWAYS AS (upper(id)) STORED, ADD zero float8 DEFAULT '-0'"
    )
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for number in range(3):
            store.append(f"cart-{number}", [new(n=1), new(n=2)])
    connection.execute("""UPDATE mt_streams SET note = '{"b":  1, "a": 1.0, "b": 2}'""")
    was = rows(connection, "mt_events", "mt_streams")
    write(project, of(dsn), DELETE)
    told = project.ok("archive", "run", "old", "--output", "json").json
    assert told["removed_events"] == 6
    connection.execute("TRUNCATE mt_events, mt_streams")
    project.ok("archive", "restore", told["run"], "--yes")
    assert rows(connection, "mt_events", "mt_streams") == was


def test_nothing_comes_back_where_a_name_is_not_in_the_run(project, dsn, connection):
    """The streams of the other names were written before the unknown one was missed."""
    messagedb.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for number in range(3):
            store.append(f"cart-{number}", [new(n=n) for n in range(3)])
    write(project, of(dsn, more=""), DELETE)
    name = project.ok("archive", "run", "old", "--output", "json").json["run"]
    there = rows(connection, "message_store.messages")
    for names in (("cart-1", "cart-nope"), ("cart-nope", "cart-1")):
        refused = project.run("archive", "restore", name, *names, "--yes")
        assert (refused.code, "'cart-nope'" in refused.err) == (2, True)
        assert rows(connection, "message_store.messages") == there


WAYS = [
    ("marten", "delete"),
    pytest.param("marten", "archive", marks=pytest.mark.thorough),
    ("emmett", "delete"),
    pytest.param("emmett", "archive", marks=pytest.mark.thorough),
    ("messagedb", "delete"),
    ("eventsourcing", "delete"),
]


def made(connection, layout: str) -> None:
    if layout == "marten":
        marten.create(connection, marten.Variant(text_ids=True))
    else:
        {"emmett": emmett, "messagedb": messagedb, "eventsourcing": eventsourcing}[layout].create(
            connection
        )


def blocked(dsn: str) -> bool:
    """Whether a session waits for another one's lock."""
    with psycopg.connect(dsn) as asking:
        query = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
        return asking.execute(query).fetchone()[0]


@pytest.mark.parametrize(("layout", "how"), WAYS)
def test_an_event_that_is_changed_while_it_leaves_stays_with_its_stream(
    layout, how, project, dsn, connection
):
    """Its masking began before the removal, and is committed while that waits for it."""
    made(connection, layout)
    streams = [str(uuid.UUID(int=number)) for number in (1, 2, 3)]
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for stream in streams:
            store.append(stream, [new(name="Ann"), new(name="Ann"), new(name="Ann")])
        columns, events = store.layout.archiving.columns, store.layout.events.as_string(connection)
    write(project, of(dsn), f'store = "s"\nstream = "*"\nremove = "{how}"\nlock_timeout = "20s"')
    masking = psycopg.connect(dsn)
    threads = []

    def commit() -> None:
        assert eventually(lambda: blocked(dsn))
        masking.commit()

    def progress(what: str, done: int, total: int | None) -> None:
        if what == "streams removed" and not threads:
            masked = "'\\x7b7d'" if layout == "eventsourcing" else "'{}'"
            masking.execute(
                f"UPDATE {events} SET {columns['data']} = {masked} WHERE {columns['stream']}::text "
                f"= %s AND {columns['version']} = (SELECT min({columns['version']}) + 1 FROM "
                f"{events})",
                (streams[1],),
            )
            threads.append(threading.Thread(target=commit))
            threads[0].start()

    outcome = run(load_config(project.folder / "esops.toml"), "old", progress=progress)
    threads[0].join()
    masking.close()
    assert outcome.removed == 2
    assert [each["stream"] for each in outcome.skipped] == [streams[1]]
    assert columns["data"] in outcome.skipped[0]["reason"]
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        assert len(list(store.read_stream(streams[1]))) == 3
        assert not store.stream_info(streams[1]).archived


def test_an_event_that_the_archive_does_not_have_stays_with_its_stream(project, dsn, connection):
    """Written by hand between two others, where a version was free."""
    made(connection, "messagedb")
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for number in range(2):
            store.append(f"cart-{number}", [new(n=n) for n in range(5)])
    connection.execute("DELETE FROM message_store.messages WHERE position = 2")
    write(project, of(dsn, more=""), DELETE)

    def progress(what: str, done: int, total: int | None) -> None:
        if what == "streams removed" and not done:
            connection.execute(
                "INSERT INTO message_store.messages (stream_name, position, type, data) VALUES "
                "('cart-1', 2, 'added', '{}') ON CONFLICT DO NOTHING"
            )

    outcome = run(load_config(project.folder / "esops.toml"), "old", progress=progress)
    assert (outcome.removed, [each["stream"] for each in outcome.skipped]) == (1, ["cart-1"])
    assert rows(connection, "message_store.messages")[0][0] is not None
    query = "SELECT stream_name, count(*) FROM message_store.messages GROUP BY 1 ORDER BY 1"
    assert connection.execute(query).fetchall() == [("cart-0", 1), ("cart-1", 5)]


@pytest.mark.parametrize("how", ["delete", "archive"])
def test_an_append_that_has_its_event_and_not_yet_its_streams_row_is_waited_for(
    how, project, dsn, connection
):
    """As Marten's quick append works; without a foreign key nothing locks the row before."""
    marten.create(connection, marten.Variant(text_ids=True, conjoined=True))
    with open_store("s", PostgresSettings(dsn=dsn, tenant="red", append="quick")) as store:
        for number in range(3):
            store.append(f"cart-{number}", [new(n=n) for n in range(4)])
    write(project, of(dsn), f'store = "s"\nstream = "*"\nremove = "{how}"\nlock_timeout = "20s"')
    writer = psycopg.connect(dsn)
    threads = []

    def finish() -> None:
        # It waits for the removal, which waits for it.
        writer.execute("UPDATE mt_streams SET version = 5 WHERE id = 'cart-1'")
        writer.commit()

    def progress(what: str, done: int, total: int | None) -> None:
        if what == "streams removed" and not threads:
            writer.execute(
                "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, tenant_id) "
                "VALUES (nextval('mt_events_sequence'), gen_random_uuid(), 'cart-1', 5, '{}', "
                "'late', 'red')"
            )
            threads.append(threading.Timer(0.2, finish))
            threads[0].start()

    outcome = run(load_config(project.folder / "esops.toml"), "old", progress=progress)
    threads[0].join()
    writer.close()
    assert (outcome.removed, [each["stream"] for each in outcome.skipped]) == (2, ["cart-1"])
    alive = (
        "SELECT version FROM mt_events WHERE stream_id = 'cart-1' AND NOT is_archived ORDER BY 1"
    )
    assert connection.execute(alive).fetchall() == [(1,), (2,), (3,), (4,), (5,)]
    assert connection.execute(
        "SELECT version, is_archived FROM mt_streams WHERE id = 'cart-1'"
    ).fetchall() == [(5, False)]


@pytest.mark.parametrize("change", thorough_but(["gone", "cut", "other"], "gone", "other"))
def test_a_run_whose_file_is_lost_removes_no_more(change, project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for number in range(20):
            store.append(f"cart-{number:02}", [new(n=n) for n in range(5)])
        log = [event for batch in store.read_all() for event in batch.events]
    write(project, of(dsn, more='append = "quick"\narchive = "cold"'), f"{DELETE}\nbatch = 10")
    config = load_config(project.folder / "esops.toml")
    kept = {}

    def progress(what: str, done: int, total: int | None) -> None:
        if what == "streams removed" and done == 4:
            (file,) = (project.folder / "cold").rglob("*-events-*.parquet")
            kept[file] = file.read_bytes()
            if change == "other":
                file.write_bytes(bytes(reversed(kept[file])))
            else:
                os.truncate(file, 100) if change == "cut" else file.unlink()

    with pytest.raises((Missing, Damaged), match="removal stopped, after 30 events") as lost:
        run(config, "old", progress=progress)
    assert lost.value.exit_code == 1
    (left,) = connection.execute("SELECT count(*) FROM mt_events").fetchone()
    assert left == 100 - 30
    failed = project.run("archive", "run", "old", "--output", "json")
    assert (failed.code, failed.json["state"]) == (1, "failed")
    assert project.run("events", "--store", "s").code == 1, "what has left is missed, not left out"
    for file, content in kept.items():
        file.write_bytes(content)
    with open_store("s", config.stores["s"]) as store:
        assert [event for batch in store.read_all() for event in batch.events] == log
    assert project.ok("archive", "run", "old", "--output", "json").json["removed"] == 14
    with open_store("s", config.stores["s"]) as store:
        assert [event for batch in store.read_all() for event in batch.events] == log


def test_what_would_not_come_back_is_refused_before_anything_is_removed(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True, binary=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for number in range(3):
            store.append(f"cart-{number}", [new(n=1), new(n=2)])
    write(project, of(dsn), DELETE)
    one = "WHERE stream_id = 'cart-1' AND version = 2"
    cases = {
        # What Marten never writes: esops would put its placeholder there, and its mark.
        "another data": (
            f"UPDATE mt_events SET bdata = 'x' {one}",
            f"UPDATE mt_events SET bdata = NULL {one}",
        ),
        "another is_archived": (
            f"UPDATE mt_events SET is_archived = NULL {one}",
            f"UPDATE mt_events SET is_archived = FALSE {one}",
        ),
        # JSON has no lower bounds.
        "a stream's row in mt_streams would not come back as it is: a restore would write another "
        "tags": (
            "ALTER TABLE mt_streams ADD tags int[] DEFAULT '[0:1]={1,2}'",
            "ALTER TABLE mt_streams DROP tags",
        ),
        "violates check constraint": (
            "ALTER TABLE mt_events ADD CHECK (version <> 2) NOT VALID",
            "ALTER TABLE mt_events DROP CONSTRAINT mt_events_version_check",
        ),
    }
    for reason, (bad, good) in cases.items():
        connection.execute(bad)
        was = rows(connection, "mt_events", "mt_streams")
        for more in ([], ["--prove"]):
            refused = project.run("archive", "run", "old", *more)
            assert (refused.code, reason in refused.err) == (6, True), refused.err
        assert rows(connection, "mt_events", "mt_streams") == was
        connection.execute(good)
        project.ok("archive", "run", "old", "--start-again", "--remove", "keep")
    connection.execute(f"UPDATE mt_events SET data = '{{}}', bdata = 'x' {one}")
    was = rows(connection, "mt_events", "mt_streams")
    told = project.ok("archive", "run", "old", "--prove", "--output", "json").json
    assert (told["tried"], told["removed_events"]) == (6, 6)
    project.ok("archive", "restore", told["run"], "--yes")
    assert rows(connection, "mt_events", "mt_streams") == was


def test_a_stream_that_is_compacted_between_two_runs_keeps_its_original_history(
    project, dsn, connection
):
    """As Marten's CompactStreamAsync does: the last event is replaced by a snapshot of all up to it,
    with another id, and the others are deleted.
    """
    marten.create(connection, marten.Variant(text_ids=True))
    write(project, of(dsn), 'store = "s"\nstream = "*"\nremove = "keep"')
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        store.append("cart-1", [new("opened", n=0), *(new("added", n=n) for n in range(5))])
        store.append("cart-2", [new("opened")])
        history = [event for batch in store.read_all() for event in batch.events]
        first = project.ok("archive", "run", "old", "--output", "json").json["run"]
        connection.execute("DELETE FROM mt_events WHERE stream_id = 'cart-1' AND version < 6")
        connection.execute(
            "UPDATE mt_events SET id = gen_random_uuid(), type = 'compacted<shopping_cart>', "
            "data = '{\"n\": 5}', timestamp = now() WHERE stream_id = 'cart-1'"
        )
        store.append("cart-1", [new("added", n=6)])
        compacted = list(store.read_stream("cart-1"))
    told = project.run("archive", "verify", first, "--against-store", "--output", "json")
    assert told.code == 1
    (problem,) = told.json["problems"]
    assert "the store has compacted it: version 6 there is now a snapshot" in problem
    second = project.ok("archive", "run", "old", "--output", "json").json["run"]
    whole = [*history[:6], compacted[-1]]
    config = load_config(project.folder / "esops.toml")
    joined = config.stores["s"].model_copy(update={"cold": config.archives["cold"]})
    for settings in (config.stores["cold"], joined):
        with open_store("s", settings) as store:
            assert list(store.read_stream("cart-1")) == whole
            assert list(store.read_stream("cart-1", backwards=True)) == whole[::-1]
            assert [e for batch in store.read_all() for e in batch.events] == [
                *history,
                compacted[-1],
            ]
    query = "SELECT version, type FROM events WHERE stream = 'cart-1' ORDER BY 1"
    shown = project.ok("archive", "query", query, "--output", "json").json
    assert [each["type"] for each in shown] == ["opened", *["added"] * 6]
    alone = project.ok("archive", "query", query, "--run", second, "--output", "json").json
    assert [each["type"] for each in alone] == ["compacted<shopping_cart>", "added"]


def test_a_column_that_the_run_does_not_have_stops_the_removal(project, dsn, connection):
    """It was added between the export and the removal, and holds something."""
    made(connection, "emmett")
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for number in range(4):
            store.append(f"cart-{number}", [new(n=1), new(n=2)])
    write(project, of(dsn, more=""), f"{DELETE}\nbatch = 4")

    def progress(what: str, done: int, total: int | None) -> None:
        if what == "streams removed" and done == 2:
            connection.execute("ALTER TABLE emt_messages ADD seen_by text DEFAULT 'Ann'")

    config = load_config(project.folder / "esops.toml")
    with pytest.raises(Refused, match="has a column 'seen_by', and the run does not"):
        run(config, "old", progress=progress)
    left = connection.execute("SELECT seen_by FROM emt_messages").fetchall()
    assert left == [("Ann",)] * 4
    assert run(config, "old", RunRequest(start_again=True)).removed_events == 4
