"""What readers read is the version that serves, or everybody says that it is not."""

from __future__ import annotations

import pytest

from tests.support import shop
from tests.support.cases import thorough_but

COLUMNS = "cart_id, client, items, total, status, position"
BY_HAND = {
    "a table": "DROP VIEW cart_summary; CREATE TABLE cart_summary AS SELECT * FROM cart_summary__v1",
    "a view with a filter": f"CREATE OR REPLACE VIEW cart_summary AS SELECT {COLUMNS} "
    "FROM cart_summary__v1 WHERE items > 3",
    "a view of another table": "CREATE TABLE other_carts AS SELECT * FROM cart_summary; "
    f"CREATE OR REPLACE VIEW cart_summary AS SELECT {COLUMNS} FROM other_carts",
}


@pytest.mark.parametrize("what", thorough_but(BY_HAND, "a view with a filter"))
def test_something_else_under_the_name_is_found_by_everybody(what, dsn, connection, project):
    shop.make(dsn, 40)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    project.ok("run", "--until-caught-up")
    connection.execute(BY_HAND[what])
    assert project.run("rebuild", "--blue-green", "--dry-run").code == 6
    assert project.run("rebuild", "--dry-run").code == 6
    run = project.run("run", "--until-caught-up")
    assert (run.code, "readers do not read it" in run.err) == (1, True)
    status = project.run("status", "--output", "json")
    [version] = status.json["projections"]
    assert (status.code, version["ok"]) == (1, False)
    assert "cart_summary" in version["detail"]
    doctor = project.run("doctor", "--output", "json").json["findings"]
    [finding] = [each for each in doctor if each["code"] == "ESOPS-D060"]
    assert finding["severity"] == "error"
    connection.execute(finding["fix"])
    project.ok("status")
    project.ok("run", "--until-caught-up")
    project.ok("rebuild", "--blue-green")


def test_a_search_path_that_changed_takes_the_name_from_no_reader(dsn, connection, project):
    """A schema that is named as the role comes first in the default search path."""
    shop.make(dsn, 40)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    toml = (project.folder / "esops.toml").read_text()
    shop.configure(project, dsn, code=shop.PROJECTION.replace('"items": 0', '"items": 0 * 1'))
    role = connection.info.user
    connection.execute(f'CREATE SCHEMA "{role}"')
    for how in (["--blue-green"], []):
        refused = project.run("rebuild", *how, "--dry-run")
        assert refused.code == 6
        assert "is read as public.cart_summary, and by esops.toml" in refused.err
    [plan] = project.run("plan", "--output", "json").json["projections"]
    assert (plan["needs"], "public.cart_summary" in plan["wrong"]["readers"]) == ("look", True)

    def fix() -> str:
        found = project.run("doctor", "--output", "json").json["findings"]
        [finding] = [each for each in found if each["code"] == "ESOPS-D058"]
        return finding["fix"]

    assert 'tables = ["public.cart_summary"]' in fix()
    project.write("esops.toml", toml.replace('["cart_summary"]', '["public.cart_summary"]'))
    project.ok("rebuild", "--blue-green")
    # Where nobody reads the old name, the new version may have another one.
    project.write("esops.toml", toml)
    connection.execute("DROP VIEW public.cart_summary")
    assert 'CREATE VIEW "public"."cart_summary"' in fix()
    project.ok("rebuild", "--blue-green")
    rows = shop.table(connection, f'"{role}".cart_summary')
    back = project.run("projection", "rollback", "cart_summary")
    assert (back.code, f"v3 of cart_summary is read as {role}.cart_summary" in back.err) == (
        6,
        True,
    )
    connection.execute(f'DROP VIEW "{role}".cart_summary')
    project.ok("projection", "rollback", "cart_summary")
    assert shop.table(connection, "public.cart_summary") == rows


def test_a_rebuild_is_resumed_only_under_the_names_that_it_began_with(dsn, connection, project):
    shop.make(dsn, 40)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    connection.execute("UPDATE cart_summary__v1 SET items = items + 1")
    assert project.run("rebuild", "--blue-green").code == 1
    connection.execute(f'CREATE SCHEMA "{connection.info.user}"')
    resume = ("rebuild", "--blue-green", "--resume", "--max-diff", "100%")
    refused = project.run(*resume)
    assert (refused.code, "begun with the tables public.cart_summary" in refused.err) == (6, True)
    connection.execute(f'DROP SCHEMA "{connection.info.user}"')
    project.ok(*resume)
