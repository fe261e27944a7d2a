"""`tenant` in a store's settings: a name that nobody has is no empty store."""

from __future__ import annotations

import json

import pytest

from tests.integration.test_marten_fixtures import REBUILD, configure, marten

__all__ = ["marten"]  # a fixture


@pytest.fixture
def restored(dumps, connection):
    def done(name: str) -> None:
        connection.execute((dumps / f"{name}.sql").read_text())
        connection.execute("RESET ALL")

    return done


@pytest.mark.parametrize(
    ("dump", "words"),
    [
        ("marten-9.58-v1", "are those of a single tenant, and no event has tenant 'nobody'"),
        ("marten-9.58-v5t", "has no numbers for a tenant 'nobody'"),
        ("emmett-0.42.0", "emt_messages in schema 'public' has no partition 'nobody'"),
        pytest.param(
            "message-db-1.3.1", "layout messagedb has no tenants", marks=pytest.mark.thorough
        ),
        ("eventsourcing-9.5.6", "layout eventsourcing has no tenants"),
    ],
)
def test_a_tenant_that_the_tables_cannot_have_is_refused(project, dsn, restored, dump, words):
    restored(dump)
    configure(project, dsn, other='tenant = "nobody"')
    assert project.run("status").code != 0
    for way in (("audit", "streams"), ("rebuild", "carts", "--blue-green", "--dry-run")):
        refused = project.run(*way)
        assert refused.code != 0, refused.out
        assert words in refused.err
    codes = [
        (each["code"], words in each["message"])
        for each in project.run("doctor", "--output", "json").json["findings"]
    ]
    assert ("ESOPS-D001", True) in codes


@pytest.mark.parametrize(
    ("dump", "tenant"), [("marten-9.58-v1", "*DEFAULT*"), ("emmett-0.42.0", "emt:default")]
)
def test_the_librarys_own_name_for_its_only_tenant_is_one(project, dsn, restored, dump, tenant):
    restored(dump)
    configure(project, dsn)
    audit = ("audit", "streams", "--output", "json")
    without = project.ok(*audit).json
    configure(project, dsn, other=f"tenant = {json.dumps(tenant)}")
    assert project.ok(*audit).json["summary"] == without["summary"]


def test_a_table_of_ones_own_has_no_tenants(project, dsn, connection):
    connection.execute("CREATE TABLE happened (n bigserial, s text, v int, k text, d jsonb)")
    project.write(
        "esops.toml",
        f"""
        [stores.shop]
        dsn = {json.dumps(dsn)}
        tenant = "acme"
        [stores.shop.table]
        name = "happened"
        position = "n"
        stream = "s"
        version = "v"
        type = "k"
        data = "d"
        """,
    )
    refused = project.run("audit", "streams")
    assert (refused.code, "layout custom has no tenants" in refused.err) == (2, True), refused.err


def test_a_tenant_without_events_is_asked_about(project, dsn, marten):
    """It may be new: Marten's tables that tenants share have no list of them."""
    marten("v2")
    configure(project, dsn, other='schema = "es"\ntenant = "nobody"')
    words = "no stream has tenant 'nobody'; there is: acme, globex, initech"
    assert words in project.run("status", "--output", "json").out
    found = project.run("doctor", "--output", "json").json["findings"]
    assert ("ESOPS-D051", words) in [(each["code"], each["message"]) for each in found]
    for way in (REBUILD, ("rebuild", "carts", "--yes")):
        refused = project.run(*way)
        assert (refused.code, words in refused.err) == (2, True), refused.err
    project.ok(*REBUILD, "--accept-fewer")
    configure(project, dsn, other='schema = "es"\ntenant = "globex"')
    assert "no stream has" not in project.ok("status").out
    project.ok(*REBUILD, "--max-diff", "100%")
