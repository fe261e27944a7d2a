"""What a rebuild carries over, refuses, adopts and leaves behind."""

from __future__ import annotations

import json
import subprocess

import psycopg
import pytest

from tests.support import marten, shop
from tests.support.kills import state
from tests.support.waiting import DEADLINE, finish, until


@pytest.fixture
def built(dsn, connection, project):
    shop.make(dsn, 400)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    return project


def test_the_first_build_makes_version_1_behind_a_view(built, connection):
    shop.check_version(connection, 1)
    assert connection.execute(
        "SELECT relkind::text FROM pg_class WHERE relname = 'cart_summary'"
    ).fetchone() == ("v",)
    shown = built.ok("projection", "show", "cart_summary", "--output", "json").json
    assert (shown["projection"], shown["store"], shown["kind"], shown["active"]) == (
        "cart_summary",
        "shop",
        "fold",
        1,
    )
    version = shown["versions"][0]
    assert version["state"] == "active"
    assert version["position"] == "400"
    assert version["lag_events"] == 0
    assert version["tables"] == {"cart_summary": "cart_summary__v1"}
    assert version["rows"] == 40
    assert version["updated_at"].endswith("Z")


@pytest.mark.thorough
def test_green_gets_what_blue_has(built, connection):
    connection.execute("""
        CREATE ROLE app_reader; CREATE ROLE app_admin;
        GRANT SELECT ON cart_summary__v1 TO app_reader;
        GRANT SELECT, UPDATE ON cart_summary TO app_admin WITH GRANT OPTION;
        GRANT SELECT (cart_id, total), UPDATE (status) ON cart_summary__v1 TO app_admin;
        COMMENT ON COLUMN cart_summary__v1.total IS 'in euro';
        ALTER TABLE cart_summary__v1 ADD CONSTRAINT sane CHECK (items > -1000);
        ALTER TABLE cart_summary__v1 SET (fillfactor = 80);
        CREATE UNIQUE INDEX odd_index ON cart_summary__v1 (lower(cart_id)) WHERE items >= 0;
        COMMENT ON INDEX odd_index IS 'why it is there';
        CREATE INDEX "In De X" ON cart_summary__v1 USING hash (client);
        CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER watch BEFORE INSERT ON cart_summary__v1 FOR EACH ROW EXECUTE FUNCTION
        nothing();
    """)
    config = (built.folder / "esops.toml").read_text().replace('ddl = "cart_summary.sql"\n', "")
    (built.folder / "esops.toml").write_text(config)
    try:
        plan = built.ok("rebuild", "--blue-green", "--dry-run").out
        assert "not carried over from blue: trigger watch" in plan
        assert connection.execute("SELECT to_regclass('cart_summary__v2')").fetchone() == (None,)
        built.ok("rebuild", "--blue-green")
        shop.check_version(connection, 2)
        for version in (1, 2):
            name = f"cart_summary__v{version}"
            described = connection.execute(
                """
                SELECT (SELECT array_agg(regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ',
                '') || indisunique ORDER BY regexp_replace(pg_get_indexdef(indexrelid),
                '^.* USING ', ''))
                          FROM pg_index WHERE indrelid = %(t)s::regclass),
                       (SELECT array_agg(conname || pg_get_constraintdef(oid) ORDER BY conname) FROM
                       pg_constraint WHERE conrelid = %(t)s::regclass AND contype = 'c'),
                       (SELECT array_agg(description ORDER BY description) FROM pg_description WHERE
                       objoid = %(t)s::regclass),
                       (SELECT array_agg(description ORDER BY description) FROM pg_description d
                       JOIN pg_index i ON i.indexrelid = d.objoid WHERE i.indrelid =
                       %(t)s::regclass),
                       (SELECT reloptions FROM pg_class WHERE oid = %(t)s::regclass),
                       (SELECT array_agg(a.privilege_type || pg_get_userbyid(a.grantee) ||
                       a.is_grantable ORDER BY a.privilege_type, a.grantee)
                          FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = %(t)s::regclass AND
                          a.grantee <> c.relowner),
                       (SELECT array_agg(attname || attacl::text ORDER BY attname) FROM pg_attribute
                       WHERE attrelid = %(t)s::regclass AND attacl IS NOT NULL),
                       (SELECT array_agg(attname || format_type(atttypid, atttypmod) || attnotnull
                       ORDER BY attnum) FROM pg_attribute
                         WHERE attrelid = %(t)s::regclass AND attnum > 0)
                """,
                {"t": name},
            ).fetchone()
            if version == 1:
                blue = described
        assert described == blue
        assert len(blue[0]) == 4
        view = connection.execute(
            "SELECT array_agg(privilege_type || is_grantable ORDER BY privilege_type) FROM "
            "pg_class c, aclexplode(relacl) a "
            "WHERE relname = 'cart_summary' AND pg_get_userbyid(a.grantee) = 'app_admin'"
        ).fetchone()
        assert view == (["SELECTtrue", "UPDATEtrue"],)
    finally:
        connection.execute(
            "DROP OWNED BY app_reader; DROP OWNED BY app_admin; DROP ROLE app_reader; DROP ROLE "
            "app_admin"
        )


@pytest.mark.thorough
def test_an_existing_table_is_adopted_at_the_switch_and_not_before(dsn, connection, project):
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    connection.execute(shop.DDL.replace("{table}", "cart_summary").encode())
    connection.execute("INSERT INTO cart_summary VALUES ('made by hand', 'x', 1, 2, 'open', 0)")
    connection.execute("CREATE ROLE shop_app; GRANT SELECT, INSERT ON cart_summary TO shop_app")
    try:
        differs = project.run("rebuild", "--blue-green", "--output", "json")
        assert differs.code == 1
        found = differs.json["verification"]
        assert (found["rows_blue"], found["rows_green"], found["differing"]) == (1, 100, 101)
        assert found["samples"]
        assert differs.json["state"] == "paused"
        assert connection.execute(
            "SELECT relkind::text FROM pg_class WHERE relname = 'cart_summary'"
        ).fetchone() == ("r",)
        assert connection.execute("SELECT count(*) FROM cart_summary").fetchone() == (1,)
        project.ok("rebuild", "--blue-green", "--resume", "--max-diff", "101")
        assert connection.execute("SELECT count(*) FROM cart_summary").fetchone() == (100,)
        assert connection.execute("SELECT cart_id FROM cart_summary__v1").fetchall() == [
            ("made by hand",)
        ]
        may = connection.execute(
            "SELECT has_table_privilege('shop_app', 'cart_summary', 'INSERT')"
        ).fetchone()
        assert may == (True,)
        refused = project.run("projection", "rollback", "cart_summary")
        assert refused.code == 6
        assert "no checkpoint" in refused.err
        project.ok("projection", "rollback", "cart_summary", "--allow-stale")
        assert connection.execute("SELECT cart_id FROM cart_summary").fetchall() == [
            ("made by hand",)
        ]
    finally:
        connection.execute("DROP OWNED BY shop_app; DROP ROLE shop_app")


@pytest.mark.thorough
def test_aborting_before_the_switch_leaves_an_existing_table_as_it_was(dsn, connection, project):
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    connection.execute(shop.DDL.replace("{table}", "cart_summary").encode())
    before = connection.execute(
        "SELECT oid, relacl, relkind::text FROM pg_class WHERE relname = 'cart_summary'"
    ).fetchone()
    assert project.run("rebuild", "--blue-green").code == 1
    assert project.run("rebuild", "--blue-green").code == 6
    assert (
        project.ok("rebuild", "--blue-green", "--abort", "--yes", "--output", "json").json["state"]
        == "aborted"
    )
    after = connection.execute(
        "SELECT oid, relacl, relkind::text FROM pg_class WHERE relname = 'cart_summary'"
    ).fetchone()
    assert after == before
    assert connection.execute(
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'cart_summary\\_\\_v%'"
    ).fetchone() == (0,)
    assert project.run("rebuild", "--blue-green", "--abort").code == 2


def test_a_table_with_row_security_is_refused(dsn, connection, project):
    shop.make(dsn, 500)
    shop.configure(project, dsn)
    connection.execute(shop.DDL.replace("{table}", "cart_summary").encode())
    connection.execute("ALTER TABLE cart_summary ENABLE ROW LEVEL SECURITY")
    refused = project.run("rebuild", "--blue-green")
    assert refused.code == 6
    assert "row security" in refused.err


def test_a_view_of_somebody_elses_is_not_taken_over(dsn, connection, project):
    shop.make(dsn, 500)
    shop.configure(project, dsn)
    connection.execute("CREATE VIEW cart_summary AS SELECT 1 AS cart_id")
    refused = project.run("rebuild", "--blue-green")
    assert (refused.code, "esops did not create" in refused.err) == (6, True)


def test_no_switch_then_switch_then_retire(built, connection):
    done = built.ok("rebuild", "--blue-green", "--no-switch", "--output", "json").json
    assert done["state"] == "verified"
    assert connection.execute("SELECT active_version FROM esops.projections").fetchone() == (1,)
    assert built.run("projection", "retire", "cart_summary", "1", "--yes").code == 6
    printed = built.ok("projection", "switch", "cart_summary", "--dry-run").out
    assert printed.startswith("CREATE OR REPLACE VIEW")
    assert connection.execute("SELECT active_version FROM esops.projections").fetchone() == (1,)
    built.ok("projection", "switch", "cart_summary", "--to", "2")
    assert built.run("projection", "switch", "cart_summary", "--to", "2").code == 2
    assert built.run("projection", "switch", "cart_summary", "--to", "9").code == 2
    built.ok("projection", "retire", "cart_summary", "1", "--yes")
    assert connection.execute("SELECT to_regclass('cart_summary__v1')").fetchone() == (None,)
    states = {
        v["version"]: v["state"]
        for v in built.ok("projection", "show", "cart_summary", "--output", "json").json["versions"]
    }
    assert states == {1: "retired", 2: "active"}
    assert built.run("projection", "rollback", "cart_summary").code == 2
    built.ok("rebuild", "--blue-green")
    shop.check_version(connection, 3)


def test_a_finished_rebuild_resumed_is_told_and_done_no_more(built, connection):
    again = built.ok("rebuild", "--blue-green", "--resume", "--output", "json").json
    assert (again["state"], again["to_version"]) == ("switched", 1)
    assert connection.execute("SELECT count(*) FROM esops.versions").fetchone() == (1,)


def test_code_that_changes_in_the_middle_is_refused(dsn, connection, project):
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    connection.execute(shop.DDL.replace("{table}", "cart_summary").encode())
    assert project.run("rebuild", "--blue-green").code == 1
    shop.configure(project, dsn, code=shop.PROJECTION.replace('"open"', '"OPEN"'))
    refused = project.run("rebuild", "--blue-green", "--resume", "--max-diff", "100%")
    assert refused.code == 6
    assert "has changed since" in refused.err
    shop.configure(project, dsn, code="# a comment changes nothing\n" + shop.PROJECTION)
    project.ok("rebuild", "--blue-green", "--resume", "--compare", "none")


def test_assertions_hold_the_switch(built, connection):
    config = (built.folder / "esops.toml").read_text()
    wrong = (
        'verify.assertions = ["SELECT count(*) > 0 FROM {table}", "SELECT count(*) = 0 FROM '
        '{table} WHERE total < 1e9"]\n'
    )
    (built.folder / "esops.toml").write_text(config + wrong)
    held = built.run("rebuild", "--blue-green", "--max-diff", "100%", "--output", "json")
    assert held.code == 1
    assert held.json["verification"]["failed_assertions"] == [
        "SELECT count(*) = 0 FROM {table} WHERE total < 1e9"
    ]
    assert connection.execute("SELECT active_version FROM esops.projections").fetchone() == (1,)
    (built.folder / "esops.toml").write_text(
        config + 'verify.assertions = ["SELECT count(*) > 0 FROM {table}"]\n'
    )
    built.ok("rebuild", "--blue-green", "--resume")


@pytest.mark.thorough
def test_differences_are_shown_by_column_and_ignored_columns_are_not(built, connection):
    connection.execute(
        "UPDATE cart_summary__v1 SET total = total + 1, status = 'odd' WHERE cart_id IN "
        "('cart-00000003', 'cart-00000007')"
    )
    connection.execute(
        "UPDATE cart_summary__v1 SET total = total + 1 WHERE cart_id = 'cart-00000009'"
    )
    connection.execute("DELETE FROM cart_summary__v1 WHERE cart_id = 'cart-00000011'")
    held = built.run("rebuild", "--blue-green", "--output", "json")
    found = held.json["verification"]
    assert held.code == 1
    assert (found["differing"], found["only_green"], found["only_blue"]) == (4, 1, 0)
    assert found["columns"] == {"total": 3, "status": 2}
    assert {sample["key"]["cart_id"] for sample in found["samples"]} == {
        f"cart-{n:08}" for n in (3, 7, 9, 11)
    }
    printed = built.run("rebuild", "--blue-green", "--resume").out
    assert "column total: differs in 3 rows" in printed
    assert built.run("rebuild", "--blue-green", "--resume", "--max-diff", "3").code == 1
    assert built.run("rebuild", "--blue-green", "--resume", "--max-diff", "1%").code == 1
    built.ok("rebuild", "--blue-green", "--resume", "--max-diff", "15%")


@pytest.mark.thorough
def test_every_name_may_be_odd(dsn, connection, project):
    odd = 'Sel"ect. "table" ' + "ü" * 20
    schema = 'My "Schema"; drop'
    marten.create(connection, marten.Variant(schema='Store"s order', text_ids=True))
    connection.execute(f"CREATE SCHEMA {psycopg.sql.Identifier(schema).as_string(None)}")
    quoted = [part.replace('"', '""') for part in (schema, odd)]
    project.write(
        "odd.py",
        """
from esops import fold

@fold(key=lambda event: (event.stream, event.version % 2))
def odd(row, event):
    return {**(row or {"select": 0, 'a "b"': []}), "select": (row or {"select": 0})["select"] + 1, 'a "b"': [event.type, {"x": 1}]}
""",
    )
    project.write(
        "odd.sql",
        'CREATE TABLE {table} ("Order %s" text, "group" int, "select" int, "a ""b""" jsonb, PRIMARY KEY ("Order %s", "group")); CREATE INDEX ON {table} ("select");',
    )
    name = json.dumps(f'"{quoted[0]}"."{quoted[1]}"')
    project.write(
        "esops.toml",
        f"""
[stores.shop]
dsn = {json.dumps(dsn)}
schema = {json.dumps('Store"s order')}
append = "quick"
[projections."The 'Odd' one"]
python = "odd:odd"
tables = [{name}]
ddl = "odd.sql"
""",
    )
    from esops.events import NewEvent
    from esops.settings import PostgresSettings
    from esops.stores import open_store

    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for n in range(30):
            store.append(
                f"it's {n % 5} \\ \t\n",
                [NewEvent(f"00000000-0000-0000-0000-{n:012}", "a'b", b"{}")],
            )
    project.ok("rebuild", "The 'Odd' one", "--blue-green")
    project.ok("rebuild", "The 'Odd' one", "--blue-green")
    view = psycopg.sql.Identifier(schema, odd).as_string(None)
    rows = connection.execute(
        f'SELECT "Order %s", "group", "select", "a ""b""" FROM {view} ORDER BY 1, 2'.encode()
    ).fetchall()
    assert len(rows) == 10
    assert sum(row[2] for row in rows) == 30
    assert rows[0][0] == "it's 0 \\ \t\n"
    assert rows[0][3] == ["a'b", {"x": 1}]
    project.ok("projection", "rollback", "The 'Odd' one")
    project.ok("projection", "retire", "The 'Odd' one", "--yes")
    project.write(
        "esops.toml",
        (project.folder / "esops.toml")
        .read_text()
        .replace("[projections.", "[projections.")
        .replace('ddl = "odd.sql"', 'ddl = "odd.sql"\nswitch = "rename"'),
    )
    project.ok("rebuild", "The 'Odd' one", "--blue-green")
    assert len(connection.execute(f"SELECT * FROM {view}".encode()).fetchall()) == 10


def test_old_holes_in_the_numbers_do_not_cut_the_load_short(dsn, connection, project):
    shop.make(dsn, 6_000)
    connection.execute("DELETE FROM shop.mt_events WHERE seq_id IN (17, 18, 4000)")
    connection.execute(
        "DELETE FROM shop.mt_events WHERE stream_id IN (SELECT stream_id FROM shop.mt_events GROUP "
        "BY 1 HAVING min(version) > 1)"
    )
    shop.configure(project, dsn, store_options="")
    left = connection.execute("SELECT count(*) FROM shop.mt_events").fetchone()[0]
    plan = project.ok("rebuild", "--blue-green", "--dry-run", "--output", "json").json
    assert (plan["events"], plan["position"]) == (left, "6000")
    err = project.ok("rebuild", "--blue-green").err
    assert err.count("catching up to position") == 1
    assert err.index("catching up to position 6000") < err.index("built ")
    shop.check_version(connection, 1)


def test_a_second_rebuild_at_the_same_time_is_told_who_is_at_it(dsn, connection, project):
    shop.make(dsn, 2_000)
    shop.configure(project, dsn)
    process = None
    with psycopg.connect(dsn) as holder:
        project.ok("rebuild", "--blue-green")
        holder.execute("SELECT count(*) FROM cart_summary")
        process = project.start("rebuild", "--blue-green")
        until(lambda: state(connection) == "verified")
        second = project.run("rebuild", "--blue-green")
        assert second.code == 4
        assert "another rebuild of cart_summary is running" in second.err
        assert f":{process.pid} rebuild cart_summary" in second.err
        assert project.run("projection", "rollback", "cart_summary").code in {2, 4}
        holder.rollback()
    out, err = finish(process)
    assert process.returncode == 0, err


@pytest.mark.thorough
def test_interrupted_it_pauses_and_goes_on(dsn, connection, project):
    import signal

    shop.make(dsn, 3_000)
    shop.configure(project, dsn)
    process = project.start("rebuild", "--blue-green", "--batch-size", "100", "--max-rate", "1000")
    until(lambda: state(connection) == "catching-up")
    until(lambda: connection.execute("SELECT max(events) FROM esops.versions").fetchone()[0])
    process.send_signal(signal.SIGINT)
    out, err = finish(process)
    assert process.returncode == 5, err
    assert "is paused" in err
    assert "--resume" in err
    row = connection.execute("SELECT state, resume_state, reason FROM esops.rebuilds").fetchone()
    assert row == ("paused", "catching-up", "asked to stop")
    project.ok("rebuild", "--blue-green", "--resume", "--max-rate", "1000000")
    assert shop.check_version(connection, 1) == 300


ANALYSED = "SELECT analyze_count FROM pg_stat_user_tables WHERE relname = 'cart_summary__v1'"


def test_statistics_are_gathered_once_where_nothing_comes_after_them(built, connection):
    assert connection.execute(ANALYSED).fetchone() == (1,)


def test_what_comes_after_the_statistics_is_in_new_ones(dsn, connection, project):
    shop.make(dsn, 500)
    shop.configure(project, dsn)
    project.patch(f"""
from esops.rebuild.phases import loading
from tests.support import shop

def build(*given, **more):
    built = first(*given, **more)
    if built:
        shop.more({dsn!r}, 50)
    return built

first, loading.build_after_load = loading.build_after_load, build
""")
    told = project.ok("rebuild", "--blue-green", "--output", "json").json
    assert told["position"] == "550"
    assert connection.execute(ANALYSED).fetchone() == (2,)


def test_what_reads_no_events_loads_no_arrow(dsn, project):
    shop.make(dsn, 50)
    shop.configure(project, dsn)
    project.patch("""
import atexit, sys
atexit.register(lambda: print("arrow:", "pyarrow" in sys.modules, file=sys.stderr))
""")
    done = subprocess.run(
        project.command("status"),
        cwd=project.folder,
        env=project.environ(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert "arrow: False" in done.stderr
