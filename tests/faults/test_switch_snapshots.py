"""A reader with one snapshot for its whole transaction never sees an older read model, whatever is
switched meanwhile.
"""

from __future__ import annotations

import psycopg
import pytest

from tests.support import shop
from tests.support.cases import thorough_but
from tests.support.waiting import finish, heard


@pytest.fixture
def carts(dsn, project):
    shop.make(dsn, 300)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    return project


def reader(dsn) -> psycopg.Connection:
    """A transaction whose snapshot is of now. Its name does not make it one of esops' own."""
    session = psycopg.connect(dsn, application_name="esops report")
    session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    session.execute("SELECT 1")
    return session


def rows(session) -> int:
    return session.execute("SELECT count(*) FROM cart_summary").fetchone()[0]


def serves(connection) -> int:
    return connection.execute("SELECT active_version FROM esops.projections").fetchone()[0]


@pytest.mark.parametrize("mode", thorough_but(["view", "rename"], "view"))
def test_a_switch_waits_for_snapshots_that_are_older_than_green(dsn, connection, carts, mode):
    shop.configure(carts, dsn, projection_options=f'switch = "{mode}"')
    before = rows(connection)
    with reader(dsn) as old:
        process = carts.start("rebuild", "--blue-green")
        seen = heard(process, "waiting for 1 reader")
        assert f"session {old.info.backend_pid} (postgres, esops report" in seen
        assert serves(connection) == 1
        assert rows(old) == before, "it had no lock, only a snapshot"
    _, err = finish(process)
    assert process.returncode == 0, err
    assert serves(connection) == 2


def test_after_the_limit_the_switch_is_refused_and_can_be_taken_up_or_gone_on_with(
    dsn, connection, carts
):
    with reader(dsn) as old:
        refused = carts.run("rebuild", "--blue-green", "--snapshot-wait", "1s")
        assert refused.code == 6, refused.err
        assert f"session {old.info.backend_pid}" in refused.err
        assert "--despite-snapshots" in refused.err
        assert serves(connection) == 1
        refused = carts.run("rebuild", "--blue-green", "--resume", "--snapshot-wait", "0s")
        assert refused.code == 6, refused.err
        carts.ok("rebuild", "--blue-green", "--resume", "--despite-snapshots")
        refused = carts.run("projection", "rollback", "cart_summary", "--snapshot-wait", "0s")
        assert refused.code == 6, refused.err
        assert serves(connection) == 2
    carts.ok("projection", "rollback", "cart_summary")
    with psycopg.connect(dsn) as idle:
        idle.execute("SELECT 1")  # READ COMMITTED: it has no snapshot between its statements
        # Nor does an open transaction that writes make every later snapshot an old one.
        idle.execute("CREATE TABLE unfinished ()")
        carts.ok("projection", "switch", "cart_summary", "--snapshot-wait", "5s")


def test_a_role_with_few_rights_sees_who_has_a_snapshot(dsn, connection, carts):
    connection.execute(
        "CREATE ROLE blind LOGIN; GRANT ALL ON SCHEMA public, esops TO blind; "
        "GRANT ALL ON ALL TABLES IN SCHEMA esops, shop TO blind; "
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA esops, shop TO blind; GRANT USAGE ON SCHEMA shop TO "
        "blind; ALTER TABLE cart_summary__v1 OWNER TO blind; ALTER VIEW cart_summary OWNER TO blind"
    )
    try:
        shop.configure(carts, psycopg.conninfo.make_conninfo(dsn, user="blind"))
        with reader(dsn) as old:
            refused = carts.run("rebuild", "--blue-green", "--snapshot-wait", "0s")
            assert refused.code == 6, refused.err
            assert f"session {old.info.backend_pid} (postgres, esops report)" in refused.err
        with psycopg.connect(dsn) as idle:
            idle.execute("SELECT 1")  # READ COMMITTED: it has no snapshot between its statements
            carts.ok("rebuild", "--blue-green", "--resume", "--snapshot-wait", "5s")
    finally:
        connection.execute("REASSIGN OWNED BY blind TO CURRENT_USER; DROP OWNED BY blind")
        connection.execute("DROP ROLE blind")


@pytest.mark.parametrize(
    ("command", "again"),
    [
        (("projection", "rollback", "cart_summary"), "run the command again"),
        pytest.param(
            ("rebuild", "--blue-green"), "continue with --resume", marks=pytest.mark.thorough
        ),
    ],
    ids=["rollback", "rebuild"],
)
def test_who_has_read_the_read_model_is_named_at_once_with_the_way_on(
    dsn, connection, carts, command, again
):
    """It holds a lock as well, so that --despite-snapshots does not help: that is said once, and
    what ends it and how each command goes on.
    """
    carts.ok("rebuild", "--blue-green")
    carts.patch("from esops.rebuild import switch\nswitch._PATIENCE *= 0.05")
    with reader(dsn) as old:
        rows(old)
        end = f"SELECT pg_terminate_backend({old.info.backend_pid});"
        refused = carts.run(*command, "--snapshot-wait", "0s")
        assert refused.code == 6, refused.err
        assert f"session {old.info.backend_pid} also holds a lock" in refused.err
        resumed = ("--resume",) if command[0] == "rebuild" else ()
        late = carts.run(*command, *resumed, "--despite-snapshots")
        assert late.code == 3, late.err
        for said in (refused, late):
            assert end in said.err
            assert again in said.err
        assert late.err.count("waiting for readers") == 1
        assert late.err.index(end) < late.err.index("could not lock")
        assert serves(connection) == 2
        connection.execute(end)
        old.close()
    carts.ok(*command, *resumed)
