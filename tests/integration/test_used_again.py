"""Names of streams that are used again after their streams were archived: two lives of one name."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest

from esops.config import load_config
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.integration.test_archive import of, write
from tests.support import emmett, marten
from tests.support.cases import thorough_but
from tests.support.databases import database
from tests.support.waiting import DEADLINE

RUN = ("archive", "run", "old", "--output", "json")
POLICY = 'store = "s"\nstream = "*"\nremove = "{}"'


@pytest.mark.parametrize("removal", thorough_but(["archive", "delete"], "archive"))
def test_a_second_life_is_archived_once_and_named_by_each_run(project, dsn, connection, removal):
    emmett.create(connection)
    emmett.append(connection, "cart-1", "opened", "added", "closed")
    emmett.append(connection, "cart-2", "opened")
    write(project, of(dsn, more=""), POLICY.format(removal))
    first = project.ok(*RUN).json
    assert (first["removed"], first["removed_events"]) == (2, 4)
    emmett.append(connection, "cart-1", "opened", "added")
    second = project.run(*RUN)
    assert (second.code, second.json["events"], second.json["stuck"]) == (1, 2, 1)
    assert "the name was used again" in second.json["skipped"][0]["reason"]
    for _ in range(2):
        again = project.run(*RUN)
        assert (again.code, again.json["run"], again.json["stuck"]) == (1, None, 1)
    assert len(project.ok("archive", "list", "--output", "json").json) == 2
    # The life that is archived goes away: nothing is in the way of the other one.
    connection.execute("DELETE FROM emt_messages WHERE is_archived")
    connection.execute("DELETE FROM emt_streams WHERE is_archived")
    last = project.ok(*RUN).json
    assert (last["removed"], last["removed_events"], last["stuck"]) == (1, 2, 0)


@pytest.mark.parametrize("removal", thorough_but(["archive", "delete"], "delete"))
def test_plan_and_doctor_say_that_a_name_begins_again(project, dsn, connection, removal):
    emmett.create(connection)
    emmett.append(connection, "cart-1", "opened", "added")
    write(project, of(dsn, more=""), POLICY.format(removal))
    assert "begins a second stream at version 1" in project.ok("archive", "plan", "old").out
    assert project.ok("archive", "plan", "old", "--output", "json").json["again"]
    project.ok(*RUN)
    findings = project.run("doctor", "--output", "json").json["findings"]
    assert not [each for each in findings if each["code"] == "ESOPS-D025"]
    emmett.append(connection, "cart-1", "opened")
    findings = project.run("doctor", "--output", "json").json["findings"]
    (found,) = [each for each in findings if each["code"] == "ESOPS-D025"]
    assert "1 id of archived streams used again, such as cart-1" in found["message"]
    assert 'reuse = "refuse"' in found["fix"]
    # Also where the store reads its archive.
    write(project, of(dsn, more='archive = "cold"'), POLICY.format(removal))
    joined = project.run("doctor", "--output", "json").json["findings"]
    assert {each["code"] for each in joined} == {each["code"] for each in findings}


@pytest.mark.parametrize("removal", thorough_but(["archive", "delete"], "delete"))
def test_with_reuse_refused_a_name_continues(project, dsn, connection, removal):
    emmett.create(connection)
    ids = emmett.append(connection, "cart-1", "opened", "added", "closed")
    emmett.append(connection, "cart-2", "opened")
    policy = POLICY.format(removal) + '\nreuse = "refuse"'
    write(project, of(dsn, more=""), policy, '[stores.both]\nbackend = "postgres"\n')
    write(project, of(dsn, more="") + of(dsn, "both", 'archive = "cold"\nof = "s"'), policy)
    assert "continues behind its last version" in project.ok("archive", "plan", "old").out
    first = project.ok(*RUN).json
    assert (first["removed"], first["removed_events"]) == (2, 4)
    alive = "SELECT stream_id, stream_position FROM emt_streams WHERE NOT is_archived ORDER BY 1"
    assert connection.execute(alive).fetchall() == [("cart-1", 3), ("cart-2", 1)]
    audit = ("audit", "streams", "--store", "s", "--output", "json")
    assert project.ok(*audit).json["summary"]["streams"] == 0
    assert project.ok(*RUN).json["state"] == "nothing"
    ids += emmett.append(connection, "cart-1", "reopened")
    (stream,) = project.ok(*audit).json["streams"]
    assert (stream["length"], stream["first_version"], stream["last_version"]) == (1, 4, 4)
    assert project.ok(*audit).json["summary"]["events"] == 1
    events = project.ok("events", "--store", "both", "--stream", "cart-1").out.splitlines()
    assert [json.loads(each)["version"] for each in events] == [1, 2, 3, 4]
    findings = project.run("doctor", "--output", "json").json["findings"]
    assert not [each for each in findings if each["code"] == "ESOPS-D025"]
    # Piece by piece, it leaves again, and comes back.
    second = project.ok(*RUN).json
    assert (second["removed"], second["removed_events"], second["stuck"]) == (1, 1, 0)
    project.run("archive", "restore", second["run"], "--store", "s", "--yes")
    project.ok("archive", "restore", first["run"], "--yes")
    rows = connection.execute(
        "SELECT message_id FROM emt_messages WHERE stream_id = 'cart-1' AND NOT is_archived "
        "ORDER BY stream_position"
    ).fetchall()
    assert [row[0] for row in rows] == ids
    marks = "SELECT stream_position, stream_metadata FROM emt_streams ORDER BY stream_id"
    assert connection.execute(marks).fetchall() == [(4, {}), (1, {})]
    assert project.ok(*audit).json["summary"]["events"] == 5


def test_a_setting_that_cannot_be_kept_is_refused(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True, partitioned=True))
    policy = POLICY.format("delete") + '\nreuse = "refuse"'
    write(project, of(dsn), policy)
    refused = project.run("archive", "plan", "old")
    assert (refused.code, "cannot keep names of removed streams" in refused.err) == (2, True)
    assert "EnableStrictStreamIdentityEnforcement" in refused.err
    connection.execute("CREATE TABLE mt_streams_identity (id varchar PRIMARY KEY)")
    project.ok("archive", "plan", "old")


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.xdist_group("real writers")  # they share what npm installs
@pytest.mark.parametrize("removal", ["archive", "delete"])
def test_what_emmett_itself_appends_to_names_of_removed_streams(
    project, dsn, connection, emmett_uri, emmett_writer, removal
):
    script = shutil.copy(Path(__file__).with_name("emmett_again.mjs"), Path(emmett_writer).parent)

    def emmett_itself(*appends: str) -> list[int | None]:
        command = ["node", script, emmett_uri, *appends]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    subprocess.run(["node", emmett_writer, emmett_uri, "0", "0"], check=True)  # makes the tables
    for number in range(1, 5):
        assert emmett_itself(*[f"cart-{number}=none"] * 2) == [1, 2]
    policy = POLICY.format(removal).replace('"*"', '"{}"')
    write(project, of(dsn, more=""), policy.format("cart-[12]") + '\nreuse = "refuse"')
    assert project.ok(*RUN).json["removed"] == 2
    # The name goes on, also where the library says STREAM_DOES_NOT_EXIST, and never begins anew.
    assert emmett_itself("cart-1=0", "cart-1=none", "cart-2=1", "cart-2=new") == [None, 3, None, 3]
    write(project, of(dsn, more=""), policy.format("cart-[34]"))
    assert project.ok(*RUN).json["removed"] == 2
    assert emmett_itself("cart-3=2", "cart-3=none", "cart-4=new") == [None, 1, 1]
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        assert [key.stream for key in store.archived.used_again()] == ["cart-3", "cart-4"]


COUNTED = """
from esops import fold

@fold(key="stream")
def carts(row, event):
    if row is not None and row["version"] + 1 != event.version:
        raise ValueError(f"{row['version']} is followed by {event.version}")
    return {"cart": event.stream, "version": event.version, "last": event.id}
"""


@pytest.mark.parametrize("removal", thorough_but(["archive", "delete"], "archive"))
def test_two_streams_of_one_name_are_kept_apart(project, dsn, connection, removal):
    emmett.create(connection)
    old = emmett.append(connection, "cart-1", "opened", "added", "added", "closed")
    emmett.append(connection, "cart-2", "opened")
    project.write("counted.py", COUNTED)
    project.write("c.sql", "CREATE TABLE {table} (cart text PRIMARY KEY, version int, last text)")
    joined = of(dsn, "s", "archive = 'cold'")
    more = "[projections.carts]\nstore = 's'\npython = 'counted:carts'\ntables = ['carts']\n"
    write(project, joined, POLICY.format(removal), f"{more}ddl = 'c.sql'\n")
    text = (project.folder / "esops.toml").read_text()
    cold = more.replace("'s'", "'cold'").replace("carts]", "cold_carts]").replace("'carts'", "'cc'")
    project.write(
        "esops.toml",
        f"{text}\n{cold}ddl = 'c.sql'\nreadmodel = 'r'\n[readmodels.r]\ndsn = {json.dumps(dsn)}\n",
    )
    project.ok(*RUN)
    ids = emmett.append(connection, "cart-1", "opened", "added")

    def shown(*asked: str) -> list[str]:
        return [json.loads(each)["id"] for each in project.ok("events", *asked).out.splitlines()]

    asked = ("--store", "s", "--stream", "cart-1")
    assert shown(*asked) == ids
    assert shown("--store", "cold", "--stream", "cart-1") == old
    one = project.ok("audit", "stream", "cart-1", "--store", "s", "--output", "json").json
    assert (one["length"], one["first_version"], one["last_version"]) == (2, 1, 2)
    with open_store("s", load_config(project.folder / "esops.toml").stores["s"]) as store:
        assert [event.id for event in store.read_stream("cart-1")] == ids
        lives = [(each.length, each.archived) for each in store.streams() if each.name == "cart-1"]
        assert lives == [(2, False), (4, True)]
    assert len(shown("--store", "s")) == 7
    # Both are in the history; the row is that of the stream that bears the name now.
    project.ok("rebuild", "carts", "--blue-green", "--yes", "--output", "json")
    rows = connection.execute("SELECT cart, version, last FROM carts ORDER BY 1").fetchall()
    assert rows[0] == ("cart-1", 2, ids[-1])
    ids += emmett.append(connection, "cart-1", "added")
    project.ok("run", "carts", "--until-caught-up")
    rows = connection.execute("SELECT cart, version, last FROM carts ORDER BY 1").fetchall()
    assert rows[0] == ("cart-1", 3, ids[-1])
    # An archive of both, read alone, makes the same row.
    project.run(*RUN, "--despite-checkpoints")
    project.ok("rebuild", "cold_carts", "--blue-green", "--yes")
    rows = connection.execute("SELECT cart, version, last FROM cc ORDER BY 1").fetchall()
    assert rows[0] == ("cart-1", 3, ids[-1])


LONG = """
INSERT INTO emt_messages (stream_position, transaction_id, stream_id, message_schema_version,
    message_id, message_type, message_data, message_metadata)
SELECT g, pg_current_xact_id(), 'cart-1', '1', gen_random_uuid()::text, 'added', '{}', '{}'
FROM generate_series(2, 3000) AS g
"""
REFERRING = """
CREATE TABLE ref (p text, s text, m bigint, a boolean,
    FOREIGN KEY (s, m, p, a) REFERENCES emt_messages);
INSERT INTO ref VALUES ('emt:default', 'cart-1', 3000, false)
"""


def long_stream(connection) -> None:
    emmett.create(connection)
    emmett.append(connection, "cart-1", "opened")
    connection.execute(LONG)
    connection.execute("UPDATE emt_streams SET stream_position = 3000")
    emmett.append(connection, "cart-2", "opened")


@pytest.mark.parametrize("removal", thorough_but(["archive", "delete"], "archive"))
def test_with_reuse_refused_a_name_that_has_two_lives_stays(project, dsn, connection, removal):
    emmett.create(connection)
    emmett.append(connection, "cart-1", "opened", "added", "closed")
    write(project, of(dsn, more=""), POLICY.format(removal))
    project.ok(*RUN)
    emmett.append(connection, "cart-1", "opened", "added")
    write(project, of(dsn, more=""), POLICY.format(removal) + '\nreuse = "refuse"')
    second = project.run(*RUN)
    assert (second.code, second.json["removed"], second.json["stuck"]) == (1, 0, 1)
    assert "the name was used again" in second.json["skipped"][0]["reason"]
    hot = "SELECT count(*) FROM emt_messages WHERE NOT is_archived"
    assert connection.execute(hot).fetchone() == (2,)
    # What is sealed with its events is its own row, and not that of the archived stream.
    query = f"SELECT row FROM streams WHERE run = '{second.json['run']}'"
    (row,) = project.ok("archive", "query", query, "--output", "json").json
    row = json.loads(row["row"])
    assert (row["stream_position"], row["is_archived"]) == (2, False)


@pytest.mark.parametrize("removal", thorough_but(["archive", "delete"], "delete"))
def test_a_long_stream_with_an_obstacle_at_its_end_stays_whole(project, dsn, connection, removal):
    long_stream(connection)
    connection.execute(REFERRING)
    write(project, of(dsn, more=""), POLICY.format(removal) + "\nbatch = 500")
    first = project.run(*RUN)
    assert (first.code, first.json["removed_events"], first.json["stuck"]) == (1, 1, 1)
    hot = "SELECT count(*) FROM emt_messages WHERE NOT is_archived"
    assert connection.execute(hot).fetchone() == (3000,)
    # Whether it is still so is seen without a lock, by a run as by a plan.
    before = connection.execute("SELECT pg_relation_size('emt_messages_emt_default_archived')")
    size = before.fetchone()
    with connection.transaction():
        connection.execute("SELECT FROM emt_streams WHERE stream_id = 'cart-1' FOR UPDATE")
        again = project.run(*RUN)
        plan = project.ok("archive", "plan", "old", "--output", "json").json
    assert (again.code, again.json["run"], again.json["stuck"]) == (1, None, 1)
    (stuck,) = plan["stuck"]
    assert "rows of public.ref refer to it" in stuck["reason"]
    after = connection.execute("SELECT pg_relation_size('emt_messages_emt_default_archived')")
    assert after.fetchone() == size
    connection.execute("DELETE FROM ref")
    last = project.ok(*RUN).json
    assert (last["removed_events"], last["stuck"]) == (3000, 0)


def test_a_stream_that_takes_longer_than_statement_timeout_is_archived_once(
    project, dsn, connection
):
    long_stream(connection)
    # Each message that moves takes a while.
    connection.execute(
        "CREATE FUNCTION slow(boolean) RETURNS boolean LANGUAGE sql IMMUTABLE AS "
        "$$ SELECT pg_sleep(CASE WHEN $1 THEN 0.001 ELSE 0 END) IS NOT NULL $$"
    )
    connection.execute("CREATE INDEX ON emt_messages_emt_default_archived (slow(is_archived))")
    policy = POLICY.format("archive") + '\nbatch = 10000\nstatement_timeout = "{}"'
    write(project, of(dsn, more=""), policy.format("1s"))
    first = project.run(*RUN)
    assert (first.code, first.json["stuck"]) == (1, 1), first.json
    assert "longer than the policy's statement_timeout" in first.json["skipped"][0]["reason"]
    for _ in range(2):
        again = project.run(*RUN)
        assert (again.code, again.json["run"], again.json["stuck"]) == (1, None, 1), again.json
    assert "statement_timeout" in project.ok("archive", "plan", "old").out
    write(project, of(dsn, more=""), policy.format("60s"))
    last = project.ok(*RUN).json
    assert (last["removed_events"], last["stuck"]) == (3000, 0)


@pytest.mark.thorough
def test_each_of_two_archived_streams_comes_back_where_nothing_is_in_its_way(
    project, server, dsn, connection
):
    """Their versions overlap, and the newer one is none of the older one's."""
    emmett.create(connection)
    emmett.append(connection, "cart-1", "opened", "added", "closed")
    emmett.append(connection, "cart-2", "opened")
    write(project, of(dsn, more=""), POLICY.format("delete"))
    first = project.ok(*RUN).json["run"]
    ids = emmett.append(connection, "cart-1", "opened", "added")
    project.run(*RUN)
    with database(server) as other:
        with psycopg.connect(other, autocommit=True) as elsewhere:
            emmett.create(elsewhere)
        stores = of(dsn, more="") + of(other, "t", more="")
        write(project, stores, POLICY.format("delete"))
        back = project.ok("archive", "restore", first, "--into", "t", "--yes", "--output", "json")
        assert (back.json["streams"], back.json["events"]) == (2, 4)
    write(project, of(dsn, more=""), POLICY.format("delete"))
    # As somebody would who no longer needs the first one's mark.
    connection.execute("DELETE FROM emt_streams WHERE is_archived")
    last = project.ok(*RUN).json
    assert last["removed"] == 1
    project.ok("archive", "restore", last["run"], "--yes")
    rows = connection.execute(
        "SELECT message_id FROM emt_messages WHERE stream_id = 'cart-1' ORDER BY stream_position"
    ).fetchall()
    assert [each for (each,) in rows] == ids
    # Now its versions are taken.
    refused = project.run("archive", "restore", first, "cart-1", "--yes")
    assert refused.code == 6, (refused.out, refused.err)
