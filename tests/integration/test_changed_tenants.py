"""The tables of a store, or its section, change what a tenant is after an archive run."""

from __future__ import annotations

import pytest

from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.integration.test_archive import new, of, write
from tests.support import emmett, marten
from tests.support.cases import thorough_but

DELETE = 'store = "s"\nstream = "cart-*"\nremove = "delete"'


def second_partition(connection) -> None:
    for table in ("emt_streams", "emt_messages"):
        connection.execute(
            f"CREATE TABLE {table}_two PARTITION OF {table} FOR VALUES IN ('two') "
            f"PARTITION BY LIST (is_archived);"
            f"CREATE TABLE {table}_two_a PARTITION OF {table}_two FOR VALUES IN (FALSE);"
            f"CREATE TABLE {table}_two_b PARTITION OF {table}_two FOR VALUES IN (TRUE)"
        )


def tenants_in_the_key(connection) -> None:
    connection.execute(
        "ALTER TABLE mt_events DROP CONSTRAINT IF EXISTS fkey_mt_events_stream_id;"
        "ALTER TABLE mt_streams DROP CONSTRAINT mt_streams_pkey CASCADE;"
        "ALTER TABLE mt_streams ADD CONSTRAINT mt_streams_pkey PRIMARY KEY (tenant_id, id)"
    )


TENANTS = {"emmett": "emt:default", "marten": "*DEFAULT*"}
CASES = {"emmett": second_partition, "marten": tenants_in_the_key}


@pytest.fixture(params=thorough_but(["emmett", "marten"], "emmett"))
def changed(request, project, dsn, connection):
    """A store of which a stream was archived before tenants told its streams apart; the run."""
    layout = request.param
    if layout == "emmett":
        emmett.create(connection)
    else:
        marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for stream in ("cart-1", "order-1"):
            store.append(stream, [new(n=1), new(n=2), new(n=3)])
    section = of(dsn).replace("[stores.s]", "[stores.j]") + 'of = "s"\narchive = "cold"\n'
    write(project, of(dsn) + section, DELETE)
    run = project.ok("archive", "run", "old", "--output", "json").json["run"]
    CASES[layout](connection)
    return layout, run


def events(connection, layout: str) -> int:
    table = {"emmett": "emt_messages", "marten": "mt_events"}[layout]
    return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_what_was_archived_before_a_store_had_tenants_is_not_taken_for_others(
    changed, project, dsn, connection
):
    """A restore left events in the store that it then said were gone, reads showed a stream twice,
    and a comparison found none of the events that were there.
    """
    layout, run = changed
    there = events(connection, layout)
    for command, marten_too in (
        (("archive", "restore", run, "--yes"), False),
        (("archive", "restore", run, "--renumber", "--skip-conflicts", "--yes"), False),
        (("archive", "verify", "--against-store"), False),
        (("archive", "run", "old"), True),
        (("archive", "plan", "old"), True),
        (("events", "--store", "j"), True),
        (("audit", "streams", "--store", "j"), True),
    ):
        refused = project.run(*command)
        assert refused.code == 6, (command, refused.out, refused.err)
        assert "name no tenant" in refused.err, (command, refused.err)
        hinted = f'tenant = "{TENANTS[layout]}"' in refused.err
        assert hinted == (marten_too or layout == "emmett"), (command, refused.err)
    assert events(connection, layout) == there
    text = (project.folder / "esops.toml").read_text()
    for section in ("[stores.s]", "[stores.j]"):
        text = text.replace(section, f'{section}\ntenant = "{TENANTS[layout]}"')
    project.write("esops.toml", text)
    told = project.ok("events", "--store", "j", "--output", "ndjson")
    assert len(told.out.splitlines()) == 6
    restored = project.run("archive", "restore", run, "--yes")
    if layout == "marten":  # where streams bear the tenant's name in any case
        assert restored.code == 6
        return
    assert events(connection, layout) == 6
    project.ok("archive", "verify", "--against-store")
