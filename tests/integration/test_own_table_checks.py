"""What is wrong with a table of one's own: two events with one stream and version, parts that are
missing, and what only looks like a proof that there are none.
"""

from __future__ import annotations

import json
import shutil

import pytest

from esops.archive.run import RunRequest, run
from esops.config import load_config
from esops.errors import Refused
from esops.settings import PostgresSettings, TableSettings
from esops.stores import open_store
from tests.support.cases import thorough_but
from tests.support.own_tables import CASTORE_TABLE, castore

ONE = {**CASTORE_TABLE, "stream": "aggregate_id"}
PAIRS = [("cart", "1"), ("order", "1")]
KEY = "castore_aggregate_name_aggregate_id_version_key"
NO_KEY = f"ALTER TABLE castore DROP CONSTRAINT {KEY}"
COLUMNS = "(aggregate_name, aggregate_id, version)"


def configured(project, dsn, table) -> None:
    project.configure(
        stores={"s": {"dsn": dsn, "append": "quick", "table": table}},
        projections={"carts": {"python": "carts:carts", "tables": ["carts"], "ddl": "carts.sql"}},
        archives={
            "cold": {
                "repository": "cold",
                "policies": {"all": {"store": "s", "stream": "*", "never_younger_than": "0s"}},
            }
        },
    )
    project.write(
        "carts.py",
        "from esops import fold\n\n@fold(key='stream')\ndef carts(row, event):\n"
        "    return {'stream': event.stream, 'n': (row or {'n': 0})['n'] + 1}\n",
    )
    project.write("carts.sql", "CREATE TABLE {table} (stream text PRIMARY KEY, n int);")
    project.begin_archive("cold")


def found(project) -> dict[str, dict]:
    document = project.run("doctor", "--output", "json").json
    mine = [each for each in document["findings"] if each["subject"] == "store s"]
    assert len({each["code"] for each in mine}) == len(mine)
    return {each["code"]: each for each in mine}


def concerns(dsn, **changed) -> dict[str, tuple[str, str]]:
    table = TableSettings(**{**CASTORE_TABLE, **changed})
    with open_store("s", PostgresSettings(dsn=dsn, table=table)) as store:
        return {each.kind: (each.message, each.fix) for each in store.sql.concerns()}


def test_an_archive_that_only_copies_keeps_no_rebuild_from_its_first_run(project, dsn, connection):
    """Who writes all of esops.toml at once has no archive yet, and nothing was removed."""
    castore(connection, PAIRS)
    configured(project, dsn, CASTORE_TABLE)
    shutil.rmtree(project.folder / "cold")
    plan = project.ok("rebuild", "carts", "--blue-green", "--dry-run").out
    assert "esops only copies events of store s" in plan


def test_two_aggregates_in_one_stream_are_found_and_refused(project, dsn, connection):
    castore(connection, PAIRS)
    configured(project, dsn, ONE)
    finding = found(project)["ESOPS-D079"]
    assert finding["message"] == (
        "stream 1 has version 1 more than once, at positions 1 and 2, and esops makes one id for "
        "both"
    )
    assert 'stream = ["aggregate_name", "aggregate_id"]' in finding["fix"]
    assert "ESOPS-D013" not in found(project)
    refused = project.run("rebuild", "carts", "--blue-green")
    assert refused.code == 6
    assert "has version 1 more than once" in refused.err
    with pytest.raises(Refused, match="stream 1 has version 1 more than once"):
        run(load_config(project.folder / "esops.toml"), "all", RunRequest(removal="keep"))
    config = load_config(project.folder / "esops.toml")
    with open_store("s", config.stores["s"].without_archive) as store:
        (doubled, *_) = next(iter(store.read_all())).events
    for command in (("trace", "event", doubled.id), ("events", "show", doubled.id)):
        told = project.run(*command)
        assert told.code == 6
        assert f"both events have the id {doubled.id}" in told.err
    configured(project, dsn, CASTORE_TABLE)
    assert not {code for code in found(project) if code in {"ESOPS-D079", "ESOPS-D080"}}
    project.ok("rebuild", "carts", "--blue-green")


@pytest.mark.thorough
def test_with_ids_of_their_own_only_an_archive_is_refused(project, dsn, connection):
    castore(connection, PAIRS)
    connection.execute("ALTER TABLE castore ADD own uuid DEFAULT gen_random_uuid()")
    configured(project, dsn, {**ONE, "id": "own"})
    assert "one id" not in found(project)["ESOPS-D079"]["message"]
    project.ok("rebuild", "carts", "--blue-green")
    with pytest.raises(Refused, match="more than once"):
        run(load_config(project.folder / "esops.toml"), "all", RunRequest(removal="keep"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("", None),
        ("CREATE UNIQUE INDEX ON castore (aggregate_id, aggregate_name, version)", None),
        (f"ALTER TABLE castore DROP CONSTRAINT {KEY}", "keep"),
        (
            f"{NO_KEY}; CREATE UNIQUE INDEX part ON castore {COLUMNS} WHERE version > 5",
            "part is partial",
        ),
        (
            f"{NO_KEY}; CREATE UNIQUE INDEX low ON castore (lower(type), aggregate_id, version)",
            "keep",
        ),
        (
            f"UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = '{KEY}'::regclass",
            "is not valid",
        ),
        ("CREATE TABLE castore_more () INHERITS (castore)", "tables that inherit"),
        (f"ALTER TABLE castore DROP CONSTRAINT {KEY}, ADD UNIQUE (aggregate_id, version, at)", ""),
        (f"ALTER TABLE castore DROP CONSTRAINT {KEY}, ADD UNIQUE (aggregate_id, version)", None),
    ],
)
def test_only_a_whole_index_on_these_columns_proves_it(dsn, connection, change, said):
    castore(connection, [("cart", "1"), ("order", "2")])
    connection.execute(change)
    kinds = concerns(dsn)
    if said is None:
        assert kinds == {}
        return
    message, fix = kinds["not unique"]
    assert said in message or said == "keep"
    assert message.startswith("no unique index keeps the versions of a stream apart")
    assert "none of all 6 events" in message
    if said in {"keep", "part is partial", ""}:
        assert fix == (
            'CREATE UNIQUE INDEX CONCURRENTLY ON "public"."castore" ("aggregate_name", '
            '"aggregate_id", "version");'
        )


def test_a_partitioned_table_is_judged_by_its_own_index(dsn, connection):
    connection.execute(
        "CREATE TABLE castore (at bigserial, aggregate_name text NOT NULL, aggregate_id text NOT "
        "NULL, version int NOT NULL, type text NOT NULL, payload jsonb, meta jsonb, timestamp "
        "timestamptz DEFAULT now(), PRIMARY KEY (at, aggregate_name)) "
        "PARTITION BY LIST (aggregate_name); "
        "CREATE TABLE carts PARTITION OF castore FOR VALUES IN ('cart'); "
        "CREATE TABLE orders PARTITION OF castore FOR VALUES IN ('order'); "
        "CREATE UNIQUE INDEX only_parent ON ONLY castore (aggregate_name, aggregate_id, version)"
    )
    assert "only_parent is not valid" in concerns(dsn)["not unique"][0]
    connection.execute(
        "CREATE UNIQUE INDEX ci ON carts (aggregate_name, aggregate_id, version); "
        "CREATE UNIQUE INDEX oi ON orders (aggregate_name, aggregate_id, version); "
        "ALTER INDEX only_parent ATTACH PARTITION ci; ALTER INDEX only_parent ATTACH PARTITION oi"
    )
    connection.execute(
        "INSERT INTO castore (aggregate_name, aggregate_id, version, type, payload) "
        "VALUES ('cart', '1', 1, 'x', '{}'), ('order', '1', 1, 'x', '{}')"
    )
    assert concerns(dsn) == {}


@pytest.mark.parametrize(
    "column",
    thorough_but(["aggregate_name", "aggregate_id", "version", "type"], "aggregate_name"),
)
def test_a_part_that_is_missing_is_found_and_refused(project, dsn, connection, column):
    """A null is no value to a unique index, and makes the whole name null."""
    castore(connection, PAIRS)
    connection.execute(f"ALTER TABLE castore ALTER {column} DROP NOT NULL")
    configured(project, dsn, CASTORE_TABLE)
    assert not {"ESOPS-D079", "ESOPS-D080", "ESOPS-D081"} & found(project).keys()
    connection.execute(f"UPDATE castore SET {column} = NULL WHERE at = 3")
    finding = found(project)["ESOPS-D081"]
    assert finding["message"].startswith(f"some events have no {column}")
    assert json.dumps(finding).count("ESOPS-D013") == 0
    refused = project.run("rebuild", "carts", "--blue-green")
    assert refused.code == 6
    assert f"have no {column}" in refused.err


def test_an_event_without_a_position_is_found(project, dsn, connection):
    """It comes after none, so no read would ever give it out."""
    castore(connection, PAIRS)
    connection.execute(
        "ALTER TABLE castore DROP CONSTRAINT castore_pkey; ALTER TABLE castore ALTER at DROP NOT "
        "NULL; UPDATE castore SET at = NULL WHERE at = 2"
    )
    configured(project, dsn, CASTORE_TABLE)
    assert found(project)["ESOPS-D081"]["message"].startswith("some events have no at")
    assert project.run("rebuild", "carts", "--blue-green").code == 6


def test_the_remedy_for_a_missing_index_can_be_run_and_cures_it(dsn, connection):
    """As it is printed: outside of a transaction, one statement after the other."""
    castore(connection, [("cart", "1"), ("order", "2")])
    connection.execute(
        f"UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = '{KEY}'::regclass"
    )
    assert concerns(dsn)["not unique"][1] == f'REINDEX INDEX CONCURRENTLY "public"."{KEY}";'
    run_each(connection, concerns(dsn)["not unique"][1])
    assert concerns(dsn) == {}
    connection.execute(NO_KEY)
    run_each(connection, concerns(dsn)["not unique"][1])
    assert concerns(dsn) == {}


def run_each(connection, statements: str) -> None:
    for each in statements.split(";"):
        if each.strip():
            connection.execute(each)


PARTS = (
    "CREATE TABLE castore (at bigserial NOT NULL, aggregate_name text NOT NULL, aggregate_id text "
    "NOT NULL, version int NOT NULL, type text NOT NULL, payload jsonb, meta jsonb, timestamp "
    "timestamptz DEFAULT now()) PARTITION BY {}; "
)


def test_the_remedy_for_a_partitioned_table_can_be_run_and_cures_it(dsn, connection):
    connection.execute(
        PARTS.format("LIST (aggregate_name)")
        + "CREATE TABLE carts PARTITION OF castore FOR VALUES IN ('cart'); "
        "CREATE TABLE rest PARTITION OF castore DEFAULT PARTITION BY HASH (aggregate_id); "
        'CREATE TABLE "Rest 1" PARTITION OF rest FOR VALUES WITH (MODULUS 1, REMAINDER 0)'
    )
    fix = concerns(dsn)["not unique"][1]
    assert fix.count("CONCURRENTLY") == 2
    run_each(connection, fix)
    assert concerns(dsn) == {}
    # The last statement took the indexes that the others had made, and made none of its own.
    found = connection.execute(
        "SELECT count(*) FROM pg_index WHERE indrelid IN ('carts'::regclass, '\"Rest 1\"'::regclass)"
    ).fetchone()
    assert found == (2,)


@pytest.mark.parametrize(
    ("by", "part"),
    [
        ("RANGE (at)", "DEFAULT"),
        pytest.param("RANGE (timestamp)", "DEFAULT", marks=pytest.mark.thorough),
        pytest.param("LIST (lower(aggregate_id))", "DEFAULT", marks=pytest.mark.thorough),
        pytest.param(
            "LIST (aggregate_name)", "DEFAULT PARTITION BY RANGE (at)", marks=pytest.mark.thorough
        ),
    ],
)
def test_partitions_that_forbid_the_index_are_a_note(project, dsn, connection, by, part):
    """No statement cures it, so it is nothing for which doctor could end with 1 for ever."""
    connection.execute(PARTS.format(by) + f"CREATE TABLE events PARTITION OF castore {part}")
    configured(project, dsn, CASTORE_TABLE)
    codes = found(project)
    assert "ESOPS-D080" not in codes
    assert codes["ESOPS-D083"]["severity"] == "note"
    assert "is partitioned by" in codes["ESOPS-D083"]["message"]
    assert "CREATE" not in codes["ESOPS-D083"]["fix"]


def test_tables_that_inherit_are_to_be_moved(dsn, connection):
    castore(connection, PAIRS)
    connection.execute("CREATE TABLE castore_more () INHERITS (castore)")
    fix = concerns(dsn)["not unique"][1]
    assert "CREATE" not in fix
    assert 'move their rows into "public"."castore"' in fix
    connection.execute("DROP TABLE castore_more")
    assert concerns(dsn) == {}


@pytest.mark.parametrize(
    "column",
    thorough_but(["aggregate_name", "aggregate_id", "version", "type"], "version"),
)
def test_no_command_takes_an_event_that_lacks_a_part_for_one(project, dsn, connection, column):
    """It would end as a defect of esops, or be applied as what it is not."""
    castore(connection, PAIRS)
    connection.execute(f"ALTER TABLE castore ALTER {column} DROP NOT NULL")
    configured(project, dsn, CASTORE_TABLE)
    project.ok("rebuild", "carts", "--blue-green")
    connection.execute(
        "INSERT INTO castore (aggregate_name, aggregate_id, version, type, payload) "
        "VALUES ('cart', '9', 1, 'added', '{}')"
    )
    connection.execute(f"UPDATE castore SET {column} = NULL WHERE aggregate_id = '9'")
    commands = [
        ("events",),
        ("audit", "events"),
        ("run", "--until-caught-up"),
        ("archive", "run", "all"),
    ]
    if column.startswith("aggregate"):
        commands += [("audit", "streams"), ("archive", "plan", "all")]
    if column == "version":
        commands += [("audit", "stream", "cart-9"), ("archive", "plan", "all")]
    for command in commands:
        done = project.run(*command)
        part = "stream" if column.startswith("aggregate") else column
        assert (command, done.code) == (command, 6)
        assert f"no {part}" in done.err
        assert "esops doctor" in done.err
    assert connection.execute("SELECT sum(n) FROM carts").fetchone() == (6,)


def test_an_index_on_what_differs_between_events_names_no_stream(dsn, connection):
    castore(connection, PAIRS)
    connection.execute(
        f"{NO_KEY}; ALTER TABLE castore ADD written date NOT NULL DEFAULT 'today'; "
        "CREATE UNIQUE INDEX ON castore (aggregate_id, version, at); "
        "CREATE UNIQUE INDEX ON castore (aggregate_id, version, type, aggregate_name); "
        "CREATE UNIQUE INDEX ON castore (aggregate_id, version, aggregate_name, written)"
    )
    fix = concerns(dsn, stream="aggregate_id")["doubled"][1]
    assert fix.startswith("If several columns name a stream together")


@pytest.mark.parametrize("column", ["version", "at", "type", "payload"])
def test_a_stream_is_not_named_by_what_differs_between_its_events(column):
    with pytest.raises(ValueError, match=f"`stream` names column '{column}'"):
        TableSettings(**{**CASTORE_TABLE, "stream": ["aggregate_name", column]})


def test_a_category_that_begins_with_a_dollar_is_like_any_other(project, dsn, connection):
    """Only EventStoreDB has streams of the server's own."""
    castore(connection, [("$x", "1"), ("cart", "1")])
    configured(project, dsn, CASTORE_TABLE)
    audited = project.ok("audit", "streams", "--output", "json").json
    assert audited["summary"]["streams"] == 2
    assert {each["category"] for each in audited["categories"]} == {"$x", "cart"}
    assert "2 streams" in project.ok("archive", "plan", "all").out
    run(load_config(project.folder / "esops.toml"), "all", RunRequest(removal="keep"))
    project.configure(
        stores={
            "s": {"dsn": dsn, "append": "quick", "table": CASTORE_TABLE},
            "c": {"backend": "archive", "archive": "cold", "of": "s"},
        },
        archives={"cold": {"repository": "cold"}},
    )
    archived = project.ok("audit", "streams", "--store", "c", "--output", "json").json
    assert archived["summary"]["streams"] == 2


def test_a_policy_by_tenant_is_refused_where_there_are_none(project, dsn, connection):
    castore(connection, PAIRS)
    configured(project, dsn, CASTORE_TABLE)
    path = project.folder / "esops.toml"
    path.write_text(path.read_text().replace('stream = "*"', 'stream = "*"\ntenant = "cart"'))
    for command in ("plan", "run"):
        done = project.run("archive", command, "all")
        assert done.code == 2
        assert "does not tell streams apart by tenant" in done.err


@pytest.mark.thorough
def test_a_stream_without_a_category_has_none_in_the_archive(project, dsn, connection):
    """Not a part of its name, which may be its tenant."""
    castore(connection, PAIRS)
    connection.execute(
        "ALTER TABLE castore ADD cat text; UPDATE castore SET cat = 'carts' "
        "WHERE aggregate_name = 'cart'"
    )
    table = {**CASTORE_TABLE, "category": "cat"}
    configured(project, dsn, table)
    run(load_config(project.folder / "esops.toml"), "all", RunRequest(removal="keep"))
    project.configure(
        stores={
            "s": {"dsn": dsn, "append": "quick", "archive": "cold", "table": table},
            "c": {"backend": "archive", "archive": "cold", "of": "s"},
        },
        archives={"cold": {"repository": "cold"}},
    )
    for change in ("SELECT 1", "DELETE FROM castore"):
        connection.execute(change)
        for store in ("s", "c"):
            found = project.ok("audit", "streams", "--store", store, "--output", "json").json
            shown = {each["stream"]: each["category"] for each in found["streams"]}
            assert shown == {"cart-1": "carts", "order-1": None}
            assert {each["category"] for each in found["categories"]} == {"carts", None}
            types = project.ok("audit", "events", "--store", store, "--output", "json").json
            assert {each for one in types["types"] for each in one["categories"]} == {"carts", None}
