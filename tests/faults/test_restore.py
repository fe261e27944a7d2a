"""A restore at new positions that is killed, with a writer and a reader at work meanwhile."""

from __future__ import annotations

import json
import threading
import time
import uuid

from esops.events import NewEvent
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import marten
from tests.support.waiting import kill, until

SLOW = """
import pathlib, time
import esops.stores.postgres.restorer as restorer

def pause(moment):
    here = pathlib.Path("pause")
    if here.exists() and here.read_text() == moment:
        pathlib.Path("reached").write_text(moment)
        time.sleep(120)

def wrapped(kind, name, moment):
    real = getattr(kind, name)
    def slow(*arguments, **named):
        done = real(*arguments, **named)
        pause(moment)
        return done
    setattr(kind, name, slow)

wrapped(restorer._Waiting, "_attempt", "inserted")
wrapped(restorer.StreamRestorer, "renumber", "committed")
"""
COUNT = "SELECT count(*) FROM mt_events WHERE stream_id LIKE 'cart-%'"


def test_killed_before_and_after_its_commit_while_others_write_and_read(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    settings = PostgresSettings(dsn=dsn, append="quick")
    names = [f"cart-{number:02d}" for number in range(20)]
    with open_store("s", settings) as store:
        for at in range(3):
            for name in names:
                events = [NewEvent(str(uuid.uuid4()), f"kind{at}", b"{}") for _ in range(2)]
                store.append(name, events)
        before = {name: [(e.version, e.id) for e in store.read_stream(name)] for name in names}
    project.configure(
        stores={"s": {"dsn": dsn, "append": "quick"}},
        archives={"cold": {"repository": "cold", "policies": {"old": {"stream": "cart-*"}}}},
    )
    run = project.ok("archive", "run", "old", "--output", "json").json["run"]
    connection.execute("TRUNCATE mt_events, mt_streams")
    connection.execute("ALTER SEQUENCE mt_events_sequence RESTART")

    stop, written, seen = threading.Event(), [], []

    def write() -> None:
        with open_store("s", settings) as store:
            while not stop.is_set():
                event = NewEvent(str(uuid.uuid4()), "other", b"{}")
                store.append(f"other-{len(written)}", [event])
                written.append(event.id)
                time.sleep(0.02)

    def read() -> None:
        with open_store("s", settings) as store:
            for batch in store.follow(stop=stop.is_set):
                seen.extend(event.id for event in batch.events)

    at_work = [threading.Thread(target=each) for each in (write, read)]
    for each in at_work:
        each.start()
    try:
        until(lambda: len(written) > 5)
        project.patch(SLOW)
        again = ("archive", "restore", run, "--renumber", "--yes")
        for moment, there in (("inserted", 0), ("committed", 120)):
            (project.folder / "pause").write_text(moment)
            process = project.start(*again)
            reached = project.folder / "reached"
            until(lambda path=reached, m=moment: path.exists() and path.read_text() == m)
            kill(process)
            until(lambda want=there: connection.execute(COUNT).fetchone() == (want,))
        (project.folder / "pause").unlink()
        done = project.ok(*again, "--output", "json").json
        assert (done["streams"], done["there"], done["left_out"]) == (0, 20, 0)
        wanted = {identifier for events in before.values() for _, identifier in events}
        until(lambda: wanted <= {*seen})
    finally:
        stop.set()
        for each in at_work:
            each.join()
    assert len(seen) == len({*seen}), "each once"
    old = [identifier for identifier in seen if identifier in wanted]
    in_order = [identifier for _, identifier in sorted(_positions(connection, wanted))]
    assert old == in_order
    with open_store("s", settings) as store:
        for name in names:
            assert [(e.version, e.id) for e in store.read_stream(name)] == before[name]
        everything = {e.id for batch in store.read_all() for e in batch.events}
    assert everything == wanted | {*written}
    assert {*seen} <= everything
    versions = "SELECT version FROM mt_streams WHERE id LIKE 'cart-%'"
    assert {*connection.execute(versions).fetchall()} == {(6,)}
    # And the command leaves out what is in conflict, by name, with exit code 1.
    connection.execute("DELETE FROM mt_events WHERE stream_id = 'cart-00' AND version > 1")
    connection.execute("DELETE FROM mt_events WHERE stream_id = 'cart-01'")
    connection.execute("UPDATE mt_streams SET version = 1 WHERE id = 'cart-00'")
    with open_store("s", settings) as store:
        store.append("cart-00", [NewEvent(str(uuid.uuid4()), "another", b"{}")])
    refused = project.run(*again)
    assert (refused.code, "cart-00" in refused.err) == (6, True)
    left = project.run(*again, "--skip-conflicts", "--output", "json")
    assert (left.code, json.loads(left.out)["left_out"]) == (1, 1)
    with open_store("s", settings) as store:
        assert [(e.version, e.id) for e in store.read_stream("cart-01")] == before["cart-01"]


def _positions(connection, ids):
    rows = connection.execute("SELECT seq_id, id::text FROM mt_events").fetchall()
    return [(number, identifier) for number, identifier in rows if identifier in ids]
