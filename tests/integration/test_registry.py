"""The registry cannot lie: one version serves, and what is dropped is looked at again under the lock."""

from __future__ import annotations

import psycopg
import pytest

from esops.config import load_config
from esops.errors import Refused
from esops.rebuild.lifecycle import retirable, retire_due
from tests.support import shop


@pytest.fixture
def carts(dsn, project):
    shop.make(dsn, 300)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    return project


def states(connection) -> dict[int, str]:
    return dict(
        connection.execute("SELECT version, state FROM esops.versions ORDER BY 1").fetchall()
    )


def serves(connection) -> str:
    """The table that the view shows."""
    return connection.execute("SELECT pg_get_viewdef('cart_summary'::regclass)").fetchone()[0]


def test_a_version_that_serves_again_is_not_dropped_by_a_retire_that_was_asked_before(
    carts, connection
):
    """Between the question and the answer somebody rolls back."""
    carts.ok("rebuild", "--blue-green")
    carts.write("answers.py", "")
    carts.patch(
        "import subprocess, sys\n"
        "from esops.rebuild import retiring, lifecycle\n"
        "if 'retire' in sys.argv or True:\n"
        "    real = retiring.take_lock\n"
        "    done = []\n"
        "    def take_lock(connection, name, **more):\n"
        "        if not done:\n"
        "            done.append(1)\n"
        "            from esops.config import load_config\n"
        "            from pathlib import Path\n"
        "            retiring.take_lock = real\n"
        "            lifecycle.roll_back(load_config(Path('esops.toml')), name)\n"
        "        real(connection, name, **more)\n"
        "    retiring.take_lock = take_lock\n"
    )
    refused = carts.run("projection", "retire", "cart_summary", "--yes")
    assert refused.code == 6, refused.err
    assert states(connection) == {1: "active", 2: "standby"}
    assert "cart_summary__v1" in serves(connection)
    assert connection.execute("SELECT count(*) FROM cart_summary").fetchone()[0] > 0


def test_a_rebuild_does_not_switch_away_from_another_version_than_it_began_with(carts, connection):
    """It paused; meanwhile somebody rolled back. Both used to be noted as serving."""
    carts.ok("rebuild", "--blue-green")
    connection.execute("UPDATE cart_summary__v2 SET items = -1")
    assert carts.run("rebuild", "--blue-green").code == 1  # it differs, and is paused
    carts.ok("projection", "rollback", "cart_summary")
    resumed = carts.run("rebuild", "--blue-green", "--resume", "--max-diff", "100%")
    assert resumed.code == 6, resumed.err
    assert "projection switch cart_summary --to 2" in resumed.err
    assert states(connection) == {1: "active", 2: "standby", 3: "building"}
    carts.ok("projection", "switch", "cart_summary", "--to", "2")
    carts.ok("rebuild", "--blue-green", "--resume", "--max-diff", "100%")
    assert states(connection) == {1: "standby", 2: "standby", 3: "active"}


def test_a_switch_reads_the_versions_again_under_its_lock(carts, connection):
    """Two commands at the same time: the second one acts on what the first one left."""
    carts.ok("rebuild", "--blue-green", "--no-switch")
    carts.ok("rebuild", "--blue-green", "--no-switch")
    carts.patch(
        "from esops.rebuild import lifecycle\n"
        "real = lifecycle.take_lock\n"
        "def take_lock(connection, name, **more):\n"
        "    from esops.config import load_config\n"
        "    from pathlib import Path\n"
        "    lifecycle.take_lock = real\n"
        "    lifecycle.switch_to(load_config(Path('esops.toml')), name, 2)\n"
        "    real(connection, name, **more)\n"
        "lifecycle.take_lock = take_lock\n"
    )
    done = carts.ok("projection", "switch", "cart_summary", "--to", "3", "--output", "json").json
    assert (done["from_version"], done["to_version"]) == (2, 3)
    assert states(connection) == {1: "standby", 2: "standby", 3: "active"}
    assert "cart_summary__v3" in serves(connection)


@pytest.mark.thorough
def test_two_versions_that_an_older_esops_left_serving_are_named_with_the_way_out(
    carts, connection
):
    carts.ok("rebuild", "--blue-green", "--no-switch")
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("UPDATE esops.versions SET state = 'active'")
    connection.execute(
        "DROP INDEX esops.versions_one_active; UPDATE esops.versions SET state = 'active'; "
        "DELETE FROM esops.schema_migrations WHERE number >= 7"
    )
    refused = carts.run("run", "--until-caught-up")
    assert refused.code == 6, refused.err
    assert "v1 and v2 of cart_summary" in refused.err
    found = carts.run("doctor", "--output", "json").json["findings"]
    (two,) = [each for each in found if each["code"] == "ESOPS-D057"]
    statement = two["fix"].partition("stand by: ")[2]
    assert statement in refused.err
    connection.execute(statement)
    carts.ok("run", "--until-caught-up")
    assert states(connection) == {1: "active", 2: "standby"}


def test_retire_after_belongs_to_its_rebuild(carts, connection):
    def due() -> list[int]:
        config = load_config(carts.folder / "esops.toml")
        return [each.version for each in retire_due(config, ["cart_summary"])]

    def exists(number: int) -> bool:
        (name,) = connection.execute(
            "SELECT to_regclass(%s)", (f"cart_summary__v{number}",)
        ).fetchone()
        return name is not None

    # v1 serves again by hand, and is the blue of a rebuild that keeps it.
    carts.ok("rebuild", "--blue-green", "--retire-after", "1s")
    carts.ok("projection", "switch", "cart_summary", "--to", "1")
    carts.ok("rebuild", "--blue-green")
    connection.execute("UPDATE esops.rebuilds SET finished_at = finished_at - interval '1 hour'")
    assert due() == []
    assert exists(1)
    # Given with --resume, it counts: v3 goes.
    connection.execute("UPDATE cart_summary__v3 SET items = -1")
    assert carts.run("rebuild", "--blue-green").code == 1
    carts.ok("rebuild", "--blue-green", "--resume", "--max-diff", "100%", "--retire-after", "1s")
    connection.execute("UPDATE esops.rebuilds SET finished_at = finished_at - interval '1 hour'")
    assert due() == [3]
    assert exists(1)
    assert not exists(3)


def test_nothing_is_dropped_without_being_asked(carts, connection):
    connection.execute("UPDATE cart_summary__v1 SET items = -1")
    assert carts.run("rebuild", "--blue-green").code == 1
    wrong = carts.run("rebuild", "--abort")
    assert wrong.code == 2
    assert "esops rebuild cart_summary --blue-green --abort" in wrong.err
    assert carts.run("rebuild", "--blue-green", "--abort").code == 2
    assert states(connection)[2] == "building"
    carts.ok("rebuild", "--blue-green", "--abort", "--yes")
    assert states(connection)[2] == "aborted"
    connection.execute("UPDATE cart_summary__v1 SET items = -1")
    carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
    for version in ((), ("1",)):
        refused = carts.run("projection", "retire", "cart_summary", *version)
        assert (refused.code, "--yes" in refused.err) == (2, True)
    assert states(connection) == {1: "standby", 2: "aborted", 3: "active"}
    assert connection.execute("SELECT count(*) FROM cart_summary__v1").fetchone()[0] > 0


@pytest.mark.thorough
def test_tables_that_somebody_dropped_are_found_with_the_way_out(carts, connection):
    def finding() -> dict:
        found = carts.run("doctor", "--output", "json").json["findings"]
        (only,) = [each for each in found if each["code"] == "ESOPS-D058"]
        return only

    carts.ok("rebuild", "--blue-green")
    rows = shop.table(connection, "cart_summary")
    connection.execute("DROP VIEW cart_summary")
    connection.execute(finding()["fix"])
    assert shop.table(connection, "cart_summary") == rows
    # The table that serves, while another one stands by.
    connection.execute("DROP TABLE cart_summary__v2 CASCADE")
    shown = carts.run("status", "--output", "json")
    assert shown.code == 1
    assert [each["ok"] for each in shown.json["projections"]] == [True, False]
    assert "cart_summary__v2" in shown.json["projections"][1]["detail"]
    assert carts.run("projection", "retire", "cart_summary", "1", "--dry-run").code == 0
    carts.ok(*finding()["fix"].split()[1:])
    assert shop.table(connection, "cart_summary") == rows
    # And without one.
    carts.ok("projection", "retire", "cart_summary", "--yes")
    connection.execute("DROP TABLE cart_summary__v1 CASCADE")
    refused = carts.run("rebuild", "--blue-green")
    assert refused.code == 6
    fix = finding()["fix"].partition("again: ")[2]
    assert fix in refused.err
    for command in fix.split("; "):
        carts.ok(*command.split()[1:])
    assert shop.table(connection, "cart_summary") == rows


def test_a_version_that_serves_again_before_it_is_dropped_stays(dsn, project, connection):
    """Its table has got the serving name, so the one that was to be dropped is missing."""
    shop.make(dsn, 60)
    connection.execute(shop.DDL.replace("{table}", "cart_summary"))
    shop.configure(project, dsn, projection_options='switch = "rename"')
    project.ok("rebuild", "--blue-green", "--max-diff", "100%")
    config = load_config(project.folder / "esops.toml")
    chosen = retirable(config, "cart_summary", 1)
    project.ok("projection", "rollback", "cart_summary", "--allow-stale")
    with pytest.raises(Refused):
        chosen.run()
    assert states(connection) == {1: "active", 2: "standby"}
    assert shop.table(connection, "cart_summary") == {}


def test_doctor_never_advises_to_drop_what_somebody_uses(carts, connection):
    def fixes() -> list[str]:
        found = carts.run("doctor", "--output", "json").json["findings"]
        return [each["fix"] for each in found if each["code"] == "ESOPS-D021"]

    # Under another name in esops.toml, the registry still knows the tables.
    text = (carts.folder / "esops.toml").read_text()
    carts.write("esops.toml", text.replace("[projections.cart_summary]", "[projections.carts]"))
    assert fixes() == []
    connection.execute("CREATE TABLE cart_summary__v9 (a int)")
    connection.execute("CREATE VIEW reports AS SELECT a FROM cart_summary__v9")
    assert ["DROP" in each for each in fixes()] == [False]
    connection.execute("DROP VIEW reports")
    assert fixes() == ['DROP TABLE "public"."cart_summary__v9";']


def refused(project, *command: str) -> str:
    done = project.run(*command)
    assert done.code == 6, (command, done.out, done.err)
    return done.err


def found(project) -> list[dict]:
    """What doctor finds of rows that are not those of their checkpoint."""
    findings = project.run("doctor", "--output", "json").json["findings"]
    return [each for each in findings if each["code"] == "ESOPS-D102"]


def test_a_checkpoint_that_was_set_back_by_hand_is_refused(carts, connection):
    """All events after it are in the rows already, and would be applied once more."""
    before = shop.table(connection, "cart_summary")
    connection.execute("UPDATE esops.versions SET position = '100'")
    for command in (("run", "--until-caught-up"), ("projection", "check", "cart_summary")):
        assert "its checkpoint was set back to 100" in refused(carts, *command)
    assert shop.table(connection, "cart_summary") == before
    assert carts.run("status").code == 1
    assert "set back to 100" in found(carts)[0]["message"]
    carts.ok("rebuild", "--blue-green")
    assert shop.check_version(connection, 2) == len(before)
    assert "set back to 100" in refused(carts, "projection", "rollback", "cart_summary")


def test_a_version_whose_table_was_emptied_is_refused(carts, connection):
    """As a crash of the server empties an UNLOGGED table."""
    carts.ok("rebuild", "--blue-green")
    connection.execute("TRUNCATE cart_summary__v1, cart_summary__v2")
    for command in (("run", "--until-caught-up"), ("projection", "rollback", "cart_summary")):
        assert "cart_summary__v1 is empty" in refused(carts, *command)
    assert carts.run("status").code == 1
    assert len(found(carts)) == 2
    assert "cart_summary__v2 is empty" in carts.run("plan").out
    carts.ok("rebuild", "--blue-green")
    carts.ok("projection", "retire", "cart_summary", "--yes")
    assert shop.check_version(connection, 3) > 0
    assert not found(carts)


def test_a_table_that_was_restored_by_itself_is_refused(dsn, project, connection):
    """Its rows are those of another time than the checkpoint."""
    shop.make(dsn, 300)
    shop.configure(project, dsn, projection_options='switch = "rename"')
    project.ok("rebuild", "--blue-green")
    connection.execute("ALTER TABLE cart_summary RENAME TO before")
    connection.execute("CREATE TABLE cart_summary (LIKE before INCLUDING ALL)")
    connection.execute("INSERT INTO cart_summary SELECT * FROM before LIMIT 3")
    assert "is not the one in which" in refused(project, "run", "--until-caught-up")
    assert project.run("status").code == 1
    assert "is not the one in which" in found(project)[0]["message"]
    # Where esops' own tables were restored with it, both are of one time.
    connection.execute("CREATE TABLE esops.others (LIKE esops.versions INCLUDING ALL)")
    connection.execute("INSERT INTO esops.others SELECT * FROM esops.versions")
    connection.execute("DROP TABLE esops.versions; ALTER TABLE esops.others RENAME TO versions")
    project.ok("run", "--until-caught-up")
    assert not found(project)
    # An index, a rewrite or a rename makes no other table.
    connection.execute("VACUUM FULL cart_summary")
    connection.execute("CREATE INDEX ON cart_summary (status)")
    project.ok("run", "--until-caught-up")


def test_retire_does_not_say_that_it_drops_what_is_gone(carts, connection):
    carts.ok("rebuild", "--blue-green")
    connection.execute("DROP TABLE cart_summary__v1")
    done = carts.ok("projection", "retire", "cart_summary", "--yes").out
    assert "dropped public.cart_summary__v1 (gone already)" in done


@pytest.mark.parametrize("how", [[], ["--ranges", "2"]])
def test_a_table_that_a_rename_gave_its_name_is_rebuilt_in_place(dsn, project, connection, how):
    """What is built after a load is noted under the table's name of before."""
    shop.make(dsn, 300)
    shop.configure(project, dsn, projection_options='switch = "rename"')
    project.ok("rebuild", "--blue-green")
    before = shop.table(connection, "cart_summary")
    connection.execute(
        "DELETE FROM cart_summary WHERE items = (SELECT max(items) FROM cart_summary)"
    )
    project.ok("rebuild", "--yes", *how)
    assert shop.table(connection, "cart_summary") == before
    project.ok("rebuild", "--blue-green")
