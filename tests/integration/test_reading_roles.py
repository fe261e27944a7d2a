"""The application's role can read what a first build shows, and esops' role gets no superuser."""

from __future__ import annotations

import psycopg
import pytest

from tests.support import shop
from tests.support.cases import thorough_but


@pytest.fixture
def roles(connection):
    connection.execute("CREATE ROLE shop_app LOGIN; CREATE ROLE builder LOGIN")
    yield
    connection.execute("DROP OWNED BY shop_app, builder; DROP ROLE shop_app, builder")


def _read(dsn: str) -> int:
    with psycopg.connect(f"{dsn} user=shop_app") as application:
        return application.execute("SELECT count(*) FROM cart_summary").fetchone()[0]


@pytest.mark.parametrize("mode", thorough_but(["view", "rename"], "view"))
def test_a_first_build_can_be_read_by_the_roles_that_are_named(
    project, dsn, connection, roles, mode
):
    shop.make(dsn, 300)
    options = f'switch = "{mode}"'
    shop.configure(project, dsn, projection_options=options)
    warned = project.ok("rebuild", "--blue-green", "--dry-run").out
    assert "no role but that of esops may read public.cart_summary" in warned
    assert '"shop_app"' in warned

    shop.configure(
        project, dsn, projection_options=f'{options}\ngrant_select_to = ["shop_app", "nobody"]'
    )
    wrong = project.run("rebuild", "--blue-green")
    assert (wrong.code, "there is no role nobody" in wrong.err) == (2, True)

    shop.configure(project, dsn, projection_options=f'{options}\ngrant_select_to = ["shop_app"]')
    planned = project.ok("rebuild", "--blue-green", "--dry-run").out
    assert 'GRANT SELECT ON "public"."cart_summary" TO "shop_app"' in planned
    assert "no role but" not in planned
    project.ok("rebuild", "--blue-green")
    assert _read(dsn) == 30
    # Once given, a right stays, and is not given again.
    again = project.ok("rebuild", "--blue-green", "--dry-run").out
    assert 'GRANT SELECT ON "public"."cart_summary" TO' not in again
    project.ok("rebuild", "--blue-green")
    project.ok("projection", "rollback", "cart_summary")
    assert _read(dsn) == 30


def test_what_a_superuser_has_built_is_given_to_the_role_alone(project, dsn, connection, roles):
    shop.make(dsn, 300)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    granted = project.ok("doctor", "--grants", "builder", "--output", "json").json["statements"]
    assert not [each for each in granted if each.startswith('GRANT "')]
    assert 'ALTER TABLE "public"."cart_summary" OWNER TO "builder"' in "\n".join(granted)
    for each in granted:
        connection.execute(each)
    shop.configure(project, f"{dsn} user=builder")
    for command in (
        ("rebuild", "--blue-green"),
        ("projection", "rollback", "cart_summary"),
        ("projection", "retire", "cart_summary", "--yes"),
    ):
        project.ok(*command)


def test_the_owner_of_a_table_is_no_superuser_and_its_membership_is_explained(
    project, dsn, connection, roles
):
    shop.make(dsn, 20)
    shop.configure(project, dsn)
    connection.execute(shop.DDL.replace("{table}", "cart_summary").encode())
    connection.execute("ALTER TABLE cart_summary OWNER TO shop_app")
    told = project.ok("doctor", "--grants", "builder").out
    assert 'GRANT "shop_app" TO "builder";' in told
    assert "a member has all rights of shop_app" in told
    assert 'ALTER TABLE "public"."cart_summary" OWNER TO "builder"' in told
