"""A store that reads one tenant alone, joined with an archive that holds runs of all of them: it
sees its own archived events, and nothing of the others.
"""

from __future__ import annotations

import json
import uuid

import pytest

from esops.config import load_config
from esops.events import EventFilter, NewEvent
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.stores.archive.archived_away import lacking, removed_from
from tests.support import emmett, marten
from tests.support.cases import thorough_but

LAYOUTS = {"marten": 'append = "quick"\n', "emmett": ""}
CONFIG = """
[stores.all]
dsn = {dsn}
{more}
[stores.red]
dsn = {dsn}
tenant = "red"
archive = "cold"
of = "all"
{more}
[stores.alone]
dsn = {dsn}
tenant = "red"
of = "all"
{more}
[archives.cold]
repository = "cold"
[archives.cold.policies.old]
store = "all"
stream = "cart-*"
remove = "delete"
never_younger_than = "0s"
"""


def new(text: str) -> NewEvent:
    return NewEvent(str(uuid.uuid4()), "added", json.dumps({"of": text}).encode())


@pytest.fixture(params=thorough_but(["marten", "emmett"], "marten"))
def begun(request, project, dsn, connection):
    """Two tenants with streams of the same names; those called cart are archived and removed."""
    more = LAYOUTS[request.param]
    if request.param == "marten":
        marten.create(connection, marten.Variant(text_ids=True, conjoined=True))
    else:
        emmett.create(connection)
        for name in ("red", "blue"):
            emmett.add_partition(connection, name)
    for tenant in ("red", "blue"):
        settings = PostgresSettings(dsn=dsn, tenant=tenant, **({"append": "quick"} if more else {}))
        with open_store("s", settings) as store:
            for stream in ("cart-1", f"cart-{tenant}", "shop-1"):
                store.append(stream, [new(tenant) for _ in range(3)])
    config = load_config(project.write("esops.toml", CONFIG.format(dsn=json.dumps(dsn), more=more)))
    with open_store("s", settings.model_copy(update={"tenant": "red"})) as hot:
        before = asked(hot)
    run = project.ok("archive", "run", "old", "--output", "json").json["run"]
    return project, config, before, run


def asked(store) -> dict[str, object]:
    head = store.head().position
    return {
        "all": [event for batch in store.read_all() for event in batch.events],
        "by stream": list(store.read_stream("cart-1")),
        "backwards": list(store.read_stream("cart-1", backwards=True)),
        "category": [
            e.id for b in store.read_all(filter=EventFilter(category="cart")) for e in b.events
        ],
        "streams": [(i.name, i.tenant, i.length, i.last_version) for i in store.streams()],
        "info": store.stream_info("cart-1").length,
        "passes": store.names.any_passes(EventFilter(stream="cart-blue")),
        "passing": store.counts.passing(EventFilter(category="cart"), head, 99),
        "names": store.names.of("stream"),
    }


def test_reads_counts_and_lists_are_those_of_the_tenant(begun, connection):
    project, config, before, run = begun
    with open_store(*config.store("red")) as store:
        after = asked(store)
        assert len(after["all"]) == 9
        assert after == before
        ids = [event.id for event in after["by stream"]]
        assert [e.id for e in store.search.find(event_id=ids).events] == ids
        assert store.counts.between(None, store.head().position) == 9
        found = lacking(store.cold.runs, store.hot)
        assert (found.streams, found.events) == (2, 6)
    with open_store(*config.store("alone")) as store:
        away = removed_from(config, store)
        assert [(each.streams, each.events) for each in away] == [(2, 6)]


def test_a_restore_brings_back_the_streams_of_the_tenant_alone(begun, connection):
    project, config, before, run = begun
    with open_store(*config.store("all")) as store:
        layout = store.layout.name
    text = (project.folder / "esops.toml").read_text()
    # The section that the run was sealed under reads one tenant now.
    project.write("esops.toml", text.replace("[stores.all]", '[stores.all]\ntenant = "red"'))
    if layout == "emmett":
        refused = project.run("archive", "restore", run, "--yes")
        assert refused.code == 6, refused.err
        assert project.run("archive", "restore", run, "--yes", "cart-blue").code == 2
    else:
        done = project.ok("archive", "restore", run, "--yes", "--output", "json").json
        assert (done["streams"], done["events"], done["of_other_tenants"]) == (2, 6, 2)
        compared = project.ok("archive", "verify", "--against-store", "--output", "json").json
        assert (compared["compared"], compared["gone"]) == (6, 0)
        rows = connection.execute("SELECT tenant_id, count(*) FROM mt_events GROUP BY 1")
        assert dict(rows.fetchall()) == {"red": 9, "blue": 3}
