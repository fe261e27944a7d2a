"""Foreign keys of a read model: those to itself are built when the keys are there that they need,
and those to a table that the application writes keep no writer waiting.
"""

from __future__ import annotations

from contextlib import contextmanager

import psycopg
import pytest

from tests.support import shop
from tests.support.cases import thorough_but
from tests.support.waiting import finish


@pytest.mark.parametrize("switch", thorough_but(["view", "rename"], "view"))
def test_a_table_refers_to_itself(project, dsn, connection, switch):
    shop.make(dsn, 40)
    to_itself = ", parent text REFERENCES {table}(cart_id), UNIQUE (client, cart_id)\n);"
    ddl = shop.DDL.replace("\n);", to_itself) + (
        "COMMENT ON CONSTRAINT NAME ON {table} IS 'to another cart';"
    )
    ddl = ddl.replace("parent text REFERENCES", "parent text CONSTRAINT NAME REFERENCES").replace(
        "NAME", "its_parent"
    )
    shop.configure(project, dsn, ddl=ddl, projection_options=f'switch = "{switch}"')
    for version in (1, 2):
        project.ok("rebuild", "cart_summary", "--blue-green")
        names = connection.execute(
            "SELECT conrelid = confrelid, convalidated, obj_description(oid) FROM pg_constraint "
            "WHERE contype = 'f' AND conrelid = (SELECT (tables -> 'cart_summary' ->> 1)::regclass "
            "FROM esops.versions WHERE version = %s)",
            (version,),
        ).fetchall()
        assert names == [(True, True, "to another cart")]
    assert project.ok("plan").out.endswith("nothing has changed\n")
    project.ok("projection", "retire", "cart_summary", "1", "--yes")


TO_STREAMS = shop.DDL.replace("PRIMARY KEY", "PRIMARY KEY REFERENCES shop.mt_streams (id)")
WRITE = (
    "UPDATE shop.mt_streams SET version = version WHERE id = (SELECT {}(id) FROM shop.mt_streams)"
)
IMPATIENT = """
from datetime import timedelta
from esops.rebuild import retiring, short_tries
short_tries.PATIENCE = short_tries.LOOKING = retiring.BRING_PATIENCE = timedelta(milliseconds=300)
"""


@pytest.fixture
def carts(project, dsn):
    shop.make(dsn, 40)
    shop.configure(project, dsn, ddl=TO_STREAMS)
    project.patch(IMPATIENT)
    return project


@contextmanager
def written(dsn):
    """A transaction of the application's is open that has written the table with the streams."""
    with psycopg.connect(dsn, application_name="a long import") as open_:
        open_.execute(WRITE.format("min"))
        yield
        open_.rollback()


def beside_writers(project, dsn, *command: str) -> tuple[int, str]:
    """Run a command while somebody writes the streams, who must never wait: its exit code and what
    it said. The writer's limit is many times that of esops.
    """
    with psycopg.connect(dsn, autocommit=True) as writer:
        writer.execute("SET lock_timeout = '1500ms'")
        process = project.start(*command)
        try:
            while process.poll() is None:
                writer.execute(WRITE.format("max"))
        finally:
            if process.poll() is None:
                process.kill()
    out, err = finish(process)
    return process.returncode, out + err


def is_said(said: str) -> bool:
    return "shop.mt_streams (" in said and "foreign key" in said and "a long import" in said


def test_a_plan_keeps_no_writer_of_another_table_waiting(carts, dsn):
    plan = carts.ok("rebuild", "--blue-green", "--dry-run").out
    assert "refers to shop.mt_streams: a plan, creating green and dropping" in plan
    carts.ok("rebuild", "--blue-green", "--yes")
    assert "not carried over" not in carts.ok("rebuild", "--blue-green", "--dry-run").out
    with written(dsn):
        code, said = beside_writers(carts, dsn, "rebuild", "--blue-green", "--dry-run")
        assert (code, is_said(said)) == (4, True), said


def test_a_trial_keeps_no_writer_of_another_table_waiting(carts, dsn):
    carts.ok("rebuild", "--blue-green", "--yes")
    with written(dsn):
        others = ("clock", "hash", "restart", "order", "twice")
        skip = [word for each in others for word in ("--skip", each)]
        code, said = beside_writers(carts, dsn, "projection", "test", "cart_summary", *skip)
        assert (code, "deterministic: yes" in said) == (0, True), said


HELD = """
import psycopg
from esops.rebuild.steps import Rebuild
before = Rebuild.STEP
def step(self):
    self.held = psycopg.connect(DSN, application_name="a long import")
    self.held.execute(WRITE)
    return before(self)
Rebuild.STEP = step
"""


@pytest.mark.parametrize("step", ["_provision", "_end_test"])
def test_making_and_dropping_green_keep_no_writer_waiting(carts, dsn, connection, step):
    """Whoever holds the other table began after the plan."""
    held = HELD.replace("STEP", step).replace("DSN", repr(dsn))
    carts.patch(IMPATIENT + held.replace("WRITE", repr(WRITE.format("min"))))
    rebuild = ("rebuild", "--blue-green")
    code, said = beside_writers(carts, dsn, *rebuild, "--yes", "--test-only")
    assert (code, is_said(said), "--resume" in said) == (4, True, True), said
    carts.patch(IMPATIENT)
    with written(dsn):
        code, said = beside_writers(carts, dsn, *rebuild, "--abort", "--yes")
        # Where green was not made, there is nothing to drop.
        assert code == (0 if step == "_provision" else 4), said
        assert is_said(said) == (step != "_provision"), said
    if step != "_provision":
        assert "dropped again" in carts.ok(*rebuild, "--resume").out
    gone = connection.execute("SELECT to_regclass('cart_summary__v1')").fetchone()
    assert gone == (None,)


def test_retiring_keeps_no_writer_waiting_and_names_who_holds_the_other_table(carts, dsn):
    carts.ok("rebuild", "--blue-green", "--yes")
    carts.ok("rebuild", "--blue-green", "--yes")
    retire = ("projection", "retire", "cart_summary", "1", "--yes")
    with written(dsn):
        code, said = beside_writers(carts, dsn, *retire)
        assert (code, is_said(said)) == (4, True), said
    carts.ok(*retire)
