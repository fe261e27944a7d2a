"""Streams of one name in several tenants, as the real libraries wrote them: each is a stream of its
own, and is shown with its tenant.
"""

from __future__ import annotations

import csv
import io
import json

import pytest

from esops.health import searches
from tests.support import emmett

STORES = {
    "marten": ("marten-9.58-v2", 'schema = "es"', "cart-019", ["acme", "globex", "initech"]),
    "emmett": (
        "emmett-0.43.0-beta.39",
        "",
        "shopping_cart-0005",
        ["emt:default", "tenant-b"],
    ),
}


@pytest.fixture(params=STORES)
def shop(request, project, dumps, dsn, connection):
    dump, more, stream, tenants = STORES[request.param]
    emmett.restore(connection, (dumps / f"{dump}.sql").read_text())
    project.write("esops.toml", f"[stores.shop]\ndsn = {json.dumps(dsn)}\n{more}\n")
    return project, stream, tenants


def test_an_audit_takes_no_streams_of_two_tenants_for_one(shop):
    project, stream, tenants = shop
    both = project.run("audit", "stream", stream)
    assert (both.code, ", ".join(tenants) in both.err) == (2, True), both.err
    lengths = {
        tenant: project.ok("audit", "stream", stream, "--tenant", tenant, "--output", "json").json
        for tenant in tenants
    }
    for found in lengths.values():
        assert found["length"] == found["last_version"] - found["first_version"] + 1
    rows = csv.DictReader(
        io.StringIO(project.ok("audit", "streams", "--all", "--output", "csv").out)
    )
    of_that_name = {row["tenant"]: int(row["length"]) for row in rows if row["stream"] == stream}
    assert of_that_name == {tenant: found["length"] for tenant, found in lengths.items()}
    one = project.ok("audit", "streams", "--tenant", tenants[1], "--output", "json").json
    assert {each["tenant"] for each in one["categories"]} <= {tenants[1], ""}


def test_a_trace_names_the_tenants_and_shows_one(shop):
    project, stream, tenants = shop
    every = project.ok("trace", "stream", stream)
    assert all(f"{tenant}/{stream} @1" in every.out for tenant in tenants)
    assert f"{len(tenants)} tenants have a stream {stream}: {', '.join(tenants)}" in every.err
    for form in ("mermaid", "dot"):
        assert (
            f"{tenants[1]}/{stream} @1"
            in project.ok("trace", "stream", stream, "--format", form).out
        )
    one = project.ok("trace", "stream", stream, "--tenant", tenants[1])
    assert tenants[0] not in one.out
    assert "tenants have" not in one.err


def test_events_of_one_tenant(shop):
    project, stream, tenants = shop
    rows = list(map(json.loads, project.ok("events").out.splitlines()))
    for tenant in tenants:
        own = [row["id"] for row in rows if row["tenant"] == tenant]
        found = project.ok("events", "--tenant", tenant, "--last", "5").out.splitlines()
        assert [json.loads(line)["id"] for line in found] == own[-5:]
    assert f"{tenants[1]}/{stream} @1" in project.ok("events", "--output", "table").out
    wrong = project.run("events", "--tenant", "nobody")
    assert (wrong.code, wrong.out) == (1, "")
    assert tenants[0] in wrong.err


def test_doctor_has_the_statements_for_each_partition(shop, connection, monkeypatch):
    """Postgres creates no index of a partitioned table CONCURRENTLY."""
    from esops.config import load_config
    from esops.health.stores import examine

    project, *_ = shop
    monkeypatch.setattr(searches, "ANNOUNCED", 10)
    config = load_config(project.folder / "esops.toml")
    (found,) = [each for each in examine(config, "shop") if each.code == "ESOPS-D074"]
    for statement in found.fix.splitlines():
        connection.execute(statement)
    assert not [each for each in examine(config, "shop") if each.code == "ESOPS-D074"]
