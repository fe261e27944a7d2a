"""Erasing that is killed, and erasing while the application writes: what was begun comes to its end,
no run fails its verification, and nothing of the person is left.
"""

from __future__ import annotations

import random
import signal
import threading
import uuid

import orjson
import psycopg
import pyarrow.parquet as pq
import pyrage
import pytest

from esops.events import NewEvent
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import eventsourcing, marten, messagedb
from tests.support.cases import thorough_but
from tests.support.soak import rounds

KILL = """
import itertools, os, signal
from esops.archive_format.repository import Repository
from esops.stores.postgres.masking import PostgresMasking

count, at, when = itertools.count(1), int(os.environ["KILL_AT"]), os.environ["KILL_WHEN"]

def deadly(call):
    def at_last(*arguments, **named):
        number = next(count)
        if number == at and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*arguments, **named)
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return at_last

if at:
    for owner, name in ((Repository, "put"), (Repository, "delete"), (PostgresMasking, "_replace"),
                        (PostgresMasking, "write")):
        setattr(owner, name, deadly(getattr(owner, name)))
"""
PEOPLE = rounds(3, 60)
ARCHIVES = {
    "cold": {
        "repository": "cold",
        "file_size": 65536,
        "policies": {
            "old": {"store": "s", "stream": "*", "remove": "keep"},
            "older": {"store": "s", "stream": "customer-*1", "remove": "keep"},
        },
    }
}
RULE = {
    "where": "email",
    "whole_streams": True,
    "secret": "0123456789abcdef",
    "mask": {"email": "null", "name": "hash", "note": "text:erased"},
}


def email(number: int) -> str:
    return f"person{number:03d}@example.com"


def new(**data) -> NewEvent:
    return NewEvent(str(uuid.uuid4()), "changed", orjson.dumps(data))


def of_person(number: int) -> list[NewEvent]:
    note = f"private{number:03d}"
    first = new(email=email(number), name=f"Name{number:03d}")
    return [first, *(new(note=note, at=at, filler="x" * 50) for at in range(20))]


def left_in(connection, table: str, folder) -> str:
    """All payloads of the store and all that the repository has, as text."""
    texts = [str(row) for row in connection.execute(f"SELECT data FROM {table}").fetchall()]
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            texts.append(str(pq.read_table(path).to_pylist()))
        elif path.is_file():
            texts.append(path.read_text())
    return "\n".join(texts)


@pytest.mark.parametrize("layout", thorough_but(["marten", "messagedb"], "marten"))
def test_a_kill_at_any_write_is_finished_by_the_next_run(project, dsn, connection, layout):
    table = {"marten": "mt_events", "messagedb": "message_store.messages"}[layout]
    if layout == "marten":
        marten.create(connection, marten.Variant(text_ids=True, partitioned=True, conjoined=True))
    else:
        messagedb.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for number in range(PEOPLE):
            store.append(f"customer-{number:03d}", of_person(number))
    project.configure(
        stores={"s": {"dsn": dsn, "append": "quick"}}, erase={"customer": RULE}, archives=ARCHIVES
    )
    for policy in ("old", "older"):
        project.ok("archive", "run", policy)
    chance = random.Random(layout)
    project.patch(KILL)
    project.environment |= {"KILL_AT": "0", "KILL_WHEN": "before"}
    for number in range(PEOPLE):
        project.environment |= {
            "KILL_AT": str(chance.choice([*range(1, 12), 15, 20, 30])),
            "KILL_WHEN": chance.choice(["before", "after"]),
        }
        command = ("erase", "--where", f"email={email(number)}", "--yes", "--output", "json")
        killed = project.start(*command)
        killed.communicate(timeout=60)
        assert killed.returncode in (-signal.SIGKILL, 0)
        project.environment |= {"KILL_AT": "0"}
        project.ok("archive", "verify")
        done = project.ok(*command).json
        assert done["remaining"] == 0
        text = left_in(connection, table, project.folder / "cold")
        for value in (email(number), f"Name{number:03d}", f"private{number:03d}"):
            assert value not in text, (number, project.environment)
        if number + 1 < PEOPLE:
            assert email(number + 1) in text
    project.ok("archive", "verify", "--against-store")
    assert project.ok(*command).json["events"] == 0


def test_writers_are_not_blocked_and_what_they_write_is_found(project, dsn, connection):
    eventsourcing.create(connection)
    table = "bankaccounts_events"
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for _ in range(10):
            store.append(str(uuid.uuid4()), of_person(1))
    project.configure(stores={"s": {"dsn": dsn}}, erase={"customer": {**RULE, "where": "email"}})
    ended, failed, written = threading.Event(), [], []

    def work() -> None:
        with open_store("s", PostgresSettings(dsn=dsn)) as store:
            while not ended.is_set() and len(written) < 2_000:
                person = 1 if len(written) < 100 else 2
                try:
                    store.append(
                        str(uuid.uuid4()), [new(email=email(person), name=f"Name{person:03d}")]
                    )
                except Exception as error:
                    failed.append(error)
                    return
                written.append(person)

    writer = threading.Thread(target=work)
    writer.start()
    try:
        done = project.ok("erase", "--where", f"email={email(1)}", "--yes", "--output", "json").json
    finally:
        ended.set()
        writer.join()
    assert not failed
    assert done["remaining"] == 0
    states = [
        bytes(row[0]).decode()
        for row in connection.execute(f"SELECT state FROM {table}").fetchall()
    ]
    assert not any(email(1) in state for state in states)
    assert sum(email(2) in state for state in states) == written.count(2)


def test_a_lock_that_is_held_is_waited_for(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("customer-1", of_person(1))
    project.configure(stores={"s": {"dsn": dsn, "append": "quick"}}, erase={"customer": RULE})
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT FROM mt_events WHERE version = 3 FOR UPDATE")
        process = project.start("erase", "--stream", "customer-1", "--yes")
        with pytest.raises(Exception, match="timed out"):
            process.communicate(timeout=3)
        holder.rollback()
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_an_encrypted_archive_stays_encrypted(project, dsn, connection):
    messagedb.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("customer-1", of_person(1))
        store.append("customer-2", of_person(2))
    identity = pyrage.x25519.Identity.generate()
    cold = {**ARCHIVES["cold"], "identity": str(identity)}
    encrypted = {**cold, "encrypt_to": [str(identity.to_public())]}
    sections = {"stores": {"s": {"dsn": dsn}}, "erase": {"customer": RULE}}
    project.configure(**sections, archives={"cold": encrypted})
    project.ok("archive", "run", "old")
    project.configure(**sections, archives={"cold": cold})
    command = ("erase", "--where", f"email={email(1)}", "--yes")
    assert project.run(*command).code == 6, "it would be written in the clear"
    project.configure(**sections, archives={"cold": encrypted})
    project.ok(*command)
    files = [path.name for path in (project.folder / "cold" / "runs").rglob("*parquet*")]
    assert len(files) == 2
    assert all(name.endswith(".age") for name in files)
    project.ok("archive", "verify", "--against-store")
    told = project.ok("archive", "query", "SELECT count(*) FROM events WHERE data::text LIKE '%@%'")
    assert "1" in told.out
