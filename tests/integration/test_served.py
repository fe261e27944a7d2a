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
