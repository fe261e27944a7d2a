"""What an application has put between an insert and its tables of events: a restore inserts."""

from __future__ import annotations

import uuid

import orjson
import pytest

from esops.archive.run import run
from esops.config import load_config
from esops.errors import Refused
from esops.events import NewEvent
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import emmett, marten, messagedb
from tests.support.cases import thorough_but

LAYOUTS = {
    "marten": (marten.create, "mt_events", "timestamp", "mt_streams"),
    "emmett": (emmett.create, "emt_messages", "created", "emt_streams"),
    "message-db": (messagedb.create, "message_store.messages", "time", None),
}
FUNCTION = "CREATE OR REPLACE FUNCTION changes() RETURNS trigger LANGUAGE plpgsql AS $$ {} $$"
TRIGGER = "CREATE TRIGGER mine {} ON {} FOR EACH ROW EXECUTE FUNCTION changes()"


def fill(dsn: str) -> None:
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for stream in (1, 2):
            events = [
                NewEvent(str(uuid.uuid4()), "noted", orjson.dumps({"n": n})) for n in range(3)
            ]
            store.append(str(uuid.UUID(int=stream)), events)


def configure(project, dsn: str) -> None:
    policy = {"store": "s", "stream": "*", "remove": "delete", "never_younger_than": "0s"}
    project.configure(
        stores={"s": {"dsn": dsn, "append": "quick"}},
        archives={"cold": {"repository": "cold", "policies": {"old": policy}}},
    )


def rows(connection, *tables) -> list:
    return [
        connection.execute(f"SELECT t::text FROM {table} t ORDER BY 1").fetchall()
        for table in tables
        if table is not None
    ]


def trigger(connection, table: str, body: str, when: str = "BEFORE INSERT") -> None:
    connection.execute(FUNCTION.format(f"BEGIN {body} END"))
    connection.execute(TRIGGER.format(when, table))


def drop(connection, table: str) -> None:
    connection.execute(f"DROP TRIGGER mine ON {table}")


def archive(project) -> str:
    """Run the policy; returns the name of the run."""
    return str(run(load_config(project.folder / "esops.toml"), "old").run)


def restore(project, run: str, *options: str):
    return project.run("archive", "restore", run, "--yes", *options)


@pytest.fixture(params=thorough_but(LAYOUTS, "marten"))
def layout(request, project, dsn, connection):
    make, *tables = LAYOUTS[request.param]
    make(connection)
    fill(dsn)
    configure(project, dsn)
    return tables


def test_a_trigger_that_changes_what_comes_back_is_refused_before_and_after(
    layout, project, connection
):
    events, time, streams = layout
    changes = f"NEW.{time} := '2001-01-01'; RETURN NEW;"
    elsewhere = "IF TG_TABLE_SCHEMA = 'public' THEN RETURN NULL; END IF; RETURN NEW;"
    key = "stream_id" if streams else "stream_name"
    after = f"UPDATE {events} SET {time} = '2001-01-01' WHERE {key} = NEW.{key}; RETURN NULL;"
    before = rows(connection, events, streams)
    for body, when in (
        (changes, "BEFORE INSERT"),
        ("RETURN NULL;", "BEFORE INSERT"),
        (elsewhere, "BEFORE INSERT"),
        ("RAISE EXCEPTION 'mine';", "BEFORE INSERT"),
        (after, "AFTER INSERT"),
    ):
        trigger(connection, events, body, when)
        with pytest.raises(Refused, match="mine"):
            archive(project)
        drop(connection, events)
    if streams is not None:
        column = "type" if streams == "mt_streams" else "stream_type"
        trigger(connection, streams, f"NEW.{column} := 'x'; RETURN NEW;")
        with pytest.raises(Refused, match="mine"):
            archive(project)
        drop(connection, streams)
    assert rows(connection, events, streams) == before
    # A trigger that was made since: nothing comes back but all of it.
    name = archive(project)
    gone = rows(connection, events, streams)
    assert gone != before
    for body, when in (
        (changes, "BEFORE INSERT"),
        ("RETURN NULL;", "BEFORE INSERT"),
        (after, "AFTER INSERT"),
    ):
        trigger(connection, events, body, when)
        # What stays of a stream in message-db is after what would come to the end.
        for options in ([], ["--renumber"]) if streams else ([],):
            refused = restore(project, name, *options)
            assert refused.code == 6, refused.err
            assert "mine" in refused.err or "trigger" in refused.err
            assert rows(connection, events, streams) == gone
        drop(connection, events)
    assert restore(project, name).code == 0
    assert rows(connection, events, streams) == before


def test_triggers_that_leave_rows_as_they_are_are_none_of_ours(layout, project, connection):
    events, time, streams = layout
    connection.execute("CREATE TABLE log (name text, at timestamptz DEFAULT now())")
    note = "INSERT INTO log VALUES (TG_TABLE_NAME); PERFORM pg_notify('events', 'new'); "
    trigger(connection, events, f"{note} RETURN NULL;", "AFTER INSERT")
    connection.execute(
        f"""CREATE FUNCTION fills() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.{time} := coalesce(NEW.{time}, now()); RETURN NEW; END $$;
        CREATE TRIGGER fills BEFORE INSERT ON {events} FOR EACH ROW EXECUTE FUNCTION fills();
        CREATE TRIGGER once AFTER INSERT ON {events} EXECUTE FUNCTION changes();
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {events} DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION changes()"""
    )
    before = rows(connection, events, streams)
    name = archive(project)
    assert rows(connection, events, streams) != before
    assert rows(connection, "log") == [[]]
    assert restore(project, name).code == 0
    assert rows(connection, events, streams) == before


def test_rules_and_foreign_keys(project, dsn, connection):
    marten.create(connection)
    fill(dsn)
    configure(project, dsn)
    connection.execute("CREATE RULE other AS ON INSERT TO mt_events DO INSTEAD NOTHING")
    with pytest.raises(Refused, match="other"):
        archive(project)
    connection.execute("DROP RULE other ON mt_events")
    connection.execute(
        "CREATE TABLE tenants (id varchar PRIMARY KEY);"
        "INSERT INTO tenants SELECT DISTINCT tenant_id FROM mt_events;"
        "ALTER TABLE mt_events ADD FOREIGN KEY (tenant_id) REFERENCES tenants (id)"
    )
    name = archive(project)
    gone = rows(connection, "mt_events", "mt_streams")
    connection.execute("DELETE FROM tenants")
    refused = restore(project, name)
    assert (refused.code, "foreign key" in refused.err) == (6, True)
    assert rows(connection, "mt_events", "mt_streams") == gone
