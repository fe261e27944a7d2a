"""`esops uninstall`: nothing of esops is left in the databases, and the application goes on."""

from __future__ import annotations

import os

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.support import shop
from tests.support.cases import thorough_but
from tests.support.catalogue import catalogue, changes
from tests.support.databases import database
from tests.support.waiting import end, heard

OURS = r"""
    SELECT 'relation ' || n.nspname || '.' || c.relname FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname !~ '^pg_' AND (n.nspname || '.' || c.relname) ~ '(esops|__(v\d|replaced|aside))'
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ 'esops'
    UNION ALL SELECT 'constraint ' || conname FROM pg_constraint WHERE conname ~ '(esops|__v\d)'
    UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE proname ~ '(esops|__replaced)'
    UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgname ~ 'esops'
    UNION ALL SELECT 'comment ' || description FROM pg_description WHERE description ~ 'esops'
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE pubname ~ 'esops'
"""
OLD_TABLE = (
    shop.DDL.replace("{table}", "cart_summary")
    + """
ALTER TABLE cart_summary ADD COLUMN number bigserial;
COMMENT ON COLUMN cart_summary.total IS 'in euros';
GRANT SELECT ON cart_summary TO PUBLIC;
CREATE VIEW ended_carts AS SELECT cart_id, total FROM cart_summary WHERE status <> 'open';
"""
)


def left(connection) -> list[str]:
    return [row[0] for row in connection.execute(OURS)]


def adopted(connection, dsn, project, mode: str, events: int = 300) -> dict:
    """A table of the application's that was rebuilt twice; what the catalogue said of it before."""
    shop.make(dsn, events)
    connection.execute(OLD_TABLE)
    before = catalogue(connection, "cart_summary")
    configured(project, dsn, mode)
    project.ok("rebuild", "--blue-green", "--max-diff", "100%")
    project.ok("rebuild", "--blue-green")
    return before


def configured(project, dsn, mode: str) -> None:
    options = f'switch = "{mode}"\nverify.ignore = ["number"]'
    shop.configure(project, dsn, projection_options=options)
    path = project.folder / "esops.toml"  # green is made like the table that is there
    path.write_text(path.read_text().replace('ddl = "cart_summary.sql"\n', ""))


@pytest.mark.parametrize("mode", thorough_but(["view", "rename"], "view"))
def test_readers_read_on_and_the_table_is_what_it_was_before_esops(mode, dsn, connection, project):
    before = adopted(connection, dsn, project, mode)
    plan = project.ok("uninstall", "--dry-run", "--output", "json").json
    (there,) = plan["databases"]
    assert there["schema"]
    assert [each["version"] for each in there["dropped"]] == [1, 2]
    key = "becomes_table" if mode == "view" else "is_table"
    assert there["serving"][0][key] == ["public.cart_summary"]
    assert not plan["removed"]
    unsure = project.run("uninstall")
    assert (unsure.code, "--yes" in unsure.err) == (2, True)
    indexed = [each for each in there["statements"] if each.startswith("ALTER INDEX")]
    assert bool(indexed) == (mode == "view")
    with shop.Workload() as workload:
        for query in ("SELECT max(position) FROM cart_summary", "SELECT count(*) FROM ended_carts"):
            for prepared in (False, True):
                workload.add("reader", dsn, query=query, prepared=prepared, pause=0.002)
        done = project.ok("uninstall", "--yes")
        reports = workload.stop()
    assert [(each["failures"], each["first_failures"]) for each in reports] == [(0, [])] * 4
    assert "esops is gone from the databases above" in done.out
    assert left(connection) == []
    assert changes(connection, "cart_summary", before) == []
    assert shop.table(connection, "cart_summary") == shop.truth(connection, 300)
    assert connection.execute("SELECT count(*) FROM ended_carts").fetchone()[0] > 0
    assert "nothing of esops is in it" in project.ok("uninstall").out

    project.ok("rebuild", "--blue-green")  # the same esops.toml begins again
    assert shop.table(connection, "cart_summary") == shop.truth(connection, 300)


@pytest.mark.thorough
def test_a_first_build_in_several_schemas_and_databases_with_what_was_said_of_the_view(
    dsn, connection, server, project
):
    shop.make(dsn, 200)
    with database(server) as other, psycopg.connect(other, autocommit=True) as read:
        read.execute('CREATE SCHEMA "Read models"')
        read.execute("CREATE SCHEMA second")
        shop.configure(project, dsn)
        common = {
            "store": "shop",
            "python": "shop_projections:cart_summary",
            "ddl": "cart_summary.sql",
        }
        project.configure(
            stores={"shop": {"dsn": dsn, "schema": "shop", "append": "quick"}},
            readmodels={"here": {"dsn": dsn}, "there": {"dsn": other}},
            projections={
                "first": {**common, "readmodel": "here", "tables": ["carts"]},
                "second": {**common, "readmodel": "there", "tables": ['"Read models".carts']},
                "third": {**common, "readmodel": "there", "tables": ["second.cart_sums"]},
            },
        )
        project.ok("rebuild", "first", "second", "third", "--blue-green")
        project.ok("rebuild", "second", "--blue-green")
        read.execute("""COMMENT ON VIEW "Read models".carts IS 'for the shop window'""")
        read.execute('GRANT SELECT ON "Read models".carts TO PUBLIC')
        kept = project.ok("uninstall", "--yes", "--keep-older", "--output", "json").json
        assert len(kept["databases"]) == 2
        assert any("v1, kept as asked" in each for each in kept["databases"][1]["kept"])
        assert left(connection) == []
        assert left(read) == [
            each for each in left(read) if "__v1" in each
        ]  # what was to be kept, and its indexes
        for on, name in ((connection, "carts"), (read, '"Read models".carts')):
            assert shop.table(on, name) == shop.truth(connection, 200)
            kind = "SELECT relkind FROM pg_class WHERE oid = %s::regclass"
            assert on.execute(kind, (name,)).fetchone() == ("r",)
        (comment,) = read.execute(
            """SELECT obj_description('"Read models".carts'::regclass)"""
        ).fetchone()
        assert comment == "for the shop window"
        (rights,) = read.execute(
            """SELECT has_table_privilege('pg_monitor', '"Read models".carts', 'SELECT')"""
        ).fetchone()
        assert rights


def test_what_stands_against_it_is_said_and_nothing_is_changed(dsn, connection, project):
    adopted(connection, dsn, project, "view")
    process = project.start("run")
    heard(process, "following")
    busy = project.run("uninstall", "--yes")
    end(process)
    assert (busy.code, "Stop `esops run`" in busy.err) == (4, True)

    connection.execute("CREATE TABLE esops.notes (text text)")
    refused = project.run("uninstall", "--yes")
    assert (refused.code, "table esops.notes" in refused.err) == (6, True)
    connection.execute("DROP TABLE esops.notes")

    connection.execute("CREATE VIEW old AS SELECT * FROM cart_summary__v1")
    refused = project.run("uninstall", "--yes")
    assert (refused.code, "view old depends on" in refused.err) == (6, True)
    connection.execute("DROP VIEW old")

    connection.execute("CREATE VIEW watched AS SELECT * FROM esops.versions")
    refused = project.run("uninstall", "--yes")
    assert refused.code == 6
    assert "view watched depends on" in refused.err
    connection.execute("DROP VIEW watched")


@pytest.mark.thorough
def test_rebuilds_other_projects_erasures_and_other_objects_are_refused(dsn, connection, project):
    adopted(connection, dsn, project, "view")
    connection.execute("UPDATE esops.rebuilds SET finished_at = NULL WHERE rebuild = 2")
    refused = project.run("uninstall", "--yes")
    assert (refused.code, "rebuild 2 of cart_summary is not finished" in refused.err) == (6, True)
    connection.execute("UPDATE esops.rebuilds SET finished_at = now()")

    connection.execute(
        "INSERT INTO esops.erasures (store, reason, salt, asked, places_left, places, ended) "
        "VALUES ('shop', '', '', '{}', 3, '[]', true)"
    )
    refused = project.run("uninstall", "--yes")
    assert (refused.code, "erasures of personal data are not cleared: 1" in refused.err) == (
        6,
        True,
    )
    connection.execute("DELETE FROM esops.erasures")

    connection.execute(
        "CREATE OR REPLACE VIEW cart_summary AS SELECT cart_id, client, items, total,"
        " status, position, number FROM cart_summary__v3 WHERE items > 0"
    )
    refused = project.run("uninstall", "--yes")
    assert (refused.code, "somebody changed the view" in refused.err) == (6, True)
    connection.execute(
        "CREATE OR REPLACE VIEW cart_summary AS SELECT cart_id, client, items, total,"
        " status, position, number FROM cart_summary__v3"
    )

    path = project.folder / "esops.toml"
    path.write_text(path.read_text().replace("projections.cart_summary", "projections.others"))
    refused = project.run("uninstall", "--yes")
    assert (refused.code, "somebody else may use them" in refused.err) == (6, True)
    project.ok("uninstall", "--yes", "--unnamed")
    assert left(connection) == []


def test_a_role_that_owns_nothing_of_it_is_refused(dsn, connection, project):
    adopted(connection, dsn, project, "view", events=60)
    role = f"guest_{os.getpid()}"
    connection.execute(f"CREATE ROLE {role} LOGIN")
    try:
        shop.configure(project, make_conninfo(dsn, user=role))
        refused = project.run("uninstall", "--yes")
    finally:
        connection.execute(f"DROP ROLE {role}")
    assert refused.code == 6
    assert f"role {role} may not remove table esops." in refused.err
    assert "Run it as" in refused.err


KILL = """
import os
from psycopg import Connection
execute, left = Connection.execute, [{number}]
def dies(self, query, *args, **more):
    text = query if isinstance(query, str) else query.decode() if isinstance(query, bytes) else ""
    if text.startswith(("DROP ", "ALTER ", "UPDATE esops", "COMMIT")):
        left[0] -= 1
        if left[0] < 0:
            os._exit(137)
    return execute(self, query, *args, **more)
Connection.execute = dies
"""


def test_killed_before_any_of_its_statements_it_continues(dsn, connection, project):
    adopted(connection, dsn, project, "view")
    number = 0
    while True:
        project.patch(KILL.format(number=number))
        result = project.run("uninstall", "--yes")
        assert shop.table(connection, "cart_summary") == shop.truth(connection, 300)
        if result.code == 0:
            break
        number += 1
    assert number > 5
    assert left(connection) == []


def test_what_runs_inside_a_store_is_named_and_the_memory_of_settled_reads_goes(
    dsn, connection, project
):
    shop.make(dsn, 20)
    project.write("sums.js", "fromAll()")
    project.begin_archive("cold")
    project.configure(
        stores={
            "billing": {"backend": "eventstoredb", "uri": "esdb://127.0.0.1:1?tls=false"},
            "shop": {"dsn": dsn, "schema": "shop"},
        },
        projections={"sums": {"store": "billing", "kind": "server", "javascript": "sums.js"}},
        archives={"cold": {"repository": "cold"}},
    )
    connection.execute(
        "CREATE SCHEMA esops; CREATE TABLE esops.sightings (log text); "
        "CREATE TABLE esops.passed AS SELECT 'x' AS log"
    )
    refused = project.run("uninstall", "--yes")
    assert (refused.code, "--unnamed" in refused.err) == (6, True)
    found = project.ok("uninstall", "--yes", "--unnamed", "--output", "json").json
    assert found["databases"][0]["tables"] == ["passed", "sightings"]
    kept = [each["what"] for each in found["stays"]]
    assert len(kept) == 2
    assert kept[0].startswith("archive cold: ")
    assert kept[1].startswith("store billing: the projections of sums")
    assert left(connection) == []


ROLE = f"window_{os.getpid()}"
NOT_THE_SAME = (
    (
        "ALTER TABLE cart_summary__v1 ENABLE ROW LEVEL SECURITY",
        "has row security, which applies to the owner of the view",
        "ALTER TABLE cart_summary__v1 DISABLE ROW LEVEL SECURITY",
    ),
    (
        "ALTER VIEW cart_summary SET (security_invoker = on)",
        "readable with the rights on the view alone",
        "ALTER VIEW cart_summary RESET (security_invoker)",
    ),
    (
        f"GRANT SELECT ON cart_summary__v1 TO {ROLE}; ALTER VIEW cart_summary OWNER TO {ROLE}",
        f"{ROLE} would lose its rights",
        "ALTER VIEW cart_summary OWNER TO CURRENT_USER",
    ),
)


def test_a_table_that_readers_would_see_or_use_otherwise_than_its_view_is_refused(
    dsn, connection, project
):
    shop.make(dsn, 60)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    connection.execute("CREATE MATERIALIZED VIEW sums AS SELECT sum(total) FROM cart_summary")
    connection.execute(f"CREATE ROLE {ROLE}")
    try:
        for change, sentence, back in NOT_THE_SAME:
            connection.execute(change)
            refused = project.run("uninstall", "--dry-run")
            assert (refused.code, sentence in refused.err) == (6, True), refused.err
            connection.execute(back)
    finally:
        connection.execute(f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}")
    plan = project.ok("uninstall", "--dry-run").out
    assert "populated again" in plan


def test_a_first_build_that_begins_meanwhile_is_refused(dsn, connection, project):
    shop.make(dsn, 60)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    path = project.folder / "esops.toml"
    second = path.read_text().replace("cart_summary]", "second]")
    second = second[second.index("[projections.") :].replace('["cart_summary"]', '["second"]')
    path.write_text(path.read_text() + "\n" + second)
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM cart_summary")
        process = project.start("uninstall", "--yes")
        heard(process, "wait")
        begun = project.run("rebuild", "second", "--blue-green")
    out, err = process.communicate()
    assert (begun.code, "esops is being uninstalled" in begun.err) == (4, True), begun.err
    assert process.returncode == 0, out + err
    assert left(connection) == []


def test_tables_that_a_program_told_readers_of_keep_their_names_whoever_asks(
    dsn, connection, project
):
    shop.make(dsn, 60)
    shop.configure(project, dsn, projection_options='switch = "hook"\nhooks.switch = ["true"]')
    project.ok("rebuild", "--blue-green")
    path = project.folder / "esops.toml"
    named = path.read_text()
    path.write_text(named.replace("projections.cart_summary", "projections.others"))
    plan = project.ok("uninstall", "--dry-run", "--unnamed").out
    assert "nothing stands under the name public.cart_summary" in plan
    path.write_text(named)
    done = project.ok("uninstall", "--yes").out
    assert "cart_summary__v1: readers are moved by a program" in done
    assert shop.table(connection, "cart_summary__v1") == shop.truth(connection, 60)
