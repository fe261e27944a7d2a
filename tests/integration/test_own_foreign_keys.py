"""Foreign keys of a read model to itself: built when the keys are there that they need."""

from __future__ import annotations

import pytest

from tests.support import shop
from tests.support.cases import thorough_but


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
