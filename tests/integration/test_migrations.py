"""esops' own tables: from any older form to the newest, all or nothing, once."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from esops.errors import Busy, Refused, Unavailable
from esops.postgres.statements import script
from esops.readmodel import migrations
from esops.readmodel.migrations import Migration
from tests.support import shop
from tests.support.cases import thorough_but

LATER_TABLES = {2: "controls", 3: "shards", 4: "marks"}
"""What the steps after the first added, before steps were counted."""

ROWS = """
INSERT INTO esops.projections (projection, active_version) VALUES ('carts', 1);
INSERT INTO esops.versions (projection, version, state, store, position, events, rows, tables)
VALUES ('carts', 1, 'active', 'shop', '1204', 1204, 80, '{"carts": ["public", "carts__v1"]}');
INSERT INTO esops.dead_letters (projection, version, position, event_id, stream, stream_version,
                                type, error)
VALUES ('carts', 1, '17', 'e17', 'cart-3', 2, 'item_added', 'KeyError');
INSERT INTO esops.rebuilds (projection, state, to_version, host, pid)
VALUES ('carts', 'switched', 1, 'host', 4711);
INSERT INTO esops.rebuild_log (rebuild, step, event) VALUES (1, 'planned', 'done');
"""


def make(connection, number: int) -> None:
    """The tables as an esops made them that did not count its steps."""
    connection.execute("CREATE SCHEMA esops")
    for step in range(1, number + 1):
        connection.execute(script("esops.readmodel.migrations", f"{step:03}").encode())


def shape(connection) -> list[tuple]:
    """Every column of esops' tables, and every constraint."""
    return connection.execute(
        "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, "
        "pg_get_expr(d.adbin, d.adrelid) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
        "LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum "
        "WHERE c.relnamespace = 'esops'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 "
        "UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), NULL, NULL "
        "FROM pg_constraint WHERE connamespace = 'esops'::regnamespace ORDER BY 1, 2"
    ).fetchall()


def tables(connection) -> set[str]:
    return {
        row[0]
        for row in connection.execute(
            "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE nspname = 'esops' AND relkind = 'r'"
        )
    }


def one(connection, question: str):
    row = connection.execute(question).fetchone()
    return None if row is None else row[0]


@pytest.fixture
def a_step_more(monkeypatch):
    """As if there were a step after the newest: it adds a column, and fills it."""

    def add(text: str = "ALTER TABLE esops.versions ADD COLUMN owner text DEFAULT 'somebody'"):
        step = Migration(migrations.newest() + 1, text)
        steps = (*migrations.known(), step)
        monkeypatch.setattr(migrations, "known", lambda: steps)
        return step.number

    return add


@pytest.fixture
def role(connection):
    """A role that may use what it is granted, and its name; gone with all its rights afterwards."""
    name = f"guest_{os.getpid()}"
    connection.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    connection.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def test_released_steps_never_change():
    """A database has run them. What comes later is a step of its own."""
    assert {
        each.number: hashlib.sha256(each.sql.encode()).hexdigest()[:16]
        for each in migrations.known()
        if each.number <= 4
    } == {
        1: "a10f6b539cac544c",
        2: "57d6773768745803",
        3: "11a6a39b92622497",
        4: "9f40e8cf7033d2bb",
    }


def test_steps_are_counted_from_one_without_a_gap():
    numbers = [each.number for each in migrations.known()]
    assert numbers == list(range(1, migrations.newest() + 1))


def test_a_database_without_esops_gets_the_newest_form(connection):
    assert migrations.schema_number(connection) == 0
    assert not migrations.installed(connection)
    migrations.install(connection)
    assert migrations.schema_number(connection) == migrations.newest()
    assert migrations.installed(connection)
    assert tables(connection) > {"versions", "marks", "schema_migrations"}
    assert one(connection, "SELECT count(*) FROM esops.schema_migrations") == migrations.newest()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_every_older_form_is_recognised_and_brought_to_the_newest_with_its_rows(
    connection, number, a_step_more
):
    make(connection, number)
    connection.execute(ROWS)
    assert migrations.schema_number(connection) == number
    newest = a_step_more()

    migrations.install(connection)

    assert migrations.schema_number(connection) == newest
    assert one(connection, "SELECT owner FROM esops.versions") == "somebody"
    assert one(connection, "SELECT position FROM esops.versions") == "1204"
    for table in ("projections", "dead_letters", "rebuilds", "rebuild_log"):
        assert one(connection, f"SELECT count(*) FROM esops.{table}") == 1
    upgraded = shape(connection)
    connection.execute("DROP SCHEMA esops CASCADE")
    migrations.install(connection)
    assert upgraded == shape(connection), "an upgrade and a new database are the same"


def test_each_step_runs_once(connection, a_step_more):
    migrations.install(connection)
    a_step_more()
    migrations.install(connection)
    connection.execute("UPDATE esops.versions SET owner = 'me'")
    number = a_step_more("ALTER TABLE esops.versions RENAME COLUMN owner TO team")
    migrations.install(connection)
    migrations.install(connection)
    assert migrations.schema_number(connection) == number


def test_an_upgrade_that_fails_leaves_the_older_form(connection, a_step_more):
    make(connection, 2)
    before = shape(connection)
    a_step_more("CREATE TABLE esops.half_done (); SELECT 1 / 0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrations.install(connection)
    assert shape(connection) == before
    assert migrations.schema_number(connection) == 2


def test_two_at_once_upgrade_once(connection, dsn, a_step_more):
    make(connection, 1)
    newest = a_step_more()
    together = threading.Barrier(4)

    def upgrade(_):
        # Whoever waits for the lock must see what the other one committed, even in a role whose
        # transactions have one snapshot.
        isolation = "-c default_transaction_isolation=serializable"
        with psycopg.connect(dsn, autocommit=True, options=isolation) as own:
            together.wait()
            migrations.install(own)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upgrade, range(4)))
    assert migrations.schema_number(connection) == newest
    assert one(connection, "SELECT count(*) FROM esops.schema_migrations") == newest


def test_a_kill_in_the_middle_leaves_the_older_form_and_the_next_one_finishes(
    connection, dsn, a_step_more
):
    make(connection, 1)
    connection.execute(ROWS)
    process = os.fork()
    if process == 0:
        with psycopg.connect(
            dsn, autocommit=True, options="-c client_connection_check_interval=100ms"
        ) as own:
            a_step_more("CREATE TABLE esops.half_done (); SELECT pg_sleep(60)")
            migrations.install(own)
        os._exit(0)
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()"
    while not one(connection, asleep):
        assert os.waitpid(process, os.WNOHANG) == (0, 0)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)

    assert migrations.schema_number(connection) == 1
    migrations.install(connection)
    assert migrations.schema_number(connection) == migrations.newest()
    assert "half_done" not in tables(connection)
    assert one(connection, "SELECT count(*) FROM esops.versions") == 1


def test_when_all_is_in_place_nothing_is_written_or_locked_and_no_right_is_needed(
    connection, dsn, role
):
    migrations.install(connection)
    connection.execute(
        f"GRANT USAGE ON SCHEMA esops TO {role}; "
        f"GRANT SELECT ON ALL TABLES IN SCHEMA esops TO {role}"
    )
    with psycopg.connect(f"{dsn} user={role}", autocommit=True) as own, own.transaction():
        own.execute("SET TRANSACTION READ ONLY")
        migrations.install(own)
        locks = own.execute(
            "SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND "
            "mode NOT IN ('AccessShareLock', 'ExclusiveLock')"
        ).fetchall()
        assert locks == []
        # ExclusiveLock is the one that each transaction has on its own number.
        advisory = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert one(own, advisory) == 0


def test_a_complete_form_that_was_never_counted_needs_no_right_either(
    connection, dsn, role, monkeypatch
):
    """As it was while the steps were not counted yet: they end with the fourth."""
    uncounted = migrations.known()[:4]
    monkeypatch.setattr(migrations, "known", lambda: uncounted)
    make(connection, 4)
    connection.execute(f"GRANT USAGE ON SCHEMA esops TO {role}")
    with psycopg.connect(f"{dsn} user={role}", autocommit=True) as own:
        migrations.install(own)
    assert "schema_migrations" not in tables(connection)


def test_a_role_without_the_right_is_told_what_to_grant(connection, dsn, role):
    with psycopg.connect(f"{dsn} user={role}", autocommit=True) as own:
        with pytest.raises(Unavailable) as raised:
            migrations.install(own)
        remedy = raised.value.hint.split("; or: ")[0]
        assert remedy == f'GRANT CREATE ON DATABASE "{connection.info.dbname}" TO "{role}"'

        # An administrator can make the schema beforehand; nothing else is needed then.
        connection.execute(f"CREATE SCHEMA esops AUTHORIZATION {role}")
        migrations.install(own)
        assert migrations.installed(own)


def test_a_role_that_may_not_alter_is_told_who_can(connection, dsn, role, a_step_more):
    migrations.install(connection)
    connection.execute(
        f"GRANT USAGE ON SCHEMA esops TO {role}; "
        f"GRANT SELECT ON ALL TABLES IN SCHEMA esops TO {role}"
    )
    number = a_step_more()
    with psycopg.connect(f"{dsn} user={role}", autocommit=True) as own:
        with pytest.raises(Unavailable) as raised:
            migrations.install(own)
    assert f"to {number}" in raised.value.message
    assert str(connection.info.user) in raised.value.hint


def test_who_could_use_the_older_tables_can_use_the_new_ones(connection, dsn, role):
    make(connection, 1)
    connection.execute(
        f"GRANT USAGE ON SCHEMA esops TO {role}; "
        f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA esops TO {role}"
    )
    migrations.install(connection)
    with psycopg.connect(f"{dsn} user={role}", autocommit=True) as own:
        migrations.install(own)
        assert one(own, "SELECT count(*) FROM esops.controls") == 0


def test_a_database_that_takes_no_writes_says_so(connection):
    connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(Unavailable, match="read-only"):
        migrations.install(connection)


def test_an_upgrade_that_somebody_holds_up_gives_way(connection, dsn, a_step_more, monkeypatch):
    migrations.install(connection)
    a_step_more()
    monkeypatch.setattr(migrations, "_LOCK_TIMEOUT", "100ms")
    with psycopg.connect(dsn) as other:
        other.execute("SELECT * FROM esops.versions")
        with pytest.raises(Busy):
            migrations.install(connection)
    migrations.install(connection)


def test_a_newer_form_is_refused(connection):
    migrations.install(connection)
    newer = migrations.newest() + 1
    connection.execute(
        "INSERT INTO esops.schema_migrations (number, esops) VALUES (%s, '9.0')", (newer,)
    )
    for use in (migrations.install, migrations.installed, migrations.plan, migrations.upgrade):
        with pytest.raises(Refused) as raised:
            use(connection)
        assert f"schema {newer}" in raised.value.message


def test_what_a_dry_run_prints_is_what_is_run(connection):
    make(connection, 3)
    statements = migrations.plan(connection)
    for each in statements:
        connection.execute(each.encode())
    assert migrations.schema_number(connection) == migrations.newest()
    assert migrations.plan(connection) == []
    assert "CREATE TABLE IF NOT EXISTS esops.marks (" in "\n".join(
        migrations.plan_lines(statements)
    )
    assert migrations.plan_lines([]) == []


# --- through the command


@pytest.fixture
def old(dsn, connection, project):
    """A read model that esops 0.1 built, with the tables that it had then."""
    shop.make(dsn, 500)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    for table in (*LATER_TABLES.values(), "schema_migrations"):
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("esops", table)))
    return project


def test_commands_that_read_work_on_an_older_form_and_leave_it(old, connection):
    before = shape(connection)
    assert old.ok("projection", "show", "cart_summary", "--output", "json").json["active"] == 1
    old.ok("projection", "list")
    old.ok("projection", "versions", "cart_summary")
    old.ok("projection", "dead-letters", "cart_summary")
    old.ok("status")
    dry = old.ok("rebuild", "--blue-green", "--dry-run", "--verbose").out
    assert "CREATE TABLE IF NOT EXISTS esops.shards (" in dry
    assert shape(connection) == before


@pytest.mark.parametrize(
    "command",
    thorough_but(
        [
            ["rebuild", "--blue-green"],
            ["run", "--until-caught-up"],
            ["projection", "pause", "cart_summary"],
        ],
        ["rebuild", "--blue-green"],
    ),
)
def test_a_command_that_writes_brings_an_older_form_forward(old, connection, command):
    assert old.run(*command).code == (1 if "pause" in command else 0)
    assert migrations.schema_number(connection) == migrations.newest()
    assert old.ok("projection", "show", "cart_summary", "--output", "json").json["active"] >= 1


@pytest.mark.thorough
def test_a_rebuild_of_an_older_esops_can_be_aborted(old, connection):
    old.ok("rebuild", "--blue-green", "--no-switch")
    connection.execute(
        "UPDATE esops.rebuilds SET state = 'paused', resume_state = 'following', finished_at = NULL "
        "WHERE to_version = 2; "
        "UPDATE esops.versions SET state = 'building' WHERE version = 2"
    )
    for table in (*LATER_TABLES.values(), "schema_migrations"):
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("esops", table)))
    assert old.run("rebuild", "--blue-green", "--abort", "--yes").code in {0, 5}
    assert migrations.schema_number(connection) == migrations.newest()


@pytest.mark.parametrize(
    "command",
    thorough_but(
        [
            ["rebuild", "--blue-green"],
            ["run", "--until-caught-up"],
            ["projection", "show", "cart_summary"],
            ["projection", "pause", "cart_summary"],
            ["projection", "retire", "cart_summary", "--yes"],
        ],
        ["rebuild", "--blue-green"],
    ),
)
def test_no_command_works_on_a_newer_form(old, connection, command):
    migrations.install(connection)
    connection.execute("INSERT INTO esops.schema_migrations (number, esops) VALUES (99, '9.0')")
    result = old.run(*command)
    assert result.code == 6, result.err
    assert "schema 99" in result.err


@pytest.mark.thorough
def test_doctor_and_status_tell_of_a_newer_form_and_of_an_older_one(old, connection):
    def codes():
        found = old.run("doctor", "--output", "json").json["findings"]
        return {each["code"] for each in found}

    assert "ESOPS-D036" in codes()
    migrations.install(connection)
    assert codes().isdisjoint({"ESOPS-D035", "ESOPS-D036"})
    connection.execute("INSERT INTO esops.schema_migrations (number, esops) VALUES (99, '9.0')")
    assert "ESOPS-D035" in codes()
    (shown,) = old.run("status", "--output", "json").json["projections"]
    assert "schema 99" in shown["detail"]
