"""What the libraries do with a stream whose head is in the archive: each loads it and appends to
it, or says that it cannot, and esops leaves that stream whole.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from esops.archive.run import run
from esops.config import load_config
from esops.errors import Stopped
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.integration.test_archive import new, of, write
from tests.support import messagedb, shop
from tests.support.bank import Account, Accounts
from tests.support.waiting import DEADLINE

pytestmark = pytest.mark.xdist_group("real writers")


def configure(project, dsn: str, policy: str) -> None:
    write(project, of(dsn, more=""), f'store = "s"\nstream = "*"\nremove = "delete"\n{policy}')


def shortened(project) -> int:
    return project.ok("archive", "run", "old", "--output", "json").json["removed_events"]


def test_eventsourcing_loads_an_aggregate_from_its_snapshot(project, dsn, connection):
    parts = conninfo_to_dict(dsn)
    environment = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts["dbname"],
        "POSTGRES_HOST": parts["host"],
        "POSTGRES_PORT": str(parts.get("port", 5432)),
        "POSTGRES_USER": parts["user"],
        "POSTGRES_PASSWORD": "none",
        "IS_SNAPSHOTTING_ENABLED": "y",
    }
    app = Accounts(env=environment)
    ids = []
    for _ in range(2):
        account = Account()
        for _ in range(9):
            account.deposit(1)
        app.save(account)
        ids.append(account.id)
    app.take_snapshot(ids[0], version=6)
    configure(project, dsn, "keep_last = 2")
    told = project.ok("archive", "plan", "old", "--output", "json").json
    assert (told["streams"], told["events"], told["unloadable"]) == (1, 6, 1)
    assert shortened(project) == 6, "no more than the snapshot stands for"
    account = app.repository.get(ids[0])
    assert (account.version, account.balance) == (10, 9)
    account.deposit(1)
    app.save(account)
    assert app.repository.get(ids[0]).balance == 10
    assert app.repository.get(ids[1]).balance == 9
    # What the snapshot is for: without it the library cannot make the aggregate.
    connection.execute("DELETE FROM accounts_snapshots")
    with pytest.raises(AssertionError):
        app.repository.get(ids[0])
    app.close()
    connection.execute("DROP TABLE accounts_snapshots")
    refused = project.run("archive", "run", "old")
    assert (refused.code, "from a snapshot only" in refused.err) == (2, True)


def test_message_dbs_functions_read_and_write_what_stays(project, dsn, connection, message_db):
    connection.execute(
        "CREATE SCHEMA IF NOT EXISTS message_store; SET search_path = message_store, public"
    )
    for statement in message_db:
        connection.execute(statement.replace("CONCURRENTLY", ""))

    def written(kind: str, expected: int | None = None) -> int:
        statement = "SELECT write_message(gen_random_uuid()::text, 'till-1', %s, '{}', NULL, %s)"
        return connection.execute(statement, (kind, expected)).fetchone()[0]

    for kind in ("Sold", "Sold", "Sold", "BalanceCarried", "Sold"):
        written(kind)
    configure(project, dsn, 'until = "BalanceCarried"')
    told = project.ok("archive", "plan", "old", "--streams").out
    assert told.startswith("till-1: versions 0 to 2 (3 events, ")
    assert told.endswith("; 2 events stay\n")
    listed = project.ok("archive", "plan", "old", "--streams", "--output", "json").json
    assert [(each["stream"], each["length"], each["stays"]) for each in listed] == [
        ("till-1", 3, 2)
    ]
    assert "till-1: versions 0 to 2" in project.ok("archive", "plan", "old").out
    assert shortened(project) == 3
    read = "SELECT position, type FROM get_stream_messages('till-1', {})"
    for start in ("", "0", "2"):
        rows = connection.execute(read.format(start).replace(", )", ")")).fetchall()
        assert rows == [(3, "BalanceCarried"), (4, "Sold")]
    assert connection.execute("SELECT stream_version('till-1')").fetchone() == (4,)
    with pytest.raises(psycopg.errors.RaiseException, match="Wrong expected version"):
        written("Sold", 1)
    assert written("Sold", 4) == 5
    last = "SELECT position FROM get_last_stream_message('till-1')"
    assert connection.execute(last).fetchone() == (5,)


EMMETT = """
import { getPostgreSQLEventStore } from "@event-driven-io/emmett-postgresql";
const store = getPostgreSQLEventStore(process.argv[1]);
const sold = { type: "Sold", data: { amount: 1 } };
const carried = { type: "BalanceCarried", data: { balance: 3 } };
const append = (events, options) => store.appendToStream("till-1", events, options);
const evolve = (sum, { type, data }) => (type === "Sold" ? sum + data.amount : data.balance);
if (process.argv[2] === "fill") await append([sold, sold, sold, carried, sold]);
else {
  const whole = { evolve, initialState: () => 0 };
  const { state, currentStreamVersion } = await store.aggregateStream("till-1", whole);
  const next = await append([sold], { expectedStreamVersion: currentStreamVersion });
  const read = await store.readStream("till-1");
  const positions = read.events.map(({ metadata }) => Number(metadata.streamPosition));
  const first = await store.readStream("till-1", { maxCount: 2n });
  console.log(JSON.stringify({ state, positions, next: Number(next.nextExpectedStreamVersion),
    exists: read.streamExists, first: first.events.length }));
}
await store.close();
"""


@pytest.mark.thorough
def test_emmett_folds_what_stays_from_the_event_that_carries_the_state(
    project, dsn, connection, emmett_uri, emmett_writer
):
    def emmett(what: str) -> str:
        command = ["node", "--input-type=module", "-e", EMMETT, emmett_uri, what]
        where = Path(emmett_writer).parent
        done = subprocess.run(
            command, cwd=where, capture_output=True, text=True, timeout=DEADLINE, check=True
        )
        return done.stdout

    emmett("fill")
    configure(project, dsn, "keep_last = 2")
    refused = project.run("archive", "run", "old")
    assert (refused.code, "carries the state" in refused.err) == (2, True)
    configure(project, dsn, 'until = "BalanceCarried"')
    assert shortened(project) == 3
    told = json.loads(emmett("use"))
    assert told == {
        "state": 4,
        "positions": [4, 5, 6],
        "next": 6,
        "exists": True,
        "first": 0,  # it takes a count for a position
    }


def test_heads_and_what_stays_are_read_as_one_and_nothing_is_built_of_a_part(
    project, dsn, connection
):
    shop.make(dsn, 300)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    rows = "SELECT * FROM cart_summary ORDER BY 1"
    before = connection.execute(rows).fetchall()
    stream = "cart-00000001"
    events = project.ok("events", "--stream", stream).out
    text = (project.folder / "esops.toml").read_text()
    policy = """
[archives.cold]
repository = "cold"
[archives.cold.policies.old]
store = "shop"
stream = "cart-*"
until = "product_item_added"
remove = "delete"
never_younger_than = "0s"
"""
    project.write("esops.toml", text + policy)

    def processor(at: int) -> None:
        connection.execute("DELETE FROM shop.mt_event_progression")
        connection.execute("INSERT INTO shop.mt_event_progression VALUES ('Totals:All', %s)", (at,))

    # The guard asks for the heads alone: what stays may not have been read yet.
    newest = """SELECT max(e.seq_id) FROM shop.mt_events e WHERE version < (SELECT max(version)
        FROM shop.mt_events s WHERE s.stream_id = e.stream_id AND type = 'product_item_added')"""
    (last,) = connection.execute(newest).fetchone()
    assert last < 300
    processor(last - 1)
    assert project.run("archive", "run", "old").code == 6
    processor(last)
    told = project.ok("archive", "run", "old", "--output", "json").json
    away = f"{told['events']} events of {told['streams']} streams were archived and removed, "
    away += f"{told['streams']} of them were shortened"
    assert told["removed_events"] == told["events"] > 100
    # Marten's list of streams still has the length from before; budgets of others are not asked.
    budgets = '[audit.budgets]\n"*" = 9\norder = { length = 1, store = "other" }\n'
    project.write("esops.toml", text + policy + budgets)
    assert project.ok("audit", "streams", "--output", "json").json["findings_total"] == 0
    project.write("esops.toml", text + policy)
    for way in (["--blue-green"], ["--yes"]):
        refused = project.run("rebuild", *way)
        assert (refused.code, away in refused.err) == (6, True), refused.err
    assert connection.execute(rows).fetchall() == before
    # This fold cannot begin in the middle of a stream.
    assert project.run("rebuild", "--blue-green", "--without-archived").code == 6
    project.ok("rebuild", "--blue-green", "--abort", "--yes")

    project.write(
        "esops.toml",
        (text + policy).replace('schema = "shop"', 'schema = "shop"\narchive = "cold"'),
    )
    built = project.ok("rebuild", "--blue-green", "--output", "json").json
    assert (built["events"], built["verification"]["differing"]) == (300, 0)
    project.ok("rebuild", "--yes")
    assert connection.execute(rows).fetchall() == before
    assert project.ok("events", "--stream", stream).out == events
    count = len(events.splitlines())
    audited = project.ok("audit", "stream", stream, "--output", "json").json
    assert (audited["length"], audited["first_version"], audited["gaps"]) == (count, 1, [])
    listed = project.ok("audit", "streams", "--output", "json").json
    assert listed["summary"]["events"] == 300
    assert {each["stream"]: each["length"] for each in listed["streams"]}.get(
        stream, count
    ) == count
    traced = project.ok("trace", "stream", stream, "--output", "json").json
    assert [each["version"] for each in traced["events"] if each["stream"] == stream] == list(
        range(1, count + 1)
    )


def test_a_run_that_shortens_does_so_when_its_policy_has_changed_since(project, dsn, connection):
    messagedb.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("till-1", [new(kind) for kind in ("Sold", "Sold", "Carried", "Sold")])

        def begun(what: str, done: int, total: int | None) -> None:
            if what == "streams removed":
                raise Stopped("killed")

        configure(project, dsn, 'until = "Carried"')
        with pytest.raises(Stopped):
            run(load_config(project.folder / "esops.toml"), "old", progress=begun)
        configure(project, dsn, "")
        assert shortened(project) == 2
        assert [event.version for event in store.read_stream("till-1")] == [2, 3]


def test_what_is_too_young_stays_and_so_does_all_behind_it(project, dsn, connection):
    messagedb.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("till-1", [new("Sold") for _ in range(9)])
        for days, versions in ((10, (0, 1, 2, 4, 5)), (3, (3, 6))):
            connection.execute(
                "UPDATE message_store.messages SET time = time - make_interval(days => %s) "
                "WHERE position = ANY(%s)",
                (days, list(versions)),
            )
        for days, left in ((20, 0), (9, 3), (2, 7)):
            configure(project, dsn, f'older_than = "{days}d"')
            told = project.ok("archive", "plan", "old", "--output", "json").json
            assert (told["events"], told["remove"]) == (left, "delete")
        assert shortened(project) == 7
        assert [event.version for event in store.read_stream("till-1")] == [7, 8]
