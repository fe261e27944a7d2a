"""What a job of `esops schema` keeps of a store: in its own place, once, and of one log only."""

from __future__ import annotations

import uuid
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from esops.archive.run import run as run_policy
from esops.config import load_config
from esops.errors import AnotherLog, Busy, Unavailable, UsageError
from esops.events import NewEvent, Position
from esops.readmodel import migrations
from esops.schema.progress import Kept, SchemaJob, progress_of
from esops.settings import EventStoreDBSettings, PostgresSettings
from esops.stores import open_store
from esops.testing.memory import MemoryStore
from tests.support import marten
from tests.support.restoring import backups

CHECK = SchemaJob("check", "--from-start", "--since-last")
DOCUMENT = {"open": [{"type": "a\x00b", "events": 3}]}


def event(kind: str = "opened") -> NewEvent:
    return NewEvent(str(uuid.uuid4()), kind, b"{}")


@contextmanager
def opened(settings, name="shop", job=CHECK, selection=None):
    with open_store(name, settings) as store:
        yield store, progress_of(store, settings, job, selection or {})


@pytest.fixture(params=["marten", "eventstoredb"])
def settings(request):
    if request.param == "eventstoredb":
        return EventStoreDBSettings(uri=request.getfixturevalue("node").uri)
    marten.create(request.getfixturevalue("connection"), marten.VARIANTS["marten-optional"])
    return PostgresSettings(dsn=request.getfixturevalue("dsn"))


def life(settings, name: str) -> None:
    """What holds in every place."""
    with opened(settings, name) as (store, kept):
        kept.prepare()
        assert kept.read() is None
        head = store.head().position
        kept.write({}, None)
        kept.write(DOCUMENT, head)
        assert kept.read() == Kept(DOCUMENT, head)
    with opened(settings, name) as (_, kept), opened(settings, name) as (_, quicker):
        assert kept.read() == quicker.read() == Kept(DOCUMENT, head)
        quicker.write({"by": "the quicker"}, head)
        with pytest.raises(Busy, match="another schema check of store"):
            kept.write({"by": "the slower"}, head)
    for other in ({"job": SchemaJob("decode", "", "")}, {"selection": {"types": ["opened"]}}):
        with opened(settings, name, **other) as (_, kept):
            assert kept.read() is None
    with opened(settings, name) as (_, kept):
        assert kept.read() == Kept({"by": "the quicker"}, head)
        kept.forget()
        assert kept.read() is None
        kept.write({"again": 1}, head)
    with opened(settings, name) as (_, kept):
        assert kept.read() == Kept({"again": 1}, head)


def test_progress_is_kept_with_the_store_and_the_slower_process_writes_nothing(settings):
    name = f"s{uuid.uuid4().hex[:6]}"
    with open_store(name, settings) as store:
        store.append(f"cart-{uuid.uuid4()}", [event(), event()])
    life(settings, name)


def test_an_archive_keeps_its_own_and_is_read_again_when_it_has_another_run(
    project, dsn, connection
):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    project.configure(
        stores={"shop": {"dsn": dsn}, "cold": {"backend": "archive", "archive": "cold"}},
        archives={
            "cold": {
                "repository": "archive",
                "policies": {
                    "all": {"store": "shop", "category": "cart", "never_younger_than": "0s"}
                },
            }
        },
    )
    config = load_config(project.folder / "esops.toml")

    def archive(stream: str) -> None:
        with open_store("shop", config.stores["shop"]) as store:
            store.append(stream, [event()])
        assert run_policy(config, "all").state == "verified"

    archive("cart-1")
    life(config.stores["cold"], "cold")
    project.ok("archive", "verify", "--archive", "cold")
    archive("cart-2")
    with opened(config.stores["cold"], "cold") as (_, kept):
        assert kept.read() is None
        assert "has other runs, or other events in them, than at the last" in kept.note
        kept.write(DOCUMENT, None)
        assert kept.read() == Kept(DOCUMENT, None)


def test_a_store_that_was_restored_to_an_earlier_time_is_another_log(server, dsn, connection):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    settings = PostgresSettings(dsn=dsn)
    with open_store("shop", settings) as store:
        store.append("cart-1", [event(), event()])
    connection.close()
    with backups(server, dsn) as backup:
        with opened(settings) as (_, kept):
            kept.prepare()
            kept.write({}, None)
        backup.take()
        with opened(settings) as (store, kept):
            kept.read()
            kept.write({}, store.append("cart-1", [event()]))
            row = psycopg.connect(dsn).execute("TABLE esops.schema_progress").fetchone()
        backup.restore()
    with opened(settings) as (store, kept):
        store.append("cart-1", [event("another")])
        with psycopg.connect(dsn) as session:
            session.execute("DELETE FROM esops.schema_progress")
            session.execute(
                "INSERT INTO esops.schema_progress VALUES (%s,%s,%s,%s,%s,%s,%s,%s,%s)", row
            )
        with pytest.raises(AnotherLog) as refused:
            kept.read()
        assert "begin again with --from-start" in refused.value.hint
        kept.forget()
        assert kept.read() is None


def test_where_nothing_can_be_kept_one_sentence_says_so(server, dsn, connection):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    role = f"reader_{uuid.uuid4().hex[:8]}"
    name = sql.Identifier(role)
    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
    connection.execute(sql.SQL("GRANT pg_read_all_data TO {}").format(name))
    settings = PostgresSettings(dsn=make_conninfo(dsn, user=role))
    try:
        with opened(settings) as (_, kept):
            assert kept.read() is None
            with pytest.raises(Unavailable, match="cannot keep the progress of schema check") as no:
                kept.prepare()
            assert "Without --since-last, nothing is kept and all events are read." in no.value.hint
            migrations.install(connection)
            with pytest.raises(Unavailable, match=f"role {role} may not write"):
                kept.prepare()
            with pytest.raises(Unavailable, match="permission denied for table schema_progress"):
                kept.write({}, Position((1,)))
    finally:
        connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(name, name))
    own = MemoryStore.Settings(backend="memory")
    with open_store("mine", own) as store, pytest.raises(UsageError, match="backend 'memory'"):
        progress_of(store, own, CHECK, {})


def test_a_document_that_somebody_else_wrote_is_named(dsn, connection):
    marten.create(connection, marten.VARIANTS["marten-optional"])
    settings = PostgresSettings(dsn=dsn)
    with opened(settings) as (_, kept):
        kept.prepare()
        kept.write({}, None)
        connection.execute("UPDATE esops.schema_progress SET document = 'x'")
        with pytest.raises(Unavailable, match="cannot be read") as error:
            kept.read()
        assert error.value.hint == "Begin again with --from-start."
