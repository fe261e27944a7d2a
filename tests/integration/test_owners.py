"""A table or a view is of one projection: nobody adopts, builds over, follows or drops another's."""

from __future__ import annotations

import psycopg
import pytest

from tests.support import shop
from tests.support.cases import thorough_but

ONE, OTHER = "[projections.cart_summary]", "[projections.carts]"


def add_another(project, tables: str, *, options: str = "") -> None:
    """A second projection beside the first one, with these tables."""
    text = (project.folder / "esops.toml").read_text().split("[projections.carts]")[0]
    section = text[text.index(ONE) :].replace(ONE, OTHER)
    section = section.replace('["cart_summary"]', tables) + options
    project.write("esops.toml", text + section)


@pytest.mark.parametrize("switch", thorough_but(["view", "rename"], "view"))
def test_another_projections_table_or_view_is_not_taken(dsn, connection, project, switch):
    shop.make(dsn, 60)
    shop.configure(project, dsn, projection_options=f'switch = "{switch}"')
    for _ in range(2):
        project.ok("rebuild", "cart_summary", "--blue-green")
    add_another(project, '["others"]')
    project.ok("rebuild", "carts", "--blue-green")
    before = connection.execute("SELECT * FROM esops.versions ORDER BY 1, 2").fetchall()
    # Also by one that has versions of its own, and by the name of a version's table.
    for tables in ('["cart_summary"]', '["cart_summary__v1"]'):
        add_another(project, tables)
        refused = project.run("rebuild", "carts", "--blue-green", "--yes")
        assert refused.code == 6, (tables, refused.err)
        assert "of cart_summary" in refused.err
    add_another(project, '["no_such_table"]')
    refused = project.run("rebuild", "carts", "--blue-green", "--yes")
    assert (refused.code, "read as others" in refused.err) == (6, True)
    assert connection.execute("SELECT * FROM esops.versions ORDER BY 1, 2").fetchall() == before


def test_two_that_have_one_table_are_found_and_neither_followed_nor_dropped(
    dsn, connection, project
):
    shop.make(dsn, 60)
    shop.configure(project, dsn, projection_options='switch = "rename"')
    for _ in range(2):
        project.ok("rebuild", "cart_summary", "--blue-green")
    # As an older esops left it.
    connection.execute(
        "INSERT INTO esops.versions SELECT 'carts', version, state, store, position, events, rows,"
        " tables, fingerprint, value_types, after_load FROM esops.versions"
    )
    add_another(project, '["cart_summary"]')
    rows = shop.table(connection, "cart_summary")
    shop.more(dsn, 20)
    assert project.run("run", "--until-caught-up").code == 6
    assert project.run("projection", "retire", "carts", "--yes").code == 6
    assert shop.table(connection, "cart_summary") == rows
    found = project.run("doctor", "--output", "json")
    assert found.code == 1
    shared = [each for each in found.json["findings"] if each["code"] == "ESOPS-D070"]
    assert {each["subject"] for each in shared} == {"projection cart_summary", "projection carts"}
    for each in shared:
        if each["subject"] == "projection cart_summary":
            statement = each["fix"].partition("is wrong: ")[2].partition(";")[0]
            connection.execute(statement.encode())
    project.ok("run", "cart_summary", "--until-caught-up")
    (last,) = connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()
    assert shop.table(connection, "cart_summary") == shop.truth(connection, last)


def test_two_that_adopt_one_table_at_the_same_time(dsn, connection, project):
    """The second was planned before the first was entered."""
    shop.make(dsn, 60)
    connection.execute(shop.DDL.format(table="cart_summary").encode())
    shop.configure(project, dsn)
    add_another(project, '["cart_summary"]')
    project.patch(
        "import psycopg\n"
        "from esops.rebuild import steps\n"
        "real = steps.Rebuild._prepare\n"
        "def prepare(self):\n"
        "    real(self)\n"
        f"    with psycopg.connect({dsn!r}, autocommit=True) as other:\n"
        '        other.execute("INSERT INTO esops.versions (projection, version, state,"\n'
        "            \" store, tables) VALUES ('cart_summary', 1, 'active', 'shop',\"\n"
        '            " \'{\\"cart_summary\\": [\\"public\\", \\"cart_summary\\"]}\')")\n'
        "steps.Rebuild._prepare = prepare\n"
    )
    refused = project.run("rebuild", "carts", "--blue-green", "--yes")
    assert refused.code == 6, refused.err
    assert connection.execute("SELECT projection FROM esops.versions").fetchall() == [
        ("cart_summary",)
    ]
    with pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT FROM cart_summary__v2")
